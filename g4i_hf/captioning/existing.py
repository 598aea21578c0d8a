"""
Captions that exist already: in a column, in a file that names each image, or in a list in the order of the images.

Nothing is guessed. A caption whose key fits several images goes to none of them, and a list whose order is not known,
or does not hold, is refused.
"""

import csv
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset, DatasetDict

from .. import columns
from ..data.image_ids import IMAGE_SUFFIXES, image_paths
from ..data.opening import SPLIT_FOLDERS
from ..options import ExistingCaptionsArguments
from .list_order import BY_NAME, ImagesInOrder, check_order, folder_order

__all__ = ["ExistingCaptions", "ImagesInOrder", "check_order", "existing_captions"]

logger = logging.getLogger(__name__)

Caption = str | list[str] | None
EXAMPLES = 3  # of keys and rows that have no counterpart


@dataclass
class ExistingCaptions:
    """
    Attributes:
        captions: of every split, in the order of its rows; in all of them texts, or in all of them lists of texts.
        report: what was matched and what was not, as JSON values; no paths.
        list_split, list_rows: of a list: the split that it is for, and the row of each of its entries.
    """

    captions: dict[str, list[Caption]]
    report: dict[str, Any]
    list_split: str | None = None
    list_rows: list[int] | None = None


def existing_captions(
    splits: DatasetDict, arguments: ExistingCaptionsArguments, captioner: str | None = None
) -> ExistingCaptions:
    """
    Args:
        splits: with `image_id`, as [`~g4i_hf.data.loading.open_images`] gives them, those to caption.
        arguments: which file, and how it is read.
        captioner: `column`, `file` or `list`; by default what the file is, or `column` without one.

    Returns:
        The captions, None where a row has none, and a report: of a file `captions_without_row`, `ambiguous` and, for
        each split, rows without caption; of a list `files_digest`, the hash of the sorted list of files, and `order`,
        unverified until [`check_order`] has looked at the images.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when captions cannot be read, or cannot be matched without guessing.
    """
    if captioner == "column" or (captioner is None and arguments.captions_file is None):
        return _from_column(splits)
    if arguments.captions_file is None:
        raise ValueError(f"captioner is {captioner!r}: name the file of captions with --captions_file.")
    path = Path(arguments.captions_file)
    if not path.is_file():
        raise FileNotFoundError(f"captions_file is {str(path)!r}, but there is no such file.")
    if captioner == "list" or (captioner is None and path.suffix.lower() in LIST_SUFFIXES):
        return _from_list(splits, read_list(path, arguments.file_caption), path.name)
    return _from_file(splits, path, arguments)


def _from_column(splits: DatasetDict) -> ExistingCaptions:
    if not any(columns.CAPTION in split.column_names for split in splits.values()):
        available = sorted({column for split in splits.values() for column in split.column_names})
        raise ValueError(
            f"No column 'caption' in the data. Its columns: {', '.join(available)}. Name the right one with "
            "--caption_column, or give a file with --captions_file."
        )
    texts, several = [], False
    for name, split in splits.items():
        values = split[columns.CAPTION] if columns.CAPTION in split.column_names else [None] * len(split)
        for row, value in enumerate(values):
            texts.append(_texts(value, f"Split {name!r}, column 'caption', row {row}"))
            several = several or isinstance(value, list)
    return _of_rows(splits, texts, several, {"from": "column"})


def _from_file(splits: DatasetDict, path: Path, arguments: ExistingCaptionsArguments) -> ExistingCaptions:
    """The file is read twice, for its keys and then for its captions: names of a million images take much memory."""
    fields = arguments.file_key, arguments.file_caption
    keys = [key for _, key, _ in read_entries(path, *fields)]
    if not keys:
        raise ValueError(f"{path.name} holds no captions.")
    rule, rows = _match(keys, splits)
    if max(rows) < 0:
        first = next((image_id for split in splits.values() for image_id in split[columns.IMAGE_ID]), None)
        raise ValueError(
            f"{path.name}: none of its {len(keys)} keys names one image of the data: the first key is {keys[0]!r}, "
            f"the first image_id {first!r}. Name the field that holds file names with --file_key."
        )
    del keys
    texts: list[Sequence[str]] = [()] * sum(map(len, splits.values()))
    unmatched: dict[int, list[str]] = {NO_ROW: [], SEVERAL: []}
    several, twice = arguments.several_captions, None
    empty = repeated = 0
    for (where, key, caption), row in zip(read_entries(path, *fields), rows, strict=True):
        several = several or isinstance(caption, list)
        found = _texts(caption, where)
        if row < 0:
            unmatched[row].append(key)
            continue
        added = [text for text in found if text not in texts[row]]
        empty += not found
        repeated += bool(found) and not added
        if added:
            twice = twice or (texts[row] and f"{where}: {key!r} has another caption in an earlier line")
            texts[row] = [*texts[row], *added]
    if twice and not several:
        raise ValueError(f"{twice}. Remove one, or keep several captions an image with --several_captions.")
    report = {"from": "file", "matched_by": rule, "entries": len(rows), "empty": empty, "repeated": repeated}
    report |= {"captions_without_row": _counted(unmatched[NO_ROW]), "ambiguous": _counted(unmatched[SEVERAL])}
    existing = _of_rows(splits, texts, several, report)
    _log(path.name, report)
    return existing


def _from_list(splits: DatasetDict, captions: list[str | None], file_name: str) -> ExistingCaptions:
    """In the order of torchvision's `ImageFolder`; the rows of the data may be in any order."""
    name = next(iter(splits)) if len(splits) == 1 else "train"
    if name not in splits:
        raise ValueError(
            f"{file_name} is a list for one split, but the data has {', '.join(splits)}. Name the one with "
            "--caption_splits."
        )
    split = splits[name]
    if len(captions) != len(split):
        raise ValueError(
            f"{file_name} holds {len(captions):,} captions, but split {name!r} has {len(split):,} images. A list is "
            "matched by order alone, so there must be one entry an image, an empty one where there is no caption. Use "
            f"the version of the data that it was made for, or name its split with --caption_splits. {BY_NAME}"
        )
    rows, digest = folder_order(split, name, _file_names(split))
    start = sum(len(splits[other]) for other in list(splits)[: list(splits).index(name)])
    texts: list[Sequence[str]] = [()] * sum(map(len, splits.values()))
    for number, (row, caption) in enumerate(zip(rows, captions, strict=True), 1):
        texts[start + row] = _texts(caption, f"{file_name}, entry {number}")
    report = {"from": "list", "split": name, "entries": len(captions), "files_digest": digest, "order": "unverified"}
    existing = _of_rows(splits, texts, False, report)
    existing.list_split, existing.list_rows = name, rows
    return existing


def _texts(caption: Any, where: str) -> list[str]:
    """The texts of a caption that are not empty."""
    texts = caption if isinstance(caption, list) else [caption]
    for text in texts:
        if text is not None and not isinstance(text, str):
            kind = type(text).__name__
            raise ValueError(f"{where}: the caption is of type {kind}; it must be text or a list of texts.")
        if text and _HALF.search(text):
            raise ValueError(f"{where}: the caption holds half of a character, as of an emoji that was cut in two.")
    return [text for text in texts if text and text.strip()]


def _of_rows(
    splits: DatasetDict, texts: list[Sequence[str]], several: bool, report: dict[str, Any]
) -> ExistingCaptions:
    """The texts of all rows, split after split, as captions; `report` gets the rows without."""
    captions: dict[str, list[Caption]] = {}
    report["splits"] = {}
    start = 0
    for name, split in splits.items():
        rows = texts[start : start + len(split)]
        start += len(split)
        captions[name] = [(list(found) if several else found[0]) if found else None for found in rows]
        without = [row for row, found in enumerate(rows) if not found]
        examples = split.select(without[:EXAMPLES])[columns.IMAGE_ID][:]
        report["splits"][name] = {"rows": len(split), "without_caption": _counted(examples, len(without))}
    return ExistingCaptions(captions, report)


def _counted(names: list[str], count: int | None = None) -> dict[str, Any]:
    """How many there are, and the first few, without the folders of this machine."""
    examples = ["/".join(_parts(name)[-3:]) for name in names[:EXAMPLES]]
    return {"count": len(names) if count is None else count, "examples": examples}


def _log(file_name: str, report: dict[str, Any]) -> None:
    def warn(found: dict[str, Any], words: str) -> None:
        if found["count"]:
            logger.warning("%s: %d %s: %s", file_name, found["count"], words, ", ".join(found["examples"]))

    logger.info("%s: keys are matched to images by %s.", file_name, report["matched_by"])
    warn(report["captions_without_row"], "keys name no image")
    warn(report["ambiguous"], "keys fit several images and go to none")
    if report["ambiguous"]["count"] and len(report["splits"]) > 1:
        logger.warning(
            "Files of different splits may have one name. Say which split the captions are for with --caption_splits, "
            "or put it before the key: train/cats/1.jpg."
        )
    for name, split in report["splits"].items():
        warn(split["without_caption"], f"of {split['rows']} images of split {name!r} have no caption")


# --- Which row a key means -------------------------------------------------------------------------------------------

NO_ROW, SEVERAL = -1, -2
_SPLIT_OF = {word: split for split, words in SPLIT_FOLDERS.items() for word in words}
# Where two files have one name, `open_images` adds the hash of the content
_CONTENT = re.compile(r"#[0-9a-f]{24}(#\d+)?$")
# ILSVRC/imagenet-1k calls n01440764/n01440764_10026.JPEG of image-net.org n01440764_10026_n01440764.JPEG
_IMAGENET = re.compile(r"((?:n\d{8}|ILSVRC2012_val)_\d+)_(n\d{8})")


def _match(keys: list[str], splits: DatasetDict) -> tuple[str, list[int]]:
    """
    Returns:
        The name of one of [`FORMS`] and, for each key, the number of its row counted over all splits, `NO_ROW`, or
        `SEVERAL` where the key names several rows, or another key names its row too.
    """
    image_ids = [image_id for split in splits.values() for image_id in split[columns.IMAGE_ID]]
    names = [name for split in splits.values() for name in _file_names(split)]
    best, most = ("", [NO_ROW] * len(keys)), -1
    for rule, form in FORMS.items():
        texts, known = keys, image_ids
        if rule != "image_id":
            texts, known = map(_named, keys), names
        if rule == "split/file":
            split_of = (name for name, split in splits.items() for _ in range(len(split)))
            known = (name and f"{split}/{name}" for split, name in zip(split_of, names, strict=True))
        row_of: dict[str | None, int] = {}
        for row, text in enumerate(known):
            row_form = form(text) if text else None
            row_of[row_form] = SEVERAL if row_form in row_of else row
        row_of[None] = NO_ROW
        rows = [row_of.get(form(text), NO_ROW) for text in texts]
        key_of: dict[int, str] = {}
        clashing = {row for row, key in zip(rows, keys, strict=True) if key_of.setdefault(row, key) != key}
        rows = [SEVERAL if row >= 0 and row in clashing else row for row in rows]
        matched = len({row for row in rows if row >= 0})
        if matched > most:
            best, most = (rule, rows), matched
        if matched == len(names) or min(rows) >= 0:
            break
    return best


def _file_names(split: Dataset) -> list[str | None]:
    """
    `class/file.jpg`, or `file.jpg`, of each row: from `image_id`, or from the image where `image_id` is of another
    kind. None where the row has no file name. Images of ILSVRC/imagenet-1k get their names of image-net.org back.
    """
    names = [_file_name(image_id) for image_id in split[columns.IMAGE_ID]]
    if columns.IMAGE in split.column_names and all(name is None for name in names):
        names = [_file_name("/".join(_parts(path or "")[-2:])) for path, _ in image_paths(split)]
    return names


def _file_name(name: str | None) -> str | None:
    stem, suffix = os.path.splitext(_CONTENT.sub("", name or ""))
    if suffix.lower() not in IMAGE_SUFFIXES:
        return None
    folder, _, file = stem.rpartition("/")
    imagenet = _IMAGENET.fullmatch(file)
    return f"{folder or imagenet[2]}/{imagenet[1]}{suffix}" if imagenet else stem + suffix


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]


def _named(key: str) -> str:
    """A key as the names of rows are written."""
    path = "/".join(_parts(key))
    return _file_name(path) or path


def _in_split(path: str) -> str:
    """`train/cat/1.jpg` of data/training/cat/1.jpg: the split tells two files of one name apart."""
    parts = path.split("/")
    start = -2 if len(parts) < 3 or (parts[-2] in _SPLIT_OF and parts[-3] not in _SPLIT_OF) else -3
    split, *inside = parts[start:]
    return "/".join([_SPLIT_OF.get(split.lower(), split), *inside])


def _last(count: int, path: str) -> str | None:
    parts = path.split("/")
    return "/".join(parts[-count:]) if len(parts) >= count else None


def _without_ending(path: str) -> str:
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in IMAGE_SUFFIXES else path


# A key means a row where both have the same form. One form holds for the whole file, the one by which most rows have a
# key; of several the first, as they become looser
FORMS: dict[str, Callable[[str], str | None]] = {
    "image_id": str,
    "split/file": _in_split,
    "folder/file": lambda path: _last(2, path),
    "file": lambda path: _last(1, path),
    "folder/file without ending": lambda path: _last(2, _without_ending(path)),
    "file without ending": lambda path: _last(1, _without_ending(path)),
}


# --- Files of captions -----------------------------------------------------------------------------------------------

# Names of fields, the likeliest first
KEY_FIELDS = (
    *("image_id", "file_name", "filename", "file", "image_path", "image_file", "image_name", "filepath", "path"),
    *("image", "img", "key", "id"),
)
CAPTION_FIELDS = ("caption", "captions", "text", "texts", "description", "descriptions")
LIST_SUFFIXES = (".txt", ".json", ".pth", ".pt")
_HALF = re.compile("[\ud800-\udfff]")  # JSON can write them, and no table takes them


def read_entries(
    path: Path, file_key: str | None = None, file_caption: str | None = None
) -> Iterator[tuple[str, str, Any]]:
    """
    The entries of a JSONL, CSV or TSV file, one at a time: the place in the file, for messages; the key, which names
    the image; and the caption as it is written.

    Args:
        path: of the file. CSV has a header; quotes inside a quoted field are doubled, newlines in it are kept.
        file_key: field that names the image; found by its name if None.
        file_caption: field that holds the caption, or a list of captions; found by its name if None.

    Raises:
        ValueError: while iterating, with the line that cannot be read.
    """
    key_field = caption_field = None
    for line, record in _records(path):
        key_field = key_field or _field(path.name, record, file_key, KEY_FIELDS, "file_key")
        caption_field = caption_field or _field(path.name, record, file_caption, CAPTION_FIELDS, "file_caption")
        where = f"{path.name}, line {line}"
        for field in (key_field, caption_field):
            if field not in record:
                raise ValueError(f"{where}: no field {field!r}. Add it, or remove the line.")
        key = record[key_field]
        if key == "" or not isinstance(key, str | int):
            raise ValueError(f"{where}: the key is {key!r}; it must name an image.")
        yield where, str(key), record[caption_field]


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each record of a file, with the number of the line that it starts in."""
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".csv", ".tsv"):
        raise ValueError(
            f"{path.name}: captions with a key are read from .jsonl, .csv and .tsv files. For a list of captions, see "
            "--captioner list."
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from _json_records(path.name, file) if "json" in suffix else _csv_records(path.name, file, suffix)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path.name} is no UTF-8 ({error}). Save it as UTF-8.") from error


def _json_records(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(file, 1):
        if text.strip():
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{name}, line {line}: no JSON ({error}). Correct or remove it.") from error
            if not isinstance(record, dict):
                example = '{"image_id": "cat/1.jpg", "caption": "a cat"}'
                raise ValueError(f"{name}, line {line}: {text.strip()[:60]!r} is no object such as {example}.")
            yield line, record


def _csv_records(name: str, file: TextIO, suffix: str) -> Iterator[tuple[int, dict[str, Any]]]:
    first = file.readline()
    file.seek(0)
    delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=first.count)
    # Strict: a quote that is never closed would otherwise swallow the lines after it without a word
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)
    line = 2
    try:
        for record in reader:
            if None in record or None in record.values():
                raise ValueError(
                    f"{name}, line {line}: not as many fields as in line 1. Put quotes around fields that hold "
                    f"{delimiter!r}."
                )
            yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{name}, line {line}: {error}. Fields that hold quotes are quoted, and their quotes doubled."
        ) from error


def _field(file: str, record: dict[str, Any], given: str | None, usual: tuple[str, ...], option: str) -> str:
    if given is not None:
        if given in record:
            return given
        raise ValueError(f"{file} has no field {given!r} (given as {option}). Its fields: {', '.join(record)}.")
    names = {field.strip().lower(): field for field in reversed(record)}
    for name in usual:
        if name in names:
            return names[name]
    raise ValueError(
        f"{file}: no field is called {', '.join(usual)}. Its fields: {', '.join(map(repr, record))}. Name the right "
        f"one with --{option}."
    )


def read_list(path: Path, file_caption: str | None = None) -> list[str | None]:
    """
    A list of captions without keys.

    Args:
        path: .txt (a line a caption; an empty line is no caption), .json (a list of strings), .pth or .pt (a list of
            strings written by `torch.save`), or the caption field of a .jsonl, .csv or .tsv file.
        file_caption: that field; found by its name if None.

    Raises:
        ValueError: when the file holds anything else. A .pth file that would have to run code is refused.
    """
    suffix = path.suffix.lower()
    if suffix in (".pth", ".pt"):
        captions = _saved_by_torch(path)
    elif suffix in LIST_SUFFIXES:
        try:
            with path.open(encoding="utf-8-sig") as file:
                captions = json.load(file) if suffix == ".json" else [line.rstrip("\n") for line in file]
        except ValueError as error:
            raise ValueError(
                f"{path.name} cannot be read ({error}). It must be UTF-8, and .json one list of strings; JSON lines "
                "go into a .jsonl file."
            ) from error
    else:
        records = [record for _, record in _records(path)]
        field = records and _field(path.name, records[0], file_caption, CAPTION_FIELDS, "file_caption")
        captions = [record.get(field) for record in records]
    if not isinstance(captions, list | tuple):
        raise ValueError(f"{path.name} holds a {type(captions).__name__}; it must hold a list of captions.")
    for number, caption in enumerate(captions, 1):
        if caption is not None and not isinstance(caption, str):
            raise ValueError(
                f"{path.name}, entry {number}: a {type(caption).__name__}; a list in the order of the images holds "
                "one text an image. Several captions, or names of images, go into a .jsonl file."
            )
    return list(captions)


def _saved_by_torch(path: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} is refused: reading it would run code that it brings along, or it is no file of torch. Only "
            "lists of strings are read. If you trust where it comes from, write its captions into a .txt or .json "
            "file elsewhere."
        ) from error
    except (EOFError, RuntimeError, OSError) as error:
        why = (str(error).splitlines() or ["it is empty"])[0]
        raise ValueError(f"{path.name} cannot be read: {why}. Download it again if it was cut off.") from error
