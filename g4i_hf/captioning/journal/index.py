"""Digest -> where its answer lies, for millions of digests in little memory."""

from array import array
from bisect import bisect_left

import numpy as np

LARGE = 1 << 16  # so many new entries are sorted in; fewer are kept in a dict, which takes ten times their memory
OK_BIT, IS_KEY = 1, 2
_LOW = (1 << 64) - 1


def pack(segment: int, offset: int, ok: bool) -> int:
    """
    Where an answer lies, in 63 bits, so that it fits into an array: 21 of the segment's number, 40 of the line's
    offset in bytes, one (`IS_KEY`) that is set where the digest is a key and no place, one of `ok`.
    """
    return segment << 42 | offset << 2 | ok


def unpack(packed: int) -> tuple[bool, int, int]:
    """`ok`, segment and offset."""
    return bool(packed & OK_BIT), packed >> 42, packed >> 2 & (1 << 40) - 1


class Batch:
    """New entries in the order of their files."""

    def __init__(self):
        self.digests = bytearray()  # 16 bytes each
        self.packed = array("q")
        self.times = array("d")

    def add(self, digest: bytes, packed: int, time: float) -> None:
        self.digests += digest
        self.packed.append(packed)
        self.times.append(time)


class DigestIndex:
    """
    The best answer of each digest: one that is a caption before one that is none, else the later one, by its time and
    then by the order of the files.

    Sorted arrays of 32 bytes a digest hold most of them, a dict what came since. Processes that are forked share the
    arrays, as reading changes nothing in them.
    """

    def __init__(self):
        none = np.zeros(0, dtype=np.uint64)
        self._set_sorted(none, none, none.astype(np.int64), none.astype(np.float64))

    def _set_sorted(self, high: np.ndarray, low: np.ndarray, packed: np.ndarray, times: np.ndarray) -> None:
        # One assignment, and before the dict is emptied: a thread that looks something up finds it in one of the two
        self._sorted = high, low, packed, times, memoryview(high)
        self._recent: dict[int, tuple[int, float]] = {}
        self.num_keys = int(np.count_nonzero(packed & IS_KEY))

    def __getstate__(self) -> tuple:
        return self._sorted[:4], self._recent, self.num_keys

    def __setstate__(self, state: tuple) -> None:
        self._set_sorted(*state[0])
        _, self._recent, self.num_keys = state

    def find(self, digest: int) -> int | None:
        """The packed position of a digest's best answer."""
        found = self._recent.get(digest)
        if found is not None:
            return found[0]
        _, _, packed, _, _ = arrays = self._sorted
        row = _row_of(digest, arrays)
        return None if row is None else int(packed[row])

    def add(self, batch: Batch) -> None:
        if len(batch.packed) >= LARGE or len(self._recent) + len(batch.packed) >= LARGE:
            self._merge(batch)
            return
        for start, packed, time in zip(range(0, len(batch.digests), 16), batch.packed, batch.times, strict=True):
            self._put(int.from_bytes(batch.digests[start : start + 16], "big"), packed, time)

    def _put(self, digest: int, packed: int, time: float) -> None:
        known = self._recent.get(digest)
        if known is None:
            _, _, all_packed, times, _ = arrays = self._sorted
            row = _row_of(digest, arrays)
            known = None if row is None else (int(all_packed[row]), float(times[row]))
        if known is None:
            self.num_keys += bool(packed & IS_KEY)
        elif (packed & OK_BIT, time) < (known[0] & OK_BIT, known[1]):
            return
        self._recent[digest] = packed, time

    def _merge(self, batch: Batch) -> None:
        high, low, packed, times, _ = self._sorted
        recent = self._recent
        recent_digests = b"".join(digest.to_bytes(16, "big") for digest in recent)
        halves = np.frombuffer(recent_digests + bytes(batch.digests), dtype=">u8").astype(np.uint64)
        high, low = np.concatenate([high, halves[::2]]), np.concatenate([low, halves[1::2]])
        packed = np.concatenate([packed, np.array([p for p, _ in recent.values()], dtype=np.int64), batch.packed])
        times = np.concatenate([times, np.array([t for _, t in recent.values()], dtype=np.float64), batch.times])
        order = np.lexsort((times, packed & OK_BIT, low, high))  # stable: what came later stays later
        high, low = high[order], low[order]
        last = np.ones(len(order), dtype=bool)  # the best of each digest
        last[:-1] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        order = order[last]
        self._set_sorted(high[last], low[last], packed[order], times[order])


def _row_of(digest: int, arrays: tuple) -> int | None:
    _, low, _, _, high = arrays
    row = bisect_left(high, digest >> 64)
    while row < len(high) and high[row] == digest >> 64:
        if low[row] == digest & _LOW:
            return row
        row += 1
    return None
