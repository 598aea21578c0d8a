"""
Captions -> the column `text_embeds`.

Every distinct caption is encoded once, in batches of like length; under `accelerate launch` the processes share them.
The result is a stage of `image_id` and `text_embeds`, which is found again by what its vectors depend on.
"""

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset, DatasetDict, DatasetInfo, LargeList, List, Value, concatenate_datasets
from datasets.table import InMemoryTable
from datasets.utils.logging import is_progress_bar_enabled
from huggingface_hub.constants import HF_HOME
from tqdm import tqdm

from .. import columns
from ..data.stage import Source, check_replaceable, find_stage, ids_digest, join_stage, read_stage, write_stage
from ..data.texts import is_blank, values_of
from ..options import EncoderArguments
from .encoders import TextEncoder, encoder_from
from .long_captions import long_captions_report, mean_of_chunks, split_captions

logger = logging.getLogger(__name__)

TEXT = (Value("string"), Value("large_string"), Value("null"))  # a column of nulls alone has the type null


def embed_captions(
    images: DatasetDict,
    text_encoder: str = "sentence-transformers/all-MiniLM-L6-v2",
    embeddings_dir: str | Path | None = None,
    **options: Any,
) -> DatasetDict:
    """
    Adds the column `text_embeds` to every split that has captions; images are not copied.

    Args:
        images: splits with `image_id` and `caption`, as [`~g4i_hf.load_images`] opens them.
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


def embed_stage(
    images: DatasetDict, args: EncoderArguments, output_dir: str | Path, *, source: str | Source
) -> dict[str, Any]:
    """
    Embeds every caption once and writes a stage of `image_id` and `text_embeds`: (D,) where a row has one caption,
    (K, D) where the column holds lists of captions. Does nothing when `output_dir` already holds the embeddings of the
    same captions by the same encoder.

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
    return _Embedding(images, args, source).into(Path(output_dir))


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
    embedding = _Embedding(images, args, source)
    folder = embedding.folder(embeddings_dir, shared)
    check_replaceable(folder)
    embedding.into(folder)
    return folder


def captions_to_embed(
    images: DatasetDict,
    args: EncoderArguments,
    embeddings_dir: str | Path,
    *,
    source: str | Source,
    shared: bool = False,
) -> tuple[int, int]:
    """What [`with_text_embeds`] would do: the number of distinct captions to embed (0 when they are there), and D."""
    embedding = _Embedding(images, args, source)
    is_there = embedding.found_in(embedding.folder(embeddings_dir, shared)) is not None
    return 0 if is_there else len(embedding.captions.unique()), embedding.encoder.dim


def described_embeddings(stage: dict[str, Any], folder: str) -> list[str]:
    """What is said of the `stage.json` of embeddings in a folder, see [`embed_stage`]."""
    captions = ", ".join(f"{name} {count:,}" for name, count in stage["captions"].items())
    done = "Already embedded" if stage.get("reused") else "Embedded"
    lines = [
        f"{done} by {stage['text_encoder']} ({stage['text_embed_dim']} dimensions): captions of {captions}. "
        f"They are in {folder}"
    ]
    if stage["max_tokens"] is not None:
        over = ", ".join(
            f"{name} {found['share']:.1%} ({found['tokens_lost']:,} tokens lost"
            + (f", {found['chunks']:,} chunks)" if found["chunks"] else ")")
            for name, found in stage["captions_over_window"].items()
        )
        lines.append(f"Captions beyond the window of {stage['max_tokens']} tokens: {over}")
    return lines


def _check_encoder(source: Source, text_encoder: str) -> None:
    """That a column which is there was made by this encoder, as far as a stage says by which."""
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


# --- Captions --------------------------------------------------------------------------------------------------------


@dataclass
class Captions:
    """
    Attributes:
        splits: those with captions.
        several: whether a row can have more than one.
    """

    splits: dict[str, Dataset]
    several: bool

    def of(self, name: str) -> Iterator[list[str]]:
        """For every row of a split the texts that there are, without null and blank ones."""
        for value in values_of(self.splits[name], columns.CAPTION):
            yield [text for text in (value if isinstance(value, list) else [value]) if not is_blank(text)]

    @cached_property
    def rows(self) -> dict[str, list[list[str]]]:
        """The same of all splits, in memory."""
        return {name: list(self.of(name)) for name in self.splits}

    def unique(self) -> list[str]:
        return sorted({text for name in self.splits for texts in self.of(name) for text in texts})

    def digests(self) -> dict[str, str]:
        """Of each split: other texts, or the same in other rows, have another one."""
        return {name: ids_digest("\2".join(texts) or "\1" for texts in self.of(name)) for name in self.splits}


def read_captions(images: DatasetDict) -> Captions:
    """
    The captions of the splits that have the column; captions can be there of the training split alone.

    Raises:
        ValueError: when no split has captions, or the column holds something else than texts or lists of texts.
    """
    captioned = {name: split for name, split in images.items() if columns.CAPTION in split.column_names}
    several = False
    for name, split in (captioned or images).items():
        feature = split.features.get(columns.CAPTION)
        if feature is None:
            raise ValueError(
                f"Split {name!r} has no column 'caption'. Its columns: {', '.join(split.column_names)}. Name the "
                "right one with --caption_column."
            )
        is_list = isinstance(feature, (List, LargeList))
        if (feature.feature if is_list else feature) not in TEXT:
            raise ValueError(
                f"Split {name!r}, column 'caption': {feature} is neither text nor a list of texts. Name the right "
                "column with --caption_column."
            )
        several |= is_list
    return Captions(captioned, several)


# --- Vectors ---------------------------------------------------------------------------------------------------------


@dataclass
class Vectors:
    """
    Vectors of distinct captions, found by the caption.

    Attributes:
        positions: of each caption, its row in `values`.
        values: (captions, D) float16.
        lengths: tokens of every caption before any cut.
        chunks: of the captions that were embedded in chunks.
    """

    positions: dict[str, int]
    values: np.ndarray
    lengths: dict[str, int]
    chunks: dict[str, list[str]]

    def of(self, captions: list[str]) -> np.ndarray:
        """(n, D) float16."""
        return self.values[[self.positions[caption] for caption in captions]]

    def column(self, rows: list[list[str]], several: bool) -> pa.Array:
        """`text_embeds` of rows with these captions, null where a row has none."""
        missing = pa.array([not texts for texts in rows], pa.bool_())
        if several:
            offsets = np.concatenate([[0], np.cumsum([len(texts) for texts in rows])]).astype(np.int32)
            inner = _fixed_lists(self.of([text for texts in rows for text in texts]))
            return pa.ListArray.from_arrays(pa.array(offsets), inner, mask=missing)
        values = np.zeros((len(rows), self.values.shape[1]), dtype=np.float16)
        present = [row for row, texts in enumerate(rows) if texts]
        values[present] = self.of([rows[row][0] for row in present])
        return _fixed_lists(values, mask=missing)


def _fixed_lists(values: np.ndarray, mask: pa.Array | None = None) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1], mask=mask)


def encode_captions(
    captions: list[str], encoder: TextEncoder, args: EncoderArguments, state: PartialState | None = None
) -> Vectors:
    """
    Encodes distinct captions. They are sorted by length so that batches hold little padding, and those beyond the
    window have batches of their own: how they are treated changes no bit of the others.

    Args:
        captions: all different.
        encoder, args: what encodes them, and how.
        state: this process and the others, which share them; without it, this one encodes everything.
    """
    lengths = dict(zip(captions, encoder.count_tokens(captions), strict=True))
    window = math.inf if encoder.max_tokens is None else encoder.max_tokens
    by_length = sorted(captions, key=lambda caption: (-lengths[caption], caption))
    long = [caption for caption in by_length if lengths[caption] > window]
    fitting = by_length[len(long) :]
    chunks = split_captions(long, encoder) if args.long_captions == "chunk_mean" else {}
    pieces, tokens = long, lengths
    if chunks:
        pieces = sorted({piece for parts in chunks.values() for piece in parts})
        tokens = dict(zip(pieces, encoder.count_tokens(pieces), strict=True))
        pieces.sort(key=lambda piece: -tokens[piece])
    of_long, of_fitting = _encoded([pieces, fitting], encoder, args.text_encoder_batch_size, state)
    if chunks:
        special, positions = encoder.count_tokens([""])[0], {piece: place for place, piece in enumerate(pieces)}
        means = [
            mean_of_chunks(
                of_long[[positions[piece] for piece in chunks[caption]]],
                [tokens[piece] - special for piece in chunks[caption]],
            )
            for caption in long
        ]
        of_long = np.asarray(means, dtype=np.float16)
    positions = {caption: place for place, caption in enumerate(by_length)}
    return Vectors(positions, np.concatenate([of_long, of_fitting]), lengths, chunks)


def _encoded(
    groups: list[list[str]], encoder: TextEncoder, batch_size: int, state: PartialState | None
) -> list[np.ndarray]:
    """(n, D) float16 of each group of captions. Every process encodes its share, and gets those of the others."""
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
    if processes == 1:
        return values
    whole = [np.empty((len(group), encoder.dim), dtype=np.float16) for group in groups]
    for process, of_process in enumerate(gather_object([values])):
        for target, share in zip(whole, of_process, strict=True):
            target[process::processes] = share
    return whole


def name_as_text(class_name: str) -> str:
    """`animal-bird` -> `animal bird`."""
    return " ".join(class_name.replace("_", " ").replace("-", " ").split())


def class_name_embeds(class_names: list[str], encoder: TextEncoder, args: EncoderArguments) -> np.ndarray:
    """(classes, D) of unit norm, as captions that are nothing but the name of a class are embedded."""
    texts = [name_as_text(name) for name in class_names]
    return encode_captions(sorted(set(texts)), encoder, args).of(texts)


# --- The stage -------------------------------------------------------------------------------------------------------


class _Embedding:
    """
    The captions of images, to be embedded by an encoder.

    Attributes:
        settings: of `stage.json`, all that the vectors depend on.
    """

    def __init__(self, images: DatasetDict, args: EncoderArguments, source: str | Source):
        self.args, self.source = args, Source.of(source)
        self.captions = read_captions(images)
        self.encoder = encoder_from(args, PartialState().device)
        self.settings = {
            "with_images": args.with_images,
            **self.encoder.provenance,
            "long_captions": args.long_captions,
            "normalised": True,
            "several_captions": self.captions.several,
            "image_ids_digest": {
                name: ids_digest(values_of(split, columns.IMAGE_ID)) for name, split in self.captions.splits.items()
            },
            "captions_digest": self.captions.digests(),
        }

    def folder(self, embeddings_dir: str | Path, shared: bool) -> Path:
        """Where they go; in a shared folder `<data set>-<encoder>-<digest of the settings>`."""
        if not shared:
            return Path(embeddings_dir)
        digest = hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=4).hexdigest()
        source = self.source.name
        names = [Path(source).resolve().name if Path(source).is_dir() else source]
        names.append(self.settings["text_encoder"].split("/")[-1])
        names = [re.sub(r"[^\w.-]+", "_", name).strip("._") for name in names]
        return Path(embeddings_dir) / "-".join([*names, digest])

    def found_in(self, folder: Path) -> dict[str, Any] | None:
        """The stage there, when it is that of the same captions by the same encoder."""
        recorded = self.source.recorded(folder)
        recorded.pop("source_columns", None)  # other names of the same columns make no other embeddings
        wanted, present = {"stage": "embedding", **recorded, **self.settings}, read_stage(folder)
        same = present is not None and all(present.get(key) == value for key, value in wanted.items())
        return present if same else None

    def into(self, folder: Path) -> dict[str, Any]:
        """Embeds them, unless they are there. Returns the `stage.json`."""
        state = PartialState()
        # The first decides for all: another run may be writing there while they look
        present = broadcast_object_list([self.found_in(folder)])[0]
        if present is not None:
            return {**present, "reused": True}
        vectors = encode_captions(self.captions.unique(), self.encoder, self.args, state)
        if state.is_main_process:
            self._write(folder, vectors)
        state.wait_for_everyone()
        return read_stage(folder)

    def _write(self, folder: Path, vectors: Vectors) -> None:
        rows = self.captions.rows
        stage = {
            "stage": "embedding",
            **self.source.recorded(folder),
            **self.settings,
            "captions_over_window": long_captions_report(rows, vectors.lengths, vectors.chunks, self.encoder),
            "captions": {name: sum(map(len, texts)) for name, texts in rows.items()},
        }
        splits = {name: self._split(name, vectors) for name in rows}
        for attempt in range(3):
            try:
                return write_stage(folder, splits, stage)
            except OSError:  # another run may be writing there at this very moment: then its folder is in the way
                if self.found_in(folder) is not None:
                    logger.info("Another run wrote the same embeddings into %s meanwhile.", folder)
                    return None
                if attempt == 2:
                    raise

    def _split(self, name: str, vectors: Vectors) -> Dataset:
        """`image_id` and `text_embeds`, or all columns where images are wanted too."""
        split, several = self.captions.splits[name], self.captions.several
        features = columns.text_embeds_features(self.encoder.dim, several)
        ids = pa.array(split[columns.IMAGE_ID][:], pa.string())
        table = pa.table([ids, vectors.column(self.captions.rows[name], several)], schema=features.arrow_schema)
        fingerprint = hashlib.blake2b(repr((self.settings, split._fingerprint)).encode(), digest_size=8).hexdigest()
        added = Dataset(InMemoryTable(table), info=DatasetInfo(features=features), fingerprint=fingerprint)
        if not self.args.with_images:
            return added
        kept = split.remove_columns([column for column in split.column_names if column == columns.TEXT_EMBEDS])
        return concatenate_datasets([kept, added.remove_columns(columns.IMAGE_ID)], axis=1)
