"""Captions that exist already: matched by name, taken from a column, or a list in the order of files."""

import logging
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ... import columns
from ...options import ExistingCaptionsArguments
from .caption_files import LIST_SUFFIXES, Caption, CaptionFile, Entry, checked, read_list
from .folder_order import folder_order
from .matching import NO_ROW, SEVERAL, Rows, match

logger = logging.getLogger(__name__)

EXAMPLES = 3


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

    Raises:
        ValueError: when captions cannot be read, or cannot be matched without guessing.
    """
    path = arguments.captions_file
    if captioner is None:
        is_list = path is not None and Path(path).suffix.lower() in LIST_SUFFIXES
        captioner = "column" if path is None else "list" if is_list else "file"
    if captioner == "column":
        return column_captions(splits)
    if path is None:
        raise ValueError(f"captioner is {captioner!r}: name the file of captions with --captions_file.")
    if captioner == "list":
        return list_captions(splits, read_list(path, arguments.file_caption), Path(path).name)
    file = CaptionFile(path, arguments.file_key, arguments.file_caption)
    return join_captions(splits, file, file.name, several=arguments.several_captions)


def column_captions(splits: DatasetDict) -> ExistingCaptions:
    """
    The captions that the data holds in its column `caption`. Splits without it have none.

    Raises:
        ValueError: when no split has the column, or it holds something else than texts or lists of texts.
    """
    if not any(columns.CAPTION in split.column_names for split in splits.values()):
        available = sorted({column for split in splits.values() for column in split.column_names})
        raise ValueError(
            f"No column 'caption' in the data. Its columns: {', '.join(available)}. Name the right one with "
            "--caption_column, or give a file with --captions_file."
        )
    captions: dict[str, list[Caption]] = {}
    for name, split in splits.items():
        values = split[columns.CAPTION][:] if columns.CAPTION in split.column_names else [None] * len(split)
        for row, value in enumerate(values):
            try:
                values[row] = checked(value)
            except TypeError as error:
                raise ValueError(f"Split {name!r}, column 'caption', row {row}: {error}.") from error
        captions[name] = values
    captions = _alike(captions)
    return ExistingCaptions(captions, {"from": "column", "splits": _counts(captions, splits)})


def join_captions(
    splits: DatasetDict, entries: Iterable[Entry], file_name: str, *, several: bool = False
) -> ExistingCaptions:
    """
    Matches captions to rows by what names the image. One of [`~g4i_hf.captioning.existing.matching.RULES`] holds for
    the whole file, the one that matches most rows; a key that fits several rows is matched to none of them.

    Args:
        splits: with `image_id`.
        entries: of the file. They are iterated twice, so that they need not be held: a [`CaptionFile`] or a list.
        file_name: for messages.
        several: a key that comes back with another caption gives its image several captions. So it does in a file
            that holds lists of captions; in others it is an error.

    Returns:
        The captions, None where a row has none, and a report with `captions_without_row`, `ambiguous` and, for each
        split, rows without caption: how many, and the first few.

    Raises:
        ValueError: when no key fits an image, or a key has two captions.
    """
    keys: list[str] = []
    for entry in entries:
        keys.append(entry.key)
        several = several or isinstance(entry.caption, list)
    rows = Rows(splits)
    if not keys:
        raise ValueError(f"{file_name} holds no captions.")
    rule, found = match(keys, rows)
    if max(found) < 0:
        first = next(rows.image_ids(), None)
        raise ValueError(
            f"{file_name}: none of its {len(keys)} keys names one image of the data: the first key is {keys[0]!r}, "
            f"the first image_id {first!r}. Name the field that holds file names with --file_key."
        )
    sizes, number = rows.sizes, len(rows)
    del keys, rows  # before the captions are read: names of a million images take hundreds of megabytes
    flat, report = _place(entries, found, number, file_name, several)
    report = {"from": "file", "matched_by": rule, **report}
    captions, start = {}, 0
    for name, size in sizes.items():
        captions[name] = flat[start : start + size]
        start += size
    captions = _alike(captions, several)
    report["splits"] = _counts(captions, splits)
    _log(file_name, report)
    return ExistingCaptions(captions, report)


def _place(
    entries: Iterable[Entry], found: array, number: int, file_name: str, several: bool
) -> tuple[list[Caption], dict[str, Any]]:
    """Each caption to its row, of `number` rows; and what became of those that have none."""
    report: dict[str, Any] = {"entries": len(found), "empty": 0, "repeated": 0}
    report |= {"captions_without_row": _found(), "ambiguous": _found()}
    flat: list[Caption] = [None] * number
    lines = array("q", [0]) * number
    for entry, row in zip(entries, found, strict=True):
        if row in (NO_ROW, SEVERAL):
            _add(report["captions_without_row" if row == NO_ROW else "ambiguous"], entry.key)
        elif entry.caption is None:
            report["empty"] += 1
        elif flat[row] is None:
            flat[row], lines[row] = entry.caption, entry.line
        elif not (others := [text for text in _texts(entry.caption) if text not in _texts(flat[row])]):
            report["repeated"] += 1
        elif several:
            flat[row] = _texts(flat[row]) + others
        else:
            raise ValueError(
                f"{file_name}: {entry.key!r} has two captions, in lines {lines[row]} and {entry.line}. Remove one, or "
                "keep several captions an image with --several_captions."
            )
    return flat, report


def list_captions(splits: DatasetDict, captions: list[str | None], file_name: str) -> ExistingCaptions:
    """
    Captions without keys, in the order of torchvision's `ImageFolder`. The rows of the data may be in any order.

    Args:
        splits: with `image_id`: one split, or several of which `train` is the one that the list is for.
        captions: one an image, None for an image without.
        file_name: for messages.

    Returns:
        The captions, and a report with `files_digest`, the hash of the sorted list of files, and `order`: unverified
        until [`~g4i_hf.captioning.existing.order.check_order`] has looked at the images.

    Raises:
        ValueError: when the number of captions is not that of the images, or the order of the files is not known.
    """
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
            "the version of the data that it was made for, name its split with --caption_splits, or give captions "
            "with the names of their images, as a .jsonl or .csv file."
        )
    rows, digest = folder_order(split, name)
    in_order: list[Caption] = [None] * len(split)
    for row, caption in zip(rows, captions, strict=True):
        in_order[row] = caption
    all_captions = {other: in_order if other == name else [None] * len(splits[other]) for other in splits}
    report = {"from": "list", "split": name, "entries": len(captions), "files_digest": digest, "order": "unverified"}
    report["splits"] = _counts(all_captions, splits)
    return ExistingCaptions(all_captions, report, name, rows)


def _texts(caption: str | list[str]) -> list[str]:
    return [caption] if isinstance(caption, str) else caption


def _alike(captions: dict[str, list[Caption]], several: bool = False) -> dict[str, list[Caption]]:
    """Lists in every row as soon as there is one."""
    if several or any(isinstance(caption, list) for values in captions.values() for caption in values):
        for values in captions.values():
            for row, caption in enumerate(values):
                values[row] = [caption] if isinstance(caption, str) else caption
    return captions


def _found() -> dict[str, Any]:
    return {"count": 0, "examples": []}


def _add(found: dict[str, Any], name: str) -> None:
    found["count"] += 1
    if len(found["examples"]) < EXAMPLES:
        found["examples"].append("/".join(name.replace("\\", "/").split("/")[-3:]))  # no path of this machine


def _counts(captions: dict[str, list[Caption]], splits: DatasetDict) -> dict[str, Any]:
    """Rows, and those without caption, of each split."""
    counts = {}
    for name, values in captions.items():
        without = [row for row, caption in enumerate(values) if caption is None]
        examples = splits[name].select(without[:EXAMPLES])[columns.IMAGE_ID][:]
        counts[name] = {"rows": len(values), "without_caption": _found()}
        for image_id in examples:
            _add(counts[name]["without_caption"], image_id)
        counts[name]["without_caption"]["count"] = len(without)
    return counts


def _log(file_name: str, report: dict[str, Any]) -> None:
    logger.info("%s: keys are matched to images by %s.", file_name, report["matched_by"])
    for what, words in (("captions_without_row", "name no image"), ("ambiguous", "fit several images and go to none")):
        if report[what]["count"]:
            examples = ", ".join(report[what]["examples"])
            logger.warning("%s: %d keys %s: %s", file_name, report[what]["count"], words, examples)
    if report["ambiguous"]["count"] and len(report["splits"]) > 1:
        logger.warning(
            "Files of different splits may have one name. Say which split the captions are for with --caption_splits, "
            "or put it before the key: train/cats/1.jpg."
        )
    for name, counts in report["splits"].items():
        without = counts["without_caption"]
        if without["count"]:
            logger.warning(
                "Split %r: %d of %d images have no caption: %s",
                *(name, without["count"], counts["rows"], ", ".join(without["examples"])),
            )
