from .convert_ila_checkpoint import convert_ila_checkpoint as convert_ila_checkpoint
from .convert_ila_checkpoint import convert_state_dict as convert_state_dict
from .convert_ila_checkpoint import infer_config as infer_config
from .convert_ila_checkpoint import load_original_state_dict as load_original_state_dict
from .export_ila import OnnxStream as OnnxStream
from .export_ila import export_onnx as export_onnx
from .export_ila import export_program as export_program
from .export_ila import save_program as save_program
