"""Tensors of a checkpoint by name, read when they are asked for."""
from __future__ import annotations

import os
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Optional

from . import _core
from ._core import Tensor
from ._progress import reporter


class Tensors(Mapping[str, Tensor]):
    """A read-only mapping of names to tensors. `tensors[name]` reads one; iterating over items() or values() reads
    all, a thread ahead by at most 128 MiB or one tensor. Nothing is kept: each access reads anew."""

    def __init__(self, weights: _core.Weights) -> None:
        self._weights = weights
        self._about = weights.describe()
        self._index = {about[0]: i for i, about in enumerate(self._about)}

    def __getitem__(self, name: str) -> Tensor:
        return self._weights.load(self._index[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def items(self) -> ItemsView[str, Tensor]:
        return _Items(self)

    def values(self) -> ValuesView[Tensor]:
        return _Values(self)

    def dtype(self, name: str) -> str:
        """torch's name of a tensor's element type; nothing is read."""
        return self._about[self._index[name]][1]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape; nothing is read."""
        return self._about[self._index[name]][2]

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """Iterates over (name, tensor)."""
        return self._weights.stream()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)}>"


class _Items(ItemsView):
    def __iter__(self):
        return self._mapping.stream()


class _Values(ValuesView):
    def __iter__(self):
        return (tensor for _, tensor in self._mapping.stream())


def load_tensors(path: str | os.PathLike[str], *, iteration: Optional[int] = None,
                 show_progress: bool = True) -> Tensors:
    """The tensors of any checkpoint under the names and in the shapes that its format lists: a Hugging Face folder or
    file, GGUF, or a Megatron checkpoint in any of its forms, of a known architecture or not; or a model of the hub.

    `iteration` chooses among the iter_* folders of a Megatron root, else the newest complete one. Blocks of GGUF
    become float32. ViaductError when it is no checkpoint, or a damaged one.
    """
    return Tensors(_core.load_tensors(os.fspath(path), iteration, reporter(show_progress)))
