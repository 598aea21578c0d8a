"""The stage of captions: its columns, from stored answers or from existing captions, its folder and its report."""

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, List, Value

from .. import columns
from ..data.classes import NO_CLASS, NONE, ClassWords, Matching
from ..data.joining import check_image_ids
from ..data.record import image_digests, known_images
from ..data.stage import Source, read_stage, write_stage
from ..names import without_private
from ..options import CaptionArguments
from ..pages import Shown, thumbnail, write_page
from .answers import FAILURES, OK, Answer, AnswerStore, Captioner, Keys
from .cleaning import clean
from .questions import Prompts, Questions, check_leak

RAW, STATUS, REASON = columns.CAPTION_RAW, columns.CAPTION_STATUS, columns.CAPTION_REASON
CLEANED, ANSWER_STATUS = "caption_cleaned", "answer_status"
MADE_FROM = (columns.IMAGE_DIGEST, columns.IMAGE_STAT)
HTML = "caption_report.html"
EXAMPLES = 12  # of a kind, in the report
DOUBTFUL = {"unfinished": "cut off", "repetitions": "in a loop"}  # steps of cleaning
MISSING = "missing"  # not asked, or no caption was given
NAMED = "named"  # an answer that names a class


@dataclass(frozen=True)
class Caption:
    """The columns of one caption. They hold lists, as a row has one for each prompt."""

    caption: str | None = None
    caption_raw: str | None = None  # the answer as it came
    caption_status: str = MISSING  # or `ok`, or one of [`~g4i_hf.captioning.answers.FAILURES`]
    caption_reason: str | None = None  # of a failure
    caption_cleaned: str | None = None  # the steps that changed the answer, with commas

    @classmethod
    def of(cls, answer: Answer | None) -> "Caption":
        if answer is None:
            return cls(caption_reason="was not asked")
        if answer.status != OK:
            reason = answer.reason or FAILURES.get(answer.status, "")
            return cls(None, answer.text, answer.status, without_private(reason))
        return cls.from_text(answer.text, answer.finish_reason)

    @classmethod
    def from_text(cls, text: str | None, finish_reason: str | None = None) -> "Caption":
        if text is None:
            return cls(caption_reason="no caption was given")
        cleaned = clean(text, finish_reason)
        return cls(cleaned.caption, text, cleaned.status, FAILURES.get(cleaned.status), ",".join(cleaned.applied))


@dataclass(frozen=True)
class ClassAnswer:
    """The columns of the answer to the question for the class."""

    answer: str | None = None  # the name of a class
    answer_is_none: bool = False  # whether it says that none fits
    answer_text: str | None = None  # as it came
    answer_status: str = MISSING  # `named`, `none`, `unmatched`, or one of [`~g4i_hf.captioning.answers.FAILURES`]
    answer_reason: str | None = None  # of a failure

    @classmethod
    def of(cls, answer: Answer | None, matching: Matching) -> "ClassAnswer":
        stored = Caption.of(answer)
        if answer is None or answer.status != OK or not any(map(str.isalnum, answer.text or "")):
            return cls(None, False, stored.caption_raw, stored.caption_status, stored.caption_reason)
        matched = matching(answer.text)
        status = {NONE: "none", NO_CLASS: "unmatched"}.get(matched, NAMED)
        return cls(matching.names[matched] if matched >= 0 else None, matched == NONE, answer.text, status)


TEXT = Value("string")
OF_CAPTION: dict[str, Any] = {each.name: List(TEXT) for each in fields(Caption)}
OF_ANSWER: dict[str, Any] = {each.name: TEXT for each in fields(ClassAnswer)} | {columns.ANSWER_IS_NONE: Value("bool")}


def _table(split: Dataset, rows: Iterable[dict[str, Any]], features: dict[str, Any]) -> Dataset:
    """`image_id` of a split, and the columns of its rows."""
    ids = split[columns.IMAGE_ID][:]
    lines = [{columns.IMAGE_ID: image_id} | row for image_id, row in zip(ids, rows, strict=True)]
    return Dataset.from_list(lines, features=Features({columns.IMAGE_ID: TEXT} | features))


def _lists(captions: list[Caption]) -> dict[str, list]:
    return {name: [getattr(one, name) for one in captions] for name in OF_CAPTION}


def captions_in(cells: dict[str, Any]) -> list[Caption]:
    """Of a row of a table."""
    return [Caption(*values) for values in zip(*(cells[name] for name in OF_CAPTION), strict=True)]


def needs_another_try(answer: Answer) -> bool:
    """For `retry_failed`: whether an answer is a failure, or no caption is left when it is cleaned."""
    return Caption.of(answer).caption_status != OK


class AnswerColumns:
    """The columns of a row, from the answers to its prompts."""

    def __init__(self, prompts: Prompts):
        self.asks_class, self.matching = prompts.asks_class, prompts.matching
        self.features = ({} if all(self.asks_class) else OF_CAPTION) | (OF_ANSWER if any(self.asks_class) else {})

    def of(self, answers: list[Answer | None]) -> dict[str, Any]:
        pairs = list(zip(answers, self.asks_class, strict=True))
        of_class = [ClassAnswer.of(answer, self.matching) for answer, asks in pairs if asks]
        captions = [Caption.of(answer) for answer, asks in pairs if not asks]
        return (_lists(captions) if captions else {}) | (vars(of_class[0]) if of_class else {})


def answered_columns(questions: Questions, store: AnswerStore, look_closer: bool = True) -> Dataset:
    """The columns of a split from its stored answers, in the order of the rows; see [`Questions.answers`]."""
    made = AnswerColumns(questions.prompts)
    rows = (made.of(answers) for _, answers in questions.answers(store, look_closer))
    return _table(questions.split, rows, made.features)


def given_columns(split: Dataset, captions: list[list[str]]) -> Dataset:
    """The columns of a split from captions by row."""
    rows = (_lists([Caption.from_text(text) for text in texts or [None]]) for texts in captions)
    return _table(split, rows, OF_CAPTION)


@dataclass
class Captioned:
    """The content of a stage: `image_id` and columns of the splits that were asked about, in the order of the rows."""

    splits: dict[str, Dataset]
    captioner: dict[str, Any]  # provenance
    prompts: list[str] = field(default_factory=list)  # the templates; none for existing captions
    class_words: str | None = None  # digest of what they say of the classes

    def _counts(self) -> dict[str, Counter]:
        """How often each status is in each split; lists are taken apart."""
        counts = {}
        for name, split in self.splits.items():
            statuses = [split[column][:] for column in (STATUS, ANSWER_STATUS) if column in split.column_names]
            values = itertools.chain.from_iterable(statuses)
            counts[name] = Counter(
                itertools.chain.from_iterable([each] if isinstance(each, str) else each for each in values)
            )
        return counts

    @property
    def describes(self) -> bool:
        """Whether there are captions, perhaps beside answers."""
        return all(columns.CAPTION in split.column_names for split in self.splits.values())

    def status_counts(self) -> dict[str, dict[str, int]]:
        """Number of captions and answers by status and split."""
        counts = self._counts()
        statuses = sorted(set().union(*counts.values()))
        return {status: {name: of_split[status] for name, of_split in counts.items()} for status in statuses}

    def lines(self) -> list[str]:
        """For the terminal: the status counts of each split, and what to do about failures."""
        counts, what = self._counts(), "Captions" if self.describes else "Answers"
        lines = [
            f"{what} of {name}: " + ", ".join(f"{number:,} {status}" for status, number in of_split.most_common())
            for name, of_split in counts.items()
        ]
        failed = sum(of_split[status] for of_split in counts.values() for status in FAILURES)
        if failed and self.prompts:
            reason = REASON if self.describes else "answer_reason"
            lines.append(f"{failed:,} have none, see {reason}; --retry_failed asks for those again.")
        return lines


def questions_of(
    splits: Mapping[str, Any],
    args: CaptionArguments,
    captioner: Captioner,
    words: Mapping[str, ClassWords] | None = None,
) -> dict[str, Questions]:
    """The questions about each split to caption. ValueError for a prompt that cannot be filled in, or is a leak."""
    chosen = {name: split for name, split in splits.items() if name in (args.caption_splits or splits)}
    templates = args.prompt or ["plain"]
    check_leak(templates, chosen, args.train_splits)
    keys, questions = Keys(captioner.provenance), {}
    for name, split in chosen.items():
        prompts = Prompts(templates, split.features, name, words)
        check_image_ids(split, name)
        prompts.check(split)
        if prompts.asks_class.count(True) > 1 and not args.dry_run:
            raise ValueError("prompt asks for the class twice, and a stage has one answer an image: leave one out.")
        questions[name] = Questions(split, name, prompts, keys)
    return questions


def write_captions(
    captioned: Captioned, folder: str | Path, *, source: str | Source, images: DatasetDict
) -> dict[str, Any]:
    """Write the stage, with digests of the captioned `images`; returns its `stage.json`."""
    splits = {}
    for name, split in captioned.splits.items():
        split = split.remove_columns([CLEANED] if captioned.describes else [])
        # Files in an earlier stage are not read again
        digests = image_digests(images[name], known_images(Path(folder) / f"{name}.parquet"))
        for column in MADE_FROM:
            split = split.add_column(column, digests[column], feature=Value("string"))
        splits[name] = split
    stage = {
        "stage": "captioning",
        **Source.of(source).recorded(folder),
        "captioner": captioned.captioner,
        "prompts": captioned.prompts,
        "class_words": captioned.class_words,
        "status": captioned.status_counts(),
    }
    return write_stage(folder, splits, stage)


def check_places(captions_dir: str, journal: str, dataset_name: str) -> None:
    """ValueError where the stage, which replaces its folder, would take away answers or images; OSError: no access."""
    existing = next(path for path in Path(captions_dir).absolute().parents if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        why = "may not be written to" if existing.is_dir() else "is a file"
        raise OSError(f"captions_dir is {captions_dir}, but {existing} {why}. Give another captions_dir.")
    for what, place in (("answers", journal), ("images", dataset_name)):
        if Path(place).resolve().is_relative_to(Path(captions_dir).resolve()):
            raise ValueError(f"{place} lies in captions_dir: the {what} would be lost. Choose another folder.")


def check_same(folder: str | Path, captioner: dict[str, Any], prompts: list[str], splits: Iterable[str]) -> None:
    """ValueError when the folder holds captions of another origin, or of more splits."""
    present = read_stage(folder)
    if present is None:
        return
    differing = [name for name, now in (("captioner", captioner), ("prompts", prompts)) if present.get(name) != now]
    if set(present.get("num_rows", ())) - set(splits):
        differing.append("caption_splits")
    if differing:
        raise ValueError(
            f"{folder} holds captions of another {', '.join(differing)}. Choose another captions_dir, or --overwrite."
        )


# --- The report ------------------------------------------------------------------------------------------------------


def write_report(
    folder: str | Path, captioned: Captioned, images: Mapping[str, Any], about: Iterable[str] = ()
) -> Path:
    """Write a page of captions that are missing or were cleaned, `EXAMPLES` of a kind, and return its path."""
    shown: list[Shown] = []
    kinds: Counter[tuple] = Counter()
    for name, split in captioned.splits.items():
        for row, cells in enumerate(split):
            for caption in captions_in(cells):
                kind = name, caption.caption_status, caption.caption_cleaned
                kinds[kind] += 1
                if (caption.caption is None or caption.caption_cleaned) and kinds[kind] <= EXAMPLES:
                    shown.append(card_of(caption, images[name], row, f"{name}: {cells[columns.IMAGE_ID]}"))
    page = Path(folder) / HTML
    write_page(page, "Captions", paragraphs=[*captioned.lines(), *about], shown=shown)
    return page


def card_of(caption: Caption, images: Any, row: int, title: str) -> Shown:
    """The card of a caption of a row of `images`."""
    steps = list(filter(None, (caption.caption_cleaned or "").split(",")))
    doubts = [caption.caption_status, caption.caption_reason]
    if caption.caption:
        doubts = [DOUBTFUL[step] for step in steps if step in DOUBTFUL]
    return Shown(
        picture=thumbnail(images, row),
        title=title,
        lines=[("", caption.caption) if caption.caption else ("wrong", "no caption")]
        + [("soft", f"cleaned: {', '.join(steps)}")] * bool(steps)
        + [("wrong", doubt) for doubt in doubts if doubt],
        raw=caption.caption_raw if caption.caption_raw != caption.caption else None,
    )
