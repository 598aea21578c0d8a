"""Compare questions by the answers of a dry run: their accuracy on labelled images, and the cost for all images."""

from collections.abc import Iterable, Iterator
from itertools import combinations

import numpy as np
import torch

from ..captioning.answers import OK, Answer
from ..captioning.questions import NAMED, Questions
from ..captioning.runner import MILLION
from ..captioning.stage import Caption
from ..captioning.store import AnswerStore
from ..data.checks import labels_of
from ..data.classes import matched_answers
from ..embedding.embed import encode_captions
from ..embedding.encoders import encoder_from
from ..label_model import LabelModel, View
from ..label_model.calibration import Estimate
from ..options import CaptionArguments, EncoderArguments
from ..training.prepare import class_name_examples

SHORT = 40  # characters of a prompt in its title


def compared_questions(
    parts: Iterable[Questions],
    store: AnswerStore,
    names: list[str],
    args: CaptionArguments,
    images: int,
) -> Iterator[str]:
    """
    A line for each question, with the accuracy of its view on rows with answers, tokens and cost for all `images`, and
    a line for the best pair.
    """
    parts = list(parts)
    prompts, labels = parts[0].prompts, np.concatenate([labels_of(part.split) for part in parts])
    answers = list(zip(*(of_row for part in parts for of_row in part.answers(store)), strict=True))
    views, costs = {}, {}
    for template, asks_class, given in zip(prompts.templates, prompts.asks_class, answers, strict=True):
        title = next((name for name, text in NAMED.items() if text == template), f"{template[:SHORT]!r}")
        costs[title] = _cost(given, (args.price_input, args.price_output), images)
        if asks_class:
            texts = [answer.text if answer else None for answer in given]
            views[title] = View.answers(matched_answers(texts, names), len(names))
        else:
            texts = [Caption.of(answer).caption for answer in given]
            views[title] = _view_of_texts(texts, names, EncoderArguments(args.text_encoder))
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
    try:
        return LabelModel(number).fit(views, labels).accuracy_
    except ValueError:
        return None


def _in_words(estimate: Estimate | None) -> str:
    if estimate is None:
        return "accuracy unknown"
    interval = "" if estimate.interval is None else " ({:.0%} to {:.0%})".format(*estimate.interval)
    return f"{estimate.share:.0%} right{interval}"


def _view_of_texts(texts: list[str | None], names: list[str], args: EncoderArguments) -> View:
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    rows = [row for row, text in enumerate(texts) if text]
    vectors = encode_captions([texts[row] for row in rows], encoder_from(args, device), args)[0]
    values = np.full((len(texts), vectors.shape[1]), np.nan, dtype=np.float32)
    values[rows] = vectors
    return View(values, class_name_examples(dict(enumerate(names)), args, device, vectors.shape[1]), learns=False)


def _cost(given: Iterable[Answer | None], prices: tuple[float | None, float | None], images: int) -> str:
    """Mean tokens of the answers, and the cost for all images."""
    answers = [answer for answer in given if answer and answer.status == OK]
    tokens = [(answer.prompt_tokens, answer.completion_tokens) for answer in answers]
    if not tokens or any(None in pair for pair in tokens):
        return "tokens unknown"
    read, written = np.mean(tokens, axis=0)
    text = f"{read:,.0f} tokens read and {written:,.0f} written an image"
    if prices[0] is None or prices[1] is None:
        return text
    return f"{text}, {images * (read * prices[0] + written * prices[1]) / MILLION:,.2f} for {images:,} images"
