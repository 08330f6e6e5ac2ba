"""Viaduct: converts checkpoints between Hugging Face and Megatron, bit for bit. Needs no torch."""
from ._core import InternalError, Tensor, ViaductError
from .auto_bridge import AutoBridge, Comparison, ConversionTask, verify
from .model import DistributedModel, ModelChunk
from .provider import MegatronProvider
from .tensors import Tensors, load_tensors

__all__ = ["AutoBridge", "Comparison", "ConversionTask", "DistributedModel", "InternalError", "MegatronProvider",
           "ModelChunk", "Tensor", "Tensors", "ViaductError", "load_tensors", "verify"]
