"""
Existing captions: from a column, a file that names each image, or a list in the order of the images.

Nothing is guessed: a caption whose key fits several images goes to none of them, and a list of unknown order is
refused.
"""

import csv
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mode
from typing import Any

from datasets import Dataset, DatasetDict

from .. import columns
from ..data.image_folder import SPLIT_FOLDERS
from ..data.images import IMAGE_SUFFIXES, image_paths
from ..data.stage import ids_digest
from ..options import ExistingCaptionsArguments

logger = logging.getLogger(__name__)

EXAMPLES = 3  # of keys, in messages


@dataclass
class ExistingCaptions:
    """Captions of each split that has any, and what was matched."""

    # In the order of the rows: all texts, or all lists of texts; None for a row without caption
    captions: dict[str, list[str | list[str] | None]]
    report: dict[str, Any]  # JSON values without paths


def existing_captions(
    splits: DatasetDict, arguments: ExistingCaptionsArguments, captioner: str | None = None
) -> ExistingCaptions:
    """
    Reads existing captions and matches them with the rows. `captioner` is `column`, `file` or `list`; by default told
    from the file, or `column` without one. ValueError when they cannot be read, or matched without guessing.
    """
    if captioner == "column" or (captioner is None and arguments.captions_file is None):
        return _from_column(splits)
    if arguments.captions_file is None:
        raise ValueError(f"captioner is {captioner!r}: name the file of captions with --captions_file.")
    path = Path(arguments.captions_file)
    if not path.is_file():
        raise FileNotFoundError(f"captions_file is {str(path)!r}, but there is no such file.")
    if path.suffix.lower() in LIST_SUFFIXES:
        return _from_list(splits, path)
    return _from_file(splits, path, arguments)


def _from_column(splits: DatasetDict) -> ExistingCaptions:
    captioned = {name: split for name, split in splits.items() if columns.CAPTION in split.column_names}
    if not captioned:
        available = sorted({column for split in splits.values() for column in split.column_names})
        raise ValueError(
            f"No column 'caption' in the data. Its columns: {', '.join(available)}. Name one with --caption_column, "
            "or a file with --captions_file."
        )
    texts: list[Sequence[str]] = []
    several = False
    for name, split in captioned.items():
        for row, caption in enumerate(split[columns.CAPTION]):
            several = several or isinstance(caption, list)
            texts.append(_texts(caption, f"Split {name!r}, column 'caption', row {row}"))
    return _by_split(captioned, texts, several, {"from": "column"})


def _from_file(splits: DatasetDict, path: Path, arguments: ExistingCaptionsArguments) -> ExistingCaptions:
    pairs = list(_keys_and_captions(path, arguments.file_key, arguments.file_caption))
    keys = list(dict.fromkeys(key for key, _ in pairs))
    rule, row_of = _match(keys, splits)
    if max(row_of.values(), default=NO_ROW) < 0:
        image_ids = next(iter(splits.values()))[columns.IMAGE_ID][:EXAMPLES]
        raise ValueError(
            f"{path.name}: none of its {len(keys)} keys names one image of the data. The first keys are "
            f"{keys[:EXAMPLES]}, the first image_ids {image_ids}. Name the field of file names with --file_key."
        )
    texts: list[Sequence[str]] = [()] * sum(map(len, splits.values()))
    several = arguments.several_captions
    for key, caption in pairs:
        several = several or isinstance(caption, list)
        found, row = _texts(caption, f"{path.name}, key {key!r}"), row_of[key]
        if row >= 0:
            texts[row] = list(dict.fromkeys([*texts[row], *found]))
            if len(texts[row]) > 1 and not several:
                raise ValueError(
                    f"{path.name}: {key!r} has another caption in an earlier record. Remove one, or keep several "
                    "captions an image with --several_captions."
                )
    unknown, ambiguous = ([key for key in keys if row_of[key] == kind] for kind in (NO_ROW, SEVERAL))
    if unknown or ambiguous:
        logger.warning(
            "%s: %d keys name no image %s, and %d fit several and go to none %s. Where splits have files of one name, "
            "name a split with --caption_splits, or put it before the key: train/cats/1.jpg.",
            *(path.name, len(unknown), unknown[:EXAMPLES], len(ambiguous), ambiguous[:EXAMPLES]),
        )
    report = {"from": "file", "matched_by": rule, "captions_without_row": len(unknown), "ambiguous": len(ambiguous)}
    return _by_split(splits, texts, several, report)


def _from_list(splits: DatasetDict, path: Path) -> ExistingCaptions:
    """The list is in the order of torchvision's `ImageFolder`; the rows may be in any order."""
    captions = read_list(path)
    name = next(iter(splits)) if len(splits) == 1 else "train"
    if name not in splits or len(splits[name]) != len(captions):
        sizes = ", ".join(f"{len(split):,} {other}" for other, split in splits.items())
        raise ValueError(
            f"{path.name} holds {len(captions):,} captions, the data has {sizes} images. A list has an entry for each "
            f"image of 'train', or of the split named with --caption_splits; an empty one is no caption. {BY_NAME}"
        )
    split = splits[name]
    rows, digest = folder_order(split, name, _file_names(split))
    texts: list[Sequence[str]] = [()] * len(split)
    for row, caption in zip(rows, captions, strict=True):
        texts[row] = _texts(caption, path.name)
    report = {"from": "list", "split": name, "files_digest": digest, "order": "unverified"}
    return _by_split({name: split}, texts, False, report)


def _texts(caption: Any, where: str) -> list[str]:
    """The texts of a caption, without empty ones."""
    texts = caption if isinstance(caption, list) else [caption]
    for text in texts:
        if text is not None and (not isinstance(text, str) or _HALF.search(text)):
            raise ValueError(f"{where}: the caption is {caption!r}; it must be text, or a list of texts.")
    return [text for text in texts if text and text.strip()]


_HALF = re.compile("[\ud800-\udfff]")  # half a character, as of an emoji that was cut: Arrow refuses it


def _by_split(
    splits: dict[str, Dataset], texts: list[Sequence[str]], several: bool, report: dict[str, Any]
) -> ExistingCaptions:
    """The texts of all rows, split after split, as captions by split; completes `report`."""
    captions, report["splits"], start = {}, {}, 0
    for name, split in splits.items():
        rows = texts[start : start + len(split)]
        start += len(split)
        captions[name] = [(list(found) if several else found[0]) if found else None for found in rows]
        report["splits"][name] = {"rows": len(split), "without_caption": captions[name].count(None)}
    return ExistingCaptions(captions, report)


# --- Which row a key means -------------------------------------------------------------------------------------------

NO_ROW, SEVERAL = -1, -2
# Where no image_id fits, so many of the last parts of a path must agree, without the ending; from strict to loose
RULES = {"split/folder/file": 3, "folder/file": 2, "file": 1}
_SPLIT_OF = {word: split for split, words in SPLIT_FOLDERS.items() for word in words}
_ENDING = re.compile(f"({'|'.join(map(re.escape, IMAGE_SUFFIXES))})$", re.IGNORECASE)
# Where two files have one name, `open_images` adds the hash of the content
_CONTENT = re.compile(r"#[0-9a-f]{24}(#\d+)?$")
# ILSVRC/imagenet-1k calls n01440764/n01440764_10026.JPEG of image-net.org n01440764_10026_n01440764.JPEG
_IMAGENET = re.compile(r"((?:n\d{8}|ILSVRC2012_val)_\d+)_(n\d{8})(\.\w+)$")


def _match(keys: list[str], splits: DatasetDict) -> tuple[str, dict[str, int]]:
    """
    Matches keys with rows by one rule for the whole file: the one that finds a row for most keys, the strictest of
    several. Returns the name of the rule and, for each key, the number of its row counted over all splits, `NO_ROW`,
    or `SEVERAL` where the key names several rows, or another key names its row too.
    """

    def matches() -> Iterator[tuple[str, list[int]]]:
        yield "image_id", _rows(keys, [image_id for split in splits.values() for image_id in split[columns.IMAGE_ID]])
        key_paths = [_in_split(_path(key)) for key in keys]
        files = [file and _in_split(f"{name}/{file}") for name in splits for file in _file_names(splits[name])]
        for rule, parts in RULES.items():
            yield (
                rule,
                _rows([_end(path, parts) for path in key_paths], [file and _end(file, parts) for file in files]),
            )

    rule, rows = max(matches(), key=lambda match: sum(row >= 0 for row in match[1]))
    return rule, dict(zip(keys, rows, strict=True))


def _rows(keys: list[str], names: list[str | None]) -> list[int]:
    row_of: dict[str | None, int] = {}
    for row, name in enumerate(names):
        row_of[name] = SEVERAL if name in row_of else row
    rows = [row_of.get(key, NO_ROW) for key in keys]
    keys_of = Counter(rows)
    return [SEVERAL if row >= 0 and keys_of[row] > 1 else row for row in rows]


def _file_names(split: Dataset) -> list[str | None]:
    """
    `class/file.jpg`, or `file.jpg`, of each row: from `image_id`, or from the image; None for a row without file name.
    Images of ILSVRC/imagenet-1k get their names of image-net.org back.
    """
    names = [_path(image_id) for image_id in split[columns.IMAGE_ID]]
    if columns.IMAGE in split.column_names and not any(map(_ENDING.search, names)):
        names = ["/".join(_path(path or "").split("/")[-2:]) for path, _ in image_paths(split)]
    return [name if _ENDING.search(name) else None for name in names]


def _path(name: str) -> str:
    path = _IMAGENET.sub(r"\2/\1\3", _CONTENT.sub("", name.replace("\\", "/")))
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _in_split(path: str) -> str:
    """With the names that `datasets` gives to splits: `data/validation/cat/1.jpg` of `data/val/cat/1.jpg`."""
    return "/".join(_SPLIT_OF.get(part.lower(), part) for part in path.split("/"))


def _end(path: str, parts: int) -> str:
    return "/".join(_ENDING.sub("", path).split("/")[-parts:])


# Names of fields, the likeliest first
KEY_FIELDS = ("image_id", "file_name", "filename", "file", "image_path", "filepath", "path", "image", "key", "id")
CAPTION_FIELDS = ("caption", "captions", "text", "texts", "description", "descriptions")


def _keys_and_captions(path: Path, file_key: str | None, file_caption: str | None) -> Iterator[tuple[str, Any]]:
    """The key, which names an image, and the caption of each record; their fields are found by name if None."""
    readers = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _csv}
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"{path.name}: captions with keys are read from {', '.join(readers)} files, lists from "
            f"{', '.join(LIST_SUFFIXES)}."
        )
    done = 0
    try:
        for record in readers[path.suffix.lower()](path):
            if done == 0:
                key_field = _field(record, file_key, KEY_FIELDS)
                caption_field = _field(record, file_caption, CAPTION_FIELDS)
            key = record.get(key_field)
            if key in (None, ""):
                raise ValueError(f"field {key_field!r} is {key!r}, but must name an image")
            yield str(key), record.get(caption_field)
            done += 1
    except (ValueError, csv.Error) as error:
        said = f"{path.name}, record {done + 1}: {error}. Correct it, or give --file_key and --file_caption."
        raise ValueError(said) from error


def _field(record: dict[str, Any], given: str | None, usual: tuple[str, ...]) -> str:
    names = {name.strip().lower(): name for name in record}
    field = given or next((names[name] for name in usual if name in names), None)
    if field not in record:
        raise ValueError(f"no field {given or ' or '.join(usual)} among {', '.join(map(repr, record))}")
    return field


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for line in filter(str.strip, file):
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f'{line[:60]!r} is no object such as {{"image_id": "cat/1.jpg", "caption": "a cat"}}')
            yield record


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Of the header alone: commas and quotes in captions mislead the sniffer
        delimiter = csv.Sniffer().sniff(file.readline(), ",;\t").delimiter
        file.seek(0)
        # Strict: a quote that is never closed would otherwise swallow the lines after it without a word
        for record in csv.DictReader(file, delimiter=delimiter, strict=True):
            if None in record or None in record.values():
                raise ValueError(f"not as many fields as in the header; put quotes around text with {delimiter!r}")
            yield record


# --- Lists without file names: the order of their images ------------------------------------------------------------

LIST_SUFFIXES = (".txt", ".json", ".pth", ".pt")
BY_NAME = "Or give captions with the names of their images, as a .jsonl or .csv file."


def read_list(path: Path) -> list[str | None]:
    """Reads .txt (a caption a line), .json, .pth or .pt; an empty text is no caption. ValueError for any other."""
    try:
        if path.suffix.lower() in (".pth", ".pt"):
            import torch

            captions = torch.load(path, map_location="cpu", weights_only=True)
        else:
            with path.open(encoding="utf-8-sig") as file:
                captions = json.load(file) if path.suffix.lower() == ".json" else [line.rstrip("\n") for line in file]
        if not isinstance(captions, list) or not all(isinstance(caption, str | None) for caption in captions):
            raise ValueError("no list of texts")
    except Exception as error:  # of torch: UnpicklingError, EOFError, RuntimeError
        raise ValueError(
            f"{path.name} holds no list of texts: UTF-8 with a line a caption (.txt), a list of strings (.json), or "
            "one saved by torch (.pth), which is refused if reading it would run code. Several captions an image go "
            "into a .jsonl file."
        ) from error
    return captions


def folder_order(split: Dataset, split_name: str, names: list[str | None]) -> tuple[list[int], str]:
    """
    The rows of a split, whose files are called `names`, in the order of torchvision's `ImageFolder` (class folders,
    and the files in each, as Python sorts strings), and a hash of the sorted names. ValueError where that is not
    known.
    """
    # `ImageFolder` sorts by the outermost folder, `image_id` keeps the innermost
    paths = image_paths(split) if columns.IMAGE in split.column_names else []
    roots = {Path(path or "").parent.parent for path, _ in paths}
    folders = {(name or "").rpartition("/")[0] for name in names}
    why = None
    if None in names:
        row = names.index(None)
        why = f"row {row}, image_id {split[row][columns.IMAGE_ID]!r}, has no file name"
    elif len(set(names)) < len(names):
        why = f"several files are called {mode(names)!r}"
    elif len(roots) > 1:
        why = f"{' and '.join(sorted(map(str, roots))[:2])} both have folders of images"
    elif "" in folders and len(folders) > 1:
        why = "some images have a class folder and others have none"
    elif columns.LABEL in split.column_names and len(classes := set(split[columns.LABEL])) > len(folders):
        why = f"its images are of {len(classes)} classes, but in {len(folders)} folders"
    if why:
        raise ValueError(f"Split {split_name!r}: {why}, so the order of a list of its files is not known. {BY_NAME}")
    # A zero is below all letters: this compares folders first, then files
    rows = sorted(range(len(names)), key=[name.replace("/", "\0") for name in names].__getitem__)
    return rows, ids_digest(names[row] for row in rows)
