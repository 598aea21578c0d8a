"""
The dry run of `g4i caption`: a page of some captions, the projected cost of all, and questions compared by labelled
images. What needs torch is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import ClassLabel

from .. import columns
from ..captioning.answers import OK, Answer, AnswerStore, Captioner, CaptionerError
from ..captioning.questions import NAMED, Questions
from ..captioning.runner import NOT_KEPT, Asking, Budget, cost_of
from ..captioning.stage import Caption, ClassAnswer, card_of
from ..data.checks import labels_of
from ..data.classes import ClassNames, matched_answers
from ..options import CaptionArguments, EncoderArguments
from ..pages import Shown, write_page

if TYPE_CHECKING:
    from ..evaluation.estimate import Estimate
    from ..label_model import View

PAGE = "index.html"
SHORT = 40  # characters of a prompt in its title


def dry_run(
    captioner: Captioner,
    questions: Mapping[str, Questions],
    store: AnswerStore,
    args: CaptionArguments,
    processes: int = 1,
) -> tuple[Path, str]:
    """
    Caption some images, drawn at random; the answers are stored. Returns the folder of the page, and the projected
    requests, tokens, time and cost, with a comparison of several questions, or that for the class, by labelled images.
    """
    prompts, splits = next(iter(questions.values())).prompts, [each.split for each in questions.values()]
    feature = splits[0].features.get(columns.LABEL)
    compares = (len(prompts.templates) > 1 or any(prompts.asks_class)) and isinstance(feature, ClassLabel)
    compares = compares and any((labels_of(split) >= 0).any() for split in splits)
    if compares and not all(prompts.asks_class):
        from ..embedding.encoders import check_encoder

        check_encoder(args.text_encoder)  # before anything is paid for
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
        lines.append("All answers were stored already, so nothing was measured.")
    else:
        known = sum(
            answer is not None
            for split in questions.values()
            for _, of_row in split.answers(store)
            for answer in of_row
        )
        remaining = max(sum(map(len, questions.values())) - max(known, len(shown)), 0)
        lines += project(measured, remaining, outcome.seconds, processes, (args.price_input, args.price_output))
    if compares:
        lines += compared_questions(list(parts.values()), store, feature.names, args, sum(map(len, splits)))
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
    matching = part.prompts.matching
    for row, answers in part.answers(store):
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


# --- Questions compared ----------------------------------------------------------------------------------------------


def compared_questions(
    parts: list[Questions], store: AnswerStore, names: list[str], args: CaptionArguments, images: int
) -> Iterator[str]:
    """
    A line for each question, with the accuracy of its view on rows with answers, tokens and cost for all `images`, and
    a line for the best pair.
    """
    from ..label_model import View

    prompts, labels = parts[0].prompts, np.concatenate([labels_of(part.split) for part in parts])
    answers = list(zip(*(of_row for part in parts for _, of_row in part.answers(store)), strict=True))
    views, costs = {}, {}
    for template, asks_class, given in zip(prompts.templates, prompts.asks_class, answers, strict=True):
        title = next((name for name, text in NAMED.items() if text == template), f"{template[:SHORT]!r}")
        costs[title] = _cost(given, (args.price_input, args.price_output), images)
        if asks_class:
            texts = [answer.text if answer else None for answer in given]
            views[title] = View.answers(matched_answers(texts, names, prompts.words), len(names))
        else:
            texts = [Caption.of(answer).caption for answer in given]
            views[title] = _view_of_texts(texts, ClassNames(dict(enumerate(names)), prompts.words), args.text_encoder)
    number = len(names)
    alone = {title: _accuracy({title: view}, labels, number) for title, view in views.items()}
    yield f"By {(labels >= 0).sum():,} labelled images, with 95% intervals:"
    for title, estimate in alone.items():
        yield f"{title}: {_in_words(estimate)}; {costs[title]}"
    pairs = list(combinations([title for title, estimate in alone.items() if estimate], 2))
    together = {pair: _accuracy({title: views[title] for title in pair}, labels, number) for pair in pairs}
    if shares := {pair: estimate.share for pair, estimate in together.items() if estimate}:
        best = max(shares, key=shares.__getitem__)
        yield f"The best two together: {' and '.join(best)}, {_in_words(together[best])}"


def _accuracy(views: dict[str, View], labels: np.ndarray, number: int) -> Estimate | None:
    """The estimated accuracy over all rows; None if all answers are the same, or no class has two labels."""
    from ..label_model import LabelModel

    try:
        return LabelModel(number).fit(views, labels).accuracy_
    except ValueError:
        return None


def _in_words(estimate: Estimate | None) -> str:
    if estimate is None:
        return "accuracy unknown"
    interval = "" if estimate.interval is None else " ({:.0%} to {:.0%})".format(*estimate.interval)
    return f"{estimate.share:.0%} right{interval}"


def _view_of_texts(texts: list[str | None], names: ClassNames, text_encoder: str) -> View:
    import torch

    from ..embedding.embed import encode_captions
    from ..embedding.encoders import encoder_from
    from ..label_model import View
    from ..training.prepare import class_name_examples

    args = EncoderArguments(text_encoder)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    rows = [row for row, text in enumerate(texts) if text]
    vectors = encode_captions([texts[row] for row in rows], encoder_from(args, device), args)[0]
    values = np.full((len(texts), vectors.shape[1]), np.nan, dtype=np.float32)
    values[rows] = vectors
    return View(values, class_name_examples(names, args, device, vectors.shape[1]), self_trains=False)


def _cost(given: Iterable[Answer | None], prices: tuple[float | None, float | None], images: int) -> str:
    """Mean tokens of the answers, and the cost for all images."""
    answers = [answer for answer in given if answer and answer.status == OK]
    tokens = [(answer.prompt_tokens, answer.completion_tokens) for answer in answers]
    if not tokens or any(None in pair for pair in tokens):
        return "tokens unknown"
    read, written = np.mean(tokens, axis=0)
    text = f"{read:,.0f} tokens read and {written:,.0f} written an image"
    if None in prices:
        return text
    return f"{text}, {images * np.mean([cost_of(answer, prices) for answer in answers]):,.2f} for {images:,} images"
