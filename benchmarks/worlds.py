"""
Do the accuracies of `g4i fit`, and their intervals, hold on data as people have them?

    python benchmarks/worlds.py PHOTOS

As in coverage.py: reduced sets, cached features, and the truth are the labels that were taken away. Each world is a
way in which labels, images and captions differ from a random sample with captions for all; see `WORLDS`. `judges` are
images that judged, and `on_pool` the accuracies on all unlabelled images.

Writes results/worlds.json.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
from coverage import BURSTS, PRIORS, TRAINED, Bursts, Drawn, measured, memorised
from datasets import Dataset
from photos import Photos, encoded, features_by, load_photos, parsed, parser_of, photos_of
from PIL import ImageFilter
from result_files import Results

from g4i_hf import View, priors
from g4i_hf.data.near_copies import SIDE, scenes
from g4i_hf.fitting.judge import Gold, Judge
from g4i_hf.fitting.targets import Targets
from g4i_hf.linear import one_hot
from g4i_hf.views.encoders import encoder_of_fit

KEY = ("world", "data", "seed")
MOST_ROWS = 3_000
AT_RANDOM = 60  # labels
CAPTIONS, NO_CAPTIONS = "captions", "no captions"


class Drawing(Drawn):
    """With image features alone, or captions of some images."""

    images: Dataset  # of the training rows, and where features of others are kept
    cache: Path

    def views(self, kind: str, labels: np.ndarray, seed: int, logits: np.ndarray | None = None) -> dict[str, View]:
        views = super().views(kind, labels, seed, logits)
        return {"image": views["image"]} if kind == NO_CAPTIONS else views

    def captions(self, kind: str, labels: np.ndarray, seed: int) -> np.ndarray:
        embeds = super().captions(kind, labels, seed)
        if kind in ("of labelled images", "names of labelled images"):
            embeds[labels < 0] = np.nan
        if kind == "names of labelled images":
            embeds[labels >= 0] = self.names[labels[labels >= 0]]
        if kind == "file names":
            embeds = encoded(
                [f"IMG_{number:05d}.jpg" for number in np.random.default_rng(seed).permutation(len(labels))]
            )
        return embeds.astype(np.float32)


class Mixed(Drawing):
    """The most frequent class has so many times the labels, or the unlabelled images, of the rarest."""

    in_labels, in_pool, most_labels = 1, 1, 5

    def __init__(self, photos: Photos, seed: int):
        super().__init__(photos, seed, MOST_ROWS)
        generator, number = np.random.default_rng([seed, 5]), len(self.classes)
        of_labels, of_pool = (
            float(ratio) ** -(np.arange(number) / (number - 1)) for ratio in (self.in_labels, self.in_pool)
        )
        given, pools = [], []
        for label, share in enumerate(of_labels):
            rows = generator.permutation(np.flatnonzero(self.truth == label))
            labelled = min(max(round(self.most_labels * share), 1), len(rows) // 2)
            given, pools = [*given, rows[:labelled]], [*pools, rows[labelled:]]
        scale = min(len(rows) / share for rows, share in zip(pools, of_pool, strict=True))
        pools = [rows[: round(scale * share)] for rows, share in zip(pools, of_pool, strict=True)]
        kept = np.concatenate([*given, *pools])
        self.given = np.arange(len(kept)) < sum(map(len, given))
        self.features, self.truth, self.embeds = self.features[kept], self.truth[kept], self.embeds[kept]

    def labels(self, each: int | str, wrong: float, seed: int) -> np.ndarray:
        return np.where(self.given, self.truth, -1)


class FewClasses(Drawing):
    """Labels at random."""

    def labels(self, each: int | str, wrong: float, seed: int) -> np.ndarray:
        chosen = np.random.default_rng([seed, 1]).permutation(len(self.truth))[:AT_RANDOM]
        return np.where(np.isin(np.arange(len(self.truth)), chosen), self.truth, -1)


class Other(FewClasses):
    """Seven classes of ten are one, which no word names."""

    most_classes = 10

    def __init__(self, photos: Photos, seed: int):
        super().__init__(photos, seed)
        self.truth, self.truth_of_others = np.minimum(self.truth, 3), np.minimum(self.truth_of_others, 3)
        self.classes, self.names = self.classes[:4], self.names[:4] * (np.arange(4) < 3)[:, None]


class Two(Mixed, FewClasses):
    """Ten times as many of one as of the other."""

    most_classes, in_pool, most_labels = 2, 10, 0
    labels = FewClasses.labels


class Student(Drawing):
    """It was trained on the labels: half of what its features hold are the logits of a regression on these."""

    def labels(self, each: int | str, wrong: float, seed: int) -> np.ndarray:
        labels = super().labels(each, wrong, seed)
        model = memorised(self.features, labels)
        logits = model.decision_function(self.features)
        scale = np.sqrt((self.features**2).sum(1).mean() / (logits**2).sum(1).mean())
        self.features, self.others = (
            np.concatenate([each, scale * model.decision_function(each)], axis=1).astype(np.float32)
            for each in (self.features, self.others)
        )
        return labels


class Camera(Drawing):
    """Labels are of dark and blurred images without colors."""

    def __init__(self, photos: Photos, seed: int):
        super().__init__(photos, seed)
        raw = np.concatenate([photos.raw, np.ones((len(photos.raw), 1))], axis=1)
        self.projection = np.linalg.lstsq(raw, photos.features.numpy(), rcond=None)[0]

    def labels(self, each: int | str, wrong: float, seed: int) -> np.ndarray:
        labels = super().labels(each, wrong, seed)
        rows = np.flatnonzero(labels >= 0)

        def taken(row: dict) -> dict:
            image = row["image"].convert("L").point(lambda value: value // 2).convert("RGB")
            blurred = image.filter(ImageFilter.GaussianBlur(max(image.size) / 64))
            return {"image": blurred, "image_id": f"camera/{row['image_id']}"}

        images = self.images.select(self.rows[rows]).select_columns(["image", "image_id"])
        raw = features_by(encoder_of_fit(None, self.images), images.map(taken, keep_in_memory=True), self.cache)
        self.features[rows] = np.concatenate([raw, np.ones((len(raw), 1))], axis=1) @ self.projection
        return labels


class Found(Bursts, Drawing):
    """Scenes are found by features and thumbnails."""

    def labels(self, each: int | str, wrong: float, seed: int) -> np.ndarray:
        labels, generator = super().labels(each, wrong, seed), np.random.default_rng([seed, 6])
        of_scene = {row: self._thumbnail(self.rows[row]) for row in np.unique(self.scenes)}
        pixels = np.stack([of_scene[row] for row in self.scenes])
        pixels += generator.normal(0, 0.2 * pixels.std(), pixels.shape)
        self.scenes = scenes(self.features, pixels)
        return labels

    def _thumbnail(self, row: int) -> np.ndarray:
        return np.asarray(self.images[int(row)]["image"].convert("RGB").resize((SIDE, SIDE)), dtype=np.float32)


class Judged(Bursts):
    """All frames have a label, and a fifth of the scenes one gold image."""

    def __init__(self, photos: Photos, seed: int):
        super().__init__(photos, seed)
        chosen = np.random.default_rng([seed, 7]).permutation(np.unique(self.scenes))
        is_gold = np.isin(self.scenes, chosen[: len(chosen) // 5])
        _, first = np.unique(self.scenes, return_index=True)
        gold = first[is_gold[first]]
        self.gold = self.features[gold], self.truth[gold], self.scenes[gold]
        for name in ("features", "truth", "embeds", "scenes"):
            setattr(self, name, getattr(self, name)[~is_gold])

    def judge(self, targets: Targets) -> Judge:
        features, truth, groups = self.gold
        return Gold(np.arange(len(truth)), features, one_hot(truth, len(self.classes)), groups=groups)


def mixed(**what: int) -> Callable[[Photos, int], Drawn]:
    return type("Mixed", (Mixed,), what)


# Name -> the drawing, its labels, and its captions
WORLDS = {
    "file names": (Drawing, 5, "file names"),
    "captions of labelled images": (Drawing, 5, "of labelled images"),
    "names of labelled images": (Drawing, 5, "names of labelled images"),
    "captions of the pool": (Drawing, 5, "of unlabelled images"),
    "captions of half": (Drawing, 5, "of half"),
    "scores trained on the labels": (Drawing, 5, TRAINED),
    "student trained on the labels": (Student, 5, NO_CAPTIONS),
    "student trained on the labels, captions": (Student, 5, CAPTIONS),
    "another camera": (Camera, 5, NO_CAPTIONS),
    "another camera, captions": (Camera, 5, CAPTIONS),
    "pool 20:1": (mixed(in_pool=20), 5, NO_CAPTIONS),
    "pool 20:1, captions": (mixed(in_pool=20), 5, CAPTIONS),
    "pool 100:1": (mixed(in_pool=100), 5, NO_CAPTIONS),
    "pool 100:1, captions": (mixed(in_pool=100), 5, CAPTIONS),
    "labels 50:1": (mixed(in_labels=50, most_labels=25), 5, NO_CAPTIONS),
    "labels 50:1, captions": (mixed(in_labels=50, most_labels=25), 5, CAPTIONS),
    "other of seven": (Other, AT_RANDOM, NO_CAPTIONS),
    "other of seven, captions": (Other, AT_RANDOM, CAPTIONS),
    "two classes 10:1": (Two, AT_RANDOM, NO_CAPTIONS),
    "two classes 10:1, captions": (Two, AT_RANDOM, CAPTIONS),
    **{f"bursts, {name}": (Bursts, name, CAPTIONS) for name in BURSTS},
    **{f"bursts, {name}, found": (Found, name, CAPTIONS) for name in BURSTS},
    "bursts, all frames, gold": (Judged, "all frames", CAPTIONS),
}


def main() -> None:
    parser = parser_of(__doc__, seeds=range(114, 117))
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    args = parsed(parser)
    results = Results(args.results / "worlds.json", KEY)
    loaded = {data: (load_photos(args.photos, data, args.cache), photos_of(args.photos, data)) for data in args.data}
    Drawing.cache = args.cache
    for seed, world, (data, (photos, splits)) in product(args.seeds, args.worlds, loaded.items()):
        drawing, each, kind = WORLDS[world]
        if results.has(world, data, seed) or (drawing is Two and data != "cifar10"):  # others have too few of a class
            continue
        priors.PRIOR_STD_BIAS, priors.PRIOR_STD_BIAS_OF_DIFFERENCE = PRIORS[data]
        Drawing.images = splits["train"]
        results.add(world, data, seed, **measured(drawing(photos, seed), each, 0.0, kind, seed, None))


if __name__ == "__main__":
    main()
