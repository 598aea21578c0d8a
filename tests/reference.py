"""The formulas of the objectives, written once more in NumPy float64 loops: what the library is measured against."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Text = tuple[int, int]  # row and number of a text


@dataclass
class Settings:
    temperature: float = 0.3
    bias: float = -2.0


@dataclass
class Batch:
    """A global batch: n images of D dimensions with K texts each, as the trainer gets them."""

    image_embeds: np.ndarray  # (n, D)
    text_embeds: np.ndarray  # (n, K, D)
    weights: np.ndarray  # (n, K), 0 without caption
    keys: list[np.ndarray]  # groups of (n, C), negative: no key
    partner: np.ndarray | None = None
    share: np.ndarray | None = None
    rows: range = field(init=False)

    def __post_init__(self):
        self.rows = range(len(self.image_embeds))

    @property
    def texts(self) -> list[Text]:
        return [(row, k) for row in self.rows for k in range(self.weights.shape[1]) if self.weights[row, k] > 0]

    def picture_share(self, image: int, row: int) -> float:
        """How much of an image is the picture of a row."""
        if self.partner is None:
            return float(image == row)
        return (image == row) * self.share[image] + (self.partner[image] == row) * (1 - self.share[image])

    def pair_weight(self, image: int, text: Text) -> float:
        """How much of the image's target the text is, times how far the text is trusted."""
        return self.picture_share(image, text[0]) * self.weights[text]

    def pictures(self, image: int) -> list[int]:
        """The rows whose pictures can be seen in an image."""
        return [row for row in self.rows if self.picture_share(image, row) > 0]

    def takes_part(self, image: int) -> bool:
        return any(self.pair_weight(image, text) > 0 for text in self.texts)

    def keys_of(self, text: Text) -> list[set[int]]:
        return [{key for key in group[text[0]] if key >= 0} for group in self.keys]

    def counts(self, image: int, text: Text) -> bool:
        """Is the text one of the image's own, or a negative of it, and the image a negative of the text?"""
        if not self.takes_part(image):
            return False
        if self.pair_weight(image, text) > 0:
            return True
        shown = [self.keys_of((picture, 0)) for picture in self.pictures(image)]
        return not any(a & b for keys in shown for a, b in zip(keys, self.keys_of(text), strict=True))

    def cosine(self, image: int, text: Text) -> float:
        return float(np.dot(self.image_embeds[image], self.text_embeds[text]))

    @property
    def num_captioned_rows(self) -> int:
        return int((self.weights > 0).any(1).sum())


def negative_log_share(value: float, competitors: list[float], temperature: float) -> float:
    return -np.log(np.exp(value / temperature) / sum(np.exp(other / temperature) for other in competitors))


def contrast(batch: Batch, settings: Settings, competitors: Callable[[int, Text], list[float]]) -> float:
    return sum(
        batch.pair_weight(image, text)
        * negative_log_share(batch.cosine(image, text), competitors(image, text), settings.temperature)
        for image in batch.rows
        for text in batch.texts
        if batch.pair_weight(image, text) > 0
    )


def infonce(batch: Batch, settings: Settings) -> float:
    def texts_of(image: int, text: Text) -> list[float]:
        return [batch.cosine(image, text) for text in batch.texts if batch.counts(image, text)]

    return contrast(batch, settings, texts_of)


def clip(batch: Batch, settings: Settings) -> float:
    def images_of(image: int, text: Text) -> list[float]:
        return [batch.cosine(image, text) for image in batch.rows if batch.counts(image, text)]

    return (infonce(batch, settings) + contrast(batch, settings, images_of)) / 2


def siglip(batch: Batch, settings: Settings) -> float:
    def decision(image: int, text: Text, sign: int) -> float:
        logit = batch.cosine(image, text) / settings.temperature + settings.bias
        return np.log(1 + np.exp(-sign * logit))

    total = 0.0
    for image in batch.rows:
        own = {text: batch.pair_weight(image, text) for text in batch.texts}
        for text in batch.texts:
            if own[text] > 0:
                total += own[text] * decision(image, text, 1)
            elif batch.counts(image, text):
                total += sum(own.values()) * decision(image, text, -1)
    return total


def cosine(batch: Batch, settings: Settings) -> float:
    return sum(
        batch.pair_weight(image, text) * (2 - 2 * batch.cosine(image, text))
        for image in batch.rows
        for text in batch.texts
    )


# name -> (batch, settings) -> sum over the pairs
OBJECTIVES = {"clip": clip, "infonce": infonce, "siglip": siglip, "cosine": cosine}


def diagnostics(batch: Batch) -> dict[str, float]:
    """Means over the images that have a text, over the texts of the batch."""
    values = {"cosine_positive": [], "cosine_negative": [], "retrieval_top1": []}
    for image in batch.rows:
        weights = {text: batch.pair_weight(image, text) for text in batch.texts}
        if max(weights.values(), default=0.0) == 0:
            continue
        largest = [batch.cosine(image, text) for text in weights if weights[text] == max(weights.values())]
        positive = sum(largest) / len(largest)
        negatives = [batch.cosine(image, text) for text in weights if weights[text] == 0 and batch.counts(image, text)]
        values["cosine_positive"].append(positive)
        values["cosine_negative"].append(sum(negatives) / len(negatives) if negatives else 0.0)
        values["retrieval_top1"].append(float(all(positive > negative for negative in negatives)))
    return {name: sum(column) / max(len(column), 1) for name, column in values.items()}


def classification(
    logits: np.ndarray,
    labels: np.ndarray,
    smoothing: float = 0.0,
    partner: np.ndarray | None = None,
    share: np.ndarray | None = None,
    kind: str = "cross_entropy",
    threshold: float | None = None,
    class_weights: np.ndarray | None = None,
) -> float:
    """Weighted mean over the labelled rows (label >= 0) of the loss of smoothed and mixed targets."""
    num_labels = logits.shape[1]
    class_weights = np.ones(num_labels) if class_weights is None else class_weights

    def row_loss(scores: np.ndarray, target: np.ndarray) -> float:
        if kind == "cross_entropy":
            return -float((target * (scores - np.log(np.exp(scores).sum()))).sum())
        shares = 1 / (1 + np.exp(-scores))
        return -float((target * np.log(shares) + (1 - target) * np.log(1 - shares)).mean())

    total = divisor = 0.0
    for row, scores in enumerate(logits.astype(np.float64)):
        shown = [(row, 1.0)] if partner is None else [(row, share[row]), (partner[row], 1 - share[row])]
        shown = [(labels[other], part) for other, part in shown if labels[other] >= 0]
        targets = []
        for label, _ in shown:
            target = np.full(num_labels, smoothing / num_labels)
            target[label] += 1 - smoothing
            targets.append(target)
        weights = [part * class_weights[label] for label, part in shown]
        if threshold is not None and shown:
            mixed = sum(part * target for (_, part), target in zip(shown, targets, strict=True)) > threshold
            targets = [mixed.astype(float)] * len(targets)
        total += sum(weight * row_loss(scores, target) for weight, target in zip(weights, targets, strict=True))
        divisor += class_weights[labels[row]] if labels[row] >= 0 else 0.0
    return total / divisor if divisor else 0.0


def ppi_mean(
    labels: np.ndarray, imputed: np.ndarray, unlabelled: np.ndarray, tuned: bool = False
) -> tuple[float, float]:
    """
    A mean by prediction-powered inference and its standard error, as `ppi_mean_ci(..., lam=1)` of ppi-python 0.2.3 has
    them (Angelopoulos et al., arXiv 2301.09633, algorithm 1): `labels` (n,), what a model says of them (n,), and what
    it says of others (N,). `tuned`: with its estimate of `lam` (arXiv 2311.01453).
    """
    power = 1.0
    if tuned:
        centred = [said - np.mean(imputed) for said in imputed]
        products = [a * (label - np.mean(labels)) for a, label in zip(centred, labels, strict=True)]
        every = [*imputed, *unlabelled]
        squares = [(said - np.mean(every)) ** 2 for said in every]
        power = np.mean(products) / np.mean(squares) / (1 + len(labels) / len(unlabelled))
        power = min(max(power, 0.0), 1.0)
    rectifier = np.mean([label - power * said for label, said in zip(labels, imputed, strict=True)])
    squares = [(label - power * said - rectifier) ** 2 for label, said in zip(labels, imputed, strict=True)]
    mean = np.mean(unlabelled)
    variance = power**2 * np.mean([(said - mean) ** 2 for said in unlabelled])
    error = np.sqrt(variance / len(unlabelled) + np.mean(squares) / len(labels))
    return float(power * mean + rectifier), float(error)
