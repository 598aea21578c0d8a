"""
Existing captions: from a column, or a file that names each image. Nothing is guessed: a caption whose key fits several
images goes to none of them.
"""

import csv
import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from .. import columns
from ..data.census import SPLIT_OF
from ..data.checks import captioned_splits
from ..data.images import IMAGE_SUFFIXES, image_paths
from ..data.metadata import csv_rows, json_rows
from ..data.texts import caption_lists
from ..options import ExistingCaptionsArguments

logger = logging.getLogger(__name__)

EXAMPLES = 3  # of keys, in messages


def existing_captions(splits: DatasetDict, arguments: ExistingCaptionsArguments) -> dict[str, list[list[str]]]:
    """
    The captions of a file, or else of the column, for each split that has any, a list for each of its rows. ValueError
    when they cannot be read, or matched without guessing.
    """
    if arguments.captions_file is None:
        return {name: list(caption_lists(split)) for name, split in captioned_splits(splits).items()}
    return _from_file(splits, Path(arguments.captions_file), arguments)


def _from_file(splits: DatasetDict, path: Path, arguments: ExistingCaptionsArguments) -> dict[str, list[list[str]]]:
    pairs = list(_keys_and_captions(path, arguments.file_key, arguments.file_caption))
    row_of = _match(dict.fromkeys(key for key, _ in pairs), splits)
    if max(row_of.values(), default=NO_ROW) < 0:
        image_ids = next(iter(splits.values()))[columns.IMAGE_ID][:EXAMPLES]
        raise ValueError(
            f"{path.name}: none of its {len(row_of)} keys names one image of the data. The first keys are "
            f"{list(row_of)[:EXAMPLES]}, the first image_ids {image_ids}. Name the field of keys with --file_key."
        )
    captions: dict[str, list[list[str]]] = {name: [[] for _ in range(len(split))] for name, split in splits.items()}
    of_rows = list(itertools.chain.from_iterable(captions.values()))
    for key, caption in pairs:
        texts, row = _texts(caption, f"{path.name}, key {key!r}"), row_of[key]
        if row >= 0:
            of_rows[row][:] = dict.fromkeys([*of_rows[row], *texts])
    unknown, ambiguous = ([key for key, row in row_of.items() if row == kind] for kind in (NO_ROW, SEVERAL))
    if unknown or ambiguous:
        logger.warning(
            "%s: %d keys name no image %s, and %d fit several and go to none %s. Where splits have files of one name, "
            "name a split with --caption_splits, or put it before the key: train/cats/1.jpg.",
            *(path.name, len(unknown), unknown[:EXAMPLES], len(ambiguous), ambiguous[:EXAMPLES]),
        )
    return captions


def _texts(caption: Any, where: str) -> list[str]:
    """The texts of a caption, without empty ones."""
    texts = caption if isinstance(caption, list) else [caption]
    for text in texts:
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{where}: the caption is {caption!r}; it must be text, or a list of texts.")
    return [text for text in texts if text and text.strip()]


# --- Which row a key means -------------------------------------------------------------------------------------------

NO_ROW, SEVERAL = -1, -2
# So many of the last parts of a path must agree, without the ending; from strict to loose
RULES = (3, 2, 1)  # split/folder/file, folder/file, file
_ENDING = re.compile(f"({'|'.join(map(re.escape, IMAGE_SUFFIXES))})$", re.IGNORECASE)
# Where two files have one name, `open_images` adds the hash of the content
_CONTENT = re.compile(r"#[0-9a-f]{24}(#\d+)?$")
# ILSVRC/imagenet-1k calls n01440764/n01440764_10026.JPEG of image-net.org n01440764_10026_n01440764.JPEG
_IMAGENET = re.compile(r"((?:n\d{8}|ILSVRC2012_val)_\d+)_(n\d{8})(\.\w+)$")


def _match(keys: Iterable[str], splits: DatasetDict) -> dict[str, int]:
    """
    Matches keys with rows by one rule for the whole file, the exact `image_id` or one of `RULES`. It is the one that
    finds a row for most keys, and of several the strictest. Returns for each key the number of its row counted over
    all splits, `NO_ROW`, or `SEVERAL` where the key names several rows, or another key names its row too.
    """
    paths = [_in_split(_path(key)) for key in keys]
    files = [file and _in_split(f"{name}/{file}") for name in splits for file in _file_names(splits[name])]
    matches = [_rows(list(keys), [image_id for split in splits.values() for image_id in split[columns.IMAGE_ID]])]
    matches += [_rows([_end(path, n) for path in paths], [file and _end(file, n) for file in files]) for n in RULES]
    return dict(zip(keys, max(matches, key=lambda rows: sum(row >= 0 for row in rows)), strict=True))


def _rows(keys: list[str], names: list[str | None]) -> list[int]:
    row_of: dict[str | None, int] = {}
    for row, name in enumerate(names):
        row_of[name] = SEVERAL if name in row_of else row
    rows = [row_of.get(key, NO_ROW) for key in keys]
    keys_of = Counter(rows)
    return [SEVERAL if row >= 0 and keys_of[row] > 1 else row for row in rows]


def _file_names(split: Dataset) -> list[str | None]:
    """`class/file.jpg` of each row, from `image_id` or the image, in the names of image-net.org; None without."""
    names = [_path(image_id) for image_id in split[columns.IMAGE_ID]]
    if columns.IMAGE in split.column_names and not any(map(_ENDING.search, names)):
        names = ["/".join(_path(path or "").split("/")[-2:]) for path, _ in image_paths(split)]
    return [name if _ENDING.search(name) else None for name in names]


def _path(name: str) -> str:
    path = _IMAGENET.sub(r"\2/\1\3", _CONTENT.sub("", name.replace("\\", "/")))
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _in_split(path: str) -> str:
    """With the names that `datasets` gives to splits: `data/validation/cat/1.jpg` of `data/val/cat/1.jpg`."""
    return "/".join(SPLIT_OF.get(part.lower(), part) for part in path.split("/"))


def _end(path: str, parts: int) -> str:
    return "/".join(_ENDING.sub("", path).split("/")[-parts:])


# Names of fields, the likeliest first
KEY_FIELDS = ("image_id", "file_name", "filename", "file", "image_path", "filepath", "path", "image", "key", "id")
CAPTION_FIELDS = ("caption", "captions", "text", "texts", "description", "descriptions")


def _keys_and_captions(path: Path, file_key: str | None, file_caption: str | None) -> Iterator[tuple[str, Any]]:
    """The key, which names an image, and the caption of each record; their fields are found by name if None."""
    readers = {".jsonl": json_rows, ".csv": csv_rows, ".tsv": csv_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path.name}: captions are read from {', '.join(readers)} files that name each image.")
    done = 0
    try:
        for record in readers[path.suffix.lower()](str(path)):
            file_key = _field(record, file_key, KEY_FIELDS)  # that of the first record, from then on
            file_caption = _field(record, file_caption, CAPTION_FIELDS)
            if record[file_key] in (None, ""):
                raise ValueError(f"field {file_key!r} is {record[file_key]!r}, but must name an image")
            yield str(record[file_key]), record[file_caption]
            done += 1
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path.name}, record {done + 1}: {str(error).rstrip('.')}. Correct it.") from error


def _field(record: dict[str, Any], given: str | None, usual: tuple[str, ...]) -> str:
    names = {name.strip().lower(): name for name in record}
    field = given or next((names[name] for name in usual if name in names), None)
    if field not in record:
        present = ", ".join(map(repr, record))
        raise ValueError(f"no field {given or ' or '.join(usual)} among {present}: give --file_key and --file_caption")
    return field
