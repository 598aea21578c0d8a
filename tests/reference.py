"""The formulas of the objectives, written once more in NumPy float64 loops: what the library is measured against."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Batch:
    """A global batch: n images and texts of D dimensions, as the trainer gets them."""

    image_embeds: np.ndarray  # (n, D)
    text_embeds: np.ndarray  # (n, D)
    weights: np.ndarray  # (n,), 0 without caption
    keys: np.ndarray  # (n, K)
    partner: np.ndarray | None = None
    share: np.ndarray | None = None
    rows: range = field(init=False)

    def __post_init__(self):
        self.rows = range(len(self.image_embeds))

    def pair_weight(self, image: int, text: int) -> float:
        """How much of the image's target the text is, times how far the text is trusted."""
        if self.partner is None:
            share = 1.0 if image == text else 0.0
        else:
            share = (image == text) * self.share[image] + (self.partner[image] == text) * (1 - self.share[image])
        return share * self.weights[text]

    def pictures(self, image: int) -> list[int]:
        """The rows whose pictures can be seen in an image."""
        if self.partner is None or self.partner[image] == image:
            return [image]
        shares = {image: self.share[image], self.partner[image]: 1 - self.share[image]}
        return [row for row, share in shares.items() if share > 0]

    def takes_part(self, image: int) -> bool:
        return any(self.pair_weight(image, text) > 0 for text in self.rows)

    def counts(self, image: int, text: int) -> bool:
        """Is the text one of the image's own, or a negative of it, and the image a negative of the text?"""
        if self.weights[text] == 0 or not self.takes_part(image):
            return False
        if self.pair_weight(image, text) > 0:
            return True
        return not any((self.keys[picture] == self.keys[text]).any() for picture in self.pictures(image))

    def cosine(self, image: int, text: int) -> float:
        return float(np.dot(self.image_embeds[image], self.text_embeds[text]))

    @property
    def num_captions(self) -> int:
        return int((self.weights > 0).sum())


def clip(batch: Batch, temperature: float) -> float:
    def negative_log_share(image: int, text: int, competitors: list[tuple[int, int]]) -> float:
        exponentials = [np.exp(batch.cosine(*pair) / temperature) for pair in competitors]
        return -np.log(np.exp(batch.cosine(image, text) / temperature) / sum(exponentials))

    total = 0.0
    for image in batch.rows:
        for text in batch.rows:
            weight = batch.pair_weight(image, text)
            if weight > 0:
                texts = [(image, other) for other in batch.rows if batch.counts(image, other)]
                images = [(other, text) for other in batch.rows if batch.counts(other, text)]
                total += weight / 2 * negative_log_share(image, text, texts)
                total += weight / 2 * negative_log_share(image, text, images)
    return total


def cosine(batch: Batch, temperature: float) -> float:
    total = 0.0
    for image in batch.rows:
        for text in batch.rows:
            total += batch.pair_weight(image, text) * (2 - 2 * batch.cosine(image, text))
    return total


OBJECTIVES = {"clip": clip, "cosine": cosine}  # name -> (batch, temperature) -> sum over the pairs


def diagnostics(batch: Batch) -> dict[str, float]:
    """Means over the images that have a text."""
    values = {"cosine_positive": [], "cosine_negative": [], "retrieval_top1": []}
    for image in batch.rows:
        weights = [batch.pair_weight(image, text) for text in batch.rows]
        if max(weights) == 0:
            continue
        largest = [batch.cosine(image, text) for text in batch.rows if weights[text] == max(weights)]
        positive = sum(largest) / len(largest)
        negatives = [
            batch.cosine(image, text) for text in batch.rows if batch.counts(image, text) and weights[text] == 0
        ]
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
) -> float:
    """Mean cross entropy over the labelled rows (label >= 0), of smoothed and mixed targets."""
    num_labels = logits.shape[1]
    total = 0.0
    for row, scores in enumerate(logits.astype(np.float64)):
        log_shares = scores - np.log(np.exp(scores).sum())
        shown = [(row, 1.0)] if partner is None else [(row, share[row]), (partner[row], 1 - share[row])]
        for other, part in shown:
            if labels[other] < 0:
                continue
            target = np.full(num_labels, smoothing / num_labels)
            target[labels[other]] += 1 - smoothing
            total -= part * float((target * log_shares).sum())
    return total / max(int((labels >= 0).sum()), 1)
