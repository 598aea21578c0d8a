"""Pictures of a comparison, drawn with matplotlib."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .. import columns
from ..data.images import open_image, to_rgb
from .comparison import ComparisonRow
from .nearest import nearest_captions
from .predict import Predictions

BASELINE, ALIGNED, GREY = "#8a8f98", "#0b6e4f", "#555555"


def draw_bars(rows: list[ComparisonRow], path: Path) -> None:
    """Accuracy by split, baseline beside aligned."""
    plt = _pyplot()
    rows = [row for row in rows if row.measure == "accuracy"]
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    positions = np.arange(len(rows))
    for shift, color, label, values in (
        (-0.2, BASELINE, "baseline", [row.baseline or 0 for row in rows]),
        (0.2, ALIGNED, "aligned", [row.aligned for row in rows]),
    ):
        bars = axes.bar(positions + shift, [100 * value for value in values], 0.38, color=color, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=9)
    axes.set_xticks(positions, [row.split for row in rows])
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 100)
    _finish(figure, axes, path)


def draw_curves(runs: dict[str, Path], path: Path) -> None:
    """Accuracy on the split evaluated during training, and training loss without its alignment term, by epoch."""
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for (label, run), color in zip(runs.items(), (ALIGNED, BASELINE), strict=False):
        history = json.loads((run / "trainer_state.json").read_text())["log_history"]
        evaluated = [(entry["epoch"], 100 * entry["eval_accuracy"]) for entry in history if "eval_accuracy" in entry]
        trained = [(entry["epoch"], entry["loss_ce"]) for entry in history if "loss_ce" in entry]
        for axes, points in ((left, evaluated), (right, trained)):
            if points:
                axes.plot(*zip(*points, strict=True), color=color, label=label, marker=".", markersize=3)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel="epoch", ylabel="accuracy during training, %")
    right.set(xlabel="epoch", ylabel="cross entropy in training")
    _finish(figure, [left, right], path)


def draw_class_gains(
    predictions: dict[str, Predictions], id2label: dict[int, str], path: Path, most: int = 12
) -> None:
    """The classes that gained and lost most images."""
    plt = _pyplot()
    labels = predictions["aligned"].labels
    gains = {}
    for index, name in id2label.items():
        rows = labels == index
        right = {run: (prediction.predicted[rows] == index).sum() for run, prediction in predictions.items()}
        gains[f"{name} ({rows.sum()})"] = int(right["aligned"] - right["baseline"])
    ordered = sorted(gains.items(), key=lambda item: item[1])
    shown = ordered if len(ordered) <= 2 * most else ordered[:most] + ordered[-most:]
    figure, axes = plt.subplots(figsize=(6.4, 0.22 * len(shown) + 0.9), layout="constrained")
    values = [value for _, value in shown]
    axes.barh([name for name, _ in shown], values, color=[ALIGNED if value >= 0 else BASELINE for value in values])
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("images more (fewer) classified rightly than by the baseline")
    axes.tick_params(axis="y", labelsize=8)
    _finish(figure, axes, path, legend=False)


def draw_examples(
    split: Dataset, predictions: dict[str, Predictions], id2label: dict[int, str], path: Path, count: int = 18
) -> None:
    """
    Images on which baseline and aligned differ, mended and broken ones in the proportion in which they occur, with the
    caption that the aligned student finds nearest among those of the split.
    """
    aligned, baseline = predictions["aligned"], predictions["baseline"]
    labels = aligned.labels
    mended = np.flatnonzero((aligned.predicted == labels) & (baseline.predicted != labels))
    broken = np.flatnonzero((aligned.predicted != labels) & (baseline.predicted == labels))
    share = len(mended) / max(1, len(mended) + len(broken))
    rng = np.random.default_rng(0)
    chosen = [
        *rng.permutation(mended)[: round(count * share)],
        *rng.permutation(broken)[: count - round(count * share)],
    ]
    captions = nearest_captions(split, aligned, chosen)
    texts = []
    for position, row in enumerate(chosen):
        lines = [f"aligned: {id2label[int(aligned.predicted[row])]}"]
        lines.append(f"baseline: {id2label[int(baseline.predicted[row])]}")
        if captions is not None:
            lines.append(f"nearest: {_short(captions[position])}")
        texts.append(lines)
    _draw_grid(split, aligned, chosen, texts, id2label, path)


def draw_predictions(
    split: Dataset,
    predictions: Predictions,
    id2label: dict[int, str],
    path: Path,
    *,
    captions_of: Dataset | None = None,
    count: int = 18,
) -> bool:
    """
    Images drawn at random, with the prediction and the caption of `captions_of`, another split or the same, that the
    aligned student finds nearest.

    Returns:
        Whether captions were shown: not every split has them.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:count])
    captions = nearest_captions(captions_of, predictions, chosen) if captions_of is not None else None
    texts = [[f"predicted: {id2label[int(predictions.predicted[row])]}"] for row in chosen]
    for lines, caption in zip(texts, captions or (), strict=False):
        lines.append(f"nearest: {_short(caption)}")
    _draw_grid(split, predictions, chosen, texts, id2label, path)
    return captions is not None


def _draw_grid(
    split: Dataset,
    predictions: Predictions,
    rows: Sequence[int],
    texts: list[list[str]],
    id2label: dict[int, str],
    path: Path,
    across: int = 6,
) -> None:
    """Images with their class above, in red where the prediction is another, and lines of text below."""
    plt = _pyplot()
    down = max(1, -(-len(rows) // across))
    figure, all_axes = plt.subplots(down, across, figsize=(12, 2.9 * down), layout="constrained", squeeze=False)
    for axes in all_axes.flat:
        axes.axis("off")
    for axes, row, lines in zip(all_axes.flat, rows, texts, strict=False):
        row, label = int(row), int(predictions.labels[row])
        axes.imshow(to_rgb(open_image(split[row][columns.IMAGE])))
        text = "\n".join(_literal(textwrap.shorten(line, 34, placeholder="…")) for line in lines)
        color = GREY if label < 0 else ALIGNED if predictions.predicted[row] == label else "#b3261e"
        axes.set_title(_literal(id2label.get(label, "unlabelled")), fontsize=10, color=color)
        axes.text(0.5, -0.04, text, transform=axes.transAxes, ha="center", va="top", fontsize=7.5, color=GREY)
    _save(figure, path)


def _short(caption: str) -> str:
    """Up to the colon, after which some captions list keywords; the whole where that leaves nothing."""
    return caption.split(":")[0].strip() or caption


def _literal(text: str) -> str:
    """matplotlib would read what stands between two dollars as a formula."""
    return text.replace("$", r"\$")


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("Pictures need matplotlib: pip install -e '.[demo]' in a clone of g4i_hf.") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _finish(figure: Any, all_axes: Any, path: Path, legend: bool = True) -> None:
    for axes in all_axes if isinstance(all_axes, list) else [all_axes]:
        axes.spines[["top", "right"]].set_visible(False)
        if legend and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """A file of pixels alone: what drew them is nobody's business."""
    figure.savefig(path, dpi=110, metadata={"Software": None})
    _pyplot().close(figure)
