"""What a Space shows of a run's data: pictures that were not trained on, and captions with their embeddings."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from PIL import Image

from .. import columns
from ..cli import parse_options
from ..data.images import open_image, to_rgb
from ..data.loading import class_names, load_data, source_of
from ..data.texts import is_blank
from ..embedding import with_text_embeds
from ..options import OPTIONS_OF
from ..training.run_folder import OPTIONS_FILE

MOST_CAPTIONS = 20_000
PICTURES = 12
LONGEST_SIDE = 512  # pixels of a picture in the gallery


def open_data(run: Path) -> tuple[DatasetDict, dict[int, str], str]:
    """
    The data of a run, opened as `g4i evaluate` does: all splits, with their embeddings where they have captions.

    Returns:
        The splits, the class names, and the name of the split that was trained on.

    Raises:
        ValueError: when that split has no captions with embeddings.
    """
    args, data, encoder = parse_options(OPTIONS_OF["evaluate"], ["--run", str(run)], run_options=OPTIONS_FILE)
    splits, id2label = class_names(load_data(data))
    captioned = DatasetDict(
        {
            name: split
            for name, split in splits.items()
            if {columns.CAPTION, columns.TEXT_EMBEDS} & set(split.column_names)
        }
    )
    embedded = with_text_embeds(
        captioned,
        encoder,
        encoder.embeddings_dir or run.parent / "embeddings",
        source=source_of(data),
        shared=encoder.embeddings_dir is None,
    )
    training = embedded.get(args.train_split)
    if training is None or not {columns.CAPTION, columns.TEXT_EMBEDS} <= set(training.column_names):
        raise ValueError(
            f"{run}: split {args.train_split!r} of its data has no captions with embeddings, of which a Space shows "
            "the nearest. Leave --space out."
        )
    return DatasetDict(splits | embedded), id2label, args.train_split


def write_captions(split: Dataset, path: Path, most: int = MOST_CAPTIONS) -> int:
    """
    Writes distinct captions and their embeddings, float16, drawn at random where there are more than `most`.

    Returns:
        How many.

    Raises:
        ValueError: when the embeddings are not those of single captions.
    """
    places: dict[str, tuple[int, int]] = {}  # of each caption, the row and the position in it
    for row, value in enumerate(split[columns.CAPTION][:]):
        texts = [text for text in (value if isinstance(value, list) else [value]) if not is_blank(text)]
        for position, text in enumerate(texts):
            places.setdefault(text, (row, position))
    captions = sorted(places)
    if len(captions) > most:
        captions = [captions[i] for i in sorted(np.random.default_rng(0).choice(len(captions), most, replace=False))]
    rows = sorted({places[caption][0] for caption in captions})
    vectors = dict(zip(rows, split.select(rows)[columns.TEXT_EMBEDS][:], strict=True))
    kept: dict[str, list[float]] = {}
    for caption in captions:
        row, position = places[caption]
        of_row = vectors[row] if vectors[row] is not None and len(vectors[row]) else []
        of_row = of_row if of_row and isinstance(of_row[0], list) else [of_row] * bool(of_row)
        if position < len(of_row):
            kept[caption] = of_row[position]
    if not kept:
        raise ValueError("The captions of the data have no embeddings of their own: embed them with g4i embed.")
    flat = np.asarray(list(kept.values()), dtype=np.float16)
    table = {
        columns.CAPTION: pa.array(kept),
        columns.TEXT_EMBEDS: pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1]),
    }
    pq.write_table(pa.table(table), path, compression="zstd")
    return len(kept)


def write_gallery(
    splits: DatasetDict, id2label: dict[int, str], train_split: str, folder: Path, count: int = PICTURES
) -> tuple[list[dict[str, Any]], bool]:
    """
    Writes pictures of the splits that were not trained on, drawn at random, of different classes as far as there are
    some. Upright RGB of at most 512 pixels, without metadata.

    Returns:
        `file` and `label` of each, and whether they are of other splits than the one trained on, which there must be.
    """
    others = [name for name in splits if name != train_split]
    names = others or [train_split]
    generator = np.random.default_rng(0)
    waiting = {name: list(generator.permutation(len(splits[name]))) for name in names}
    chosen, spare = [], []
    while any(waiting.values()) and len(chosen) < count and len(chosen) + len(spare) < 20 * count:
        for name in names:
            if waiting[name]:
                row = splits[name][int(waiting[name].pop())]
                label = row.get(columns.LABEL)
                label = id2label[label] if label is not None and label >= 0 else None
                is_new = label is None or label not in {each for _, each in chosen}
                (chosen if is_new else spare).append((row[columns.IMAGE], label))
    folder.mkdir()
    gallery: list[dict[str, Any]] = []
    for image, label in (chosen + spare)[:count]:
        picture = to_rgb(open_image(image))
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        file = (
            f"{len(gallery) + 1:02d}-{re.sub(r'[^a-z0-9]+', '-', (label or 'picture').lower()).strip('-')}"[:40]
            + ".png"
        )
        # from the pixels: Pillow would carry profiles and other metadata along
        Image.fromarray(np.asarray(picture)).save(folder / file, optimize=True)
        gallery.append({"file": file, "label": label})
    return gallery, bool(others)
