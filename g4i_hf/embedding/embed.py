"""Captions -> the column `text_embeds`."""

import glob
import hashlib
import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict, concatenate_datasets, disable_progress_bars, load_dataset
from datasets.utils.logging import is_progress_bar_enabled

from .. import columns
from ..data.stage import check_replaceable, ids_digest, join_stage, read_stage, write_stage
from .arguments import EncoderArguments
from .encoders import TextEncoder, load_encoder

logger = logging.getLogger(__name__)


def embed_captions(
    images: DatasetDict,
    args: EncoderArguments,
    output_dir: str | Path,
    *,
    source: str,
    source_revision: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """
    Embeds every caption once and writes a stage of `image_id` and `text_embeds`. Under `accelerate launch` the
    processes share the captions. Does nothing when `output_dir` already holds the embeddings of the same captions by
    the same encoder.

    Args:
        images: splits with `image_id` and `caption` (null where an image has none).
        args: the encoder and its batch size.
        output_dir: folder of the stage; an unfinished run leaves an earlier stage as it was.
        source, source_revision: where the images come from, for those who open the stage.
        dry_run: embed and write nothing.

    Returns:
        The stage's `stage.json`; `reused: True` when it was there, else `captions_to_embed` of a dry run.

    Raises:
        ValueError: when a split has no captions, or several a row, or when `output_dir` holds something else.
    """
    state = PartialState()
    output_dir = Path(output_dir)
    check_replaceable(output_dir)
    captions = {name: _captions(split, name) for name, split in images.items()}
    encoder = load_encoder(args.text_encoder, args.text_encoder_revision, state.device)
    wanted = {
        "stage": "embedding",
        "source": _portable(source, output_dir),
        "source_revision": source_revision,
        "with_images": args.with_images,
        **encoder.provenance,
        "normalised": True,
        "image_ids_digest": {name: ids_digest(split[columns.IMAGE_ID][:]) for name, split in images.items()},
        "captions_digest": {name: ids_digest(c or "\1" for c in texts) for name, texts in captions.items()},
    }
    present = read_stage(output_dir)
    if present and all(present.get(key) == value for key, value in wanted.items()):
        state.wait_for_everyone()
        return {**present, "reused": True}
    unique = sorted({caption for texts in captions.values() for caption in texts if caption})
    if dry_run:
        return {**wanted, "captions_to_embed": len(unique)}
    parts = output_dir.with_name(f".{output_dir.name}.parts")
    lengths = _encode_unique(unique, encoder, args.text_encoder_batch_size, parts, state)
    if state.is_main_process:
        _report_long_captions(captions, lengths, encoder.max_tokens, wanted)
        vectors = _read_parts(unique, parts)
        splits = {name: _add_column(split, captions[name], vectors, wanted) for name, split in images.items()}
        write_stage(output_dir, splits, wanted)
        shutil.rmtree(parts, ignore_errors=True)
    state.wait_for_everyone()
    return read_stage(output_dir)


def with_text_embeds(
    images: DatasetDict,
    args: EncoderArguments,
    embeddings_dir: str | Path,
    *,
    source: str,
    source_revision: str | None = None,
) -> DatasetDict:
    """The images with `text_embeds`: their own column, or one embedded now (or earlier) into `embeddings_dir`."""
    has_column = any(columns.TEXT_EMBEDS in split.column_names for split in images.values())
    if has_column or args.text_encoder is None:
        return images
    stage = embed_captions(images, args, embeddings_dir, source=source, source_revision=source_revision)
    return join_stage(images, embeddings_dir, stage)


def _captions(split: Dataset, name: str) -> list[str | None]:
    if columns.CAPTION not in split.column_names:
        raise ValueError(
            f"Split {name!r} has no column 'caption'. Its columns: {', '.join(split.column_names)}. Name the right "
            "one with --caption_column."
        )
    captions = split[columns.CAPTION][:]
    if any(isinstance(caption, list) for caption in captions):
        raise ValueError(f"Split {name!r}, column 'caption': lists of captions. Give every image one caption.")
    return [caption if caption and caption.strip() else None for caption in captions]


def _portable(source: str, output_dir: Path) -> str:
    """A local folder relative to the stage, so that both can be moved together and no absolute path is kept."""
    path = Path(source)
    if not path.is_dir():
        return source
    return os.path.relpath(path, output_dir)


def _encode_unique(
    unique: list[str], encoder: TextEncoder, batch_size: int, parts: Path, state: PartialState
) -> dict[str, int]:
    """
    Encodes this process's share of the captions, sorted by length so that batches hold little padding, and writes it
    to `parts`. Returns the token count of every caption.
    """
    lengths = dict(zip(unique, encoder.count_tokens(unique), strict=True)) if unique else {}
    by_length = sorted(unique, key=lambda caption: (-lengths[caption], caption))
    mine = Dataset.from_dict({columns.CAPTION: by_length[state.process_index :: state.num_processes]})
    if state.is_main_process:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
    state.wait_for_everyone()
    if not state.is_main_process and is_progress_bar_enabled():
        disable_progress_bars()
    if len(mine):
        _encode_share(mine, encoder, batch_size).to_parquet(parts / f"{state.process_index}.parquet")
    state.wait_for_everyone()
    return lengths


def _encode_share(captions: Dataset, encoder: TextEncoder, batch_size: int) -> Dataset:
    return captions.map(
        lambda batch: {columns.TEXT_EMBEDS: encoder.encode(batch[columns.CAPTION]).astype(np.float16)},
        batched=True,
        batch_size=batch_size,
        features=_part_features(encoder.dim),
        new_fingerprint=_fingerprint(encoder.provenance, captions[columns.CAPTION][:]),
        load_from_cache_file=False,
        keep_in_memory=True,
        desc="Embedding captions",
    )


def _part_features(dim: int):
    features = columns.text_embeds_features(dim)
    features[columns.CAPTION] = features.pop(columns.IMAGE_ID)
    return features


def _fingerprint(*values: Any) -> str:
    # `datasets` would otherwise hash the encoder's weights to name its cache file
    return hashlib.blake2b(repr(values).encode(), digest_size=8).hexdigest()


def _read_parts(unique: list[str], parts: Path) -> dict[str, np.ndarray]:
    vectors: dict[str, np.ndarray] = {}
    for path in sorted(parts.glob("*.parquet")):  # a process without captions wrote none
        part = load_dataset("parquet", data_files=glob.escape(str(path)), split="train", keep_in_memory=True)
        embeds = part.with_format("numpy")[:][columns.TEXT_EMBEDS]
        vectors.update(zip(part[columns.CAPTION][:], np.asarray(embeds, dtype=np.float16), strict=True))
    if len(vectors) != len(unique):
        raise RuntimeError(f"{len(unique)} captions were to be embedded, but {len(vectors)} were.")
    return vectors


def _add_column(
    split: Dataset, captions: list[str | None], vectors: dict[str, np.ndarray], provenance: dict[str, Any]
) -> Dataset:
    """The split's `image_id` and `text_embeds`, or all of its columns where images are wanted too."""
    reduced = split.select_columns([columns.IMAGE_ID])
    dim = provenance["text_embed_dim"]
    added = reduced.map(
        lambda batch, rows: {columns.TEXT_EMBEDS: [vectors[captions[row]] if captions[row] else None for row in rows]},
        with_indices=True,
        batched=True,
        features=columns.text_embeds_features(dim),
        new_fingerprint=_fingerprint(provenance, split._fingerprint),
        load_from_cache_file=False,
        keep_in_memory=True,
        desc="Adding text_embeds",
    )
    if not provenance["with_images"]:
        return added
    kept = split.remove_columns([column for column in split.column_names if column == columns.TEXT_EMBEDS])
    return concatenate_datasets([kept, added.remove_columns(columns.IMAGE_ID)], axis=1)


def _report_long_captions(
    captions: dict[str, list[str | None]], lengths: dict[str, int], max_tokens: int | None, stage: dict[str, Any]
) -> None:
    """Counts captions beyond the window, in stage.json and as a warning: what is cut off cannot teach anything."""
    stage["captions_over_window"] = {}
    for name, texts in captions.items():
        window = math.inf if max_tokens is None else max_tokens
        excess = [lengths[text] - window for text in texts if text and lengths[text] > window]
        stage["captions_over_window"][name] = {"captions": len(excess), "tokens_lost": sum(excess)}
        if excess:
            logger.warning(
                "Split %r: %d of %d captions are longer than the encoder's window of %d tokens and were cut; "
                "%d tokens are lost.",
                name,
                len(excess),
                len(texts),
                max_tokens,
                sum(excess),
            )
    stage["captions"] = {name: sum(text is not None for text in texts) for name, texts in captions.items()}
