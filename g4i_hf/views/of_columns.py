"""Views of columns: captions, answers of a model that was asked for the class, and scores of another model."""

from collections.abc import Mapping

import numpy as np
import torch
from datasets import Dataset

from .. import columns
from ..data.answers import matched_answers
from ..data.texts import values_of
from ..label_model import View
from ..label_model.supervise import ANSWER, CAPTION, CaptionedRows
from ..options import EncoderArguments
from ..training.head import Scale
from ..training.prepare import class_name_examples

NOT_ONE = 0.01  # by which the sum of probabilities may differ from 1


def views_of(
    split: Dataset,
    features: Mapping[str, np.ndarray],
    id2label: dict[int, str],
    encoder: EncoderArguments | None,
    device: torch.device,
) -> dict[str, View]:
    """
    Args:
        split: with `text_embeds`, where captions are embedded, and `answer`, where a model was asked for the class.
        features: (N, F) of its images, by name of the view.
        encoder: of the captions, for the names of the classes; None: it is not known.
    """
    views = {}
    captions = captions_view(split, id2label, encoder, device) if columns.TEXT_EMBEDS in split.column_names else None
    if captions is not None:
        views[CAPTION] = captions
    answers = answers_of(split, id2label)
    if answers is not None and len(np.unique(answers[answers >= 0])) > 1:  # else they predict nothing
        views[ANSWER] = View.answers(answers, len(id2label))
    return views | {name: View(Scale.of(each)(each)) for name, each in features.items()}


def captions_view(
    split: Dataset, id2label: dict[int, str], encoder: EncoderArguments | None, device: torch.device
) -> View | None:
    """Of rows with `text_embeds`; None where all captions are equal, so that they predict nothing."""
    captioned, names = CaptionedRows.of(split), None
    texts = captioned.text_embeds()
    if encoder is not None:
        names = class_name_examples(id2label, encoder, device, texts.shape[1])
    embeds = np.full((len(split), texts.shape[1]), np.nan, dtype=texts.dtype)
    embeds[captioned.rows] = texts
    return View(embeds, names, learns=False) if (texts != texts[:1]).any() else None


def answers_of(split: Dataset, id2label: dict[int, str]) -> np.ndarray | None:
    """(N,) class indices, negative without one; None where no answer names a class."""
    if columns.ANSWER not in split.column_names:
        return None
    names = [id2label[index] for index in sorted(id2label)]
    answers = matched_answers(split[columns.ANSWER], names)
    return answers if (answers >= 0).any() else None


def scores_of(split: Dataset, column: str, num_labels: int) -> View:
    """
    What another model says of each image, by a column of probabilities or logits (C,) in the order of the classes;
    null or NaN where it says nothing. A ValueError for a column that holds something else.
    """
    what = f"View 'scores:{column}' (views)"
    if column not in split.column_names:
        raise ValueError(f"{what}: the data has no such column. Its columns: {', '.join(split.column_names)}.")
    rows = [[np.nan] * num_labels if row is None else row for row in values_of(split, column)]
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != num_labels:
            given = f"{len(row)} numbers" if isinstance(row, list) else repr(row)[:40]
            wanted = f"a list of {num_labels} numbers is wanted, one a class in the order of the classes"
            raise ValueError(f"{what}, row {number}: {given}; {wanted}.")
    scores = np.array(rows, dtype=np.float64)
    has = np.isfinite(scores).all(1)
    if not np.isnan(scores[~has]).all():
        raise ValueError(f"{what}, row {np.flatnonzero(~has)[0]}: some numbers are NaN or infinite. Give null there.")
    known = scores[has]
    if (known < 0).any() or (abs(known.sum(1) - 1) > NOT_ONE).any():  # logits
        known = np.exp(known - known.max(1, keepdims=True))
    scores[has] = known / known.sum(1, keepdims=True)
    return View(scores.astype(np.float32), np.eye(num_labels, dtype=np.float32), learns=False)
