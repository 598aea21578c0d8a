"""Controls of a study: something else in place of captions, to separate what they say from other effects."""

import logging

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from datasets import Dataset, List, Value

from .. import columns
from ..data.checks import labels_of
from ..data.joining import NO_ROW, side_by_side
from ..data.texts import Texts, numbered
from ..embedding import EncoderArguments, encoder_from
from ..embedding.embed import class_name_embeds, name_as_text

logger = logging.getLogger(__name__)


def control_captions(
    split: Dataset,
    control: str,
    *,
    seed: int,
    class_names: list[str],
    encoder: EncoderArguments,
    leave_out_unlabelled: bool = False,
) -> Dataset:
    """
    Replaces the captions of a training split and their embeddings, and so what counts as equal texts. Rows without a
    caption stay without.

    - `class_name`: the name of the row's class, embedded. Rows without a label are given no text.
    - `random`: a random unit vector for every distinct caption, which keeps its identity and loses its meaning.
    - `shuffle_class`: captions permuted among the rows of a class. Rows without a label are given none.
    - `shuffle`: captions permuted among all rows.

    Args:
        split: with `text_embeds`, and perhaps `caption`. Without `text_embeds` it stays as it is.
        control: one of these, or `none`. A weight goes with a caption that is moved, and stays where one is replaced.
        seed: of the vectors and permutations.
        class_names: by label.
        encoder: that of the captions, for `class_name`.
        leave_out_unlabelled: permute among labelled rows alone, as the others will not be trained on.

    Raises:
        ValueError: when `class_name` has no encoder, or one of another size than the embeddings.
    """
    if control == "none" or columns.TEXT_EMBEDS not in split.column_names:
        return split
    texts, labels = Texts.of(split), labels_of(split)
    captioned = texts.counts > 0
    by_class = control in ("class_name", "shuffle_class")
    takes_part = captioned & (labels >= 0) if by_class or leave_out_unlabelled else captioned
    logger.info(
        "caption_control is %s: %d of %d training captions are replaced.", control, takes_part.sum(), captioned.sum()
    )
    if control == "class_name":
        return _with_class_names(split, np.where(takes_part, labels, NO_ROW), class_names, encoder)
    if control == "random":
        return _with_random_vectors(split, texts, seed)
    groups = labels if control == "shuffle_class" else np.zeros_like(labels)
    return _shuffled(split, np.where(takes_part, groups, NO_ROW), seed)


def _with_class_names(split: Dataset, labels: np.ndarray, names: list[str], encoder: EncoderArguments) -> Dataset:
    """`labels` (rows,) are negative for rows that are given no text."""
    if encoder.text_encoder is None:
        raise ValueError(
            "caption_control is 'class_name', but text_encoder is not set: name the encoder of the captions, with the "
            "prompt that it had."
        )
    loaded = encoder_from(encoder, PartialState().device)
    dim = columns.text_embed_dim_of(split.features[columns.TEXT_EMBEDS])
    if loaded.dim != dim:
        raise ValueError(
            f"caption_control is 'class_name', but the text_encoder {encoder.text_encoder} gives vectors of "
            f"{loaded.dim} numbers and the captions have vectors of {dim}. Name the encoder of the captions."
        )
    texts, vectors = [name_as_text(name) for name in names], class_name_embeds(names, loaded, encoder)
    captions = [texts[label] if label >= 0 else None for label in labels]
    split = _replaced(split, columns.CAPTION, captions, Value("string"))
    return _replaced(split, columns.TEXT_EMBEDS, _taken(vectors, labels), List(Value("float16"), length=dim))


def _with_random_vectors(split: Dataset, texts: Texts, seed: int) -> Dataset:
    keys = numbered(texts.text_keys)
    generator, dim = np.random.default_rng(seed), texts.embeds.shape[1]
    vectors = np.empty((keys.max(initial=-1) + 1, dim), dtype=np.float16)
    for vector in vectors:
        drawn = generator.standard_normal(dim)
        vector[:] = drawn / np.linalg.norm(drawn)
    feature, captioned = split.features[columns.TEXT_EMBEDS], texts.counts > 0
    if isinstance(feature.feature, List):
        starts = pa.array(texts.starts, pa.int32())
        column = pa.ListArray.from_arrays(starts, _taken(vectors, keys), mask=pa.array(~captioned))
    else:
        of_rows = np.full(len(split), NO_ROW)
        of_rows[captioned] = keys
        column = _taken(vectors, of_rows)
    return _replaced(split, columns.TEXT_EMBEDS, column, feature)


def _shuffled(split: Dataset, groups: np.ndarray, seed: int) -> Dataset:
    """Captions and the columns that belong to them, permuted within `groups` (rows,); none for a negative group."""
    generator = np.random.default_rng(seed)
    positions = np.full(len(split), NO_ROW)
    for group in np.unique(groups[groups >= 0]):
        rows = np.flatnonzero(groups == group)
        positions[rows] = generator.permutation(rows)
    of_texts = [name for name in (columns.CAPTION, *columns.OF_CAPTION) if name in split.column_names]
    return side_by_side(split, split.select_columns([columns.IMAGE_ID, *of_texts]), positions)


def _taken(vectors: np.ndarray, rows: np.ndarray) -> pa.Array:
    """Vectors (n, D) by row numbers (m,), as a column; null for a negative one."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return column.take(pa.array(rows, mask=rows < 0))


def _replaced(split: Dataset, name: str, values: pa.Array | list[str | None], feature: Value | List) -> Dataset:
    return split.remove_columns([name] * (name in split.column_names)).add_column(name, values, feature=feature)
