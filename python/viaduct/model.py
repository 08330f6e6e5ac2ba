"""A model in a parallel layout: what each rank holds, as a view of a checkpoint."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from . import _core
from ._core import Tensor, ViaductError
from .tensors import Tensors


class ModelChunk(Tensors):
    """The weights of one model chunk of a rank under the names that Megatron Core's module has: layers count from the
    chunk's first, experts from the rank's first. Shapes are the rank's own."""

    def __init__(self, weights: _core.Weights, model: DistributedModel) -> None:
        super().__init__(weights)
        self._model = model

    def global_name(self, name: str) -> str:
        """The whole model's name of a weight."""
        return self._about[self._index[name]][3]

    def state_dict(self) -> ModelChunk:
        """This mapping."""
        return self

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Iterates over (name, tensor)."""
        return self.stream()

    def __getitem__(self, name: str) -> Tensor:
        self._model._check_loaded()
        return super().__getitem__(name)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        self._model._check_loaded()
        return super().stream()


class DistributedModel(Sequence[ModelChunk]):
    """The model chunks of one rank, one unless the pipeline is virtual. No weight is in memory: the chunks read from
    the checkpoint just the bytes that the rank owns.

    `rank` is this object's rank among `world_size`; on_rank() gives those of the others.
    """

    def __init__(self, bridge: _core.Bridge, provider: _core.Provider, rank: int, world_size: int, dtype: str | None,
                 loaded: bool) -> None:
        self._bridge, self._provider, self._dtype, self._loaded = bridge, provider, dtype, loaded
        self._asked = world_size
        self.rank = rank
        self.world_size, weights = bridge.rank_weights(provider, world_size, rank, dtype)
        self._chunks = [ModelChunk(chunk, self) for chunk in weights]

    def on_rank(self, rank: int) -> DistributedModel:
        """The same model as another rank has it. ViaductError when the layout has no such rank."""
        return DistributedModel(self._bridge, self._provider, rank, self._asked, self._dtype, self._loaded)

    @overload
    def __getitem__(self, index: int) -> ModelChunk: ...
    @overload
    def __getitem__(self, index: slice) -> list[ModelChunk]: ...

    def __getitem__(self, index):
        return self._chunks[index]

    def __len__(self) -> int:
        return len(self._chunks)

    def __repr__(self) -> str:
        return f"<DistributedModel, rank {self.rank} of {self.world_size}, {sum(map(len, self._chunks))} weights>"

    def _check_loaded(self) -> None:
        if not self._loaded:
            raise ViaductError("the provider was made with load_weights=False, so the model has no weights; give it "
                               "some with AutoBridge.load_hf_weights(model)")

    def _load(self, bridge: _core.Bridge) -> None:
        _, weights = bridge.rank_weights(self._provider, self._asked, self.rank, self._dtype)
        self._bridge, self._loaded = bridge, True
        self._chunks = [ModelChunk(chunk, self) for chunk in weights]


def model_of(model: object) -> DistributedModel:
    """The model behind what a caller hands over: itself, or a list of its chunks."""
    if isinstance(model, DistributedModel):
        return model
    if isinstance(model, ModelChunk):
        return model._model
    if isinstance(model, (list, tuple)) and model and all(isinstance(chunk, ModelChunk) for chunk in model):
        return model[0]._model
    raise TypeError(f"model: expected what provider.provide_distributed_model() returned, not {type(model).__name__}. "
                    "Models of torch are not read here: save one as a checkpoint and open that")
