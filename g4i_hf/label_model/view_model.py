"""The linear classifier of one view, or of several concatenated: a model for each fold, and one for the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..linear import Classifier, has_vote, margins_of
from .views import WHOLE, Values

SELF_TRAINED = ""  # name of the model that learns the predictions of the views


@dataclass
class ViewModel:
    """Models of one view, or of several views whose values are concatenated."""

    inputs: tuple[str, ...]  # names of the views; `widths` the dimensions of their values
    widths: tuple[int, ...]
    # weight and bias by fold, of the model that was not fitted on it; `WHOLE` need leave out no label, and serves all
    # other folds
    models: dict[int, Classifier]
    num_labels: int
    self_trained: bool = False  # whether it learned the predictions of the views

    @property
    def name(self) -> str:
        return SELF_TRAINED if self.self_trained else self.inputs[0]

    def has_value(self, values: dict[str, Values]) -> np.ndarray:
        """(N,) whether a row has any of the inputs."""
        return np.any([values[name].has for name in self.inputs if name in values], axis=0)

    def inputs_of(self, values: dict[str, Values], rows: np.ndarray) -> np.ndarray:
        return np.concatenate([values[name].x[rows] for name in self.inputs], axis=1)

    def logits(self, values: dict[str, Values], rows: np.ndarray, model_of: np.ndarray) -> np.ndarray:
        """(rows, C), of each row by the model whose number is in `model_of` (N,); zeros for a row without a value."""
        logits = np.zeros((len(rows), self.num_labels), dtype=np.float32)
        if not any(name in values for name in self.inputs):
            return logits
        has, numbers = self.has_value(values)[rows], model_of[rows]
        for number in np.unique(numbers):
            places = np.flatnonzero((numbers == number) & has)
            logits[places] = self.by_model(int(number), values, rows[places])
        return logits

    def by_model(self, number: int, values: dict[str, Values], rows: np.ndarray) -> np.ndarray:
        """(rows, C) logits."""
        weight, bias = self.models[number if number in self.models else WHOLE]
        logits, start = bias, 0
        for name, width in zip(self.inputs, self.widths, strict=True):
            if name in values:
                logits = logits + values[name].x[rows] @ weight[start : start + width]
            start += width
        return logits

    def match_margin_of_fold_models(self, values: dict[str, Values], rows: np.ndarray) -> None:
        """
        Scale the logits of `WHOLE` until their mean margin on unlabelled rows is that of the other models. It may have
        seen more labels, and be more confident than the models whose errors calibrate it.
        """
        margins = {number: margins_of(self.by_model(number, values, rows)).mean() for number in self.models}
        self.scale(float(np.mean([margins[fold] for fold in margins if fold != WHOLE]) / margins[WHOLE]), WHOLE)

    def scale(self, factor: float, *numbers: int) -> None:
        """Multiply the logits of these models, or of all."""
        for number in numbers or self.models:
            weight, bias = self.models[number]
            self.models[number] = weight * factor, np.where(has_vote(bias), bias * factor, bias)
