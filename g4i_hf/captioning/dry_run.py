"""A few images described and shown, and what all of them would take."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import columns
from ..data.images import open_image
from ..options import CaptionArguments
from .answers import OK, Captioner, CaptionerError
from .projection import Budget, Projection, project
from .report import Shown, draw_grid, opened, write_page
from .runner import Asking, Outcome, Questions, StreamQuestions
from .stage import CLEANED, MISSING, RAW, REASON, STATUS, answered_columns
from .store import AnswerStore

PAGE, GRID = "index.html", "captions.png"


@dataclass
class DryRun:
    """
    Attributes:
        folder: of the page and the grid.
        projection: of all that is still to be asked; None for a stream, whose length nobody knows.
        text: both in words.
    """

    folder: Path
    projection: Projection | None
    text: str


def dry_run(
    captioner: Captioner,
    questions: Mapping[str, Questions],
    store: AnswerStore,
    args: CaptionArguments,
    cleaning: bool,
    processes: int = 1,
) -> DryRun:
    """
    Describes some images, drawn at random, or the first of a stream. Their answers go into the store: the whole run
    does not ask for them again.

    Args:
        captioner: what answers.
        questions: of each split.
        store: where answers are kept.
        args: how many images, prices, limits, where the pictures go.
        cleaning: whether answers are cleaned.
        processes: that will share the work.

    Raises:
        CaptionerError: when no image got a caption.
    """
    parts = {name: questions[name].part(rows) for name, rows in _chosen(questions, args.dry_run).items()}
    budget = Budget(args.max_requests, args.max_cost, args.price_input, args.price_output)
    outcome = Asking(captioner, parts.values(), store, budget=budget, keep_answers=True).run()
    if outcome.answers and outcome.asked[OK] == 0:
        reason = outcome.answers[0].reason or outcome.answers[0].status
        raise CaptionerError(f"None of {len(outcome.answers)} images got a caption. The first: {reason}")
    measured = [answer for answer in outcome.answers if answer.status == OK]
    shown = [one for part in parts.values() for one in _shown(part, store, outcome, cleaning)]
    projection, lines = None, []
    if outcome.answers and not args.streaming:
        known = sum(
            record is not None for split in questions.values() for row in split.records(store) for record in row
        )
        prices, total = (args.price_input, args.price_output), sum(map(len, questions.values()))
        projection = project(measured, max(known, len(shown)), total, outcome.seconds, processes, prices)
        lines = projection.as_text().split("\n")
    if not outcome.answers:
        lines.append("These answers were there already, so nothing was measured.")
    if len(shown) > 2 and len({one.caption for one in shown if one.caption}) == 1:
        lines.append("All captions are the same: does this model see the images at all?")
    folder = Path(f"{args.captions_dir.rstrip('/')}.dry_run")
    write_page(folder / PAGE, shown, f"{len(shown)} captions of a dry run", lines)
    draw_grid(folder / GRID, shown)
    return DryRun(folder, projection, "\n".join(lines))


def _chosen(questions: Mapping[str, Questions], count: int) -> dict[str, list[int]]:
    """Rows of each split, drawn from all of them; of streams the first."""
    first = next(iter(questions.values()))
    if isinstance(first, StreamQuestions):
        return {first.name: list(range(count))}
    names = list(questions)
    ends = np.cumsum([len(questions[name].split) for name in names])
    drawn = np.sort(np.random.default_rng(0).permutation(int(ends[-1]))[:count])
    chosen: dict[str, list[int]] = {}
    for number in drawn.tolist():
        place = int(np.searchsorted(ends, number, side="right"))
        chosen.setdefault(names[place], []).append(number - (int(ends[place - 1]) if place else 0))
    return chosen


def _shown(part: Questions, store: AnswerStore, outcome: Outcome, cleaning: bool) -> list[Shown]:
    found = answered_columns(part, store, cleaning).to_list()
    failures = {image_id: answer for (image_id, _), answer in outcome.failures.items()}
    shown = []
    for row, values in enumerate(found):
        lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
        for number, caption in enumerate(lists[columns.CAPTION]):
            raw, status, reason = (lists[name][number] for name in (RAW, STATUS, REASON))
            if status == MISSING and values[columns.IMAGE_ID] in failures:
                status, reason = failures[values[columns.IMAGE_ID]].status, failures[values[columns.IMAGE_ID]].reason
            notes = [step for step in (lists[CLEANED][number] or "").split(",") if step]
            shown.append(
                Shown(
                    image=opened(lambda row: open_image(part.split[row][columns.IMAGE]), row),
                    caption=caption,
                    title=f"{part.name}: {values[columns.IMAGE_ID]}",
                    notes=[f"cleaned: {', '.join(notes)}"] if notes else [],
                    doubts=[] if status == OK else [f"{status}: {reason}"],
                    raw=raw if raw != caption else None,
                )
            )
    return shown
