"""What the sections of a report show, as plain values for its template."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image as PILImage

from .. import columns
from ..data.images import open_image, to_rgb
from ..modeling.processing import EvalTransform, ImageSettings
from .activation_maps import activation_maps, find_spatial_layer
from .mistakes import ClassTexts, Confusion, changed_confusions, class_gains, worst_mistakes
from .nearest import ranked_captions
from .page_pictures import heat_picture, pixel_picture, png_uri, row_picture
from .pictures import curves
from .predict import Predictions, load_run

# How many are shown of each
MAPS, CAPTIONED, DIFFERING, MISTAKES, PAIRS, PAIR_EXAMPLES, CLASSES = 6, 6, 18, 6, 6, 3, 8


@dataclass
class ShownSplit:
    """
    A split and what the runs predict for it.

    Attributes:
        split: its rows.
        predictions: of `aligned` and perhaps `baseline`, the first before the second.
        id2label: class names.
    """

    split: Dataset
    predictions: dict[str, Predictions]
    id2label: dict[int, str]

    def __post_init__(self):
        self.labels = next(iter(self.predictions.values())).labels

    def name(self, label: int) -> str:
        return self.id2label.get(int(label), "unlabelled")

    def picture(self, row: int) -> Any:
        return row_picture(self.split, row, f"image of class {self.name(self.labels[row])}")

    def said(self, run: str, row: int) -> dict[str, Any]:
        """What a run says of an image: `run`, `name` of the class, `score`, and whether it is `right`."""
        predicted, label = int(self.predictions[run].predicted[row]), int(self.labels[row])
        right = None if label < 0 else predicted == label
        score = float(self.predictions[run].score[row])
        return {"run": run, "name": self.name(predicted), "score": score, "right": right}

    def card(self, row: int, first: str = "") -> dict[str, Any]:
        """An image, its class, and what each run says, that of `first` before others."""
        said = [self.said(run, row) for run in sorted(self.predictions, key=lambda run: run != first)]
        return {"picture": self.picture(row), "label": self.name(self.labels[row]), "said": said}

    def right(self, run: str) -> np.ndarray:
        return self.predictions[run].predicted == self.labels


def map_cards(shown: ShownSplit, runs: dict[str, Path], weights: str) -> dict[str, Any]:
    """
    Args:
        shown: the split.
        runs: run folders, in the order of the predictions.
        weights: `"raw"` or `"ema"`.

    Returns:
        `cards` of a few images, each with the maps of every run for the class that it predicts and, where that is
        wrong, for the right one; `layers`: what they were read from. Or `why`, a sentence, where there can be none.
    """
    rows = _assorted(shown, MAPS)
    images = [to_rgb(open_image(shown.split[row][columns.IMAGE])) for row in rows]
    cards: list[dict[str, Any]] = [{"label": shown.name(shown.labels[row]), "said": []} for row in rows]
    layers = []
    for run, folder in runs.items():
        predicted = shown.predictions[run].predicted[rows]
        labels = np.where(shown.labels[rows] >= 0, shown.labels[rows], predicted)
        try:
            layer, pixels, (maps, own_maps) = _maps_of_run(folder, weights, images, predicted, labels)
        except (ImportError, ValueError, RuntimeError) as error:  # the rest of the page needs none of it
            return {"why": f"There is no map, as {str(error).rstrip('.')}."}
        layers.append(f"{run}: {layer.name}, {layer.grid[0]} x {layer.grid[1]} cells")
        for number, (row, card) in enumerate(zip(rows, cards, strict=True)):
            said = shown.said(run, row)
            alt = f"what speaks for {said['name']} to the student {run}"
            said["picture"] = heat_picture(pixels[number], maps[number], alt)
            if said["right"] is False:
                alt = f"what speaks for {card['label']} to the student {run}"
                said["own_score"] = float(shown.predictions[run].scores_of(row)[shown.labels[row]])
                said["own_picture"] = heat_picture(pixels[number], own_maps[number], alt)
            card.setdefault("picture", pixel_picture(pixels[number], f"image of class {card['label']} as it is seen"))
            card["said"].append(said)
    return {"cards": cards, "layers": layers}


def _maps_of_run(folder: Path, weights: str, images: list[PILImage.Image], *classes: np.ndarray):
    """The layer, what the student sees of n images (n, H, W, 3) in [0, 1], and maps for each of `classes` (n,)."""
    model, processor = load_run(folder, weights)
    settings = ImageSettings.from_processor(processor)
    transform = EvalTransform(processor)
    pixel_values = torch.stack([transform(image) for image in images])
    layer = find_spatial_layer(model, pixel_values[:1])
    if layer is None:
        raise ValueError(f"no layer of the student {folder.name} has more than one cell an image")
    maps = [activation_maps(model, layer, pixel_values, some.tolist()) for some in classes]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (settings.mean, settings.std))
    return layer, (pixel_values * std + mean).permute(0, 2, 3, 1).numpy(), maps


def caption_cards(shown: ShownSplit) -> list[dict[str, Any]] | None:
    """A few images with the captions that the aligned run finds nearest; None for a split without captions."""
    aligned = shown.predictions["aligned"]
    if columns.CAPTION not in shown.split.column_names:
        return None
    chosen = np.sort(np.random.default_rng(0).permutation(len(shown.split))[:CAPTIONED]).tolist()
    ranked = ranked_captions(shown.split, aligned, chosen)
    if ranked is None:
        return None
    return [shown.card(row) | {"captions": captions} for row, captions in zip(chosen, ranked, strict=True)]


def differing_cards(shown: ShownSplit) -> dict[str, Any]:
    """
    Images that one of the two runs gets right and the other wrong: how many, and cards of both kinds in the proportion
    in which they occur.
    """
    aligned, baseline = shown.right("aligned"), shown.right("baseline")
    mended, broken = np.flatnonzero(aligned & ~baseline), np.flatnonzero(baseline & ~aligned)
    share = len(mended) / max(1, len(mended) + len(broken))
    rng = np.random.default_rng(0)
    rows = rng.permutation(mended)[: round(DIFFERING * share)].tolist()
    rows += rng.permutation(broken)[: DIFFERING - round(DIFFERING * share)].tolist()
    return {"mended": len(mended), "broken": len(broken), "cards": [shown.card(row) for row in rows]}


def mistake_cards(shown: ShownSplit) -> dict[str, list[dict[str, Any]]]:
    """The surest mistakes of each run, with what the other one says."""
    return {
        run: [shown.card(row, first=run) for row in worst_mistakes(predictions, MISTAKES)]
        for run, predictions in shown.predictions.items()
    }


def confusion_tables(shown: ShownSplit) -> dict[str, Any]:
    """Pairs of classes that are confused less and more often than by the baseline, and how alike captions are."""
    runs = shown.predictions
    fallen, risen = changed_confusions(runs["baseline"], runs["aligned"])
    texts = ClassTexts.of(shown.split, runs["aligned"])

    def line(one: Confusion) -> dict[str, Any]:
        return {
            "label": shown.name(one.label),
            "predicted": shown.name(one.predicted),
            "baseline": one.baseline,
            "aligned": one.aligned,
            "change": one.change,
            "cosine": texts.cosine(one.label, one.predicted),
            "pictures": [shown.picture(row) for row in one.rows[:PAIR_EXAMPLES]],
        }

    return {
        "numbers": (len(fallen), len(risen)),
        "mean_cosine": texts.mean_cosine(),
        "fallen": [line(one) for one in fallen[:PAIRS]],
        "risen": [line(one) for one in risen[:PAIRS]],
    }


def gain_bars(shown: ShownSplit) -> dict[str, Any]:
    """Classes that gained and lost most images, and how many did in all."""
    gains = class_gains(shown.predictions["baseline"], shown.predictions["aligned"])
    gained = [gain for gain in gains if gain[2] > 0]
    lost = [gain for gain in gains if gain[2] < 0]
    chosen = gained[:CLASSES] + lost[-CLASSES:]
    largest = max((abs(number) for *_, number in chosen), default=1)
    bars = [
        {"name": shown.name(label), "images": images, "gained": number, "share": abs(number) / largest}
        for label, images, number in chosen
    ]
    return {"gained": len(gained), "lost": len(lost), "classes": len(gains), "bars": bars}


def curve_pictures(runs: dict[str, Path]) -> dict[str, Any]:
    """The curves of training on a light and on a dark page; or `why` there are none."""
    if not all((run / "trainer_state.json").is_file() for run in runs.values()):
        return {"why": "There are no curves, as trainer_state.json is missing in a run folder."}
    try:
        return {"light": png_uri(curves(runs)), "dark": png_uri(curves(runs, dark=True))}
    except ImportError as error:
        return {"why": f"There are no curves, as {error}"}


def _assorted(shown: ShownSplit, count: int) -> list[int]:
    """Rows drawn at random, as evenly as there are: right by all runs, by one of them, by none."""
    rng = np.random.default_rng(0)
    keys = sum(2**number * shown.right(run) for number, run in enumerate(shown.predictions))
    kinds = [rng.permutation(np.flatnonzero(keys == key)).tolist() for key in np.unique(keys)[::-1]]
    in_turn = [kind[turn] for turn in range(count) for kind in kinds if turn < len(kind)]
    chosen = set(in_turn[:count])
    return [row for kind in kinds for row in kind if row in chosen]
