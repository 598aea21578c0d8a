"""Captions beyond the encoder's window: counted, and split into chunks for `--long_captions chunk_mean`."""

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
    The chunks of every caption, each within the encoder's window: as many whole sentences as fit. Sentences that are
    too long are divided between words, and words between letters.

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
    return {caption: _chunks(caption, encoder) for caption in captions}


def _chunks(caption: str, encoder: TextEncoder) -> list[str]:
    chunks: list[str] = []
    for between, piece in _pieces([part for part in SENTENCE_END.split(caption) if part and part.strip()], encoder):
        longer = chunks[-1] + between + piece if chunks else piece
        if chunks and encoder.count_tokens([longer])[0] <= encoder.max_tokens:
            chunks[-1] = longer
        else:
            chunks.append(piece)
    return chunks


def _pieces(texts: list[str], encoder: TextEncoder) -> list[tuple[str, str]]:
    """Texts that fit, and the parts of those that do not, each with what stands between it and the one before."""
    found: list[tuple[str, str]] = []
    for text, count in zip(texts, encoder.count_tokens(texts), strict=True):
        words = text.split()
        if count <= encoder.max_tokens or len(text) == 1:
            found.append((" ", text))
        elif len(words) > 1:
            found.extend(_pieces(words, encoder))
        else:
            half = len(text) // 2
            (_, first), *others = _pieces([text[:half], text[half:]], encoder)
            found.extend([(" ", first), *(("", other) for _, other in others)])
    return found


def mean_of_chunks(vectors: np.ndarray, tokens: list[int]) -> np.ndarray:
    """(D,) float32: the mean of chunks (n, D), weighted by their tokens (without special ones), of unit norm."""
    mean = np.average(vectors.astype(np.float32), axis=0, weights=np.maximum(tokens, 1))
    return (mean / max(np.linalg.norm(mean), 1e-12)).astype(np.float32)


def long_captions_report(name: str, tokens: np.ndarray, chunks: np.ndarray, encoder: TextEncoder) -> dict[str, Any]:
    """
    Counts and logs the captions of a split over the window, and the tokens lost or the chunks embedded in their place.

    Args:
        name: of the split.
        tokens, chunks: (n,) see [`~g4i_hf.embedding.embed.Encoded`].
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
    return {"captions": number, "share": share, "tokens_lost": lost, "chunks": in_chunks}
