"""Pages to look at before and after paying: a dry run, and `caption_report.html`."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import columns
from ..data.checks import labels_of
from ..data.classes import Matching
from ..options import CaptionArguments
from ..pages import Shown, thumbnail, write_page
from .answers import OK, Answer, Captioner, CaptionerError
from .questions import Questions
from .runner import NOT_KEPT, Asking, Budget, cost_of
from .stage import Caption, Captioned, ClassAnswer, captions_in
from .store import AnswerStore

HTML = "caption_report.html"
PAGE = "index.html"  # of a dry run
EXAMPLES = 12
DOUBTFUL = {"unfinished": "cut off", "repetitions": "in a loop"}  # steps of cleaning


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
        caption=caption.caption,
        title=title,
        lines=[("soft", f"cleaned: {', '.join(steps)}")] * bool(steps)
        + [("wrong", doubt) for doubt in doubts if doubt],
        raw=caption.caption_raw if caption.caption_raw != caption.caption else None,
    )


# --- The page of a dry run -------------------------------------------------------------------------------------------


def dry_run(
    captioner: Captioner,
    questions: Mapping[str, Questions],
    store: AnswerStore,
    args: CaptionArguments,
    processes: int = 1,
    compared: Callable[[list[Questions]], Iterable[str]] | None = None,
) -> tuple[Path, str]:
    """
    Caption some images, drawn at random; the answers are stored. Returns the folder of the page, and the projected
    requests, tokens, time and cost, with the lines of `compared` about the drawn rows.
    """
    parts = {name: questions[name].part(rows) for name, rows in _drawn_rows(questions, args.dry_run).items()}
    budget = Budget(args.max_requests, args.max_cost, args.price_input, args.price_output)
    outcome = Asking(captioner, parts.values(), store, budget=budget, is_trial=True).run()
    answers = [answer for _, answer in outcome.answers]
    measured = [answer for answer in answers if answer.status == OK]
    if answers and not measured:
        reason = answers[0].reason or answers[0].status
        raise CaptionerError(f"None of {len(answers)} images got a caption. The first: {reason}")
    failures = {question.image_id: answer for question, answer in outcome.answers if answer.status in NOT_KEPT}
    shown = [one for part in parts.values() for one in _shown(part, store, failures)]
    lines = []
    if not answers and budget.reason:
        lines.append(budget.reason)
    elif not answers:
        lines.append("These answers were there already, so nothing was measured.")
    else:
        known = sum(
            answer is not None for split in questions.values() for row in split.answers(store) for answer in row
        )
        remaining = max(sum(map(len, questions.values())) - max(known, len(shown)), 0)
        lines += project(measured, remaining, outcome.seconds, processes, (args.price_input, args.price_output))
    lines += compared(list(parts.values())) if compared else []
    folder = Path(f"{args.captions_dir.rstrip('/')}.dry_run")
    write_page(folder / PAGE, f"{len(shown)} captions of a dry run", paragraphs=lines, shown=shown)
    return folder, "\n".join(lines)


def _drawn_rows(questions: Mapping[str, Questions], count: int) -> dict[str, list[int]]:
    """Rows of each split, drawn from all splits together; labelled ones first, as they measure accuracy."""
    rows = [(name, row) for name, split in questions.items() for row in range(len(split.split))]
    is_unlabelled = np.concatenate([labels_of(split.split) < 0 for split in questions.values()])
    order = np.random.default_rng(0).permutation(len(rows))
    order = order[np.argsort(is_unlabelled[order], kind="stable")]
    drawn = [rows[number] for number in sorted(order[:count])]
    by_split: dict[str, list[int]] = {}
    for name, row in drawn:
        by_split.setdefault(name, []).append(row)
    return by_split


def _shown(part: Questions, store: AnswerStore, failures: Mapping[str, Answer]) -> Iterator[Shown]:
    matching = Matching(part.prompts.class_names)
    for row, answers in zip(part.rows(), part.answers(store), strict=True):
        for stored, asks_class in zip(answers, part.prompts.asks_class, strict=True):
            answer = stored or failures.get(row.image_id)  # these are not stored
            caption = Caption.of(answer)
            if asks_class and caption.caption:
                of_class = ClassAnswer.of(answer, matching)
                caption = replace(caption, caption=of_class.answer or of_class.answer_status)
            yield card_of(caption, part.split, row.number, f"{part.name}: {row.image_id}")


def project(
    measured: list[Answer],
    remaining: int,
    seconds: float,
    processes: int = 1,
    prices: tuple[float | None, float | None] = (None, None),
) -> list[str]:
    """
    Project the effort for the remaining questions from at least one answer. The answers took `seconds` in one process;
    `processes` of the same speed will share the work; `prices` are those of a million prompt and completion tokens.
    """
    times = remaining / len(measured)
    lines = [f"{len(measured):,} answers were measured; {remaining:,} are still to come."]
    counts = {"Requests": "attempts", "Tokens read": "prompt_tokens", "Tokens written": "completion_tokens"}
    for title, name in counts.items():
        values = [getattr(answer, name) for answer in measured]
        lines.append(f"{title}: " + ("unknown" if None in values else f"{times * sum(values):,.0f}"))
    hours = times * seconds / processes / 3600
    time = f"{hours:,.1f} hours" if hours >= 2 else f"{60 * hours:,.1f} minutes"
    lines.append(f"Time: {time}, at the measured rate in every process")
    costs = [] if None in prices else [cost_of(answer, prices) for answer in measured]
    if not costs or None in costs:
        return [*lines, "Cost: unknown; it takes --price_input, --price_output and the numbers of tokens."]
    cost = times * sum(costs)
    return [*lines, f"Cost: {cost:,.2f}" if cost >= 1 else f"Cost: {cost:.4f}"]
