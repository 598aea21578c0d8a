"""Pictures for cards and reports, drawn with matplotlib."""

import base64
import io
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .. import columns
from ..data.images import open_image, to_rgb
from ..data.texts import is_blank
from ..extras import require
from ..files import replacing
from .predict import Predictions, nearest_captions

ALIGNED, GREY = "#0b6e4f", "#555555"
COLORS = {"aligned": ALIGNED, "baseline": "#8a8f98"}


def curves(runs: dict[str, Path]) -> bytes:
    """
    A PNG of the curves of training: accuracy on the split evaluated meanwhile, and the loss of the labels that each
    run learns, by step.
    """
    panels: dict[str, dict[str, list]] = {"accuracy during training, %": {}, "loss of the labels learned": {}}
    accuracy, loss = panels.values()
    for label, run in runs.items():
        history = json.loads((run / "trainer_state.json").read_text())["log_history"]
        accuracy[label] = [(each["step"], 100 * each["eval_accuracy"]) for each in history if "eval_accuracy" in each]
        # Where all rows learn soft labels, `loss_ce` is 0
        learned = [each for each in history if "loss_ce" in each]
        loss[label] = [(each["step"], each["loss_ce"] or each.get("loss_soft_labels", 0.0)) for each in learned]
    # Without evaluation during training there is no accuracy to show
    shown = {title: lines for title, lines in panels.items() if any(lines.values())} or panels
    size = (4.5 * len(shown), 3.2)
    figure, grid = _pyplot().subplots(1, len(shown), figsize=size, layout="constrained", squeeze=False)
    for axes, (title, lines) in zip(grid[0], shown.items(), strict=True):
        for label, points in lines.items():
            if points:
                axes.plot(*zip(*points, strict=True), color=COLORS[label], label=label, marker=".", markersize=3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
        axes.set(xlabel="step", ylabel=title)
    return _png(figure)


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
    Images drawn at random, with their class above, in red where the prediction is another, and below the prediction
    and the nearest caption of `captions_of`, another split or the same. Returns whether captions were shown.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:count]).tolist()
    captions = nearest_captions(captions_of, predictions, chosen) if captions_of is not None else None
    plt, across = _pyplot(), 6
    down = -(-len(chosen) // across)
    figure, all_axes = plt.subplots(down, across, figsize=(12, 2.9 * down), layout="constrained", squeeze=False)
    for axes in all_axes.flat:
        axes.axis("off")
    for number, (axes, row) in enumerate(zip(all_axes.flat, chosen, strict=False)):
        label, predicted = int(predictions.labels[row]), int(predictions.predicted[row])
        lines = [f"predicted: {id2label[predicted]}", *([f"nearest: {captions[number]}"] if captions else [])]
        text = "\n".join(textwrap.shorten(line, 34, placeholder="…") for line in lines)
        color = GREY if label < 0 else ALIGNED if predicted == label else "#b3261e"
        axes.imshow(to_rgb(open_image(split[row][columns.IMAGE])))
        below = {"transform": axes.transAxes, "ha": "center", "va": "top"}
        # Else what stands between two dollars would be a formula
        axes.set_title(id2label.get(label, "unlabelled"), fontsize=10, color=color, parse_math=False)
        axes.text(0.5, -0.04, text, fontsize=7.5, color=GREY, parse_math=False, **below)
    path.write_bytes(_png(figure))
    return captions is not None


def _pyplot() -> Any:
    require("matplotlib", "report", "A picture").use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _png(figure: Any) -> bytes:
    """Pixels alone: what drew them is nobody's business."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None})
    _pyplot().close(figure)
    return buffer.getvalue()


PICTURES = "pictures"  # folder in the run
CURVES, PREDICTIONS, ABOUT = "curves.png", "predictions.png", "about.json"


def draw_card_pictures(
    folder: str | Path,
    runs: dict[str, Path],
    splits: dict[str, Dataset],
    predictions: dict[str, Predictions],
    id2label: dict[int, str],
    *,
    weights: str,
    training: tuple[str, Dataset] | None = None,
) -> Path:
    """
    Draws curves and predictions into `pictures/` of `folder`, in place of earlier ones, and notes what they are of.
    Returns that folder. `training` are name and rows of the split that was trained on, whose captions are shown where
    the evaluated split has none; None for a baseline, to which they mean nothing. ImportError without matplotlib.
    """
    target = Path(folder) / PICTURES
    shown = next(name for name in ("test", "validation", *splits) if name in splits)
    split = splits[shown]
    has_captions = columns.CAPTION in split.column_names and not all(map(is_blank, split[columns.CAPTION]))
    name, rows = (shown, split) if training and has_captions else training or (None, None)
    with replacing(target) as staging:
        if all((run / "trainer_state.json").is_file() for run in runs.values()):
            (staging / CURVES).write_bytes(curves(runs))
        drawn = draw_predictions(split, predictions[shown], id2label, staging / PREDICTIONS, captions_of=rows)
        about = {"split": shown, "weights": weights, "captions_of": name if drawn else None}
        (staging / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    return target


def png_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
