"""Which row a key of a captions file means: file names of rows, and the ways in which a key can name one."""

import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from datasets import Dataset, DatasetDict

from ... import columns
from ...data.image_ids import IMAGE_SUFFIXES
from ...data.opening import SPLIT_FOLDERS

NO_ROW, SEVERAL = -1, -2
_SPLIT_OF = {word: split for split, words in SPLIT_FOLDERS.items() for word in words}
# Where two files have one name, `open_images` adds the hash of the content
_CONTENT = re.compile(r"#[0-9a-f]{24}(#\d+)?$")
# ILSVRC/imagenet-1k calls n01440764/n01440764_10026.JPEG of image-net.org n01440764_10026_n01440764.JPEG
_IMAGENET = re.compile(r"((?:n\d{8}|ILSVRC2012_val)_\d+)_(n\d{8})")


def image_paths(split: Dataset) -> list[str | None]:
    """`path` of each row's image; no image is read."""
    if columns.IMAGE not in split.column_names:
        return [None] * len(split)
    parts = split.select_columns([columns.IMAGE]).flatten()
    path = f"{columns.IMAGE}.path"
    return parts.select_columns([path])[path][:] if path in parts.column_names else [None] * len(split)


def file_names(split: Dataset) -> list[str | None]:
    """
    `class/file.jpg`, or `file.jpg`, of each row: from `image_id`, or from the image where `image_id` is of another
    kind. None where the row has no file name. Images of ILSVRC/imagenet-1k get their names of image-net.org back.
    """
    image_ids = split[columns.IMAGE_ID][:]
    names = [_file_name(image_id) for image_id in image_ids]
    if all(name is None for name in names):
        names = [_file_name("/".join(_parts(path)[-2:])) if path else None for path in image_paths(split)]
    return names


def _file_name(name: str | None) -> str | None:
    if not name:
        return None
    name = _CONTENT.sub("", name) if "#" in name else name
    stem, dot, suffix = name.rpartition(".")
    if f".{suffix.lower()}" not in IMAGE_SUFFIXES or not dot:
        return None
    folder, slash, file = stem.rpartition("/")
    imagenet = _IMAGENET.fullmatch(file)
    if imagenet is None:
        return name
    return f"{folder if slash else imagenet[2]}/{imagenet[1]}.{suffix}"


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]


def _in_folder(path: str) -> str | None:
    parts = _parts(path)
    return "/".join(parts[-2:]) if len(parts) > 1 else None


def _without_suffix(path: str) -> str:
    stem, _, suffix = path.rpartition(".")
    return stem if f".{suffix.lower()}" in IMAGE_SUFFIXES else path


def _in_split(path: str) -> str:
    """`train/cat/1.jpg` of /data/training/cat/1.jpg: the split tells two files of one name apart."""
    parts = _parts(path)
    start = -2 if len(parts) < 3 or (parts[-2] in _SPLIT_OF and parts[-3] not in _SPLIT_OF) else -3
    split, *inside = parts[start:] or [""]
    return "/".join([_SPLIT_OF.get(split.lower(), split), *inside])


@dataclass(frozen=True)
class Rule:
    """
    A key means a row when their forms are equal.

    Attributes:
        of_key: form of a key; None for a key that this rule does not read.
        of_row: form of a row, from its split, `image_id` and file name; None for a row without one.
    """

    of_key: Callable[[str], str | None]
    of_row: Callable[[str, str, str | None], str | None]


def _by_name(form: Callable[[str], str | None]) -> Rule:
    def of_key(key: str) -> str | None:
        name = "/".join(_parts(key)[-2:])
        return form(_file_name(name) or name)

    return Rule(of_key, lambda split, image_id, name: form(name) if name else None)


# The strictest first: it is taken where it matches as many rows as a looser one
RULES = {
    "image_id": Rule(lambda key: key, lambda split, image_id, name: image_id),
    "split/file": Rule(_in_split, lambda split, image_id, name: _in_split(f"{split}/{name}") if name else None),
    "folder/file": _by_name(_in_folder),
    "file": _by_name(lambda name: name.rpartition("/")[2]),
    "folder/file without ending": _by_name(lambda name: _in_folder(_without_suffix(name))),
    "file without ending": _by_name(lambda name: _without_suffix(name.rpartition("/")[2])),
}


class Rows:
    """The rows of all splits under one number each, in the order of the splits."""

    def __init__(self, splits: DatasetDict):
        self.sizes = {name: len(split) for name, split in splits.items()}
        self._image_ids = {name: split[columns.IMAGE_ID][:] for name, split in splits.items()}
        self._files = {name: file_names(split) for name, split in splits.items()}

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def forms(self, rule: Rule) -> Iterator[str | None]:
        for split, image_ids in self._image_ids.items():
            for image_id, name in zip(image_ids, self._files[split], strict=True):
                yield rule.of_row(split, image_id, name)

    def image_ids(self) -> Iterator[str]:
        for image_ids in self._image_ids.values():
            yield from image_ids


def match(keys: list[str], rows: Rows) -> tuple[str, array]:
    """
    Finds the rule that matches most rows, and by it the row of each key.

    Args:
        keys: of the file, in its order; one may occur several times.
        rows: what they name.

    Returns:
        The name of the rule and, for each key, the number of its row, `NO_ROW`, or `SEVERAL` where the key names
        several rows, or several different keys name its row.
    """
    best: tuple[int, str, array] | None = None
    for name, rule in RULES.items():
        found, matched = _apply(rule, keys, rows)
        if best is None or matched > best[0]:
            best = matched, name, found
        if matched == len(rows) or min(found, default=0) >= 0:
            break
    return best[1], best[2]


def _apply(rule: Rule, keys: list[str], rows: Rows) -> tuple[array, int]:
    index: dict[str, int] = {}
    for row, form in enumerate(rows.forms(rule)):
        if form is not None:
            index[form] = row if form not in index else SEVERAL
    found = array("q", bytes(8 * len(keys)))
    first = array("q", [NO_ROW]) * len(rows)  # of the keys that name each row
    clashing: set[int] = set()
    for i, key in enumerate(keys):
        form = rule.of_key(key)
        row = found[i] = index.get(form, NO_ROW) if form is not None else NO_ROW
        if row >= 0:
            if first[row] == NO_ROW:
                first[row] = i
            elif keys[first[row]] != key:
                clashing.add(row)
    if clashing:
        for i, row in enumerate(found):
            if row in clashing:
                found[i] = SEVERAL
    return found, sum(i != NO_ROW for i in first) - len(clashing)
