"""Distinct captions -> vectors, each once, shared by the processes of a run."""

import math
import shutil
import uuid
from pathlib import Path

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets.utils.logging import is_progress_bar_enabled
from tqdm import tqdm

from ..options import EncoderArguments
from .encoders import TextEncoder
from .long_captions import mean_of_chunks, split_captions


class Vectors:
    """
    Vectors of distinct captions, found by the caption.

    Attributes:
        lengths: tokens of every caption before any cut.
        chunks: of the captions that were embedded in chunks.
    """

    def __init__(self, captions: list[str], values: np.ndarray, lengths: dict[str, int], chunks: dict[str, list[str]]):
        self._positions = {caption: position for position, caption in enumerate(captions)}
        self._values = values
        self.lengths, self.chunks = lengths, chunks
        self.dim = values.shape[1]

    def of(self, captions: list[str | None]) -> np.ndarray:
        """(n, D) float16, zero where there is no caption."""
        found = np.zeros((len(captions), self.dim), dtype=np.float16)
        present = [row for row, caption in enumerate(captions) if caption is not None]
        found[present] = self._values[[self._positions[captions[row]] for row in present]]
        return found


def encode_captions(
    captions: list[str],
    encoder: TextEncoder,
    args: EncoderArguments,
    output_dir: Path | None = None,
    state: PartialState | None = None,
) -> Vectors | None:
    """
    Encodes distinct captions, this process its share of them. They are sorted by length so that batches hold little
    padding, and those beyond the window have batches of their own: how they are treated changes no bit of the others.

    Args:
        captions: all different.
        encoder, args: what encodes them, and how.
        output_dir: processes hand over their shares in a folder beside it.
        state: this process and the others; without it, this one encodes everything.

    Returns:
        The vectors of all captions in the main process, None in the others.
    """
    lengths = dict(zip(captions, encoder.count_tokens(captions), strict=True))
    window = math.inf if encoder.max_tokens is None else encoder.max_tokens
    by_length = sorted(captions, key=lambda caption: (-lengths[caption], caption))
    long = [caption for caption in by_length if lengths[caption] > window]
    fitting = by_length[len(long) :]
    chunks = split_captions(long, encoder) if args.long_captions == "chunk_mean" else {}
    pieces, piece_lengths = long, lengths
    if chunks:
        pieces = sorted({piece for parts in chunks.values() for piece in parts})
        piece_lengths = dict(zip(pieces, encoder.count_tokens(pieces), strict=True))
        pieces.sort(key=lambda piece: -piece_lengths[piece])
    groups = _encode_shared([pieces, fitting], encoder, args.text_encoder_batch_size, output_dir, state)
    if state is not None and not state.is_main_process:
        return None
    of_pieces, of_fitting = groups
    if chunks:
        special = encoder.count_tokens([""])[0]
        positions = {piece: position for position, piece in enumerate(pieces)}
        means = np.zeros((len(long), encoder.dim), dtype=np.float16)
        for row, caption in enumerate(long):
            vectors = of_pieces[[positions[piece] for piece in chunks[caption]]]
            means[row] = mean_of_chunks(vectors, [piece_lengths[piece] - special for piece in chunks[caption]])
        of_pieces = means
    return Vectors(by_length, np.concatenate([of_pieces, of_fitting]), lengths, chunks)


def _encode_shared(
    groups: list[list[str]],
    encoder: TextEncoder,
    batch_size: int,
    output_dir: Path | None,
    state: PartialState | None,
) -> list[np.ndarray]:
    """(n, D) float16 of each group of captions in the main process; in the others those of the own share."""
    rank, processes = (0, 1) if state is None else (state.process_index, state.num_processes)
    shares = [group[rank::processes] for group in groups]
    values = [np.empty((len(share), encoder.dim), dtype=np.float16) for share in shares]
    shown = rank == 0 and is_progress_bar_enabled()
    with tqdm(total=sum(map(len, shares)), desc="Embedding captions", unit="caption", disable=not shown) as bar:
        for share, target in zip(shares, values, strict=True):
            for start in range(0, len(share), batch_size):
                batch = share[start : start + batch_size]
                target[start : start + batch_size] = encoder.encode(batch)
                bar.update(len(batch))
    return values if processes == 1 else _handed_over(values, [len(group) for group in groups], output_dir, state)


def _handed_over(
    values: list[np.ndarray], sizes: list[int], output_dir: Path, state: PartialState
) -> list[np.ndarray]:
    """Through a folder of this run alone: another one may be embedding into the same `output_dir`."""
    run = broadcast_object_list([uuid.uuid4().hex])[0]
    parts = output_dir.with_name(f".{output_dir.name}.parts-{run}")
    try:
        parts.mkdir(parents=True, exist_ok=True)
        for group, share in enumerate(values):
            np.save(parts / f"{state.process_index}-{group}.npy", share)
        state.wait_for_everyone()
        return _joined(parts, values, sizes, state.num_processes) if state.is_main_process else values
    finally:
        if state.is_main_process:
            shutil.rmtree(parts, ignore_errors=True)


def _joined(parts: Path, values: list[np.ndarray], sizes: list[int], processes: int) -> list[np.ndarray]:
    whole = [np.empty((size, share.shape[1]), dtype=share.dtype) for size, share in zip(sizes, values, strict=True)]
    for group, of_group in enumerate(whole):
        for rank in range(processes):
            of_group[rank::processes] = np.load(parts / f"{rank}-{group}.npy", allow_pickle=False)
    return whole
