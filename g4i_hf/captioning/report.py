"""Caption quality, and pages to look at before and after paying: a dry run, and `caption_report.html`."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset

from .. import columns
from ..data.checks import labels_of
from ..data.classes import Matching, terms_of
from ..options import CaptionArguments
from ..pages import Shown, thumbnail, write_page
from .answers import OK, Answer, Captioner, CaptionerError
from .cleaning import UNSPACED
from .questions import Questions
from .runner import NOT_KEPT, Asking, Budget, cost_of
from .stage import CLEANED, RAW, REASON, STATUS, Caption, Captioned, ClassAnswer
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
    """Write the report of `judged` tables, by split, see [`judge`], and return its path; `about`: for the top."""
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
    cleaned = [("soft", f"cleaned: {line[CLEANED].replace(',', ', ')}")] if line[CLEANED] else []
    doubts = line["doubts"].split(", ") if caption else [line[STATUS], line[REASON]]
    return Shown(
        picture=thumbnail(images, int(line["row"])),
        caption=caption,
        title=" · ".join(filter(None, [line[columns.IMAGE_ID], line["class"]])),
        lines=cleaned + [("wrong", doubt) for doubt in doubts if doubt],
        raw=raw if raw != caption else None,
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
    matching, lines = Matching(part.prompts.class_names), []
    for row, answers in zip(part.rows(), part.answers(store), strict=True):
        for answer, asks_class in zip(answers, part.prompts.asks_class, strict=True):
            line = {**vars(Caption.of(answer))}
            if asks_class and line[columns.CAPTION]:
                of_class = ClassAnswer.of(answer, matching)
                line[columns.CAPTION] = of_class.answer or of_class.answer_status
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


# --- Quality: doubts, and the share of captions that name the class of their image -----------------------------------


def judge_captions(captioned: Captioned, splits: Mapping[str, Dataset]) -> dict[str, pd.DataFrame]:
    """Judge the captions of each split by [`judge`], and add the metrics to `captioned`. `splits`: the rows."""
    if not captioned.describes:
        return {}
    judged = {name: judge(*caption_table(split, splits[name])) for name, split in captioned.splits.items()}
    for name, table in judged.items():
        captioned.quality[name] = {key: value for key, value in figures(table).items() if value is not None}
    return judged


def caption_table(split: Dataset, images: Dataset | None) -> tuple[pd.DataFrame, list[str] | None]:
    """A line for each caption, with the `row` of its image and its `label` (-1 without); and the class names."""
    table = pd.DataFrame(split.to_dict(), dtype=object)
    table = table.explode([columns.CAPTION, RAW, STATUS, REASON, CLEANED])
    table = table.astype(object).where(table.notna(), None)
    table[columns.LABEL], names = -1, None
    feature = None if images is None else images.features.get(columns.LABEL)
    if isinstance(feature, ClassLabel):
        labels = np.array([-1 if label is None else label for label in images[columns.LABEL]], dtype=int)
        table[columns.LABEL], names = labels[table.index], feature.names
    table = table[table[STATUS].notna()]  # an image without a question may have an empty list
    return table.reset_index(names="row"), names


def judge(table: pd.DataFrame, names: Sequence[str] | None = None) -> pd.DataFrame:
    """The table of [`caption_table`] with `class`, `named` (see [`names_class`]) and `doubts`, with commas."""
    table, captions, labels = table.copy(), table[columns.CAPTION], table[columns.LABEL]
    class_of = dict(enumerate(names or ()))
    table["class"] = [class_of.get(label, "") for label in labels]
    table["named"] = np.nan if names is None else names_class(captions, labels, names)
    is_present = captions.notna()
    is_labelled = is_present & (labels >= 0)
    same_text = captions.str.rstrip(". ").str.casefold()
    classes_of_text = labels.where(is_labelled).groupby(same_text).transform("nunique")
    doubts = {
        "cut off": table[CLEANED].str.contains("unfinished", na=False),
        "in a loop": table[CLEANED].str.contains("repetitions", na=False),
        "given to other classes too": is_labelled & (classes_of_text > 1),
    }
    table["doubts"] = ""
    for reason, is_doubted in doubts.items():
        table.loc[is_present & is_doubted, "doubts"] += f"{reason}, "
    table["doubts"] = table["doubts"].str.removesuffix(", ")
    return table


def figures(judged: pd.DataFrame) -> dict[str, Any]:
    """Counts and shares for `stage.json`; None for unknown ones."""
    captioned = judged[judged[columns.CAPTION].notna()]
    return {
        "captions": len(captioned),
        "without_caption": len(judged) - len(captioned),
        "doubtful": int((captioned["doubts"] != "").sum()),
        "names_label": float(captioned["named"].mean()) if captioned["named"].notna().any() else None,
    }


def names_class(captions: Sequence[str | None], labels: Sequence[int], names: Sequence[str]) -> np.ndarray:
    """(N,) whether a caption has its class name as a whole word: 1, 0, or NaN without caption, label or name."""
    patterns = [_pattern_of(terms_of(name)) for name in names]
    named = np.full(len(captions), np.nan)
    for row, (caption, label) in enumerate(zip(captions, labels, strict=True)):
        pattern = patterns[label] if caption is not None and label >= 0 else None
        if pattern is not None:
            named[row] = bool(pattern.search(caption.casefold()))
    return named


def _pattern_of(terms: Sequence[str]) -> re.Pattern | None:
    """A pattern for text in lower case; None without terms."""
    alternatives = []
    for term in terms:
        pattern = r"[\W_]+".join(map(re.escape, term.split(" ")))
        has_words = not re.search(f"[{UNSPACED}]", term)
        alternatives.append(rf"(?<![^\W_]){pattern}(?:e?s)?(?![^\W_])" if has_words else pattern)
    return re.compile("|".join(alternatives)) if alternatives else None
