"""A bar for work of days, that never stands in its way."""

import contextlib
import sys
from typing import Any

from tqdm import tqdm

SECONDS_IN_A_FILE = 30.0  # between two lines, where nobody watches


class _Never:
    """A stream whose reader may go away: a closed terminal, or `| head`, is no reason to lose answers."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def caption_bar(total: int | None, known: int, label: str, line: int) -> tqdm:
    """
    Args:
        total: questions; None where nobody knows.
        known: those that were answered before.
        label: what it says at its left.
        line: of the terminal, from 0: every process has one.
    """
    watched = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=known,
        desc=label,
        unit="caption",
        position=line if watched else 0,
        file=_Never(sys.stderr),
        mininterval=0.1 if watched else SECONDS_IN_A_FILE,
        ascii=None if watched else True,
    )
