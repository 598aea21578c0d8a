"""
What `g4i predict` says of new images without labels: does it find that they differ, only then, and does it say the mix
of classes and the accuracy there?

    pip install -e '.[demo]'
    python benchmarks/another_month.py PHOTOS

PHOTOS and `--cache` are those of photos_frozen.py. A classifier is fitted as `g4i fit` does, on 1,200 images of the 30
largest classes (of CIFAR-10 all ten), with captions and 10 labels a class. New images are 200 or 500 others: as they
come (`none`), with classes of geometric shares in a random order (`mix 20:1`, `mix 100:1`), or changed: blurred, as
JPEG of low quality, darker, and scaled down and up again. Of each changed image the student computes features anew.
The seed draws the training images, their labels and the new images; classes and changed images are the same in all
draws. All are of the split `train`: on Caltech-101, `test` shows other people and places, and is found to differ.

`drop` is how much less accurate the classifier is on the new images than on others as they come. A row holds how many
of the classes' true shares lie in their intervals. Writes results/another_month.json.
"""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from datasets import Image, load_dataset
from photos import load_photos, parsed, parser_of
from PIL import Image as PILImage
from PIL import ImageEnhance, ImageFilter
from result_files import Results
from scipy.special import softmax

from g4i_hf import LabelModel, View
from g4i_hf.data.images import open_image, to_rgb
from g4i_hf.fitting.evidence import Evidence
from g4i_hf.fitting.fitted_on import of_run
from g4i_hf.fitting.judge import judge_in_training, judged_heads
from g4i_hf.fitting.targets import Targets
from g4i_hf.inference.another_month import NewImages, Summary
from g4i_hf.inference.fitted_on import FittedOn
from g4i_hf.names import WITH_VIEWS
from g4i_hf.views.encoders import encoder_of_fit

CLASSES, ROWS, CHANGED, LABELS = 30, 1_200, 500, 10
SIZES, TIMES_NONE, TIMES_MIX = (200, 500), 8, 4
KEY = ("data", "seed", "size", "shift", "time")


def blurred(radius: float) -> Callable[[PILImage.Image], PILImage.Image]:
    """`radius` in pixels of an image of 224."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius * min(image.size) / 224))


def as_jpeg(quality: int) -> Callable[[PILImage.Image], PILImage.Image]:
    def change(image: PILImage.Image) -> PILImage.Image:
        image.save(file := io.BytesIO(), "JPEG", quality=quality)
        return PILImage.open(file).convert("RGB")

    return change


def scaled(factor: int) -> Callable[[PILImage.Image], PILImage.Image]:
    """Down by this factor, and up again."""

    def change(image: PILImage.Image) -> PILImage.Image:
        small = image.resize([max(side // factor, 4) for side in image.size], PILImage.Resampling.BILINEAR)
        return small.resize(image.size, PILImage.Resampling.BILINEAR)

    return change


CHANGES = {
    "blur 2": blurred(2),
    "blur 4": blurred(4),
    "JPEG 20": as_jpeg(20),
    "JPEG 8": as_jpeg(8),
    "half the light": lambda image: ImageEnhance.Brightness(image).enhance(0.5),
    "a quarter of the light": lambda image: ImageEnhance.Brightness(image).enhance(0.25),
    "half the size": scaled(2),
    "a quarter of the size": scaled(4),
}


@dataclass
class Pool:
    """Images of some classes: features, classes, and those of the changed images by name."""

    features: np.ndarray
    truth: np.ndarray
    embeds: np.ndarray
    names: np.ndarray  # (C, D) of the classes
    rows_changed: np.ndarray  # which are not trained on
    changed: dict[str, np.ndarray]


def pool_of(root: Path, data: str, cache: Path) -> Pool:
    photos = load_photos(root, data, cache)
    kept = np.argsort(-np.bincount(photos.truth), kind="stable")[:CLASSES]
    place = np.full(photos.num_labels, -1)
    place[kept] = np.arange(len(kept))
    rows = np.flatnonzero(place[photos.truth] >= 0)
    chosen = np.random.default_rng(7).permutation(len(rows))[:CHANGED]
    names = [photos.training["image_id"][int(row)] for row in rows[chosen]]
    changed = features_of_changed(root, data, names, cache / f"changed_{data}.npz")
    embeds = photos.embeds[rows], photos.class_embeds[kept]
    return Pool(photos.raw[rows], place[photos.truth[rows]], *embeds, chosen, changed)


def features_of_changed(root: Path, data: str, names: list[str], file: Path) -> dict[str, np.ndarray]:
    """By name of the change, (n, F), kept in a file."""
    if not file.exists():
        whole = load_dataset("parquet", data_dir=str(root / data))
        encoder, split = encoder_of_fit(None, whole["train"]), whole["train"].cast_column("image", Image(decode=False))
        row_of = {name: row for row, name in enumerate(split["image_id"][:])}
        images = [to_rgb(open_image(split[row_of[name]]["image"])) for name in names]
        found = {}
        with torch.inference_mode():
            for name, change in CHANGES.items():
                pixels = (torch.stack([encoder.transform(change(each))]) for each in images)
                found[name] = np.concatenate([encoder.features(each).float().numpy() for each in pixels])
        np.savez(file, **found)
    return dict(np.load(file, allow_pickle=False))


class Draw:
    """A classifier, what it was fitted on, and the images that are left."""

    def __init__(self, pool: Pool, seed: int):
        order = np.random.default_rng([seed, 0]).permutation(len(pool.truth))
        rows = order[~np.isin(order, pool.rows_changed)][:ROWS]
        left = np.setdiff1d(order, rows)
        truth, labels, number = pool.truth[rows], np.full(len(rows), -1), len(pool.names)
        for label in range(number):
            labels[np.flatnonzero(truth == label)[:LABELS]] = label
        features = pool.features[rows]
        views = {"image": View(features), "caption": View(pool.embeds[rows], pool.names, self_trains=False)}
        model = LabelModel(number, seed).fit(views, labels)
        targets = Targets.of(Evidence(labels, views, model, np.arange(len(rows))))
        judge = judge_in_training(targets, features)
        self.head, self.pool = judged_heads(targets, features, judge)[WITH_VIEWS], pool
        self.fitted = of_run(WITH_VIEWS, None, features, judge, targets.evidence, np.zeros(16, np.uint8))
        self.estimate = judge.judgement().accuracies[WITH_VIEWS]
        self.left, self.truth = pool.features[left], pool.truth[left]
        self.usual = self.accuracy(self.left, self.truth)

    def accuracy(self, features: np.ndarray, truth: np.ndarray) -> float:
        return float((self.head.logits(features).argmax(1) == truth).mean())

    def new(self, shift: str, size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Features and classes."""
        if shift in CHANGES:
            rows = generator.permutation(len(self.pool.rows_changed))[:size]
            return self.pool.changed[shift][rows], self.pool.truth[self.pool.rows_changed[rows]]
        order = generator.permutation(len(self.truth))
        if shift.startswith("mix"):
            order = order[mixed(self.truth[order], float(shift.split()[1].split(":")[0]), size, generator)]
        return self.left[order[:size]], self.truth[order[:size]]


def mixed(truth: np.ndarray, ratio: float, size: int, generator: np.random.Generator) -> np.ndarray:
    """Rows of `size` images, with classes of geometric shares; fewer where a class has no more."""
    number = truth.max() + 1
    shares = np.geomspace(ratio, 1, number)[generator.permutation(number)]
    counts = generator.multinomial(size, shares / shares.sum())
    return np.concatenate([np.flatnonzero(truth == label)[:count] for label, count in enumerate(counts)])


def measured(draw: Draw, shift: str, size: int, generator: np.random.Generator) -> dict:
    features, truth = draw.new(shift, size, generator)
    probabilities = softmax(draw.head.logits(features), axis=1)
    summary = summary_of(draw.fitted, features, probabilities)
    number = len(draw.fitted.counts)
    true = np.bincount(truth, minlength=number) / len(truth)
    low, high = summary.intervals.T
    accuracy, expected = draw.accuracy(features, truth), summary.accuracy
    return {
        "images": len(truth),
        "accuracy": accuracy,
        "drop": draw.usual - accuracy,
        "differs": summary.comparison.differs,
        "p_value": summary.comparison.p_value,
        "shares_held": float(((low <= true) & (true <= high)).mean()),
        "shares_half": float(((high - low) / 2).mean()),
        "shares_error": float(abs(summary.shares - true).sum() / 2),
        "error_of_the_mean": float(abs(probabilities.mean(0) - true).sum() / 2),
        "expected": expected and expected.share,
        "interval": expected and list(expected.interval),
        "known": draw.estimate.share,
        "known_interval": list(draw.estimate.interval),
        "usual": draw.usual,
    }


def summary_of(fitted: FittedOn, features: np.ndarray, probabilities: np.ndarray) -> Summary:
    new, values = NewImages(), np.concatenate([fitted.of(torch.from_numpy(features)), probabilities], axis=1)
    for row, each in enumerate(values):
        new.add(str(row), row, each)
    return Summary.of(fitted, new, [str(label) for label in range(len(fitted.counts))])


def main() -> None:
    args = parsed(parser_of(__doc__, seeds=range(100, 105)))
    results = Results(args.results / "another_month.json", KEY)
    shifts = [("none", time) for time in range(TIMES_NONE)]
    shifts += [(f"mix {ratio}:1", time) for ratio in (20, 100) for time in range(TIMES_MIX)]
    shifts += [(name, 0) for name in CHANGES]
    for data in args.data:
        pool = pool_of(args.photos, data, args.cache)
        for seed in args.seeds:
            keys = [(data, seed, size, *shift) for size, shift in product(SIZES, shifts)]
            keys = [key for key in keys if not results.has(*key)]
            draw = Draw(pool, seed) if keys else None
            for key in keys:
                *_, size, shift, time = key
                generator = np.random.default_rng([seed, size, time, zlib.crc32(shift.encode())])
                results.add(*key, **measured(draw, shift, size, generator))


if __name__ == "__main__":
    main()
