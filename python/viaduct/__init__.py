"""Viaduct: converts checkpoints between Hugging Face and Megatron, bit for bit. Needs no torch."""
from typing import NamedTuple

from ._core import Bridge as _Bridge, InternalError, Tensor, ViaductError
from ._core import compare as _compare

__all__ = ["AutoBridge", "Comparison", "ConversionTask", "InternalError", "Tensor", "ViaductError", "verify"]


class ConversionTask(NamedTuple):
    """A Megatron parameter (global shape, torch's name of its dtype) and the Hugging Face tensors it is made of."""
    param_name: str
    hf_names: list
    shape: tuple
    dtype: str


class Comparison(NamedTuple):
    """What verify found: tensors compared, bytes of one side, differences as (tensor, what), at most 20."""
    tensors: int
    bytes: int
    differences: list

    @property
    def equal(self):
        return not self.differences


def _dtype(value):
    """"bfloat16", "torch.bfloat16" or torch.bfloat16; None and "auto": as stored."""
    return None if value is None or value == "auto" else str(value)


class AutoBridge:
    """A checkpoint, opened for conversion: a Hugging Face folder, a GGUF file or a Megatron checkpoint."""

    def __init__(self, bridge, path, dtype):
        self._bridge, self._path, self._dtype = bridge, path, dtype

    @classmethod
    def from_hf_pretrained(cls, path, *, trust_remote_code=None, dtype=None, torch_dtype=None):
        """Opens a checkpoint; no weight is read. `dtype` casts the floating weights of what is written.

        `trust_remote_code` changes nothing: a model's code is copied, never run. ViaductError when the folder is no
        checkpoint of a known architecture, or lists every tensor that is missing or misshapen.
        """
        return cls(_Bridge.open(path), path, _dtype(dtype if dtype is not None else torch_dtype))

    @classmethod
    def can_handle(cls, path, trust_remote_code=False):
        """True when the architecture of the folder's config.json is known."""
        return _Bridge.can_handle(path)

    @classmethod
    def list_supported_models(cls):
        """Names of Hugging Face architectures."""
        return _Bridge.list_supported_models()

    def get_conversion_tasks(self):
        """ConversionTasks in the order of the Megatron model's state dict."""
        return [ConversionTask(*task) for task in self._bridge.tasks()]

    def export_hf_weights(self, *, cpu=True, show_progress=False):
        """Iterates over (name, Tensor) of the checkpoint's Hugging Face tensors, as stored, in the source's order.

        A thread reads ahead by at most 256 MiB, or one tensor. `cpu` and `show_progress` change nothing.
        """
        return self._bridge.weights()

    @classmethod
    def import_ckpt(cls, hf_model_id, megatron_path, *, trust_remote_code=None, dtype=None, torch_dtype=None,
                    tensor_model_parallel_size=1, pipeline_model_parallel_size=1, expert_model_parallel_size=1,
                    overwrite=False):
        """Writes a torch_dist checkpoint below `megatron_path`, whole or not at all; returns a dict of figures."""
        bridge = cls.from_hf_pretrained(hf_model_id, dtype=dtype, torch_dtype=torch_dtype)
        return bridge._bridge.import_ckpt(megatron_path, bridge._dtype, tensor_model_parallel_size,
                                          pipeline_model_parallel_size, expert_model_parallel_size, overwrite)

    def export_ckpt(self, megatron_path, hf_path, show_progress=False, strict=False, source_path=None, overwrite=False):
        """Writes a Megatron checkpoint as a Hugging Face folder; returns a dict of figures.

        Config, tokenizer and shard names are those of `source_path`, else of the folder that this bridge opened.
        Tensors that are missing are an error whatever `strict` says.
        """
        source = _Bridge.open(megatron_path, source_path or (None if self._bridge.is_megatron else self._path))
        if not source.is_megatron:
            raise ViaductError(f"{megatron_path} is not a Megatron checkpoint (no iter_*, no .metadata)")
        return source.save_hf(hf_path, self._dtype, overwrite)


def verify(a, b):
    """Compares the Hugging Face tensors of two checkpoints, in whatever form each is stored, bit by bit."""
    return Comparison(*_compare(_Bridge.open(a), _Bridge.open(b)))
