"""Captions beyond the encoder's window: how many, what is lost, and how they are taken apart instead."""

import logging
import re
from typing import Any

import numpy as np

from .encoders import TextEncoder

logger = logging.getLogger(__name__)

# After the mark that ends a sentence; Chinese and Japanese have no space there
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|\s*\n\s*")


def split_captions(captions: list[str], encoder: TextEncoder) -> dict[str, list[str]]:
    """
    Takes captions apart into chunks that fit the encoder's window: whole sentences, as many as fit one after the
    other. Sentences that are too long are divided between words, and words between letters.

    Args:
        captions: captions beyond the window.
        encoder: it has a window.

    Returns:
        The chunks of every caption, in their order.

    Raises:
        ValueError: when the encoder's prompt leaves no room.
    """
    if not captions:
        return {}
    room = encoder.max_tokens - encoder.count_tokens([""])[0]
    if room < 1:
        raise ValueError(
            f"The prompt of the text encoder ({encoder.prompt!r}) fills its window of {encoder.max_tokens} tokens. "
            "Give a shorter one with --text_encoder_prompt."
        )
    chunks = {}
    for caption in captions:
        pieces = _fitting([part for part in SENTENCE_END.split(caption) if part and part.strip()], encoder)
        chunks[caption] = _packed(pieces, room, encoder)
    return chunks


def _fitting(pieces: list[str], encoder: TextEncoder) -> list[tuple[str, str]]:
    """Pieces that fit, each with what stands between it and the one before."""
    found: list[tuple[str, str]] = []
    for piece, count in zip(pieces, encoder.count_tokens(pieces), strict=True):
        if count <= encoder.max_tokens or len(piece) == 1:
            found.append((" ", piece))
            continue
        words = piece.split()
        if len(words) > 1:
            found.extend(_fitting(words, encoder))
        else:
            half = len(piece) // 2
            (_, first), *others = _fitting([piece[:half], piece[half:]], encoder)
            found.append((" ", first))
            found.extend(("", other) for _, other in others)
    return found


def _packed(pieces: list[tuple[str, str]], room: int, encoder: TextEncoder) -> list[str]:
    special = encoder.max_tokens - room
    counts = [count - special for count in encoder.count_tokens([text for _, text in pieces])]
    groups: list[list[tuple[str, str]]] = []
    filled = room
    for piece, count in zip(pieces, counts, strict=True):
        if not groups or filled + count > room:
            groups.append([])
            filled = 0
        groups[-1].append(piece)
        filled += count
    return [chunk for group in groups for chunk in _checked(group, encoder)]


def _checked(group: list[tuple[str, str]], encoder: TextEncoder) -> list[str]:
    """The group as one text; as two where side by side the pieces have more tokens than each alone."""
    first, *others = group
    text = first[1] + "".join(between + piece for between, piece in others)
    if not others or encoder.count_tokens([text])[0] <= encoder.max_tokens:
        return [text]
    half = (len(group) + 1) // 2
    return _checked(group[:half], encoder) + _checked(group[half:], encoder)


def mean_of_chunks(vectors: np.ndarray, tokens: list[int]) -> np.ndarray:
    """
    Args:
        vectors: (n, D) of the chunks of one caption, unit norm.
        tokens: of each chunk, without special ones.

    Returns:
        (D,) float32, their mean weighted by tokens, of unit norm again.
    """
    mean = np.average(vectors.astype(np.float32), axis=0, weights=np.maximum(tokens, 1))
    return (mean / max(np.linalg.norm(mean), 1e-12)).astype(np.float32)


def long_captions_report(name: str, tokens: np.ndarray, chunks: np.ndarray, encoder: TextEncoder) -> dict[str, Any]:
    """
    Of a split: captions over the window, their share of all, and either the tokens lost or the chunks embedded in
    place of them. Logged too: what is cut off cannot teach anything.

    Args:
        name: of the split.
        tokens: (n,) of each caption before any cut.
        chunks: (n,) in how many chunks it was embedded; 0 for one that was not taken apart.
    """
    window = encoder.max_tokens
    long = np.zeros(len(tokens), dtype=bool) if window is None else tokens > window
    number, share, in_chunks = int(long.sum()), float(long.mean()) if len(long) else 0.0, int(chunks.sum())
    lost = int((tokens - window)[long & (chunks == 0)].sum()) if number else 0
    if window is not None:
        said = f"Split {name!r}: {number} of {len(tokens)} captions ({share:.1%}) are longer than the encoder's "
        said += f"window of {window} tokens"
        if lost:
            logger.warning("%s and were cut; %d tokens are lost. --long_captions chunk_mean loses none.", said, lost)
        elif number:
            logger.info("%s and were embedded in %d chunks; no token is lost.", said, in_chunks)
        else:
            logger.info("%s; no token is lost.", said)
    return {"captions": number, "share": share, "tokens_lost": lost, "chunks": in_chunks}
