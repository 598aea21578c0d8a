"""Dry run: captions of a few images on a page, and what captioning all of them would take."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from .. import columns
from ..options import CaptionArguments
from .answers import OK, Answer, Captioner, CaptionerError
from .projection import Budget, project
from .quality import caption_table, judge
from .questions import Questions, StreamQuestions
from .report import Shown, card_of, records, write_page
from .runner import NOT_KEPT, Asking
from .stage import REASON, STATUS, answered_columns
from .store import AnswerStore

PAGE = "index.html"


def dry_run(
    captioner: Captioner,
    questions: Mapping[str, Questions],
    store: AnswerStore,
    args: CaptionArguments,
    cleaning: bool,
    processes: int = 1,
) -> tuple[Path, str]:
    """
    Captions some images, drawn at random, or the first of a stream. The answers are stored, so that the whole run does
    not ask for them again.

    Returns:
        The folder of the page, and the projected requests, tokens, time and cost (of a stream, nothing).
    """
    parts = {name: questions[name].part(rows) for name, rows in _chosen(questions, args.dry_run).items()}
    budget = Budget(args.max_requests, args.max_cost, args.price_input, args.price_output)
    outcome = Asking(captioner, parts.values(), store, budget=budget, is_trial=True).run()
    answers = [answer for _, answer in outcome.answers]
    measured = [answer for answer in answers if answer.status == OK]
    if answers and not measured:
        reason = answers[0].reason or answers[0].status
        raise CaptionerError(f"None of {len(answers)} images got a caption. The first: {reason}")
    failures = {asked.image_id: answer for asked, answer in outcome.answers if answer.status in NOT_KEPT}
    shown = [one for part in parts.values() for one in _shown(part, store, failures, cleaning)]
    lines = []
    if not answers and budget.reason:
        lines.append(budget.reason)
    elif not answers:
        lines.append("These answers were there already, so nothing was measured.")
    elif not args.streaming:
        known = sum(
            record is not None for split in questions.values() for row in split.records(store) for record in row
        )
        prices, total = (args.price_input, args.price_output), sum(map(len, questions.values()))
        lines += project(measured, max(known, len(shown)), total, outcome.seconds, processes, prices)
    folder = Path(f"{args.captions_dir.rstrip('/')}.dry_run")
    write_page(folder / PAGE, f"{len(shown)} captions of a dry run", paragraphs=lines, shown=shown)
    return folder, "\n".join(lines)


def _chosen(questions: Mapping[str, Questions], count: int) -> dict[str, list[int]]:
    """Rows of each split, drawn from all splits together; of a stream the first rows."""
    first = next(iter(questions.values()))
    if isinstance(first, StreamQuestions):
        return {first.name: list(range(count))}
    rows = [(name, row) for name, split in questions.items() for row in range(len(split.split))]
    drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:count])
    chosen: dict[str, list[int]] = {}
    for number in drawn:
        name, row = rows[number]
        chosen.setdefault(name, []).append(row)
    return chosen


def _shown(part: Questions, store: AnswerStore, failures: Mapping[str, Answer], cleaning: bool) -> Iterator[Shown]:
    table, _ = caption_table(answered_columns(part, store, cleaning), None)
    for line in records(judge(table)):
        image_id = line[columns.IMAGE_ID]
        if line[columns.CAPTION] is None and image_id in failures:  # which are not in the store
            line |= {STATUS: failures[image_id].status, REASON: failures[image_id].reason}
        yield card_of(line | {columns.IMAGE_ID: f"{part.name}: {image_id}"}, part.split)
