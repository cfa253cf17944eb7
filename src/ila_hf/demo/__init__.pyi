from .motion_videos import draw_clip as draw_clip
from .motion_videos import draw_hard_clip as draw_hard_clip
from .motion_videos import make_motion_videos as make_motion_videos
from .motion_videos import write_video as write_video
from .tiny import tiny_config as tiny_config
from .tiny import tiny_processor as tiny_processor
from .tiny import tiny_tokenizer as tiny_tokenizer
