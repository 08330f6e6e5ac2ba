"""AutoBridge: Megatron Bridge's front door, with its method names."""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Optional

from ._core import Bridge, Tensor, ViaductError, compare
from ._progress import reporter
from .model import DistributedModel, model_of
from .provider import MegatronProvider

Path = str | os.PathLike[str]
Figures = dict[str, Any]


class ConversionTask(NamedTuple):
    """A Megatron parameter (global shape, torch's name of its dtype) and the Hugging Face tensors it is made of."""
    param_name: str
    hf_names: list[str]
    shape: tuple[int, ...]
    dtype: str


class Comparison(NamedTuple):
    """What verify found: tensors compared, bytes of one side, differences as (tensor, what), at most 20."""
    tensors: int
    bytes: int
    differences: list[tuple[str, str]]

    @property
    def equal(self) -> bool:
        return not self.differences


def _dtype(value: Any) -> Optional[str]:
    """"bfloat16", "torch.bfloat16" or torch.bfloat16; None and "auto": as stored."""
    return None if value is None or value == "auto" else str(value)


class AutoBridge:
    """A checkpoint, opened for conversion: a Hugging Face folder, a model of the hub, a GGUF file or a Megatron
    checkpoint. Methods that take a `model` want one of provide_distributed_model(); None is the bridge's own."""

    def __init__(self, bridge: Bridge, dtype: Optional[str]) -> None:
        self._bridge, self._dtype = bridge, dtype

    @classmethod
    def from_hf_pretrained(cls, path: Path, *, revision: Optional[str] = None, trust_remote_code: Optional[bool] = None,
                           dtype: Any = None, torch_dtype: Any = None, device_map: Any = None,
                           stream: bool = False, show_progress: bool = True) -> AutoBridge:
        """Opens a checkpoint; no weight is read. A name of the hub ("org/name") is downloaded to its cache first, or,
        with `stream`, its headers alone: weights then come over the network when they are converted.

        `dtype` casts the floating weights of what is made of it. `trust_remote_code` changes nothing: a model's code
        is copied, never run; nor does `device_map`. ViaductError when it is no checkpoint of a known architecture, or
        lists every tensor that is missing or misshapen.
        """
        name = os.fspath(path)
        bridge = Bridge.open(f"{name}@{revision}" if revision else name, None, reporter(show_progress), stream)
        return cls(bridge, _dtype(dtype if dtype is not None else torch_dtype))

    @classmethod
    def can_handle(cls, path: Path, trust_remote_code: bool = False) -> bool:
        """True when the architecture of the model's config.json is known. Nothing else is fetched from the hub."""
        return Bridge.can_handle(os.fspath(path))

    @classmethod
    def list_supported_models(cls) -> list[str]:
        """Names of Hugging Face architectures."""
        return Bridge.list_supported_models()

    @property
    def path(self) -> str:
        """The folder or file that was opened; of a model of the hub its snapshot in the cache."""
        return os.fspath(self._bridge.path)

    def to_megatron_provider(self, load_weights: bool = True, hf_path: Optional[Path] = None) -> MegatronProvider:
        """Megatron's settings for this model; set its parallel sizes, finalize() it, and let it provide the model.

        Without `load_weights` its models have shapes and no weights. `hf_path` gives the weights of another
        checkpoint of the same architecture and sizes.
        """
        source = self._bridge if hf_path is None else Bridge.open(os.fspath(hf_path))
        provider = MegatronProvider(self._bridge.provider(), source, self._dtype, load_weights)
        if hf_path is not None:
            provider.finalize()
        return provider

    def load_hf_weights(self, model: Any, hf_path: Optional[Path] = None) -> None:
        """Gives a model the weights of this checkpoint, or of `hf_path`. ViaductError when they do not fit it."""
        model_of(model)._load(self._bridge if hf_path is None else Bridge.open(os.fspath(hf_path)))

    def get_conversion_tasks(self, model: Any = None) -> list[ConversionTask]:
        """ConversionTasks in the order of the Megatron model's state dict."""
        return [ConversionTask(*task) for task in self._source(model)[0].tasks()]

    def export_hf_weights(self, model: Any = None, cpu: bool = True, show_progress: bool = True,
                          conversion_tasks: Optional[Iterable[ConversionTask]] = None,
                          weight_dtype: Any = None) -> Iterator[tuple[str, Tensor]]:
        """Iterates over (name, Tensor) of the Hugging Face tensors: whole ones, whatever the model's layout, in the
        order of the weights' rules.

        `conversion_tasks`: only the tensors of these. `weight_dtype` casts the floating ones. A thread reads ahead by
        at most 128 MiB, or one tensor. `cpu` and `show_progress` change nothing.
        """
        source, dtype = self._source(model)
        weights = source.hf_weights(_dtype(weight_dtype) or dtype)
        if conversion_tasks is None:
            return weights.stream()
        wanted = {name for task in conversion_tasks for name in task.hf_names}
        names = [about[0] for about in weights.describe()]
        if unknown := wanted.difference(names):
            raise ViaductError(f"conversion_tasks name {min(unknown)}, which {os.fspath(source.path)} does not hold")
        return weights.stream([i for i, name in enumerate(names) if name in wanted])

    def save_hf_pretrained(self, model: Any, path: Path, show_progress: bool = True,
                           source_path: Optional[Path] = None, strict: bool = True, *, weight_dtype: Any = None,
                           overwrite: bool = False) -> Figures:
        """Writes a Hugging Face folder, whole or not at all: config, tokenizer, code and weights; returns a dict of
        figures.

        Config, tokenizer and shard names are those of `source_path`, else of what the model's weights came with.
        Tensors that are missing are an error whatever `strict` says. ViaductError when `path` exists, unless
        `overwrite`.
        """
        source, dtype = self._source(model, source_path)
        return source.save_hf(path, _dtype(weight_dtype) or dtype, False, overwrite, reporter(show_progress))

    def save_hf_weights(self, model: Any, path: Path, show_progress: bool = True, strict: bool = True, *,
                        weight_dtype: Any = None, overwrite: bool = False) -> Figures:
        """As save_hf_pretrained, but only the safetensors files and their index."""
        source, dtype = self._source(model)
        return source.save_hf(path, _dtype(weight_dtype) or dtype, True, overwrite, reporter(show_progress))

    def save_megatron_model(self, model: Any, path: Path, *, show_progress: bool = True,
                            overwrite: bool = False) -> Figures:
        """Writes a torch_dist checkpoint below `path`, cut for the model's layout, with the provider's settings in
        run_config.yaml; whole or not at all. Returns a dict of figures."""
        view = model_of(model)
        view._check_loaded()
        return view._bridge.import_ckpt(path, view._dtype, view._provider, [], overwrite, reporter(show_progress))

    def load_megatron_model(self, path: Path, *, mp_overrides: Optional[dict[str, int]] = None,
                            wrap_with_ddp: bool = False) -> DistributedModel:
        """A Megatron checkpoint as a model; `mp_overrides` sets fields of its provider (parallel sizes), which
        are 1 otherwise: any layout reads any."""
        bridge = AutoBridge(Bridge.open(os.fspath(path), self.path), self._dtype)
        if not bridge._bridge.is_megatron:
            raise ViaductError(f"{os.fspath(path)} is not a Megatron checkpoint (no iter_*, no .metadata)")
        provider = bridge.to_megatron_provider()
        for name, value in (mp_overrides or {}).items():
            setattr(provider, name, value)
        provider.finalize()
        return provider.provide_distributed_model(wrap_with_ddp=wrap_with_ddp)

    @classmethod
    def import_ckpt(cls, hf_model_id: Path, megatron_path: Path, *, trust_remote_code: Optional[bool] = None,
                    dtype: Any = None, torch_dtype: Any = None, tensor_model_parallel_size: int = 1,
                    pipeline_model_parallel_size: int = 1, virtual_pipeline_model_parallel_size: int = 1,
                    context_parallel_size: int = 1, expert_model_parallel_size: int = 1,
                    expert_tensor_parallel_size: int = 1, show_progress: bool = True,
                    overwrite: bool = False) -> Figures:
        """Writes a torch_dist checkpoint below `megatron_path`, whole or not at all; returns a dict of figures."""
        bridge = cls.from_hf_pretrained(hf_model_id, dtype=dtype, torch_dtype=torch_dtype, show_progress=show_progress)
        sizes = [tensor_model_parallel_size, pipeline_model_parallel_size, virtual_pipeline_model_parallel_size,
                 context_parallel_size, expert_model_parallel_size, expert_tensor_parallel_size]
        return bridge._bridge.import_ckpt(megatron_path, bridge._dtype, None, sizes, overwrite,
                                          reporter(show_progress))

    def export_ckpt(self, megatron_path: Path, hf_path: Path, show_progress: bool = True, strict: bool = False,
                    source_path: Optional[Path] = None, *, overwrite: bool = False) -> Figures:
        """Writes a Megatron checkpoint as a Hugging Face folder; returns a dict of figures.

        Config, tokenizer and shard names are those of `source_path`, else of the folder that this bridge opened.
        Tensors that are missing are an error whatever `strict` says.
        """
        own = None if self._bridge.is_megatron else self.path
        source = Bridge.open(os.fspath(megatron_path), own if source_path is None else source_path)
        if not source.is_megatron:
            raise ViaductError(f"{os.fspath(megatron_path)} is not a Megatron checkpoint (no iter_*, no .metadata)")
        return source.save_hf(hf_path, self._dtype, False, overwrite, reporter(show_progress))

    def _source(self, model: Any, source_path: Optional[Path] = None) -> tuple[Bridge, Optional[str]]:
        """The checkpoint that a model's weights come from, and the type that they are cast to."""
        if model is None:
            bridge, dtype = self._bridge, self._dtype
        else:
            view = model_of(model)
            view._check_loaded()
            bridge, dtype = view._bridge, view._dtype
        if source_path is not None:
            if not bridge.is_megatron:
                raise ViaductError("source_path: the model's weights come from a Hugging Face checkpoint, whose own "
                                   "config and tokenizer are written")
            bridge = Bridge.open(os.fspath(bridge.path), source_path)
        return bridge, dtype


def verify(a: Path, b: Path, *, show_progress: bool = True) -> Comparison:
    """Compares the Hugging Face tensors of two checkpoints, in whatever form each is stored, bit by bit."""
    left, right = Bridge.open(os.fspath(a)), Bridge.open(os.fspath(b))
    return Comparison(*compare(left, right, reporter(show_progress)))
