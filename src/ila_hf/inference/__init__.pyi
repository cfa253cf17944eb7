from .graph import ILAClassifierGraph as ILAClassifierGraph
from .graph import ILAVisionGraph as ILAVisionGraph
from .graph import inference_graph as inference_graph
from .regions import compile_layers as compile_layers
