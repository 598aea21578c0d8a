"""
Labels that a person gave or confirmed: `labels.jsonl`, a line an answer. The last line of an image counts, and
overrides the label that the data have. Of several annotators the last line of each is a vote.
"""

import functools
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from .class_file import Classes
from .classes import class_names, in_another_case, same_form, same_path, with_class_names
from .images import image_paths
from .record import image_digests

logger = logging.getLogger(__name__)

LABELS_FILE = "labels.jsonl"
GOLD, NONE, MANUAL = "gold", "none", "manual"
DISAGREEMENTS = "disagreements"
OF_NO_CLASS = "of_no_class"  # the split of training images that a person took out
PICKED = ("wrong", "next", DISAGREEMENTS)  # by what the label model says: no random sample, so they judge nothing
PICKS = (*PICKED, GOLD, NONE, MANUAL)
PERSON = "person"  # the annotator of a line that names nobody


def line_of(
    name: str,
    by_name: str,
    digest: str | None,
    pick: str,
    label: str | None,
    none: bool = False,
    is_new: bool = False,
    by: str = PERSON,
    undo: bool = False,
    description: str = "",
) -> str:
    """
    A line; without a label and `none`, it undoes earlier ones of this annotator. With `undo` it repeats the answer
    before the last one. `by_name`: `file_name` or `image_id`; `description`: of a new class.
    """
    line: dict[str, Any] = {by_name: name, "digest": digest, "label": label} | ({"none": True} if none else {})
    line |= {"new_class": True} if is_new else {}
    line |= ({"description": description} if description else {}) | ({"undo": True} if undo else {})
    line |= {"pick": pick, "time": datetime.now(UTC).isoformat(timespec="seconds"), "by": by}
    return json.dumps(line, ensure_ascii=False) + "\n"


def read_answers(file: Path, classes: Classes | None = None) -> dict[str, dict[str, Any]]:
    """
    By name, the answer to each image, with the number of its line. If the file has several annotators, it also has
    their `votes`. ValueError as by [`read_people`].
    """
    return answers_of(read_people(file, classes))


def answers_of(people: Mapping[str, Mapping[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By name, of the answers by annotator: the only one, or what most of them say; `tie` where no label has most."""
    if len({by for lines in people.values() for by in lines}) < 2:
        return {name: line for name, lines in people.items() for line in lines.values()}
    return {name: _of_all(list(lines.values())) for name, lines in people.items()}


def _of_all(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Gold answers are final; the last one counts. A line on another version of the image has no vote."""
    digest = next((line["digest"] for line in reversed(lines) if line.get("digest")), None)
    lines = [line for line in lines if line.get("digest") in (None, digest)]
    votes = {line["by"]: line["label"] for line in lines if line.get("label") is not None}
    if gold := [line for line in lines if line["pick"] == GOLD]:
        return gold[-1] | {"votes": votes}
    (most, number), *others = Counter(line.get("label") for line in lines).most_common(2)
    if others and others[0][1] == number:
        says_none = any(line.get("none") for line in lines)  # which is no vote for a class
        undecided = {"label": None, "none": False, "tie": True}
        return lines[-1] | undecided | {"votes": {} if says_none else votes}
    return [line for line in lines if line.get("label") == most][-1] | {"votes": votes}


def read_people(file: Path, classes: Classes | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """
    By name of the image and annotator, the last line of each, with its number, the latest at the end; not what was
    undone. Labels are the present `classes`; one that was dropped is none of them. ValueError for another line, and
    for gold of a dropped class.
    """
    people: dict[str, dict[str, dict[str, Any]]] = {}
    for line in _lines(file):
        people.setdefault(line["name"], {}).pop(line["by"], None)
        people[line["name"]][line["by"]] = line
    answered = {
        name: {by: line for by, line in lines.items() if line.get("label") is not None or line.get("none")}
        for name, lines in people.items()
    }
    answered = {name: lines for name, lines in answered.items() if lines}
    return answered if classes is None else _in_classes(answered, classes, file)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Each line, also of what was undone, with its number, `name`, `pick` and `by`. ValueError for another line."""
    for number, text in enumerate(_whole_lines(file), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            file_name, label, pick = line.get("file_name"), line.get("label"), line.get("pick")
            name = same_path(file_name) if isinstance(file_name, str) and file_name else line.get("image_id")
            texts = (name, label or "", *(line.get(key) or "" for key in ("digest", "by", "description")))
            is_known = all(isinstance(each, str) for each in texts) and name and pick in (None, *PICKS)
        except (AttributeError, ValueError, RecursionError):
            is_known = False
        if not is_known:
            raise ValueError(f"{file}, line {number}: {brief(text)} is no answer of g4i label. Correct or remove it.")
        if not isinstance(line.get("none"), bool | None):
            what = f'{file}, line {number}: "none" is {brief(line["none"])}'
            raise ValueError(f"{what}. Write true without quotes for an image of no class, or remove it.")
        yield line | {"line": number, "name": name, "pick": pick or MANUAL, "by": line.get("by") or PERSON}


def _in_classes(
    people: dict[str, dict[str, dict[str, Any]]], classes: Classes, file: Path
) -> dict[str, dict[str, dict[str, Any]]]:
    gold: dict[str, list[int]] = {}
    for lines in people.values():
        for by, line in lines.items():
            if (label := line.get("label")) is None:
                continue
            now = classes.now(label)
            if now is None and line["pick"] == GOLD:
                gold.setdefault(label, []).append(line["line"])
            lines[by] = line | ({"label": None, "none": True} if now is None else {"label": now})
    if gold:
        raise ValueError(
            "\n".join(
                f"{classes.file}: {label!r} is dropped, but gold answers need it: {len(numbers):,}, the first in line "
                f"{numbers[0]} of {file}. Merge it into another class (merge_into), or keep it."
                for label, numbers in gold.items()
            )
        )
    return people


def descriptions_in(file: Path) -> dict[str, str]:
    """By name, the last description that the page took with a new class."""
    lines = (line for line in _lines(file) if line.get("label") is not None and line.get("description"))
    return {same_form(line["label"]): line["description"] for line in lines}


def last_answer_of(file: Path, by: str) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """
    The last line of an annotator that was not taken back, and their line of that image before it, if any. None
    without a line.
    """
    left: list[dict[str, Any]] = []
    for line in _lines(file):
        if line["by"] != by:
            continue
        if line.get("undo") or not (line.get("label") is not None or line.get("none")):
            of_image = [place for place, earlier in enumerate(left) if earlier["name"] == line["name"]]
            if of_image:
                del left[of_image[-1]]
        else:
            left.append(line)
    if not left:
        return None
    last = left.pop()
    return last, next((line for line in reversed(left) if line["name"] == last["name"]), None)


def _whole_lines(file: Path) -> list[str]:
    if not file.is_file():
        return []
    *lines, last = file.read_text(encoding="utf-8-sig", errors="replace").split("\n")  # Notepad writes a BOM
    return lines if _is_begun(last) else [*lines, last]


def _is_begun(text: str) -> bool:
    """Whether a killed process may have left it: an object that is right until it breaks off."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        last = text[error.pos :]
        ends = error.msg.startswith("Unterminated string") or "null".startswith(last) or "true".startswith(last)
        return text.startswith("{") and ends
    except RecursionError:
        pass
    return False


@contextmanager
def answers_to(file: Path) -> Iterator[Callable[[str], None]]:
    """
    A function that appends a line, on disk when it returns; after an OSError the file is as it was. Raises ValueError
    while another process writes, or where nothing can be written.
    """
    lock = filelock.FileLock(file.with_name(f".{file.name}.lock"), blocking=False)
    try:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            open(file, "ab").close()
        except filelock.Timeout:
            raise ValueError(f"Another g4i label writes to {file}. Close it first: Ctrl+C in its terminal.") from None
        except OSError as error:
            what = f"{file} cannot be written ({error.strerror})"
            raise ValueError(f"{what}. Make it writable, or name another file: --labels_file.") from error
        yield functools.partial(_append, file)
    finally:
        lock.release()


def _append(file: Path, line: str) -> None:
    """To the file that is there now: an editor, git or rsync puts another one in its place."""
    with open(file, "a+b", buffering=0) as opened:
        opened.seek(0)
        content = opened.read()
        end = content.rfind(b"\n") + 1
        if end < len(content) and not _is_begun(content[end:].decode("utf-8-sig", errors="replace")):
            end, line = len(content), f"\n{line}"
        opened.truncate(end)  # what a killed process had begun
        left = line.encode()
        try:
            while left:
                left = left[opened.write(left) :]
            os.fsync(opened.fileno())
        except OSError:
            opened.truncate(end)
            raise


# --- In the data -----------------------------------------------------------------------------------------------------


def file_names(split: Dataset, root: Path | None) -> list[str]:
    """The name of each image in `labels.jsonl`: its path below the folder of images, else its `image_id`."""
    if root is None:
        return split[columns.IMAGE_ID][:]
    base = os.path.abspath(root)
    return [same_path(os.path.relpath(path, base)) for path, _ in image_paths(split)]


def with_answers(
    splits: DatasetDict,
    file: Path | None,
    root: Path | None,
    keeps_no_class: bool = False,
    classes: Classes | None = None,
    dropped: Mapping[str, Sequence[int]] | None = None,
) -> DatasetDict:
    """
    The splits with the labels of `labels.jsonl` and the column `review`, how the image was picked. Gold images of
    `train` become the split `gold`, and copies of them are left out. Other images that belong to no class are left
    out, also those of `dropped` classes, rows by split, that nobody answered; with `keeps_no_class` those of `train`
    are a split `of_no_class`, gold ones too. The changes are logged. ValueError for a label that is not a class.
    """
    labelled, answered = (DatasetDict(splits), {}) if file is None else with_labels_of(splits, file, root, classes)
    for name, of_dropped in (dropped or {}).items():
        answered[name] = dict.fromkeys(of_dropped, {"none": True, "pick": NONE}) | answered.get(name, {})
    none = [row for row, answer in answered.get("train", {}).items() if answer.get("none")]
    if keeps_no_class and none:
        labelled[OF_NO_CLASS] = labelled["train"].select(none)
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
    splits: DatasetDict, file: Path, root: Path | None, classes: Classes | None = None
) -> tuple[DatasetDict, dict[str, dict[int, dict[str, Any]]]]:
    """As [`with_answers`], but with every row, null for images of no class; and the answers by split and row."""
    people = read_people(file, classes)
    answers = answers_of(people)
    if not answers:
        return splits, {}
    splits, names_now = _with_classes_of(splits, [line for lines in people.values() for line in lines.values()], file)
    names = {name: file_names(split, root) for name, split in splits.items()}
    rows = {name: _rows_of(split, names[name], answers) for name, split in splits.items()}
    matched = {names[name][row] for name in splits for row in rows[name]}
    others = {name: answer for name, answer in answers.items() if name not in matched}
    messages: list[str] = []
    if "train" in splits and (renamed := _renamed_gold(splits["train"], rows["train"], others)):
        rows["train"] |= {row: others.pop(name) for row, name in renamed.items()}
        has = "image has another name" if len(renamed) == 1 else "images have other names"
        messages.append(f"{len(renamed):,} gold {has} now")
    labelled, answered = DatasetDict(splits), {name: of_split for name, of_split in rows.items() if of_split}
    for name, of_split in answered.items():
        labelled[name], changes = _answered(splits[name], of_split, names_now)
        messages.append(f"labels of {name}: {changes}")
    if others:
        messages.append(_left_out_in_words(list(others), itertools.chain(*names.values())))
    logger.info("%s: %s.", file, "; ".join(messages))
    return labelled, answered


def _left_out_in_words(others: Sequence[str], names: Iterable[str]) -> str:
    """`names` are those of all images; for a line that lacks a folder or has one too many, it prints the right one."""
    what = "1 line is left out, as its image is" if len(others) == 1 else "{} lines are left out, as their images are"
    example, by_last_part = repr(others[0]), {name.rpartition("/")[2]: name for name in names}
    for other in others:
        name = by_last_part.get(other.rpartition("/")[2], other)
        if name != other and (name.endswith(f"/{other}") or other.endswith(f"/{name}")):
            example = f"{other!r}: write {name!r}"
            break
    return f"{what.format(len(others))} not there or another one now ({example})"


def _with_classes_of(
    splits: DatasetDict, lines: Sequence[Mapping[str, Any]], file: Path
) -> tuple[DatasetDict, list[str]]:
    """The splits with the classes of the data and new ones, and their names. Raises ValueError for any other label."""
    has_labels = any(columns.LABEL in split.column_names for split in splits.values())
    has_new = any(line.get("new_class") is True for line in lines)
    splits, id2label = class_names(splits) if has_labels or not has_new else (splits, {})
    known = {same_form(name): name for name in id2label.values()}
    for line in lines:
        if line.get("label") is not None and line.get("new_class") is True:
            is_known = same_form(line["label"]) in known
            if not is_known and (other := in_another_case(line["label"], known)) is not None:
                what = f"{file}, line {line['line']}: the classes {line['label']!r} and {other!r} differ in case only"
                raise ValueError(f"{what}. Write {other!r}; or, if they are two, name both with --class_names_file.")
            known.setdefault(same_form(line["label"]), line["label"])
    for line in lines:
        if line.get("label") is not None and same_form(line["label"]) not in known:
            raise ValueError(
                f"{file}, line {line['line']}: {line['label']!r} is none of the {len(known):,} classes."
                f'{did_you_mean(line["label"], known)} Correct it; or, for a new class, add "new_class": true to it.'
            )
    names = list(known.values())
    return with_class_names(splits, names), names


def _rows_of(split: Dataset, names: list[str], answers: Mapping[str, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The answer of each row that has one, if the image is the one that was answered."""
    named = [row for row, name in enumerate(names) if name in answers]
    digests = image_digests(split.select(named))[columns.IMAGE_DIGEST]
    of_rows = {}
    for row, digest in zip(named, digests, strict=True):
        answer = answers[names[row]]
        if answer.get("digest") in (None, digest):
            of_rows[row] = answer
    return of_rows


def _renamed_gold(
    training: Dataset, of_rows: Mapping[int, dict[str, Any]], others: Mapping[str, dict[str, Any]]
) -> dict[int, str]:
    """
    The names in `others` of gold images that have another name now, by row: their digests find them, or else a copy.
    A later answer of that row counts.
    """
    gold = {answer.get("digest"): name for name, answer in others.items() if answer["pick"] == GOLD}
    gold.pop(None, None)
    digests = image_digests(training)[columns.IMAGE_DIGEST] if gold else []
    renamed = {row: gold.pop(digest) for row, digest in enumerate(digests) if digest in gold}
    lines = {name: answer["line"] for name, answer in others.items()}
    return {row: name for row, name in renamed.items() if row not in of_rows or of_rows[row]["line"] < lines[name]}


def _answered(split: Dataset, answers: Mapping[int, dict[str, Any]], names: list[str]) -> tuple[Dataset, str]:
    """The split with these answers by row, and what they change, in words."""
    before, index = labels_of(split), {same_form(name): label for label, name in enumerate(names)}
    labels, reviews = before.copy(), [None] * len(split)
    votes: list[str | None] = [None] * len(split)
    for row, answer in answers.items():
        labels[row] = index[same_form(answer["label"])] if answer.get("label") is not None else -1
        reviews[row] = answer["pick"]
        if answer.get("votes"):
            votes[row] = json.dumps(answer["votes"], ensure_ascii=False)
    rows = np.array(list(answers))
    has_class, had_one, same = labels[rows] >= 0, before[rows] >= 0, labels[rows] == before[rows]
    kinds = {"new": ~had_one, "changed": had_one & ~same, "confirmed": had_one & same}
    parts = [f"{number:,} {kind}" for kind, of_kind in kinds.items() if (number := int((has_class & of_kind).sum()))]
    ties = sum(bool(answer.get("tie")) for answer in answers.values())
    if (of_no_class := int((~has_class).sum()) - ties) > 0:
        parts.append(f"{of_no_class:,} of no class")
    if ties:
        parts.append(f"{ties:,} without a label, as annotators disagree")
    if columns.LABEL not in split.column_names:
        split = split.add_column(columns.LABEL, [None] * len(split), feature=ClassLabel(names=names))
    split = with_labels(split, labels).add_column(columns.REVIEW, reviews, feature=Value("string"))
    split = split.add_column(columns.VOTES, votes, feature=Value("string")) if any(votes) else split
    return split, ", ".join(parts)


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
        return np.full(len(split), "", dtype="<U13")
    return np.array([review or "" for review in split[columns.REVIEW]], dtype="<U13")


def certain_reviews_of(split: Dataset) -> np.ndarray:
    """[`reviews_of`] labels that count as right: "" also for votes of several annotators, unless they are gold."""
    reviews = reviews_of(split)
    is_vote = (
        np.array([bool(votes) for votes in split[columns.VOTES]]) if columns.VOTES in split.column_names else False
    )
    return np.where(is_vote & (reviews != GOLD), "", reviews)


def votes_of(split: Dataset, id2label: Mapping[int, str]) -> tuple[list[str], np.ndarray]:
    """The annotators, and (rows, annotators) the label of each, -1 without one; none unless there are several."""
    if columns.VOTES not in split.column_names:
        return [], np.zeros((len(split), 0), dtype=np.int64)
    of_rows = [json.loads(votes or "{}") for votes in split[columns.VOTES]]
    names = sorted({by for votes in of_rows for by in votes})
    place = {by: number for number, by in enumerate(names)}
    index = {same_form(name): label for label, name in id2label.items()}
    votes = np.full((len(split), len(names)), -1)
    for row, by_name in enumerate(of_rows):
        for by, label in by_name.items():
            votes[row, place[by]] = index[same_form(label)]
    return names, votes
