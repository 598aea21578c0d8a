"""Metrics as subclasses of `evaluate.Metric`: usable alone, in `evaluate.combine`, and without any network."""

import math

import datasets
import evaluate
import numpy as np

BLOCK = 1024  # images compared with the gallery at once
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

    Raises:
        ValueError: for embeddings that are NaN or infinite.
    """
    if not (np.isfinite(image_embeds).all() and np.isfinite(text_embeds).all()):
        raise ValueError("Embeddings are NaN or infinite: the model, or the stage of text_embeds, is broken.")
    gallery, entries = np.unique(text_embeds.astype(np.float32), axis=0, return_inverse=True)
    owners = np.arange(len(text_embeds)) if owners is None else np.asarray(owners)
    order = np.argsort(owners, kind="stable")
    entries, owners = entries.reshape(-1)[order], owners[order]
    as_near = np.empty(len(image_embeds), dtype=np.int64)
    num_own = np.empty(len(image_embeds), dtype=np.int64)
    for start in range(0, len(image_embeds), BLOCK):
        rows = slice(start, start + BLOCK)
        cosines = image_embeds[rows].astype(np.float32) @ gallery.T
        first, last = np.searchsorted(owners, [start, start + len(cosines)])
        is_own = np.zeros(cosines.shape, dtype=bool)
        is_own[owners[first:last] - start, entries[first:last]] = True
        best_own = np.where(is_own, cosines, -np.inf).max(1, keepdims=True)
        as_near[rows] = (cosines >= best_own).sum(1)  # the own caption is one of them
        num_own[rows] = is_own.sum(1)
    results: dict[str, float] = {f"recall_at_{k}": float(np.mean(as_near <= k)) for k in ks}
    for k in ks:
        size = min(k, len(gallery))
        all_lists = math.comb(len(gallery), size)
        misses = {own: math.comb(len(gallery) - int(own), size) / all_lists for own in np.unique(num_own)}
        results[f"chance_at_{k}"] = 1 - float(np.mean([misses[own] for own in num_own]))
    results["gallery_size"] = len(gallery)
    return results


def accuracy_of_logits(prediction) -> dict[str, float]:
    """`compute_metrics` of Trainer."""
    labelled = prediction.label_ids >= 0
    predicted = np.argmax(prediction.predictions, axis=-1)
    return Accuracy().compute(predictions=predicted[labelled], references=prediction.label_ids[labelled])
