"""The stage of captions: its columns, from stored answers or from existing captions, and its folder."""

import itertools
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, List, Value

from .. import columns
from ..data.joining import check_image_ids
from ..data.record import image_digests, known_images
from ..data.stage import Source, ids_digest, read_stage, write_stage
from ..options import CaptionArguments
from .answers import FAILURES, OK, Captioner
from .cleaning import clean
from .existing import Captions
from .questions import Prompts, Questions, check_leak
from .store import AnswerStore, Keys, Record

RAW, STATUS, REASON = columns.CAPTION_RAW, columns.CAPTION_STATUS, columns.CAPTION_REASON
CLEANED = "caption_cleaned"
MADE_FROM = (columns.IMAGE_DIGEST, columns.IMAGE_STAT)
MISSING = "missing"  # not asked, or no caption was given
# Addresses and paths in error messages: the store keeps them, a published column must not
PRIVATE = re.compile(
    r"\b[a-z][a-z0-9+.-]*://[^\s,;)'\"]+|(?<![\w.])~?(?:/[^\s/:,;)'\"]+){2,}/?|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
)


@dataclass(frozen=True)
class Caption:
    """The columns of one caption. A row has one for each prompt."""

    caption: str | None = None
    caption_raw: str | None = None  # the answer as it came
    caption_status: str = MISSING  # or `ok`, or one of [`~g4i_hf.captioning.answers.FAILURES`]
    caption_reason: str | None = None  # of a failure
    caption_cleaned: str | None = None  # the steps that changed the answer, with commas

    @classmethod
    def from_record(cls, record: Record | None, cleaning: bool) -> "Caption":
        """From a stored answer."""
        if record is None:
            return cls(caption_reason="was not asked")
        if record["status"] != OK:
            reason = record["reason"] or FAILURES.get(record["status"], "")
            return cls(None, record["text"], record["status"], PRIVATE.sub("...", reason))
        return cls.from_text(record["text"], cleaning, record["finish_reason"])

    @classmethod
    def from_text(cls, text: str | None, cleaning: bool, finish_reason: str | None = None) -> "Caption":
        if text is None:
            return cls(caption_reason="no caption was given")
        cleaned = clean(text, finish_reason, cleaning)
        return cls(cleaned.caption, text, cleaned.status, FAILURES.get(cleaned.status), ",".join(cleaned.applied))


def needs_another_try(cleaning: bool) -> Callable[[Record], bool]:
    """For `retry_failed`: whether an answer is a failure, or no caption is left when it is cleaned."""
    return lambda record: Caption.from_record(record, cleaning).caption_status != OK


def answered_columns(questions: Questions, store: AnswerStore, cleaning: bool, look_closer: bool = True) -> Dataset:
    """The columns of a split from its stored answers, in the order of the rows; see [`Questions.records`]."""
    records = questions.records(store, look_closer)
    rows = ([Caption.from_record(record, cleaning) for record in of_row] for of_row in records)
    return with_captions(questions.image_ids(), rows, questions.prompts.several)


def given_columns(split: Dataset, captions: list[Any], several: bool, cleaning: bool) -> Dataset:
    """The columns of a split from captions by row: texts, or with `several` lists of texts; None for none."""
    texts = ((caption or []) if several else [caption] for caption in captions)
    rows = ([Caption.from_text(text, cleaning) for text in of_row] for of_row in texts)
    return with_captions(split, rows, several)


def _without_captions(split: Dataset, several: bool) -> Dataset:
    """The columns of a split that was not to be captioned."""
    return with_captions(split, itertools.repeat([] if several else [Caption()]), several)


def with_captions(split: Dataset, rows: Iterable[list[Caption]], several: bool) -> Dataset:
    """`image_id` and the columns of [`Caption`], which hold lists where rows can have several captions."""
    rows, names = iter(rows), [each.name for each in fields(Caption)]
    kind = List(Value("string")) if several else Value("string")

    def fill(batch: dict[str, list]) -> dict[str, list]:
        captions = list(itertools.islice(rows, len(batch[columns.IMAGE_ID])))
        if several:
            return {name: [[getattr(one, name) for one in of_row] for of_row in captions] for name in names}
        return {name: [getattr(one, name) for [one] in captions] for name in names}

    return split.select_columns([columns.IMAGE_ID]).map(
        fill,
        batched=True,
        features=Features({columns.IMAGE_ID: Value("string")} | dict.fromkeys(names, kind)),
        load_from_cache_file=False,
        new_fingerprint=uuid.uuid4().hex[:16],
        desc="Captions",
    )


@dataclass
class Captioned:
    """The content of a stage. Splits have `image_id` and the columns of [`Caption`], in the order of the rows."""

    splits: dict[str, Dataset]
    captioner: dict[str, Any]  # provenance
    prompts: list[str] = field(default_factory=list)  # the templates; none for existing captions
    quality: dict[str, Any] = field(default_factory=dict)  # figures a split, by `judge_captions`
    asked_about: list[str] | None = None  # the splits that were to be captioned; None for all of them

    @classmethod
    def from_store(
        cls,
        questions: Mapping[str, Questions],
        store: AnswerStore,
        splits: Mapping[str, Any],
        captioner: dict[str, Any],
        cleaning: bool,
        partial: bool = False,
    ) -> "Captioned":
        """From stored answers. Splits that were not asked about have no captions."""
        prompts = next(iter(questions.values())).prompts
        captioned = {
            name: answered_columns(questions[name], store, cleaning, look_closer=not partial)
            if name in questions
            else _without_captions(split, prompts.several)
            for name, split in splits.items()
        }
        return cls(captioned, captioner, prompts.templates, asked_about=list(questions))

    @classmethod
    def from_existing(
        cls, existing: dict[str, Captions], splits: DatasetDict, captioner: dict[str, Any], cleaning: bool
    ) -> "Captioned":
        """From existing captions; `captioner` says where they come from."""
        several = any(isinstance(caption, list) for rows in existing.values() for caption in rows)
        captioned = {
            name: given_columns(split, existing[name], several, cleaning)
            if name in existing
            else _without_captions(split, several)
            for name, split in splits.items()
        }
        return cls(captioned, captioner, asked_about=list(existing))

    def _counts(self) -> dict[str, Counter]:
        """How often each status is in each split; lists are taken apart."""
        counts = {}
        for name, split in self.splits.items():
            values, is_list = split[STATUS][:], isinstance(split.features[STATUS], List)
            counts[name] = Counter(itertools.chain.from_iterable(values) if is_list else values)
        return counts

    def status_counts(self) -> dict[str, dict[str, int]]:
        """Number of captions by status and split."""
        counts = self._counts()
        statuses = sorted(set().union(*counts.values()))
        return {status: {name: found[status] for name, found in counts.items()} for status in statuses}

    def lines(self) -> list[str]:
        """For the terminal: the status counts of each split, and what to do about failures."""
        counts = self._counts()
        lines = [
            f"Captions of {name}: " + ", ".join(f"{number:,} {status}" for status, number in found.most_common())
            for name, found in counts.items()
            if self.asked_about is None or name in self.asked_about
        ]
        failed = sum(found[status] for found in counts.values() for status in FAILURES)
        if failed and self.prompts:
            lines.append(f"{failed:,} have none, see caption_reason; --retry_failed asks for those again.")
        return lines


def questions_of(splits: Mapping[str, Any], args: CaptionArguments, captioner: Captioner) -> dict[str, Questions]:
    """The questions about each split to caption. ValueError for a prompt that cannot be filled in, or is a leak."""
    chosen = {name: split for name, split in splits.items() if name in (args.caption_splits or splits)}
    templates = args.prompt or ["plain"]
    check_leak(templates, chosen, args.train_splits)
    keys, questions = Keys(captioner.provenance), {}
    for name, split in chosen.items():
        prompts = Prompts(templates, split.features, name)
        check_image_ids(split, name)
        prompts.check(split)
        questions[name] = Questions(split, name, prompts, keys)
    return questions


def write_captions(
    captioned: Captioned, folder: str | Path, *, source: str | Source, images: DatasetDict
) -> dict[str, Any]:
    """
    Writes the stage: a Parquet file for each split, with the digests of the `images` that were captioned, and
    `stage.json`, whose content is returned with `num_rows` and `columns`. ValueError when the folder holds something
    else.
    """
    splits = {}
    asked_about = captioned.asked_about or list(captioned.splits)
    for name, split in captioned.splits.items():
        described = images[name] if name in asked_about else None
        splits[name] = _with_digests(split.remove_columns([CLEANED]), described, Path(folder) / f"{name}.parquet")
    stage = {
        "stage": "captioning",
        **Source.of(source).recorded(folder),
        "captioner": captioned.captioner,
        "prompts": captioned.prompts,
        "status": captioned.status_counts(),
        "quality": captioned.quality,
        "asked_about": asked_about,
        "image_ids_digest": {name: ids_digest(split[columns.IMAGE_ID][:]) for name, split in splits.items()},
    }
    write_stage(folder, splits, stage)
    column_names = next(iter(splits.values())).column_names
    return stage | {"num_rows": {name: len(split) for name, split in splits.items()}, "columns": column_names}


def _with_digests(split: Dataset, images: Dataset | None, earlier: Path) -> Dataset:
    """With digests of the images that were captioned; files that an earlier stage knows are not read again."""
    digests: dict[str, list] = dict.fromkeys(MADE_FROM, [None] * len(split))
    if images is not None:
        digests = image_digests(images, known_images(earlier))
    for column in MADE_FROM:
        split = split.add_column(column, digests[column], feature=Value("string"))
    return split


def check_places(captions_dir: str, journal: str, dataset_name: str) -> None:
    """ValueError when writing the stage, which replaces its folder, would take the answers or the images away."""
    for what, place in (("answers", journal), ("images", dataset_name)):
        if Path(place).resolve().is_relative_to(Path(captions_dir).resolve()):
            raise ValueError(f"{place} lies in captions_dir: the {what} would be lost. Choose another folder.")


def check_same(folder: str | Path, captioner: dict[str, Any], prompts: list[str], asked_about: Iterable[str]) -> None:
    """ValueError when the folder holds captions of another origin, or of more splits."""
    present = read_stage(folder)
    if present is None:
        return
    differing = [name for name, now in (("captioner", captioner), ("prompts", prompts)) if present.get(name) != now]
    if set(present.get("asked_about", ())) - set(asked_about):
        differing.append("caption_splits")
    if differing:
        raise ValueError(
            f"{folder} holds captions of another {', '.join(differing)}. Choose another captions_dir, or --overwrite."
        )
