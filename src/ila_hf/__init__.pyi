from .cache_ila import ILACache as ILACache
from .configuration_ila import PRESET_NAMES as PRESET_NAMES
from .configuration_ila import ILAConfig as ILAConfig
from .configuration_ila import ILATextConfig as ILATextConfig
from .configuration_ila import ILAVisionConfig as ILAVisionConfig
from .inference.stream import Stream as Stream
from .inference.timeline import Timeline as Timeline
from .modeling_ila import ILAForVideoClassification as ILAForVideoClassification
from .modeling_ila import ILAForVideoTextClassification as ILAForVideoTextClassification
from .modeling_ila import ILAModel as ILAModel
from .modeling_ila import ILATextModel as ILATextModel
from .modeling_ila import ILAVisionModel as ILAVisionModel
from .processing_ila import ILAProcessor as ILAProcessor
from .sampling import sample_frame_indices as sample_frame_indices
from .video_processing_ila import ILAVideoProcessor as ILAVideoProcessor
from .video_reading import read_video as read_video
from .video_sources import VideoLimits as VideoLimits
from .video_sources import VideoReadError as VideoReadError

__version__: str
