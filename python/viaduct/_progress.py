"""Progress of long calls, on a terminal only."""
from __future__ import annotations

import sys
from collections.abc import Callable

Report = Callable[[str, int, int], None]


class _Bar:
    def __init__(self) -> None:
        self._shown = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        text = f"{what} {done / total:4.0%} of {total / 1e9:.1f} GB" if what and total else what
        if text == self._shown:
            return
        sys.stderr.write("\r\x1b[K" + text)
        sys.stderr.flush()
        self._shown = text

    def __del__(self) -> None:
        if self._shown and sys.stderr:
            sys.stderr.write("\r\x1b[K")


def reporter(show: bool) -> Report | None:
    """What the native half calls with (what is done, bytes done, bytes in all); None when nobody would see it."""
    return _Bar() if show and sys.stderr and sys.stderr.isatty() else None
