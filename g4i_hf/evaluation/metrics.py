"""Metrics of arrays and of a split, the `all_results.json` that holds them, and the speed of a student."""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import scipy.special
import torch
from datasets import Dataset, Features, Value
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from ..files import replace_text
from ..names import RESULTS_FILE
from .comparison import METRICS_OF_A_SPLIT, SPEED
from .predict import Predictions, blocks, texts_of

NUM_BINS = 15  # as in Guo et al.
_INPUTS = Features(predictions=Value("int64"), references=Value("int64"))


class Accuracy(evaluate.Metric):
    """`accuracy`: share of rows whose class index is the reference."""

    def _info(self) -> evaluate.MetricInfo:
        about = {"description": self.__doc__, "inputs_description": self.__doc__}
        return evaluate.MetricInfo(**about, citation="Ding et al., GPT4Image, arXiv 2306.00693", features=_INPUTS)

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


def calibration_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """
    Calibration of logits (n, classes) for labels (n,), by the softmax in float64:

    - `ece` of the predicted class: sum over 15 bins of n_bin / n |accuracy - mean confidence| of the bin (Guo et al.,
      arXiv 1706.04599, equation 3). Bin m holds confidences in ((m - 1) / 15, m / 15].
    - `adaptive_ece`: the same with equally many images in each bin; equal confidences share a bin (Mukhoti et al.,
      arXiv 2002.09437).
    - `nll`: mean of -log p(right class), in nats; a probability of 0 is replaced by the smallest positive float64.
    - `brier`: mean over images of the sum over classes of (p - y)^2, y being 1 for the right class; in [0, 2] (Brier,
      Monthly Weather Review 78, 1950).
    """
    parts = [_calibration_of_rows(logits[rows], labels[rows]) for rows in blocks(len(labels))]
    confidence, is_right, nll, brier = map(np.concatenate, zip(*parts, strict=True))
    shares = np.arange(1, NUM_BINS) / NUM_BINS
    upper_edges = {
        "ece": np.linspace(0, 1, NUM_BINS + 1)[1:-1],
        "adaptive_ece": np.quantile(confidence, shares, method="inverted_cdf"),
    }
    metrics = {"nll": float(nll.mean()), "brier": float(brier.mean())}
    for name, edges in upper_edges.items():
        sums = np.bincount(np.digitize(confidence, edges, right=True), weights=is_right - confidence)
        metrics[name] = float(np.abs(sums).sum() / len(confidence))
    return metrics


def _calibration_of_rows(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """(n,) confidence, whether the prediction is right, negative log-likelihood, and Brier score of each row."""
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=1)
    right = probabilities[np.arange(len(labels)), labels]
    nll = -np.log(np.maximum(right, np.finfo(np.float64).tiny))
    brier = np.einsum("nc,nc->n", probabilities, probabilities) - 2 * right + 1
    return probabilities.max(1), probabilities.argmax(1) == labels, nll, brier


def retrieval_recall(
    image_embeds: np.ndarray, text_embeds: np.ndarray, ks: tuple[int, ...] = (1, 5), owners: np.ndarray | None = None
) -> dict[str, float]:
    """
    Share of images with one of their texts among the k nearest.

    Args:
        image_embeds: (n, D) unit norm.
        text_embeds: (m, D) unit norm. Equal rows are one entry of the gallery.
        ks: sizes of the shortlist.
        owners: (m,) the image of each text; by default text i is that of image i. Every image has at least one; of
            several, the nearest counts.

    Returns:
        `recall_at_k`, where a wrong text with an equal cosine ranks first; `chance_at_k`, for k texts drawn at random;
            `gallery_size`.

    Raises:
        ValueError: for embeddings that are NaN or infinite.
    """
    if not (np.isfinite(image_embeds).all() and np.isfinite(text_embeds).all()):
        raise ValueError("Embeddings are NaN or infinite: the model, or the stage of text_embeds, is broken.")
    gallery, entries = np.unique(text_embeds.astype(np.float32), axis=0, return_inverse=True)
    owners = np.arange(len(text_embeds)) if owners is None else np.asarray(owners)
    order = np.argsort(owners, kind="stable")
    owners, entries = owners[order], entries.reshape(-1)[order]
    place = np.empty(len(image_embeds), dtype=np.int64)
    num_right = np.empty(len(image_embeds), dtype=np.int64)
    for rows in blocks(len(image_embeds)):
        cosines = image_embeds[rows].astype(np.float32) @ gallery.T
        first, last = np.searchsorted(owners, [rows.start, rows.start + len(cosines)])
        is_right = np.zeros(cosines.shape, dtype=bool)
        is_right[owners[first:last] - rows.start, entries[first:last]] = True
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


# --- Size and speed --------------------------------------------------------------------------------------------------


SECONDS = 1.0  # duration of the timing


@torch.no_grad()
def size_metrics(student: PreTrainedModel, image_size: int) -> dict[str, float]:
    """`parameters`, and `macs`: multiply-adds of an image, half of the FLOPs that PyTorch counts."""
    # The counter does not support the fused attention of a CPU, but its matrix products
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        student(pixel_values=torch.zeros(1, 3, image_size, image_size))
    return {"parameters": sum(p.numel() for p in student.parameters()), "macs": counter.get_total_flops() // 2}


@torch.inference_mode()
def speed_metrics(student: PreTrainedModel, image_size: int) -> dict[str, float]:
    """`latency_ms`, the median milliseconds of one image in float32, and `cpu_threads`, used for the timing."""
    threads, pixels = torch.get_num_threads(), torch.randn(1, 3, image_size, image_size)
    call = {"student": student.eval(), "pixels": pixels}
    timer = Timer("student(pixel_values=pixels)", globals=call, num_threads=threads)
    return {"cpu_threads": threads, "latency_ms": 1000 * timer.blocked_autorange(min_run_time=SECONDS).median}


def speed_text(results: dict[str, Any]) -> str:
    """A sentence from the `all_results.json` of a run; empty if speed was not measured."""
    if "latency_ms" not in results:
        return ""
    parameters, macs = (f"{results[name] / 1e6:,.2f} million" for name in ("parameters", "macs"))
    threads = f"{results['cpu_threads']} thread{'s' * (results['cpu_threads'] > 1)}"
    return (
        f"{parameters} parameters, {macs} multiply-adds and {results['latency_ms']:.2f} ms an image, in PyTorch on a "
        f"CPU with {threads}."
    )


# --- The metrics of a split, and the file that holds them ------------------------------------------------------------


def split_metrics(
    predictions: Predictions, split: Dataset, name: str, name_embeds: np.ndarray | None = None
) -> dict[str, Any]:
    """
    The metrics of a split, with its name as prefix: `samples`; the number of `labelled` rows, if not all are; over
    labelled rows `accuracy`, [`calibration_metrics`] and `zero_shot_accuracy`, which assigns the class whose name is
    nearest among the classes of the split, by `name_embeds` (num_labels, D); and [`retrieval_recall`] over rows with a
    caption.
    """
    labelled, image_embeds = predictions.labels >= 0, predictions.image_embeds
    metrics: dict[str, Any] = {"samples": len(split)}
    if labelled.any():
        metrics |= {} if labelled.all() else {"labelled": int(labelled.sum())}
        metrics |= Accuracy().compute(
            predictions=predictions.predicted[labelled], references=predictions.labels[labelled]
        )
        rows = slice(None) if labelled.all() else labelled  # a mask would copy the logits
        metrics |= calibration_metrics(predictions.logits[rows], predictions.labels[rows])
        if name_embeds is not None and image_embeds is not None and name_embeds.shape[1] == image_embeds.shape[1]:
            nearest = retrieval_recall(image_embeds[rows], name_embeds[predictions.labels[rows]], ks=(1,))
            metrics |= {"zero_shot_accuracy": nearest["recall_at_1"], "zero_shot_chance": nearest["chance_at_1"]}
    if (texts := texts_of(split, predictions)) is not None:
        captioned = np.flatnonzero(texts.counts)
        owners = np.repeat(np.arange(len(captioned)), texts.counts[captioned])
        metrics |= retrieval_recall(image_embeds[captioned], texts.embeds, owners=owners)
    return {f"{name}_{figure}": value for figure, value in metrics.items()}


def read_results(folder: str | Path) -> dict[str, Any]:
    """`all_results.json` of a run, or of a folder of `g4i fit`; empty without one."""
    path = Path(folder) / RESULTS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def update_results(run: str | Path, metrics: dict[str, Any], splits: Iterable[str] = ()) -> dict[str, Any]:
    """
    Add metrics to the `all_results.json` of a folder, replacing the file in one step, and return its content. Earlier
    metrics of the splits, and those of size and speed, are dropped, as a split may have lost its captions.
    """
    dropped = {f"{split}_{figure}" for split in splits for figure in METRICS_OF_A_SPLIT} | {*(SPEED if splits else ())}
    results = {name: value for name, value in read_results(run).items() if name not in dropped} | metrics
    Path(run).mkdir(parents=True, exist_ok=True)
    replace_text(Path(run) / RESULTS_FILE, json.dumps(results, indent=4, sort_keys=True) + "\n")
    return results


def results_folder(run: str | Path, own: dict[str, Any], data: dict[str, Any]) -> Path:
    """
    The folder for the metrics of a run on some data: the run for the data that it was trained on, otherwise a folder
    in `evaluations/`. Paths in `own`, the options of the run, are relative to the run; those in `data` to the current
    folder. Raises ValueError for another `validation_fraction`.
    """

    def known_by(options: dict[str, Any], base: Path) -> tuple[Any, ...]:
        names = [options.get(name) for name in ("dataset_name", "captions_name")]
        places = [(base / name).resolve() if name and (base / name).exists() else name for name in names]
        return (*places, *(options.get(name) for name in versions))

    columns = [name for name in data if name.endswith("_column")]
    versions = ("dataset_config_name", "dataset_revision", "captions_revision", *columns)
    if known_by(own, Path(run)) == known_by(data, Path()):
        trained, requested = own.get("validation_fraction"), data.get("validation_fraction")
        if requested not in (None, trained):
            raise ValueError(
                f"{run} was trained with validation_fraction {trained}: with {requested}, images that it was trained "
                "on would pass for held out. Leave --validation_fraction out."
            )
        return Path(run)
    parts = [data.get(name) for name in ("dataset_name", *versions[:2], "captions_name", *versions[2:])]
    name = "-".join(re.sub(r"[^\w.-]+", "_", str(part)).strip("._") for part in parts if part)
    return Path(run) / "evaluations" / name
