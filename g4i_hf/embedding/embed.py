"""Captions -> the column `text_embeds`."""

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict, DatasetInfo, concatenate_datasets
from datasets.table import InMemoryTable
from huggingface_hub.constants import HF_HOME

from .. import columns
from ..data.published import find_stage
from ..data.source import Source
from ..data.stage import check_replaceable, ids_digest, join_stage, read_stage, write_stage
from ..data.values import values_of
from ..options import EncoderArguments
from .captions import Captions, read_captions
from .encode import Vectors, encode_captions
from .encoders import TextEncoder, encoder_from
from .long_captions import long_captions_report

logger = logging.getLogger(__name__)


def embed_stage(
    images: DatasetDict,
    args: EncoderArguments,
    output_dir: str | Path,
    *,
    source: str | Source,
) -> dict[str, Any]:
    """
    Embeds every caption once and writes a stage of `image_id` and `text_embeds`: (D,) where a row has one caption,
    (K, D) where the column holds lists of captions. Under `accelerate launch` the processes share the captions. Does
    nothing when `output_dir` already holds the embeddings of the same captions by the same encoder.

    Args:
        images: splits with `image_id` and `caption` (null where an image has none).
        args: the encoder, its batch size, and what is done about long captions.
        output_dir: folder of the stage; an unfinished run leaves an earlier stage as it was.
        source: where the images come from, for those who open the stage.

    Returns:
        The stage's `stage.json`, with `reused: True` when it was there already.

    Raises:
        ValueError: when a split has no captions, or when `output_dir` holds something else.
    """
    check_replaceable(output_dir)
    captions, encoder, wanted = _prepare(images, args)
    return _embed(images, captions, encoder, args, Path(output_dir), wanted, Source.of(source))


def embed_captions(
    images: DatasetDict,
    text_encoder: str = "sentence-transformers/all-MiniLM-L6-v2",
    embeddings_dir: str | Path | None = None,
    **options: Any,
) -> DatasetDict:
    """
    Adds the column `text_embeds` to every split that has captions; images are not copied.

    Args:
        images: splits with `image_id` and `caption`, as [`~g4i_hf.open_images`] opens them.
        text_encoder: Hub id or folder of a sentence-transformers, CLIP, SigLIP or SigLIP 2 model.
        embeddings_dir: folder of the embeddings; by default one in the cache of Hugging Face, named by what is in it,
            so that the same captions are embedded once.
        options: others of [`~g4i_hf.options.EncoderArguments`], such as `long_captions`.

    Raises:
        ValueError: when no split has captions, or the images have embeddings already.
    """
    args = EncoderArguments(text_encoder, **options)
    folder = embeddings_dir or Path(HF_HOME) / "g4i_hf" / "embeddings"
    return with_text_embeds(images, args, folder, source="images", shared=embeddings_dir is None)


def with_text_embeds(
    images: DatasetDict,
    args: EncoderArguments,
    embeddings_dir: str | Path,
    *,
    source: str | Source,
    shared: bool = False,
) -> DatasetDict:
    """
    The images with `text_embeds`: their own column, or one embedded now (or earlier) into `embeddings_dir`. When that
    is `shared` by other data sets and encoders, each of them has a folder of its own in it, and none replaces another.

    Raises:
        ValueError: when the images have embeddings by another encoder than the one asked for.
    """
    folder = text_embeds_folder(images, args, embeddings_dir, source=source, shared=shared)
    return images if folder is None else join_stage(images, folder, read_stage(folder))


def text_embeds_folder(
    images: DatasetDict,
    args: EncoderArguments,
    embeddings_dir: str | Path,
    *,
    source: str | Source,
    shared: bool = False,
) -> Path | None:
    """
    The stage that [`with_text_embeds`] joins, embedded now or earlier; None where the images have their own column, or
    no encoder is asked for.

    Raises:
        ValueError: when the images have embeddings by another encoder than the one asked for.
    """
    has_column = any(columns.TEXT_EMBEDS in split.column_names for split in images.values())
    if has_column and args.text_encoder is not None:
        _check_encoder(Source.of(source), args.text_encoder)
    if has_column or args.text_encoder is None:
        return None
    if not shared:
        check_replaceable(embeddings_dir)
    captions, encoder, wanted = _prepare(images, args)
    source = Source.of(source)
    folder = _folder(embeddings_dir, shared, wanted, source)
    check_replaceable(folder)
    _embed(images, captions, encoder, args, folder, wanted, source)
    return folder


def _check_encoder(source: Source, text_encoder: str) -> None:
    places = [(source.name, source.revision)]
    places += [(source.captions, source.captions_revision)] if source.captions else []
    found = {name: (find_stage(name, revision) or {}).get("text_encoder") for name, revision in places}
    place, made_by = next(((name, made_by) for name, made_by in reversed(found.items()) if made_by), (None, None))
    asked_for = Path(text_encoder).resolve().name if Path(text_encoder).is_dir() else text_encoder
    if made_by not in (None, asked_for):
        raise ValueError(
            f"{place} was embedded by {made_by}, but text_encoder is {text_encoder}. Leave text_encoder out to train "
            "with what is there, or name the captions as dataset_name to embed them anew."
        )


def captions_to_embed(
    images: DatasetDict,
    args: EncoderArguments,
    embeddings_dir: str | Path,
    *,
    source: str | Source,
    shared: bool = False,
) -> tuple[int, int]:
    """What [`with_text_embeds`] would do: the number of distinct captions to embed (0 when they are there), and D."""
    captions, encoder, wanted = _prepare(images, args)
    source = Source.of(source)
    folder = _folder(embeddings_dir, shared, wanted, source)
    is_there = _same_stage(folder, _stage_of(folder, wanted, source)) is not None
    return 0 if is_there else len(captions.unique()), encoder.dim


def _prepare(images: DatasetDict, args: EncoderArguments) -> tuple[Captions, TextEncoder, dict[str, Any]]:
    """The captions, the encoder, and what decides whether embeddings are the same."""
    captions = read_captions(images)
    encoder = encoder_from(args, PartialState().device)
    wanted = {
        "with_images": args.with_images,
        **encoder.provenance,
        "long_captions": args.long_captions,
        "normalised": True,
        "several_captions": captions.several,
        "image_ids_digest": {
            name: ids_digest(values_of(split, columns.IMAGE_ID)) for name, split in captions.splits.items()
        },
        "captions_digest": captions.digests(),
    }
    return captions, encoder, wanted


def _folder(embeddings_dir: str | Path, shared: bool, wanted: dict[str, Any], source: Source) -> Path:
    return Path(embeddings_dir) / _own_name(wanted, source.name) if shared else Path(embeddings_dir)


def _stage_of(folder: Path, wanted: dict[str, Any], source: Source) -> dict[str, Any]:
    recorded = source.recorded(folder)
    recorded.pop("source_columns", None)  # other names of the same columns make no other embeddings
    return {"stage": "embedding", **recorded, **wanted}


def _own_name(wanted: dict[str, Any], source: str) -> str:
    """`<data set>-<encoder>-<digest>`; the digest covers captions, rows, encoder and settings."""
    digest = hashlib.blake2b(json.dumps(wanted, sort_keys=True).encode(), digest_size=4).hexdigest()
    names = [Path(source).resolve().name if Path(source).is_dir() else source, wanted["text_encoder"].split("/")[-1]]
    return "-".join([*(re.sub(r"[^\w.-]+", "_", name).strip("._") for name in names), digest])


def _embed(
    images: DatasetDict,
    captions: Captions,
    encoder: TextEncoder,
    args: EncoderArguments,
    output_dir: Path,
    wanted: dict[str, Any],
    source: Source,
) -> dict[str, Any]:
    state = PartialState()
    wanted = _stage_of(output_dir, wanted, source)
    # The first decides for all: another run may be writing there while they look
    present = broadcast_object_list([_same_stage(output_dir, wanted)])[0]
    if present is not None:
        return {**present, "reused": True}
    vectors = encode_captions(captions.unique(), encoder, args, output_dir, state)
    if state.is_main_process:
        over = long_captions_report(captions, vectors.lengths, vectors.chunks, encoder.max_tokens)
        stage = {**wanted, **source.recorded(output_dir), "captions_over_window": over, "captions": captions.counts()}
        splits = {
            name: _with_column(split, captions, name, vectors, wanted) for name, split in captions.splits.items()
        }
        _write(output_dir, splits, stage, wanted)
    state.wait_for_everyone()
    return read_stage(output_dir)


def _same_stage(output_dir: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The stage there, when it is that of the same captions by the same encoder."""
    present = read_stage(output_dir)
    same = present is not None and all(present.get(key) == value for key, value in wanted.items())
    return present if same else None


def _write(output_dir: Path, splits: dict[str, Dataset], stage: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Another run may be writing there at this very moment: then its folder is in the way of ours."""
    for attempt in range(3):
        try:
            return write_stage(output_dir, splits, stage)
        except OSError:
            if _same_stage(output_dir, wanted) is not None:
                logger.info("Another run wrote the same embeddings into %s meanwhile.", output_dir)
                return None
            if attempt == 2:
                raise


def _with_column(split: Dataset, captions: Captions, name: str, vectors: Vectors, wanted: dict[str, Any]) -> Dataset:
    """The split's `image_id` and `text_embeds`, or all of its columns where images are wanted too."""
    rows = captions.rows[name]
    features = columns.text_embeds_features(vectors.dim, captions.several)
    table = pa.table(
        [pa.array(split[columns.IMAGE_ID][:], pa.string()), _arrow_column(rows, captions.several, vectors)],
        schema=features.arrow_schema,
    )
    fingerprint = hashlib.blake2b(repr((wanted, split._fingerprint)).encode(), digest_size=8).hexdigest()
    added = Dataset(InMemoryTable(table), info=DatasetInfo(features=features), fingerprint=fingerprint)
    if not wanted["with_images"]:
        return added
    kept = split.remove_columns([column for column in split.column_names if column == columns.TEXT_EMBEDS])
    return concatenate_datasets([kept, added.remove_columns(columns.IMAGE_ID)], axis=1)


def _arrow_column(rows: list[list[str]], several: bool, vectors: Vectors) -> pa.Array:
    """Null where a row has no caption."""
    missing = pa.array([not texts for texts in rows], pa.bool_())
    if several:
        inner = vectors.of([text for texts in rows for text in texts])
        offsets = np.concatenate([[0], np.cumsum([len(texts) for texts in rows])]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), _fixed_lists(inner), mask=missing)
    return _fixed_lists(vectors.of([texts[0] if texts else None for texts in rows]), mask=missing)


def _fixed_lists(values: np.ndarray, mask: pa.Array | None = None) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1], mask=mask)
