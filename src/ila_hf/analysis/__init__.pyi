from .benchmark import Measurement as Measurement
from .benchmark import measure as measure
from .flops import clip_flops as clip_flops
from .flops import trunk_flops as trunk_flops
from .temporal_score import temporal_score as temporal_score
from .visualization import draw_interactive_points as draw_interactive_points
from .visualization import visualize_video as visualize_video
