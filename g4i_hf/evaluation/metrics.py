"""Metrics as subclasses of `evaluate.Metric`: usable alone, in `evaluate.combine`, and without any network."""

import math

import datasets
import evaluate
import numpy as np

_CITATION = "Ding et al., GPT4Image, arXiv 2306.00693"


class Accuracy(evaluate.Metric):
    """Share of right predictions: `accuracy`, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of predictions that equal their reference.",
            citation=_CITATION,
            inputs_description="predictions, references: class indices.",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


class RetrievalRecall(evaluate.Metric):
    """
    Image -> caption retrieval: share of images whose own caption is among the k nearest of the gallery. A caption as
    near as the own one counts as nearer: a tie is a miss.
    """

    def _info(self) -> evaluate.MetricInfo:
        vector = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description="Recall at 1 and 5 of the own caption among a gallery of distinct captions.",
            citation=_CITATION,
            inputs_description="predictions: image embeddings; references: their captions' embeddings.",
            features=datasets.Features({"predictions": vector, "references": vector}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return retrieval_recall(np.asarray(predictions), np.asarray(references))


def retrieval_recall(
    image_embeds: np.ndarray, text_embeds: np.ndarray, ks: tuple[int, ...] = (1, 5), owners: np.ndarray | None = None
) -> dict[str, float]:
    """
    Args:
        image_embeds: (n, D) unit norm.
        text_embeds: (m, D) unit norm. Equal rows are one entry of the gallery.
        ks: sizes of the shortlist.
        owners: (m,) the image that each caption describes; by default caption i describes image i. Of several captions
            of an image the nearest counts.

    Returns:
        `recall_at_k` for each k, `gallery_size`, and `chance_at_k`, what guessing would give.
    """
    gallery, entries = np.unique(text_embeds.astype(np.float32), axis=0, return_inverse=True)
    owners = np.arange(len(text_embeds)) if owners is None else owners
    cosines = image_embeds.astype(np.float32) @ gallery.T
    is_own = np.zeros(cosines.shape, dtype=bool)
    is_own[owners, entries.reshape(-1)] = True
    best_own = np.where(is_own, cosines, -np.inf).max(1, keepdims=True)
    as_near = (cosines >= best_own).sum(1)  # the own caption is one of them
    results: dict[str, float] = {f"recall_at_{k}": float(np.mean(as_near <= k)) for k in ks}
    for k in ks:
        shortlists = math.comb(len(gallery), min(k, len(gallery)))
        misses = [math.comb(len(gallery) - int(own), min(k, len(gallery))) / shortlists for own in is_own.sum(1)]
        results[f"chance_at_{k}"] = 1 - float(np.mean(misses))
    results["gallery_size"] = len(gallery)
    return results


def accuracy_of_logits(prediction) -> dict[str, float]:
    """`compute_metrics` of Trainer."""
    labelled = prediction.label_ids >= 0
    predicted = np.argmax(prediction.predictions, axis=-1)
    return Accuracy().compute(predictions=predicted[labelled], references=prediction.label_ids[labelled])
