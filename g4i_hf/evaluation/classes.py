"""Precision and recall of each class, and which classes are confused."""

from collections.abc import Mapping
from typing import Any

import numpy as np

SHOWN_IN_TERMINAL = 10  # classes, the worst first
SHOWN_IN_MATRIX = 30  # classes, those that are confused most


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_labels: int) -> np.ndarray:
    """(C, C) how many images of each class, a row, are predicted as each; without those of no label (n,)."""
    known = labels >= 0
    pairs = labels[known].astype(np.int64) * num_labels + predicted[known]
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def of_classes(counts: np.ndarray, id2label: Mapping[int, str]) -> list[dict[str, Any]]:
    """
    By a confusion matrix (C, C), for each class its number of `images`, how many are `predicted` as it, `precision`
    and `recall`, None if there is nothing to divide by. The worst comes first, by the smaller of both. Classes without
    an image are last.
    """
    images, predicted, right = counts.sum(1), counts.sum(0), counts.diagonal()
    classes = [
        {
            "class": id2label[label],
            "images": int(images[label]),
            "predicted": int(predicted[label]),
            "precision": float(right[label] / predicted[label]) if predicted[label] else None,
            "recall": float(right[label] / images[label]) if images[label] else None,
        }
        for label in range(len(counts))
    ]
    return sorted(classes, key=lambda each: (not each["images"], min(each["recall"] or 0, each["precision"] or 0)))


def classes_in_words(classes: list[dict[str, Any]]) -> list[str]:
    """A head and the worst classes, at most `SHOWN_IN_TERMINAL`, for a terminal; their names are not escaped."""
    shown = classes[:SHOWN_IN_TERMINAL]
    width = max(len(each["class"]) for each in shown)
    lines = [f"{'class':{width}}  precision  recall  images"]
    for each in shown:
        precision, recall = (share_in_words(each[name]) for name in ("precision", "recall"))
        lines.append(f"{each['class']:{width}}  {precision:>9}  {recall:>6}  {each['images']:>6,}")
    return lines


def share_in_words(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def matrix_for_page(counts: np.ndarray, id2label: Mapping[int, str]) -> dict[str, Any]:
    """For a template: names, and rows of cells with their count, share of the row and whether they are right."""
    wrong = counts - np.diag(counts.diagonal())
    confused = np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:SHOWN_IN_MATRIX]
    shown, images = np.sort(confused), np.maximum(counts.sum(1), 1)
    rows = [
        [{"count": int(counts[a, b]), "share": float(counts[a, b] / images[a]), "right": bool(a == b)} for b in shown]
        for a in shown
    ]
    return {"names": [id2label[int(label)] for label in shown], "rows": rows, "classes": len(counts)}
