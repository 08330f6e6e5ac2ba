"""Megatron's side of a model: the fields of run_config.yaml's `model` section, and the model in their layout."""
from __future__ import annotations

import os
from typing import Any, Optional

from . import _core
from ._core import ViaductError
from .model import DistributedModel


class MegatronProvider:
    """Upstream's provider: its fields are attributes. Parallel sizes may be set, and whatever does not change the
    weights; finalize() says if something does. Types and functions are named: "torch.bfloat16"."""

    def __init__(self, fields: _core.Provider, bridge: _core.Bridge, dtype: Optional[str], load_weights: bool) -> None:
        vars(self).update(_fields=fields, _bridge=bridge, _dtype=dtype, _load_weights=load_weights,
                          _params_dtype=_named(fields.get("params_dtype")))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not self._fields.has(name):
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")
        return _named(self._fields.get(name))

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            self._fields.set(name, value)
        except ViaductError as error:
            if self._fields.has(name):
                raise
            raise AttributeError(str(error)) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._fields.names()]

    def __repr__(self) -> str:
        return f"<MegatronProvider of {self._fields.target.rpartition('.')[2]}>"

    def finalize(self) -> None:
        """Checks the settings and derives what depends on them, as upstream's provider does.

        ViaductError when the parallel layout does not fit the model, or when a field was changed that the weights
        depend on.
        """
        self._bridge.finalize(self._fields)

    def provide_distributed_model(self, ddp_config: Any = None, *, wrap_with_ddp: bool = True,
                                  use_cpu_initialization: Optional[bool] = None, rank: Optional[int] = None,
                                  world_size: Optional[int] = None) -> DistributedModel:
        """The model chunks of a rank, as views of the checkpoint: weights are read when they are asked for.

        `rank` and `world_size` are those of torchrun's environment (RANK, WORLD_SIZE), else 0 and as few as the
        layout needs; ranks beyond those are data-parallel. `wrap_with_ddp` must be False: these models are not
        trained. ViaductError when the layout does not fit the model or the number of ranks.
        """
        if wrap_with_ddp or ddp_config is not None:
            raise ViaductError("models here hold a checkpoint's weights and are not trained: call "
                               "provide_distributed_model(wrap_with_ddp=False), without a ddp_config")
        rank = int(os.environ.get("RANK", 0)) if rank is None else rank
        world_size = int(os.environ.get("WORLD_SIZE", 0)) if world_size is None else world_size
        return DistributedModel(self._bridge, self._fields.copy(), rank, world_size, self._cast(), self._load_weights)

    def _cast(self) -> Optional[str]:
        # The weights keep their types unless the user asked for another.
        params_dtype = _named(self._fields.get("params_dtype"))
        return params_dtype if params_dtype != self._params_dtype else self._dtype


def _named(value: Any) -> Any:
    if isinstance(value, dict) and value.get("_call_") is False:
        return value["_target_"]
    return value
