"""Captioned splits, from whichever captioner, and the folder that they become."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets

from .. import columns
from ..data.image_ids import check_image_ids
from ..data.joining import without_replaced
from ..data.source import Source
from ..data.stage import ids_digest, read_stage, write_stage
from ..options import CaptionArguments
from .answers import FAILURES, Captioner
from .captioned import CLEANED, MISSING, STATUS, caption_features, given_columns, journal_columns
from .cleaning.clean import STEPS
from .existing.joining import ExistingCaptions
from .journal.keys import Keys
from .journal.reader import Journal
from .prompts import Prompts, check_leak
from .questions import SplitQuestions
from .stream_questions import StreamQuestions

logger = logging.getLogger(__name__)


@dataclass
class Captioned:
    """
    Attributes:
        splits: the columns of [`~g4i_hf.captioning.captioned.caption_features`], in the order of the images.
        captioner: provenance.
        prompts: the templates; none for captions that exist already.
        found: what was reported of captions that exist already.
        weights: of each split, (rows,) float32, once the captions are judged.
        quality: figures, once the captions are judged.
        judged_by: what judged them.
        asked_about: the splits that were to be captioned; None for all of them.
    """

    splits: dict[str, Dataset]
    captioner: dict[str, Any]
    prompts: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    judged_by: dict[str, Any] = field(default_factory=dict)
    asked_about: list[str] | None = None

    @classmethod
    def from_journal(
        cls,
        questions: Mapping[str, SplitQuestions | StreamQuestions],
        journal: Journal,
        splits: Mapping[str, Any],
        captioner: dict[str, Any],
        cleaning: bool,
        partial: bool = False,
    ) -> "Captioned":
        """
        Splits about which nothing was asked have no captions, and are there for their images; of streams they are
        left out.
        """
        first = next(iter(questions.values()))
        columns_of = {
            name: journal_columns(questions[name], journal, cleaning, partial)
            if name in questions
            else _without_captions(split, first.prompts.several)
            for name, split in splits.items()
            if name in questions or isinstance(split, Dataset)
        }
        return cls(columns_of, captioner, first.prompts.templates, asked_about=list(questions))

    @classmethod
    def from_existing(
        cls, existing: ExistingCaptions, splits: DatasetDict, captioner: dict[str, Any], cleaning: bool
    ) -> "Captioned":
        """Captions that exist already, in the order of the images; `captioner` says where they come from."""
        several = any(isinstance(caption, list) for rows in existing.captions.values() for caption in rows)
        columns_of = {
            name: given_columns(split, existing.captions[name], several, cleaning)
            if name in existing.captions
            else _without_captions(split, several)
            for name, split in splits.items()
        }
        return cls(columns_of, captioner, found=existing.report, asked_about=list(existing.captions))

    def status_counts(self) -> dict[str, dict[str, int]]:
        """By status and split."""
        counts = {name: Counter(_flat(split[STATUS][:])) for name, split in self.splits.items()}
        statuses = sorted({status for of_split in counts.values() for status in of_split})
        return {status: {name: counts[name][status] for name in self.splits} for status in statuses}

    def lines(self) -> list[str]:
        """For the terminal: what became of each split that was to be captioned, and what to do about failures."""
        counts = {name: Counter(_flat(split[STATUS][:])) for name, split in self.splits.items()}
        lines = [
            f"Captions of {name}: " + ", ".join(f"{number:,} {status}" for status, number in found.most_common())
            for name, found in counts.items()
            if self.asked_about is None or name in self.asked_about
        ]
        failed = sum(number for found in counts.values() for status, number in found.items() if status in FAILURES)
        if failed and self.prompts:
            lines.append(f"{failed:,} have none, see caption_reason; --retry_failed asks for those again.")
        return lines

    def cleaning_counts(self) -> dict[str, int]:
        """Answers that each step of cleaning changed."""
        steps = Counter(
            step
            for split in self.splits.values()
            for applied in _flat(split[CLEANED][:])
            for step in (applied or "").split(",")
        )
        return {step: steps[step] for step in STEPS}


def questions_of(
    splits: Mapping[str, Any], args: CaptionArguments, captioner: Captioner
) -> dict[str, SplitQuestions | StreamQuestions]:
    """
    What is asked about each split.

    Raises:
        ValueError: for a prompt that cannot be filled in, or one that tells the class of evaluation images.
    """
    chosen = {name: split for name, split in splits.items() if name in (args.caption_splits or splits)}
    templates = args.prompt or ["plain"]
    is_stream = args.streaming
    check_leak(
        templates, {name: split.features if is_stream else split for name, split in chosen.items()}, args.train_splits
    )
    keys, questions = Keys(captioner.provenance), {}
    for name, split in chosen.items():
        prompts = Prompts(templates, split.features, name)
        if not is_stream:
            check_image_ids(split, name)
            prompts.check(split)
        questions[name] = (StreamQuestions if is_stream else SplitQuestions)(split, name, prompts, keys)
    return questions


def write_captions(
    captioned: Captioned,
    folder: str | Path,
    *,
    source: str | Source,
    images: DatasetDict | None = None,
) -> dict[str, Any]:
    """
    Writes the stage: one Parquet file a split and `stage.json`.

    Args:
        captioned: judged or not.
        folder: where it goes; an earlier stage is replaced as a whole.
        source: where the images come from, for those who open the stage.
        images: the images, to be written too; by default they stay where they are.

    Returns:
        What `stage.json` says.

    Raises:
        ValueError: when the folder holds something else.
    """
    splits = {}
    for name, split in captioned.splits.items():
        added = split.remove_columns([CLEANED])
        if name in captioned.weights:
            added = added.add_column(columns.CAPTION_WEIGHT, captioned.weights[name], feature=Value("float32"))
        if images is not None:
            added = concatenate_datasets([without_replaced(images[name], added.column_names), added], axis=1)
        splits[name] = added
    stage = {
        "stage": "captioning",
        **Source.of(source).recorded(folder),
        "with_images": images is not None,
        "captioner": captioned.captioner,
        "prompts": captioned.prompts,
        "status": captioned.status_counts(),
        "cleaning": captioned.cleaning_counts(),
        "quality": captioned.quality,
        "judged_by": captioned.judged_by,
        "asked_about": captioned.asked_about or list(splits),
        "image_ids_digest": {name: ids_digest(split[columns.IMAGE_ID][:]) for name, split in splits.items()},
        **({"found": captioned.found, "order": captioned.found.get("order")} if captioned.found else {}),
    }
    write_stage(folder, splits, stage)
    return stage | {"num_rows": {name: len(split) for name, split in splits.items()}, "columns": _columns(splits)}


def _columns(splits: dict[str, Dataset]) -> list[str]:
    return next(iter(splits.values())).column_names


def _without_captions(split: Dataset, several: bool) -> Dataset:
    """Rows that nobody asked about."""
    features: Features = caption_features(several)
    rows = len(split)
    empty: dict[str, list] = {name: [[] if several else None] * rows for name in features}
    empty[columns.IMAGE_ID] = split[columns.IMAGE_ID][:]
    if not several:
        empty[STATUS] = [MISSING] * rows
    return Dataset.from_dict(empty, features=features)


def _flat(values: list) -> list:
    return [inner for value in values for inner in (value if isinstance(value, list) else [value])]


def check_places(captions_dir: str, journal: str, dataset_name: str) -> None:
    """
    Raises:
        ValueError: when writing the stage, which replaces its folder, would take the journal or the images away.
    """
    folder = Path(captions_dir).resolve()
    if Path(journal).resolve().is_relative_to(folder):
        raise ValueError(
            f"journal_dir ({journal}) lies in captions_dir ({captions_dir}), which is replaced as a whole: the "
            "answers would be lost. Keep it elsewhere."
        )
    if Path(dataset_name).exists() and Path(dataset_name).resolve().is_relative_to(folder):
        raise ValueError(
            f"The data ({dataset_name}) lies in captions_dir ({captions_dir}), which is replaced as a whole. Choose "
            "another folder for the captions."
        )


def check_same(folder: str | Path, captioner: dict[str, Any], prompts: list[str], asked_about: Iterable[str]) -> None:
    """
    Raises:
        ValueError: when the folder holds captions of another origin, or of more splits.
    """
    present = read_stage(folder)
    if present is None:
        return
    now = {"captioner": captioner, "prompts": prompts}
    differing = [name for name, value in now.items() if present.get(name) != value]
    if set(present.get("asked_about", ())) - set(asked_about):
        differing.append("caption_splits")
    if differing:
        raise ValueError(
            f"{folder} holds captions that were made otherwise (other {', '.join(differing)}). Choose another "
            "captions_dir, or replace them with --overwrite."
        )
