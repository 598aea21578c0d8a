"""
Embed captions: the column `text_embeds`, as a stage.

Every distinct caption is encoded once, in batches of similar length; under `accelerate launch` the processes share the
captions. A stage is reused unless an input of its vectors has changed.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset, DatasetDict, DatasetInfo, Features, List, Value
from datasets.table import InMemoryTable
from huggingface_hub.constants import HF_HOME

from .. import columns
from ..data.checks import captioned_splits
from ..data.classes import texts_of
from ..data.loading import standardise
from ..data.record import captions_of_rows
from ..data.stage import STAGE_FILE, Source, find_stage, ids_digest, join_stage, open_stage, read_stage, write_stage
from ..data.texts import Embeddings, caption_lists, column_of, values_of
from ..files import check_replaceable
from ..names import folder_or_id
from ..options import DEFAULT_TEXT_ENCODER, EncoderArguments
from ..options.caller import called_from_python
from ..output import progress_bar
from .encoders import TextEncoder, encoder_from

logger = logging.getLogger(__name__)

CACHE = Path(HF_HOME) / "g4i_hf" / "embeddings"  # the default folder of embeddings


@called_from_python()
def embed_captions(
    images: DatasetDict,
    text_encoder: str = DEFAULT_TEXT_ENCODER,
    embeddings_dir: str | Path | None = None,
    **options: Any,
) -> DatasetDict:
    """
    Add the column `text_embeds` to every split with captions; images are not copied.

    Args:
        images: splits with `image` and `caption`, as [`~g4i_hf.load_images`] opens them.
        text_encoder: Hub id or folder of a sentence-transformers, CLIP, SigLIP or SigLIP 2 model.
        embeddings_dir: folder of the embeddings; by default one in the cache of Hugging Face, named by a digest, so
            that the same captions are embedded once.
        options: other fields of [`~g4i_hf.options.EncoderArguments`], such as `text_encoder_prompt`.

    Raises:
        ValueError: if no split has captions, or the images have embeddings already.
    """
    args = EncoderArguments(text_encoder, **options)
    images = DatasetDict({name: standardise(split, name, {}) for name, split in images.items()})
    return with_text_embeds(images, args, embeddings_dir or CACHE, source="images", shared=embeddings_dir is None)


def with_text_embeds(
    images: DatasetDict, args: EncoderArguments, embeddings_dir: str | Path, **where: Any
) -> DatasetDict:
    """The images with the column `text_embeds` of [`text_embeds_folder`], or with their own."""
    folder = text_embeds_folder(images, args, embeddings_dir, **where)
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
    The stage of embeddings, new or reused, in `embeddings_dir`, or if that is `shared` in a subfolder for this dataset
    and encoder. None if the images have embeddings or there is no encoder. Raises ValueError if another encoder made
    them.
    """
    if args.text_encoder is None:
        return None
    if any(columns.TEXT_EMBEDS in split.column_names for split in images.values()):
        _check_encoder(Source.of(source), args.text_encoder)
        return None
    stage = EmbeddingStage(images, args, embeddings_dir, source=source, shared=shared)
    stage.write()
    return stage.folder


def described_embeddings(stage: dict[str, Any], folder: str) -> str:
    """A line for the user about the embeddings in a folder, from their `stage.json`."""
    captions = ", ".join(f"{name} {count:,}" for name, count in stage["captions"].items())
    done = "Already embedded" if stage.get("reused") else "Embedded"
    by = f"{stage['text_encoder']} ({stage['text_embed_dim']} dimensions)"
    return f"{done} by {by}: captions of {captions}. They are in {folder}"


def _check_encoder(source: Source, text_encoder: str) -> None:
    """Raise ValueError if a stage records that another encoder made the column `text_embeds`."""
    places = [(source.captions, source.captions_revision)] if source.captions else []
    for name, revision in [*places, (source.name, source.revision)]:
        made_by = (find_stage(name, revision) or {}).get("text_encoder")
        if made_by is None:
            continue
        if made_by != folder_or_id(text_encoder):
            raise ValueError(
                f"{name} was embedded by {made_by}, but text_encoder is {text_encoder}. Leave text_encoder out to "
                "train with what is there, or name the captions as dataset_name to embed them anew."
            )
        return


# --- From captions to vectors ----------------------------------------------------------------------------------------


def encode_captions(
    captions: list[str],
    encoder: TextEncoder,
    args: EncoderArguments,
    state: PartialState | None = None,
    known: Mapping[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Encode n captions, equal ones once, sorted by length to reduce padding: (n, D) float16 of unit norm, and (n,) the
    tokens of each before truncation. The processes of `state` share the captions. `known` has vectors of some.
    """
    distinct, known = list(dict.fromkeys(captions)), known or {}
    tokens = dict(zip(distinct, encoder.count_tokens(distinct), strict=True))
    new = sorted((text for text in distinct if text not in known), key=lambda caption: (-tokens[caption], caption))
    places = {caption: place for place, caption in enumerate([*new, *known])}
    vectors = _encode(new, encoder, args.text_encoder_batch_size, state)
    vectors = np.concatenate([vectors, *([np.stack(list(known.values()))] if known else [])])
    rows = [places[caption] for caption in captions]
    return vectors[rows], np.asarray([tokens[caption] for caption in captions], dtype=np.int64)


def _over_window(name: str, tokens: np.ndarray, window: int | None) -> dict[str, Any]:
    """Count the captions that the window of the encoder truncates, by their tokens (n,), and warn of them."""
    long = np.zeros(0, np.int64) if window is None else tokens[tokens > window]
    lost, share = int((long - window).sum()) if len(long) else 0, len(long) / max(1, len(tokens))
    if len(long):
        logger.warning(
            "Split %r: %d of %d captions (%.1f%%) are longer than the encoder's window of %d tokens and were cut; %d "
            "tokens are lost. A text encoder with a longer window, or captions with fewer tokens, lose none.",
            *(name, len(long), len(tokens), 100 * share, window, lost),
        )
    return {"captions": len(long), "share": share, "tokens_lost": lost}


def _encode(captions: list[str], encoder: TextEncoder, batch_size: int, state: PartialState | None) -> np.ndarray:
    """(n, D) float16, on every process."""
    rank, processes = (0, 1) if state is None else (state.process_index, state.num_processes)
    share = captions[rank::processes]
    vectors = np.empty((len(share), encoder.dim), dtype=np.float16)
    is_shown = rank == 0 and bool(share)
    with progress_bar(total=len(share), desc="Embedding captions", unit="caption", shown=is_shown) as bar:
        for start in range(0, len(share), batch_size):
            batch = share[start : start + batch_size]
            vectors[start : start + batch_size] = encoder.encode(batch)
            bar.update(len(batch))
    if processes == 1:
        return vectors
    whole = np.empty((len(captions), encoder.dim), dtype=np.float16)
    for process, of_process in enumerate(gather_object([vectors])):
        whole[process::processes] = of_process
    return whole


def name_as_text(class_name: str) -> str:
    """`animal-bird` -> `animal bird`."""
    return " ".join(class_name.replace("_", " ").replace("-", " ").split())


def embeds_of_class_names(
    id2label: dict[int, str], args: EncoderArguments, device: str | torch.device, what: str
) -> np.ndarray | None:
    """
    (num_labels, D) float32, by the encoder of the captions: of a class with synonyms or a description the mean of its
    texts, of unit norm. None without an encoder; logs that `what` is missing.
    """
    if args.text_encoder is None:
        logger.info("No %s: text_encoder, that of the captions, is not given.", what)
        return None
    try:
        encoder = encoder_from(args, device)
    except OSError as error:
        logger.warning("No %s: %s", what, error)
        return None
    texts = []
    for index in sorted(id2label):
        names, description = texts_of(id2label, index)
        texts.append([*map(name_as_text, names), *([description] if description else [])])
    vectors = encode_captions([text for of_class in texts for text in of_class], encoder, args)[0].astype(np.float32)
    means = np.add.reduceat(vectors, np.cumsum([0, *map(len, texts[:-1])]))
    is_mean = np.array([len(of_class) > 1 for of_class in texts])
    means[is_mean] /= np.maximum(np.linalg.norm(means[is_mean], axis=1, keepdims=True), 1e-12)
    return means


# --- The stage -------------------------------------------------------------------------------------------------------


class EmbeddingStage:
    """
    Embeddings of the captions of images, read or written; within a `shared` folder in one that is named after dataset,
    encoder and settings. Raises ValueError if no split has captions, or the folder holds something else.
    """

    def __init__(
        self,
        images: DatasetDict,
        args: EncoderArguments,
        embeddings_dir: str | Path,
        *,
        source: str | Source,
        shared: bool = False,
    ):
        self.folder, self.is_shared = Path(embeddings_dir), shared
        if not shared:
            check_replaceable(self.folder, "stage", STAGE_FILE)
        self.args, self.source = args, Source.of(source)
        self.splits = captioned_splits(images)  # those with captions
        self.encoder = encoder_from(args, PartialState().device)
        self.settings = {  # all inputs of the vectors, part of `stage.json`
            **self.encoder.provenance,
            "normalised": True,
            "image_ids_digest": {
                name: ids_digest(values_of(split, columns.IMAGE_ID)) for name, split in self.splits.items()
            },
            "captions_digest": {name: ids_digest(captions_of_rows(split)) for name, split in self.splits.items()},
        }
        if shared:
            digest = hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=4).hexdigest()
            names = [folder_or_id(self.source.name), self.settings["text_encoder"].split("/")[-1]]
            names = [re.sub(r"[^\w.-]+", "_", name).strip("._") for name in names]
            self.folder /= "-".join([*names, digest])
            check_replaceable(self.folder, "stage", STAGE_FILE)

    def existing(self) -> dict[str, Any] | None:
        """The `stage.json` in the folder, if it has the same source and settings."""
        recorded = self.source.recorded(self.folder)
        recorded.pop("source_columns", None)  # names of columns do not affect embeddings
        expected, present = {"stage": "embedding", **recorded, **self.settings}, read_stage(self.folder)
        same = present is not None and all(present.get(key) == value for key, value in expected.items())
        return present if same else None

    def num_to_embed(self) -> int:
        """Distinct captions that [`write`] would embed, 0 if they exist."""
        if self.existing() is not None:
            return 0
        return len({text for split in self.splits.values() for texts in caption_lists(split) for text in texts})

    def write(self) -> dict[str, Any]:
        """Embed the captions, unless they exist (`reused`). Returns the `stage.json`."""
        state = PartialState()
        # The main process decides for all, as another run may write there
        present = broadcast_object_list([self.existing()])[0]
        if present is not None:
            return {**present, "reused": True}
        texts = {name: list(caption_lists(split)) for name, split in self.splits.items()}
        counts = {name: np.asarray(list(map(len, rows)), dtype=np.int64) for name, rows in texts.items()}
        captions = [text for rows in texts.values() for row in rows for text in row]
        vectors, tokens = encode_captions(captions, self.encoder, self.args, state, self._known_vectors(texts))
        if state.is_main_process:
            ends = np.cumsum([of_split.sum() for of_split in counts.values()])
            parts = {name: slice(end - counts[name].sum(), end) for name, end in zip(counts, ends, strict=True)}
            over = {name: _over_window(name, tokens[part], self.encoder.max_tokens) for name, part in parts.items()}
            stage = {
                "stage": "embedding",
                **self.source.recorded(self.folder),
                **self.settings,
                "captions_over_window": over,
                "captions": {name: int(of_split.sum()) for name, of_split in counts.items()},
            }
            splits = {name: self._rows(name, vectors[part], counts[name]) for name, part in parts.items()}
            try:
                write_stage(self.folder, splits, stage)
            except OSError:  # perhaps another run has written the same embeddings
                if self.existing() is None:
                    raise
        state.wait_for_everyone()
        return read_stage(self.folder)

    def _known_vectors(self, texts: dict[str, list[list[str]]]) -> dict[str, np.ndarray]:
        """Vectors that this encoder made earlier, for other rows of the same dataset or before some changed."""
        wanted: dict[str | None, list[str]] = {}
        for name, rows in texts.items():
            wanted |= zip(captions_of_rows(self.splits[name]), rows, strict=True)
        known: dict[str, np.ndarray] = {}
        earlier = self.folder.parent.glob(f"{self.folder.name.rpartition('-')[0]}-*") if self.is_shared else []
        for folder in sorted(earlier):
            try:
                stage = read_stage(folder) or {}
                is_of_encoder = all(stage.get(key) == value for key, value in self.encoder.provenance.items())
                splits = open_stage(folder, stage) if is_of_encoder else {}
            except (OSError, ValueError):  # damaged, or being replaced: embedded again
                continue
            for split in splits.values():
                embeds = Embeddings(split)
                starts = np.cumsum(embeds.counts) - embeds.counts
                for start, digest in zip(starts.tolist(), split[columns.CAPTION_DIGEST][:], strict=True):
                    captions = wanted.pop(digest, [])
                    known |= zip(captions, embeds[start : start + len(captions)], strict=True)
        return known

    def _rows(self, name: str, vectors: np.ndarray, counts: np.ndarray) -> Dataset:
        """
        `image_id`; `text_embeds`, float16 (K, D) of the `counts` (rows,) captions of each row, null for none; and the
        digest of the captions.
        """
        split, kind = self.splits[name], List(List(Value("float16"), length=self.encoder.dim))
        features = Features({columns.IMAGE_ID: Value("string"), columns.TEXT_EMBEDS: kind})
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        embeds = pa.ListArray.from_arrays(offsets, column_of(vectors), mask=pa.array(counts == 0))
        ids = pa.array(split[columns.IMAGE_ID][:], pa.string())
        table = pa.table([ids, embeds], schema=features.arrow_schema)
        fingerprint = hashlib.blake2b(repr((self.settings, split._fingerprint)).encode(), digest_size=8).hexdigest()
        added = Dataset(InMemoryTable(table), info=DatasetInfo(features=features), fingerprint=fingerprint)
        made_from = captions_of_rows(split)
        return added.add_column(columns.CAPTION_DIGEST, list(made_from), feature=Value("string"))
