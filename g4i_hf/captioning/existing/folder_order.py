"""The order in which torchvision's `ImageFolder` lists the images of a split."""

from datasets import Dataset

from ... import columns
from ...data.stage import ids_digest
from .matching import file_names, image_paths

REMEDY = "Give captions with the names of their images instead, as a .jsonl or .csv file."


def folder_order(split: Dataset, split_name: str) -> tuple[list[int], str]:
    """
    Sorts class folders by name, and in each the files by name, as Python sorts strings: capitals before small letters,
    `10.jpg` before `2.jpg`.

    Args:
        split: with `image_id`; the order of its rows does not matter.
        split_name: for messages.

    Returns:
        The row of each place in that order, and a hash of the sorted list of `class/file`.

    Raises:
        ValueError: when the order cannot be told from the data: rows without file names, two files of one name, files
            in folders inside class folders, or no class folders.
    """
    names = file_names(split)
    for row, name in enumerate(names):
        if name is None:
            raise ValueError(
                f"Split {split_name!r}, row {row}: image_id is {split[row][columns.IMAGE_ID]!r}, and the image has no "
                f"file name, so its place in a list of files is not known. {REMEDY}"
            )
    _check_depth(split, split_name)
    # A zero is below all letters: this compares folders first, then files
    rows = sorted(range(len(names)), key=[name.replace("/", "\0") for name in names].__getitem__)
    for before, row in zip(rows, rows[1:], strict=False):
        if names[before] == names[row]:
            raise ValueError(
                f"Split {split_name!r}: rows {before} and {row} are both called {names[row]!r}, so which of them "
                f"comes first in a list of files is not known. {REMEDY}"
            )
    folders = {name.rpartition("/")[0] for name in names}
    if "" in folders and len(folders) > 1:
        raise ValueError(f"Split {split_name!r}: some images have a class folder and others have none. {REMEDY}")
    if len(folders) == 1 and columns.LABEL in split.column_names:
        _check_classes(split, split_name, rows)
    return rows, ids_digest(names[row] for row in rows)


def _check_depth(split: Dataset, split_name: str) -> None:
    """`image_id` keeps the folder that directly holds the file; `ImageFolder` sorts by the outermost one."""
    paths = image_paths(split)
    if not paths or any(path is None or not path.startswith("/") for path in paths):
        return
    inside = min(paths).split("/"), max(paths).split("/")
    common = next((i for i, (a, b) in enumerate(zip(*inside, strict=False)) if a != b), len(inside[0]) - 1)
    deep = next((path for path in paths if path.count("/") - common > 1), None)
    if deep is not None:
        shown = "/".join(deep.split("/")[common:])
        raise ValueError(
            f"Split {split_name!r}: {shown} lies in a folder inside another one, so its place among the class folders "
            f"is not known. {REMEDY}"
        )


def _check_classes(split: Dataset, split_name: str, rows: list[int]) -> None:
    """Without class folders, names alone give the order of class folders only where they keep classes together."""
    labels = split[columns.LABEL][:]
    labels = [labels[row] for row in rows]
    blocks = sum(a != b for a, b in zip(labels, labels[1:], strict=False)) + bool(labels)
    if blocks > len(set(labels)):
        raise ValueError(
            f"Split {split_name!r}: the images are of {len(set(labels))} classes, but their names have no class "
            f"folders, so the order of a list sorted by class folder is not known. {REMEDY}"
        )
