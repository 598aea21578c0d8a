"""Which question pays: what the answers of a dry run tell of labelled images, and what all of them would cost."""

from collections.abc import Iterable, Iterator
from itertools import combinations

import numpy as np
import torch

from ..captioning.answers import OK
from ..captioning.questions import NAMED, Questions
from ..captioning.runner import MILLION
from ..captioning.stage import Caption
from ..captioning.store import AnswerStore, Record
from ..data.answers import matched_answers
from ..data.checks import labels_of
from ..embedding.embed import encode_captions
from ..embedding.encoders import encoder_from
from ..label_model import LabelModel, View
from ..label_model.estimates import Estimate
from ..options import CaptionArguments, EncoderArguments
from ..training.build import class_name_examples

SHORT = 40  # letters of a prompt that stand for it


def compared_questions(
    parts: Iterable[Questions],
    store: AnswerStore,
    names: list[str],
    args: CaptionArguments,
    cleaning: bool,
    images: int,
) -> Iterator[str]:
    """
    A line for each question, the accuracy of its view alone, tokens and cost, and one for the best pair.

    Args:
        parts: the rows that were asked about.
        names: of the classes.
        images: that are to be asked about.
    """
    parts = list(parts)
    prompts, labels = parts[0].prompts, np.concatenate([labels_of(part.split) for part in parts])
    answers = list(zip(*(found for part in parts for found in part.records(store)), strict=True))
    views, costs = {}, {}
    for template, asks_class, records in zip(prompts.templates, prompts.asks_class, answers, strict=True):
        title = next((name for name, text in NAMED.items() if text == template), f"{template[:SHORT]!r}")
        costs[title] = _cost(records, (args.price_input, args.price_output), images)
        texts = [Caption.from_record(record, cleaning and not asks_class).caption for record in records]
        if asks_class:
            views[title] = View.answers(matched_answers(texts, names), len(names))
        else:
            views[title] = _view_of_texts(texts, names, EncoderArguments(args.text_encoder))
    number = len(names)
    alone = {title: _accuracy({title: view}, labels, number) for title, view in views.items()}
    yield f"By {(labels >= 0).sum():,} labelled images, with 95% intervals:"
    for title, found in alone.items():
        yield f"{title}: {_in_words(found)}; {costs[title]}"
    pairs = list(combinations([title for title, found in alone.items() if found], 2))
    together = {pair: _accuracy({title: views[title] for title in pair}, labels, number) for pair in pairs}
    if shares := {pair: found.share for pair, found in together.items() if found}:
        best = max(shares, key=shares.__getitem__)
        yield f"The best two together: {' and '.join(best)}, {_in_words(together[best])}"


def _accuracy(views: dict[str, View], labels: np.ndarray, number: int) -> Estimate | None:
    """The estimated accuracy over all rows; None where all answers are the same, or no class has two labels."""
    try:
        return LabelModel(number).fit(views, labels).accuracy_
    except ValueError:
        return None


def _in_words(found: Estimate | None) -> str:
    if found is None:
        return "accuracy unknown"
    interval = "" if found.interval is None else " ({:.0%} to {:.0%})".format(*found.interval)
    return f"{found.share:.0%} right{interval}"


def _view_of_texts(texts: list[str | None], names: list[str], args: EncoderArguments) -> View:
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    there = [row for row, text in enumerate(texts) if text]
    vectors = encode_captions([texts[row] for row in there], encoder_from(args, device), args)[0]
    values = np.full((len(texts), vectors.shape[1]), np.nan, dtype=np.float32)
    values[there] = vectors
    return View(values, class_name_examples(dict(enumerate(names)), args, device, vectors.shape[1]), learns=False)


def _cost(records: Iterable[Record | None], prices: tuple[float | None, float | None], images: int) -> str:
    """Mean tokens of the answers, and what all images take."""
    answers = [each for each in records if each and each["status"] == OK]
    tokens = [(each["prompt_tokens"], each["completion_tokens"]) for each in answers]
    if not tokens or any(None in each for each in tokens):
        return "tokens unknown"
    read, written = np.mean(tokens, axis=0)
    said = f"{read:,.0f} tokens read and {written:,.0f} written an image"
    if prices[0] is None or prices[1] is None:
        return said
    return f"{said}, {images * (read * prices[0] + written * prices[1]) / MILLION:,.2f} for {images:,} images"
