"""Pages to look at before and after paying: that of a dry run, and `caption_report.html`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import columns
from ..data.checks import labels_of
from ..data.classes import Matching
from ..options import CaptionArguments
from ..pages import Shown, thumbnail, write_page
from .answers import OK, Answer, Captioner, CaptionerError
from .quality import judge
from .questions import Questions
from .runner import NOT_KEPT, Asking, Budget, cost_of
from .stage import CLEANED, RAW, REASON, STATUS, Caption, ClassAnswer
from .store import AnswerStore

HTML = "caption_report.html"
PAGE = "index.html"  # of a dry run
EXAMPLES = 12
MOST_LINES = 60  # of a table


def write_report(
    folder: str | Path,
    judged: Mapping[str, pd.DataFrame],
    images: Mapping[str, Any],
    about: dict[str, Any] | None = None,
    title: str = "Captions",
) -> Path:
    """
    Write the report of captions, and return its path. `judged` are the tables of each split, see
    [`~g4i_hf.captioning.quality.judge`], `images` its rows, `about` values for the top: model, prompts, decoding.
    """
    sections = []
    for name, split in judged.items():
        is_present = split[columns.CAPTION].notna()
        groups = {
            "Doubtful captions": _spread(split[split["doubts"] != ""], "doubts"),
            "Without a caption": _spread(split[~is_present], STATUS),
            "Changed by cleaning": _spread(split[is_present & (split[CLEANED] != "")], CLEANED),
        }
        examples = {
            heading: [card_of(line, images[name]) for line in records(lines)] for heading, lines in groups.items()
        }
        statuses = split[[STATUS, REASON]].fillna("").value_counts().reset_index(name="captions").head(MOST_LINES)
        sections.append({"name": name, "statuses": records(statuses), "examples": examples})
    page = Path(folder) / HTML
    write_page(page, title, about=about, splits=sections)
    return page


def _spread(lines: pd.DataFrame, column: str) -> pd.DataFrame:
    """The first line of each value of a column, then the second of each, and so on, up to EXAMPLES."""
    ranks = lines.groupby(column).cumcount().to_numpy()
    return lines.iloc[np.argsort(ranks, kind="stable")[:EXAMPLES]]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")


def card_of(line: dict[str, Any], images: Any) -> Shown:
    """The card of a line of a judged table; `images` are the rows of its split."""
    caption, raw = line[columns.CAPTION], line[RAW]
    doubts = line["doubts"].split(", ") if caption else [line[STATUS], line[REASON]]
    return Shown(
        picture=thumbnail(images, int(line["row"])),
        caption=caption,
        title=" · ".join(filter(None, [line[columns.IMAGE_ID], line["class"]])),
        notes=[f"cleaned: {line[CLEANED].replace(',', ', ')}"] if line[CLEANED] else [],
        doubts=list(filter(None, doubts)),
        raw=raw if raw != caption else None,
    )


# --- The page of a dry run -------------------------------------------------------------------------------------------


def dry_run(
    captioner: Captioner,
    questions: Mapping[str, Questions],
    store: AnswerStore,
    args: CaptionArguments,
    cleaning: bool,
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
    shown = [one for part in parts.values() for one in _shown(part, store, failures, cleaning)]
    lines = []
    if not answers and budget.reason:
        lines.append(budget.reason)
    elif not answers:
        lines.append("These answers were there already, so nothing was measured.")
    else:
        known = sum(
            record is not None for split in questions.values() for row in split.records(store) for record in row
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


def _shown(part: Questions, store: AnswerStore, failures: Mapping[str, Answer], cleaning: bool) -> Iterator[Shown]:
    matching, lines = Matching(part.prompts.class_names), []
    for row, row_records in zip(part.rows(), part.records(store), strict=True):
        for record, asks_class in zip(row_records, part.prompts.asks_class, strict=True):
            line = {**vars(Caption.from_record(record, cleaning and not asks_class))}
            if asks_class and line[columns.CAPTION]:
                answer = ClassAnswer.from_record(record, matching)
                line[columns.CAPTION] = answer.answer or answer.answer_status
            lines.append(line | {"row": row.number, columns.IMAGE_ID: row.image_id, columns.LABEL: -1})
    for line in records(judge(pd.DataFrame(lines, dtype=object))):
        image_id = line[columns.IMAGE_ID]
        if line[columns.CAPTION] is None and image_id in failures:  # these are not stored
            line |= {STATUS: failures[image_id].status, REASON: failures[image_id].reason}
        yield card_of(line | {columns.IMAGE_ID: f"{part.name}: {image_id}"}, part.split)


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
