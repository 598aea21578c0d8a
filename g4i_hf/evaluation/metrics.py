"""Metrics as subclasses of `evaluate.Metric`: usable alone, in `evaluate.combine`, and without any network."""

import math

import datasets
import evaluate
import numpy as np

BLOCK = 1024  # images compared with the gallery at once
_CITATION = "Ding et al., GPT4Image, arXiv 2306.00693"
_VECTOR = datasets.Sequence(datasets.Value("float32"))


class Accuracy(evaluate.Metric):
    """
    Share of right predictions: `accuracy`, in [0, 1]. Predictions are class indices (n,), or probabilities
    (n, classes), so that it combines with the metrics of [`~g4i_hf.evaluation.calibration`].
    """

    def _info(self) -> evaluate.MetricInfo:
        index = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="Share of predictions that equal their reference.",
            citation=_CITATION,
            inputs_description="predictions: class indices or probabilities; references: class indices.",
            features=[
                datasets.Features({"predictions": index, "references": index}),
                datasets.Features({"predictions": datasets.Sequence(datasets.Value("float64")), "references": index}),
            ],
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        predictions = np.asarray(predictions)
        predicted = predictions.argmax(-1) if predictions.ndim == 2 else predictions
        return {"accuracy": float(np.mean(predicted == np.asarray(references)))}


class RetrievalRecall(evaluate.Metric):
    """
    Image -> caption retrieval: share of images whose own caption is among the k nearest of the gallery. A caption as
    near as the own one counts as nearer: a tie is a miss.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Recall at 1 and 5 of the own caption among a gallery of distinct captions.",
            citation=_CITATION,
            inputs_description="predictions: image embeddings; references: their captions' embeddings.",
            features=datasets.Features({"predictions": _VECTOR, "references": _VECTOR}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return retrieval_recall(np.asarray(predictions), np.asarray(references))


class TextToImageRecall(evaluate.Metric):
    """
    Caption -> image retrieval: share of distinct captions with an image of theirs among the k nearest. Any image of
    the caption is right; another image as near as the nearest right one counts as nearer: a tie is a miss.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Recall at 1 and 5 of an image of the caption among a gallery of images.",
            citation=_CITATION,
            inputs_description="predictions: image embeddings; references: their captions' embeddings.",
            features=datasets.Features({"predictions": _VECTOR, "references": _VECTOR}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return text_to_image_recall(np.asarray(predictions), np.asarray(references))


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
    captions, entries = np.unique(text_embeds.astype(np.float32), axis=0, return_inverse=True)
    owners = np.arange(len(text_embeds)) if owners is None else np.asarray(owners)
    return recall_at(image_embeds, captions, owners, entries.reshape(-1), ks)


def text_to_image_recall(
    image_embeds: np.ndarray, text_embeds: np.ndarray, ks: tuple[int, ...] = (1, 5), owners: np.ndarray | None = None
) -> dict[str, float]:
    """
    The other way round: each distinct caption asks for its images, of which any is right.

    Args:
        image_embeds, text_embeds, ks, owners: as in [`retrieval_recall`].

    Returns:
        `text_to_image_recall_at_k` for each k, `text_to_image_gallery_size`, and `text_to_image_chance_at_k`.

    Raises:
        ValueError: for embeddings that are NaN or infinite.
    """
    captions, entries = np.unique(text_embeds.astype(np.float32), axis=0, return_inverse=True)
    owners = np.arange(len(text_embeds)) if owners is None else np.asarray(owners)
    found = recall_at(captions, image_embeds, entries.reshape(-1), owners, ks)
    return {f"text_to_image_{name}": value for name, value in found.items()}


def recall_at(
    queries: np.ndarray, gallery: np.ndarray, query_of: np.ndarray, entry_of: np.ndarray, ks: tuple[int, ...] = (1, 5)
) -> dict[str, float]:
    """
    Args:
        queries: (n, D) unit norm.
        gallery: (m, D) unit norm.
        query_of, entry_of: (p,) pairs: entry `entry_of[i]` is a right answer to query `query_of[i]`. Every query has
            one at least.
        ks: sizes of the shortlist.

    Returns:
        `recall_at_k`, the share of queries with a right answer among the k nearest, where a wrong one that is as near
        counts as nearer; `chance_at_k`, what k drawn at random would give; `gallery_size`.

    Raises:
        ValueError: for embeddings that are NaN or infinite.
    """
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise ValueError("Embeddings are NaN or infinite: the model, or the stage of text_embeds, is broken.")
    gallery = gallery.astype(np.float32)
    order = np.argsort(query_of, kind="stable")
    query_of, entry_of = query_of[order], entry_of[order]
    place = np.empty(len(queries), dtype=np.int64)
    num_right = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), BLOCK):
        rows = slice(start, start + BLOCK)
        cosines = queries[rows].astype(np.float32) @ gallery.T
        first, last = np.searchsorted(query_of, [start, start + len(cosines)])
        is_right = np.zeros(cosines.shape, dtype=bool)
        is_right[query_of[first:last] - start, entry_of[first:last]] = True
        best = np.where(is_right, cosines, -np.inf).max(1, keepdims=True)
        place[rows] = 1 + ((cosines >= best) & ~is_right).sum(1)
        num_right[rows] = is_right.sum(1)
    results: dict[str, float] = {f"recall_at_{k}": float(np.mean(place <= k)) for k in ks}
    for k in ks:
        size = min(k, len(gallery))
        all_lists = math.comb(len(gallery), size)
        misses = {right: math.comb(len(gallery) - int(right), size) / all_lists for right in np.unique(num_right)}
        results[f"chance_at_{k}"] = 1 - float(np.mean([misses[right] for right in num_right]))
    results["gallery_size"] = len(gallery)
    return results
