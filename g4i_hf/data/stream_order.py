"""The order in which a process reads its shards: a function of seed and epoch alone, which can begin anywhere."""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from .row_streams import READ_ROWS, RowStream

Row = tuple[pa.Table, int]  # a table and the place in it


def rows_in_order(
    stream: RowStream, shards: list[int], *, seed: list[int] | None, block: int, skip: int = 0
) -> Iterator[Row]:
    """
    The rows of an epoch. Shards come in a random order, one after the other; of them `block` rows at a time are read
    and put in a random order. So what comes after `skip` rows is known without those before, and shards whose size is
    known are passed over unread.

    Args:
        shards: those that are read.
        seed: words that the orders are drawn from; None keeps the order of the data.
        block: rows that are put in a random order together; below 2 none are.
        skip: rows left out at the start.
    """
    if seed is None:
        block = 0
    else:
        shards = np.random.default_rng(seed).permutation(shards).tolist()
    first = skip // block if block > 1 else 0
    before = first * block if block > 1 else skip
    rows = read_ahead(_tables(stream, shards, before), max(2, math.ceil(block / READ_ROWS)))
    in_order = ((table, place) for table in rows for place in range(len(table)))
    if block > 1:
        in_order = islice(_shuffled(in_order, seed, block, first), skip - before, None)
    yield from in_order


def batch_of(rows: list[Row]) -> pa.Table:
    """One table, which holds no other rows."""
    return pa.concat_tables([table.slice(place, 1) for table, place in rows]).combine_chunks()


def read_ahead(items: Iterator[Any], number: int) -> Iterator[Any]:
    """The items, of which so many are read in a thread before they are asked for."""
    end = object()
    reader = ThreadPoolExecutor(1)
    try:
        coming = deque(reader.submit(next, items, end) for _ in range(number))
        while (item := coming.popleft().result()) is not end:
            coming.append(reader.submit(next, items, end))
            yield item
    finally:
        reader.shutdown(cancel_futures=True)


def _tables(stream: RowStream, shards: list[int], skip: int) -> Iterator[pa.Table]:
    for shard in shards:
        known = None if stream.shard_rows is None else stream.shard_rows[shard]
        if known is not None and known <= skip:
            skip -= known
            continue
        for table in stream.read(shard):
            passed_over = min(skip, len(table))
            skip -= passed_over
            if passed_over < len(table):
                yield table.slice(passed_over)


def _shuffled(rows: Iterator[Row], seed: list[int], block: int, first: int) -> Iterator[Row]:
    """Blocks of rows, the first of which has the number `first`, each in an order of its own."""
    number = first
    while together := list(islice(rows, block)):
        for place in np.random.default_rng([*seed, number]).permutation(len(together)):
            row, together[place] = together[place], None  # else all would be there until the next block is
            yield row
        number += 1
