"""Pictures for a student's card, left in the run folder: a release only copies them."""

import json
from pathlib import Path

from datasets import Dataset

from .. import columns
from ..data.texts import is_blank
from ..files import replacing
from .pictures import draw_curves, draw_predictions
from .predict import Predictions

PICTURES = "pictures"  # folder in the run
CURVES, PREDICTIONS, ABOUT = "curves.png", "predictions.png", "about.json"
PREFERRED_SPLITS = ("test", "validation")


def _has_captions(split: Dataset) -> bool:
    return columns.CAPTION in split.column_names and any(not is_blank(caption) for caption in split[columns.CAPTION])


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
    Draws curves and predictions into `pictures/`, in place of earlier ones, and notes what they are of.

    Args:
        folder: where the run's figures go.
        runs: run folders, `aligned` and perhaps `baseline`, for the curves.
        splits: the evaluated splits; one of them is shown, `test` where there is one.
        predictions: of the run, by split.
        id2label: class names.
        weights: `"raw"` or `"ema"`.
        training: name and rows of the split that was trained on, whose captions are shown where the split has none;
            None for a baseline, to which the nearest captions mean nothing.

    Returns:
        The folder of the pictures.

    Raises:
        ImportError: without matplotlib.
    """
    target = Path(folder) / PICTURES
    shown = next(name for name in (*PREFERRED_SPLITS, *splits) if name in splits)
    name, rows = (shown, splits[shown]) if training and _has_captions(splits[shown]) else training or (None, None)
    with replacing(target) as staging:
        if all((run / "trainer_state.json").is_file() for run in runs.values()):
            draw_curves(runs, staging / CURVES)
        drawn = draw_predictions(splits[shown], predictions[shown], id2label, staging / PREDICTIONS, captions_of=rows)
        about = {"split": shown, "weights": weights, "captions_of": name if drawn else None}
        (staging / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    return target
