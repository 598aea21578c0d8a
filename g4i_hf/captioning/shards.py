"""Captions of shards: a Parquet for each. Answers of a shard are in memory until it is finished."""

import tempfile
from collections.abc import Iterator, Mapping

import pyarrow as pa
from datasets import ClassLabel, Features

from .. import columns
from ..data.classes import ClassWords
from ..data.record import content_digest
from ..data.shards import Images
from .answers import Answer, AnswerStore, Captioner, CaptionerError, Question
from .questions import Prompts
from .runner import Budget
from .stage import CLEANED, AnswerColumns


def prompts_about_images(templates: list[str], class_names: list[str], words: Mapping[str, ClassWords]) -> Prompts:
    """Prompts without columns; ValueError for one with."""
    features = Features({columns.LABEL: ClassLabel(names=class_names)} if class_names else {})
    prompts = Prompts(templates, features, "shards", words)
    if prompts.columns:
        raise ValueError(f"prompt names the column {prompts.columns[0]!r}: prompts about shards name none.")
    if prompts.asks_class.count(True) > 1:
        raise ValueError("prompt asks for the class twice, and a row has one answer: leave one out.")
    return prompts


class ShardCaptions:
    """Asks a captioner the prompts about each image."""

    def __init__(self, captioner: Captioner, prompts: Prompts, budget: Budget):
        self.captioner, self.prompts, self.budget = captioner, prompts, budget
        self.is_checked = False

    def table(self, images: Images) -> pa.Table:
        """A row an image: its digest, and the columns of a stage. CaptionerError where a limit ends it before."""
        answers: dict[str, Answer] = {}
        digests: list[str | None] = []
        texts, made = self.prompts.prompts_of({}), AnswerColumns(self.prompts)

        def questions() -> Iterator[Question]:
            for row, (name, image) in enumerate(images):
                digests.append(content_digest(image["bytes"]) if image else None)
                stored = image or {"bytes": None, "path": None, "why": "null"}
                for number, (text, choices) in enumerate(zip(texts, self.prompts.choices, strict=True)):
                    yield Question(name, stored, text, f"{row} {number}", choices=choices)

        def deliver(pairs: list[tuple[Question, Answer]]) -> None:
            self._spent(pairs)
            answers.update((question.key, answer) for question, answer in pairs)

        self._check()
        self.captioner.run(questions(), deliver, self.budget.allow)
        if self.budget.reason:
            raise CaptionerError(f"{self.budget.reason} The shard at hand is not written, and asked about again.")
        keys = [[f"{row} {number}" for number in range(len(texts))] for row in range(len(digests))]
        rows = [made.of([answers.get(key) for key in of_row]) for of_row in keys]
        table = pa.Table.from_pylist(rows, Features(made.features).arrow_schema).drop_columns(
            [CLEANED] if CLEANED in made.features else []
        )
        return table.add_column(0, columns.IMAGE_DIGEST, pa.array(digests, pa.string()))

    def _check(self) -> None:
        """Once, before the first question."""
        if not self.is_checked:
            with tempfile.TemporaryDirectory() as place, AnswerStore(place) as store:
                self.captioner.check(store, self._spent, self.budget.allow)
        self.is_checked = True

    def _spent(self, pairs: list[tuple[Question, Answer]]) -> None:
        for _, answer in pairs:
            self.budget.spent(answer)
