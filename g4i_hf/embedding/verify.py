"""`--verify`: compare stored embeddings with what their captions give now."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import PartialState
from datasets import Dataset, DatasetDict, List

from .. import columns
from ..data.stage import ids_digest, join_stage, read_stage
from ..data.texts import Embeddings
from ..options import EncoderArguments
from .embed import captioned_splits, captions_digest, encode_captions, texts_of_rows
from .encoders import encoder_from

TOLERANCE = 1e-3  # of the cosine: float16, other batches and other machines change less, an edited caption more
SETTINGS = ("text_encoder", "text_encoder_revision", "text_encoder_digest", "text_encoder_prompt", "long_captions")


def verify_embeddings(
    images: DatasetDict, args: EncoderArguments, embeddings_dir: str | Path, *, num_captions: int, seed: int = 0
) -> dict[str, Any]:
    """
    Embeds a random sample of captions again and compares the vectors with the stage in `embeddings_dir`, row by row
    by `image_id`. The number of captions is compared in every row.

    Args:
        images: splits with `image_id` and `caption`.
        args: the expected encoder and settings.
        embeddings_dir: folder of the stage.
        num_captions, seed: of the sample.

    Returns:
        `checked` and `captions` (numbers of captions), `splits`, `min_cosine`, and `other_settings`: settings that
        differ from those of the stage, although the vectors are the same.

    Raises:
        ValueError: at a difference; the message names the row and the remedy.
    """
    splits, several = captioned_splits(images)
    stage = _read_stage(embeddings_dir, splits)
    stored = join_stage(images, embeddings_dir, stage)
    captions = pd.concat([_captions(split, stored[name], name, several) for name, split in splits.items()])
    drawn = np.random.default_rng(seed).choice(len(captions), min(num_captions, len(captions)), replace=False)
    sample = captions.iloc[sorted(drawn)]

    encoder = encoder_from(args, PartialState().device)
    if stage["text_embed_dim"] != encoder.dim:
        raise ValueError(
            f"{embeddings_dir}: its vectors have {stage['text_embed_dim']} dimensions, but those of "
            f"{encoder.provenance['text_encoder']} have {encoder.dim}. Give the encoder they were made with "
            f"({stage['text_encoder']}), or embed again."
        )
    present = {**encoder.provenance, "long_captions": args.long_captions}
    changed = {key: (stage[key], present[key]) for key in SETTINGS if key in stage and stage[key] != present[key]}
    embeds = {name: Embeddings(stored[name]) for name in splits}
    actual = [embeds[one.split][one.number] for one in sample.itertuples()]
    cosines = _cosines(encode_captions(sample["text"].tolist(), encoder, args).vectors, actual)
    if not (cosines >= 1 - TOLERANCE).all():
        raise ValueError(f"{embeddings_dir}, {_described_difference(changed, images, sample, cosines)}")
    edited = _edited_splits(stage, splits)
    if edited:
        raise ValueError(
            f"{embeddings_dir}, split {edited[0]!r}: captions were edited after they were embedded, though none of "
            f"the {len(sample)} checked. Embed again, or find them with a larger --verify."
        )
    found = {"checked": len(sample), "captions": len(captions), "splits": list(splits)}
    return found | {"min_cosine": float(cosines.min()) if len(sample) else None, "other_settings": list(changed)}


def described_verification(found: dict[str, Any], folder: str) -> list[str]:
    """Lines for the user about a check of a folder that found nothing wrong, see [`verify_embeddings`]."""
    if not found["checked"]:
        return [f"Verified: the splits {', '.join(found['splits'])} have no captions, and {folder} no embeddings."]
    lines = [
        f"Verified: {found['checked']:,} of {found['captions']:,} captions of {', '.join(found['splits'])}, embedded "
        f"again, give the vectors in {folder} (smallest cosine {found['min_cosine']:.5f}); every row has as many "
        "vectors as captions."
    ]
    if found["other_settings"]:
        lines.append(f"Settings that differ from those recorded there: {', '.join(found['other_settings'])}")
    return lines


def _read_stage(embeddings_dir: str | Path, splits: dict[str, Dataset]) -> dict[str, Any]:
    stage = read_stage(embeddings_dir)
    if stage is None or stage.get("stage") != "embedding":
        raise ValueError(f"{embeddings_dir} holds no embeddings to verify. Embed first, without --verify.")
    missing = [name for name in splits if name not in stage["num_rows"]]
    if missing:
        raise ValueError(f"{embeddings_dir} has no embeddings of the split {missing[0]!r}. Embed again.")
    return stage


def _captions(split: Dataset, stored: Dataset, name: str, several: bool) -> pd.DataFrame:
    """The `text` of each caption of a split, its `split` and `row`, and its `number` in the split."""
    rows, counts = list(texts_of_rows(split)), Embeddings(stored).counts.tolist()
    in_lists = isinstance(stored.features[columns.TEXT_EMBEDS].feature, List)
    for row, (texts, count) in enumerate(zip(rows, counts, strict=True)):
        if len(texts) != count or (texts and in_lists != several):
            raise ValueError(
                f"Split {name!r}, row {row} ({stored[row][columns.IMAGE_ID]}): {_many(len(texts), 'caption')}, but "
                f"{_many(count, 'embedding')} in the stage{', in lists' if in_lists else ''}. The captions were "
                "changed after they were embedded; embed again."
            )
    texts = [text for texts in rows for text in texts]
    places = np.repeat(np.arange(len(rows)), counts)
    return pd.DataFrame({"split": name, "row": places, "number": np.arange(len(texts)), "text": texts})


def _edited_splits(stage: dict[str, Any], splits: dict[str, Dataset]) -> list[str]:
    """Splits with the rows of the stage and other captions, by digests of all."""
    return [
        name
        for name, split in splits.items()
        if ids_digest(split[columns.IMAGE_ID][:]) == stage["image_ids_digest"].get(name)
        and captions_digest(split) != stage["captions_digest"].get(name)
    ]


def _many(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'s' * (count != 1)}"


def _cosines(expected: np.ndarray, actual: list[np.ndarray]) -> np.ndarray:
    """(n,) Equal vectors have 1, also where both are zero or of another length than 1."""
    one, other = (np.asarray(vectors, np.float32).reshape(expected.shape) for vectors in (expected, actual))
    norms = np.maximum(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
    return np.where(norms > 0, (one * other).sum(axis=1) / np.maximum(norms, 1e-6) ** 2, 1.0)


def _described_difference(
    changed: dict[str, tuple[Any, Any]], images: DatasetDict, sample: pd.DataFrame, cosines: np.ndarray
) -> str:
    """The first row with another vector, and the probable cause."""
    wrong = np.flatnonzero(~(cosines >= 1 - TOLERANCE))
    one = sample.iloc[wrong[0]]
    said = (
        f"split {one.split!r}, row {one.row} ({images[one.split][int(one.row)][columns.IMAGE_ID]}): the vector there "
        f"is not that of the caption {textwrap.shorten(one.text, 60)!r} (cosine {cosines[wrong[0]]:.3f}); "
        f"{len(wrong)} of {len(sample)} captions checked are like that. "
    )
    if changed:
        there = ", ".join(f"{key} ({before!r} there, {now!r} here)" for key, (before, now) in changed.items())
        return said + f"The stage was made with other settings: {there}. Give those, or embed again."
    return said + "The caption was edited after it was embedded, or rows or weights are others now. Embed again."
