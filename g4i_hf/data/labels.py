"""
Labels that a person gave or confirmed: `labels.jsonl`, a line an answer. The last line of an image counts, and
overrides the label that the data have.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value

from .. import columns
from ..files import brief, did_you_mean
from .checks import labels_of, with_labels
from .classes import class_names, same_form, with_class_names
from .images import image_paths
from .record import image_digests

logger = logging.getLogger(__name__)

LABELS_FILE = "labels.jsonl"
GOLD, NONE, MANUAL = "gold", "none", "manual"
PICKED = ("wrong", "next")  # by what the label model says: no random sample, so they judge nothing
PICKS = (*PICKED, GOLD, NONE, MANUAL)


def line_of(
    name: str, by_name: str, digest: str | None, pick: str, label: str | None, none: bool = False, is_new: bool = False
) -> str:
    """A line; without a label and `none`, it undoes earlier ones. `by_name`: `file_name` or `image_id`."""
    line: dict[str, Any] = {by_name: name, "digest": digest, "label": label} | ({"none": True} if none else {})
    line |= {"new_class": True} if is_new else {}
    line |= {"pick": pick, "time": datetime.now(UTC).isoformat(timespec="seconds"), "by": "person"}
    return json.dumps(line, ensure_ascii=False) + "\n"


def read_answers(file: Path) -> dict[str, dict[str, Any]]:
    """By name, the last line of each image, with its number; not what was undone. ValueError for another line."""
    answers: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(_whole_lines(file), 1):
        try:
            line = json.loads(text)
            name, label, pick = line.get("file_name") or line.get("image_id"), line.get("label"), line.get("pick")
            texts = (name, label or "", line.get("digest") or "")
            is_known = all(isinstance(each, str) for each in texts) and name and pick in (None, *PICKS)
        except (AttributeError, ValueError):
            is_known = False
        if not is_known:
            raise ValueError(f"{file}, line {number}: {brief(text)} is no answer of g4i label. Correct or remove it.")
        answers[name] = line | {"line": number, "pick": pick or MANUAL}
    return {name: line for name, line in answers.items() if line.get("label") is not None or line.get("none")}


def _whole_lines(file: Path) -> list[str]:
    if not file.is_file():
        return []
    *lines, last = file.read_text(encoding="utf-8", errors="replace").split("\n")
    return [*lines, last] if _is_whole(last) else lines


def _is_whole(text: str | bytes) -> bool:
    """Whether the text after the last line break is a whole line, as of an editor that writes no final line break."""
    try:
        json.loads(text)
        return True
    except ValueError:
        return False


@contextmanager
def answers_to(file: Path) -> Iterator[Callable[[str], None]]:
    """A function that appends a line, on disk when it returns. Raises ValueError while another process writes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(file.with_name(f".{file.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(f"Another g4i label writes to {file}. Close it first: Ctrl+C in its terminal.") from None
    try:
        with open(file, "ab") as opened:
            content = file.read_bytes()
            begun = content.rfind(b"\n") + 1
            if _is_whole(content[begun:]):
                opened.write(b"\n")
            else:
                opened.truncate(begun)  # what a killed process had begun

            def append(line: str) -> None:
                opened.write(line.encode())
                opened.flush()
                os.fsync(opened.fileno())

            yield append
    finally:
        lock.release()


# --- In the data -----------------------------------------------------------------------------------------------------


def file_names(split: Dataset, root: Path | None) -> list[str]:
    """The name of each image in `labels.jsonl`: its path below the folder of images, else its `image_id`."""
    if root is None:
        return split[columns.IMAGE_ID][:]
    base = os.path.abspath(root)
    return [Path(os.path.relpath(path, base)).as_posix() for path, _ in image_paths(split)]


def with_answers(splits: DatasetDict, file: Path, root: Path | None) -> DatasetDict:
    """
    The splits with the labels of `labels.jsonl` and the column `review`, how the image was picked. Gold images of
    `train` become the split `gold`, and copies of them are left out. Other images that belong to no class are left
    out. The changes are logged. Raises ValueError for a label that is not a class.
    """
    labelled, answered = with_labels_of(splits, file, root)
    for name, rows in answered.items():
        left_out = {
            row for row, answer in rows.items() if answer.get("none") and (name != "train" or answer["pick"] != GOLD)
        }
        if left_out:
            labelled[name] = labelled[name].select([row for row in range(len(labelled[name])) if row not in left_out])
    if "train" in answered:
        labelled |= _without_gold(labelled["train"])
    return labelled


def with_labels_of(
    splits: DatasetDict, file: Path, root: Path | None
) -> tuple[DatasetDict, dict[str, dict[int, dict[str, Any]]]]:
    """As [`with_answers`], but with every row, null for images of no class; and the answers by split and row."""
    answers = read_answers(file)
    if not answers:
        return splits, {}
    splits, names = _with_classes_of(splits, answers, file)
    messages: list[str] = []
    labelled, answered, matched = DatasetDict(splits), {}, set[str]()
    for name, split in splits.items():
        rows = _rows_of(split, file_names(split, root), answers, matched)
        if rows:
            labelled[name], changes = _answered(split, rows, names)
            answered[name] = rows
            messages.append(f"labels of {name}: {changes}")
    if others := [name for name in answers if name not in matched]:
        what = (
            "1 line is left out, as its image is" if len(others) == 1 else "{} lines are left out, as their images are"
        )
        messages.append(f"{what.format(len(others))} not there or another one now ({others[0]!r})")
    logger.info("%s: %s.", file, "; ".join(messages))
    return labelled, answered


def _with_classes_of(
    splits: DatasetDict, answers: Mapping[str, dict[str, Any]], file: Path
) -> tuple[DatasetDict, list[str]]:
    """The splits with the classes of the data and new ones, and their names. Raises ValueError for any other label."""
    splits, id2label = class_names(splits)
    known = {same_form(name): name for name in id2label.values()}
    for line in answers.values():
        if line.get("label") is not None and line.get("new_class") is True:
            known.setdefault(same_form(line["label"]), line["label"])
    for line in answers.values():
        if line.get("label") is not None and same_form(line["label"]) not in known:
            raise ValueError(
                f"{file}, line {line['line']}: {line['label']!r} is none of the {len(known):,} classes."
                f'{did_you_mean(line["label"], known)} Correct it; or, for a new class, add "new_class": true to it.'
            )
    names = list(known.values())
    return with_class_names(splits, names), names


def _rows_of(
    split: Dataset, names: list[str], answers: Mapping[str, dict[str, Any]], matched: set[str]
) -> dict[int, dict[str, Any]]:
    """The answer of each row that has one, if the image is the one that was answered; `matched` gets their names."""
    named = [row for row, name in enumerate(names) if name in answers]
    digests = image_digests(split.select(named))[columns.IMAGE_DIGEST]
    of_rows = {}
    for row, digest in zip(named, digests, strict=True):
        answer = answers[names[row]]
        if answer.get("digest") in (None, digest):
            of_rows[row] = answer
            matched.add(names[row])
    return of_rows


def _answered(split: Dataset, answers: Mapping[int, dict[str, Any]], names: list[str]) -> tuple[Dataset, str]:
    """The split with these answers by row, and what they change, in words."""
    before, index = labels_of(split), {same_form(name): label for label, name in enumerate(names)}
    labels, reviews = before.copy(), [None] * len(split)
    for row, answer in answers.items():
        labels[row] = index[same_form(answer["label"])] if not answer.get("none") else -1
        reviews[row] = answer["pick"]
    rows = np.array(list(answers))
    has_class, had_one, same = labels[rows] >= 0, before[rows] >= 0, labels[rows] == before[rows]
    kinds = {"new": ~had_one, "changed": had_one & ~same, "confirmed": had_one & same}
    parts = [f"{number:,} {kind}" for kind, of_kind in kinds.items() if (number := int((has_class & of_kind).sum()))]
    if not has_class.all():
        parts.append(f"{(~has_class).sum():,} of no class")
    if columns.LABEL not in split.column_names:
        split = split.add_column(columns.LABEL, [None] * len(split), feature=ClassLabel(names=names))
    return with_labels(split, labels).add_column(columns.REVIEW, reviews, feature=Value("string")), ", ".join(parts)


def _without_gold(training: Dataset) -> dict[str, Dataset]:
    is_gold = reviews_of(training) == GOLD
    if not is_gold.any():
        return {}
    digests = np.array(image_digests(training)[columns.IMAGE_DIGEST], dtype=object)
    copies = np.isin(digests.astype(str), digests[is_gold].astype(str)) & ~is_gold
    also = f", and {copies.sum():,} equal ones" if copies.any() else ""
    logger.info("%s gold images are kept out of training%s.", f"{is_gold.sum():,}", also)
    rest = training.select(np.flatnonzero(~is_gold & ~copies))
    return {"train": rest, GOLD: training.select(np.flatnonzero(is_gold)).remove_columns(columns.REVIEW)}


def reviews_of(split: Dataset) -> np.ndarray:
    """(rows,) how a reviewed image was picked, "" for others."""
    if columns.REVIEW not in split.column_names:
        return np.full(len(split), "", dtype="<U6")
    return np.array([review or "" for review in split[columns.REVIEW]], dtype="<U6")
