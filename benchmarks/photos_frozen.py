"""
What are captions worth for the last layer of a pretrained EfficientNet-Lite0 on photographs? Wrong labels, few labels,
rare classes and all labels, beside methods without captions, on CIFAR-10, Caltech-101 and Flowers-102.

    python recipes/efficientnet_lite0/convert.py
    pip install cleanlab
    python benchmarks/photos_frozen.py PHOTOS

PHOTOS holds a folder of Parquet files for each dataset (recipes/photos says where the images and captions come from).
Image features at 128 pixels and caption embeddings are computed once, and kept in `--cache`. The last layer is a
logistic regression on 256 principal components of the standardised features, fitted with L-BFGS; its regularisation
is the best one on `validation`, chosen for each variant by itself. Aligning features is impossible here, as the
features are frozen; a caption can only change labels. Caltech-101 has no `validation`: a tenth of each class of its
training split is taken.

Finished rows are not computed again. Writes results/photos_*.json, where rows of other students stay as they are.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from controls import keep_label_fraction, with_label_noise, with_long_tail
from datasets import Dataset, load_dataset
from photo_results import PhotoResults
from torch import nn

from g4i_hf import LabelModel, View
from g4i_hf.data.checks import labels_of, with_labels
from g4i_hf.data.classes import terms_of
from g4i_hf.embedding import load_encoder
from g4i_hf.embedding.embed import name_as_text
from g4i_hf.evaluation.predict import predict
from g4i_hf.label_model.supervise import supervise
from g4i_hf.options import AugmentationArguments, RunArguments, StudentArguments
from g4i_hf.training.build import build_student

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
STUDENT = "efficientnet_lite0, last layer"
CHECKPOINT = "runs/efficientnet_lite0"
SYNONYMS = {
    "airplane": ["plane", "aeroplane", "aircraft", "jet"],
    "automobile": ["car", "sedan", "vehicle"],
    "bird": ["ostrich"],
    "cat": ["kitten"],
    "deer": ["elk", "moose", "antelope"],
    "dog": ["puppy", "puppies"],
    "frog": ["toad"],
    "horse": ["pony", "ponies"],
    "ship": ["boat"],
    "truck": ["lorry", "lorries"],
}
STRENGTHS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)  # C of scikit-learn's LogisticRegression
COMPONENTS = 256  # principal components of the features: 74% of the variance, on Flowers-102
FOLDS = 5


@dataclass
class Photos:
    """
    Attributes:
        training: rows with `image_id`, `label`, `text_embeds`.
        features: (N, F) of the training rows; `validation` and `test` are pairs of features and labels.
        captions: the first one of each training row, "" where there is none.
        class_embeds: (C, D) of the names.
        test_text_embeds: (M, D), None where test images have no captions.
        folder: for what captions say of these rows.
    """

    name: str
    training: Dataset
    features: torch.Tensor
    validation: tuple[torch.Tensor, np.ndarray]
    test: tuple[torch.Tensor, np.ndarray]
    captions: list[str]
    class_embeds: np.ndarray
    test_text_embeds: np.ndarray | None
    num_labels: int
    folder: Path

    @property
    def truth(self) -> np.ndarray:
        return labels_of(self.training)


def load_photos(root: Path, name: str, cache: Path) -> Photos:
    splits = load_dataset("parquet", data_dir=str(root / name))
    features, embeds = {}, {}
    for split, rows in splits.items():
        features[split] = cached(cache / f"f_{name}_{split}.npy", image_features, rows)
        embeds[split] = cached(cache / f"e_{name}_{split}.npy", text_embeds, rows)
    captions = first_captions(splits["train"])
    rows = splits.remove_columns(["image", "caption"])
    training = rows["train"].add_column("text_embeds", list(embeds["train"]))
    mean, deviation = features["train"].mean(0, dtype=np.float32), features["train"].std(0, dtype=np.float32) + 1e-6
    scaled = {split: torch.from_numpy((values - mean) / deviation).float() for split, values in features.items()}
    axes = torch.linalg.eigh(scaled["train"].T @ scaled["train"])[1][:, -COMPONENTS:]
    scaled = {split: values @ axes for split, values in scaled.items()}
    if "validation" in splits:
        kept, validation = np.arange(len(training)), (scaled["validation"], labels_of(rows["validation"]))
    else:
        held_out = labels_of(keep_label_fraction(training, 0.1, seed=1234)) >= 0
        kept, chosen = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        validation = scaled["train"][chosen], labels_of(training)[chosen]
    has_captions = np.abs(embeds["test"]).sum() > 0
    return Photos(
        name,
        training.select(kept),
        scaled["train"][kept],
        validation,
        (scaled["test"], labels_of(rows["test"])),
        [captions[row] for row in kept],
        encoded([name_as_text(name) for name in training.features["label"].names]),
        embeds["test"] if has_captions else None,
        int(labels_of(training).max()) + 1,
        cache / name,
    )


def cached(file: Path, compute: Callable[[Dataset], np.ndarray], split: Dataset) -> np.ndarray:
    if not file.exists():
        np.save(file, compute(split))
    return np.load(file, allow_pickle=False)


def image_features(split: Dataset, checkpoint: str | Path = CHECKPOINT) -> np.ndarray:
    """(n, F) float16"""
    augmentation = AugmentationArguments(image_size=128)
    built = build_student(
        StudentArguments(student=str(checkpoint), pretrained=True), augmentation, 0, {0: "0", 1: "1"}, 384
    )
    images, what = split.select_columns(["image", "image_id"]), {"output_features": True, "output_image_embeds": False}
    return predict(built.model.eval(), built.processor, images, Accelerator(cpu=True), **what).features.astype(
        "float16"
    )


def text_embeds(split: Dataset) -> np.ndarray:
    """(n, D) float16, of the first caption; zeros where there is none."""
    return encoded(first_captions(split))


def first_captions(split: Dataset) -> list[str]:
    return [(captions or [""])[0] or "" for captions in split["caption"][:]]


def encoded(texts: list[str]) -> np.ndarray:
    embeds = np.zeros((len(texts), 384), dtype=np.float16)
    rows = [row for row, text in enumerate(texts) if text]
    if rows:
        embeds[rows] = load_encoder(ENCODER).encode([texts[row] for row in rows])
    return embeds


# --- The last layer --------------------------------------------------------------------------------------------------


def fit_layer(
    x: torch.Tensor,
    targets: torch.Tensor,
    strength: float,
    start: torch.Tensor | None = None,
    gce: float | None = None,
) -> torch.Tensor:
    """
    (F + 1, C) weight and bias.

    Args:
        x: (n, F).
        targets: (n, C), the weight of each class in each row's cross entropy.
        gce: q of generalised cross entropy (arXiv 1805.07836) in place of cross entropy.
    """
    weight = (torch.zeros(x.shape[1] + 1, targets.shape[1]) if start is None else start.clone()).requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=60, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        log_p = (x @ weight[:-1] + weight[-1]).log_softmax(1)
        losses = -log_p if gce is None else (1 - (gce * log_p).exp()) / gce
        loss = (targets * losses).sum() / len(x) + weight[:-1].square().sum() / (2 * strength * len(x))
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach()


def logits_of(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ weight[:-1] + weight[-1]


def accuracy(logits: torch.Tensor, labels: np.ndarray) -> float:
    return float((logits.argmax(1).numpy() == labels).mean())


def best_layer(
    photos: Photos, x: torch.Tensor, targets: torch.Tensor, gce: float | None = None
) -> tuple[float, torch.Tensor]:
    """The strength that is best on `validation`, and its layer. Stops where two weaker ones are no better."""
    best, weight, since = (-1.0, 0.0, None), None, 0
    for strength in STRENGTHS:
        weight = fit_layer(x, targets, strength, weight, gce)
        found = accuracy(logits_of(weight, photos.validation[0]), photos.validation[1])
        since = 0 if found > best[0] else since + 1
        if found > best[0]:
            best = (found, strength, weight)
        if since == 2:
            break
    return best[1], best[2]


def one_hot(labels: np.ndarray, num_labels: int, smoothing: float = 0.0) -> torch.Tensor:
    """(n, C); zeros for rows without a label."""
    rows = np.eye(num_labels, dtype=np.float32)[np.maximum(labels, 0)] * (1 - smoothing) + smoothing / num_labels
    return torch.from_numpy(rows * (labels >= 0)[:, None])


def learned(
    photos: Photos, labels: np.ndarray, soft: np.ndarray | None = None, soft_weight: float = 0.0
) -> torch.Tensor:
    """The layer that learns from labels and soft labels, each the mean over its rows, as a training step does."""
    known = labels >= 0
    targets = one_hot(labels, photos.num_labels) * (len(labels) / max(known.sum(), 1))
    if soft is not None:
        taught = soft.sum(1) > 0
        targets += torch.from_numpy(soft.astype(np.float32)) * (soft_weight * len(labels) / max(taught.sum(), 1))
    used = targets.sum(1) > 0
    return best_layer(photos, photos.features[used], targets[used] * float(used.float().mean()))[1]


# --- What is compared ------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """Training rows of which some labels are taken away or made wrong. `labels` (N,): -1 without one."""

    photos: Photos
    labels: np.ndarray
    seed: int
    noise: float = 0.0  # share of wrong labels, which methods that filter are told


def baseline(case: Case) -> torch.Tensor:
    return learned(case.photos, case.labels)


def captions(image: bool = False) -> Callable:
    """What `g4i train --supervision auto` does, by the same functions. `image`: frozen features are a second view."""

    def run(case: Case) -> torch.Tensor:
        photos, rows = case.photos, with_labels(case.photos.training, case.labels)
        found = supervise(
            rows,
            RunArguments(supervision="auto"),
            num_labels=photos.num_labels,
            seed=case.seed,
            image_features=(lambda: photos.features.numpy()) if image else None,
            class_embeds=lambda: photos.class_embeds,
            folder=photos.folder / ("both" if image else "captions"),  # what was fitted is shared by the variants
        )
        soft = None
        if "soft_labels" in found.split.column_names:
            soft = np.asarray(found.split.with_format("numpy")["soft_labels"][:])
        run.facts = found.facts
        return learned(photos, labels_of(found.split), soft, found.plan.soft_label_weight)

    run.facts = {}
    return run


def captions_at_inference(case: Case) -> torch.Tensor | None:
    """Logits of the label model on test captions: it needs a VLM for every image."""
    if case.photos.test_text_embeds is None:
        return None
    embeds = np.asarray(case.photos.training.with_format("numpy")["text_embeds"][:])
    views = {"caption": View(embeds, case.photos.class_embeds, learns=False)}
    model = LabelModel(case.photos.num_labels, case.seed).fit(views, case.labels)
    return torch.from_numpy(model.predict({"caption": case.photos.test_text_embeds})).log()


def label_smoothing(case: Case) -> torch.Tensor:
    targets = one_hot(case.labels, case.photos.num_labels, smoothing=0.2)
    return best_layer(case.photos, case.photos.features, targets)[1]


def generalised_cross_entropy(case: Case) -> torch.Tensor:
    """Zhang & Sabuncu (arXiv 1805.07836), q = 0.7."""
    return best_layer(case.photos, case.photos.features, one_hot(case.labels, case.photos.num_labels), gce=0.7)[1]


def small_loss(case: Case) -> torch.Tensor:
    """Learns, three times, from the rows with the smallest losses; it is told the share of wrong labels."""
    weight = baseline(case)
    for _ in range(3):
        losses = nn.functional.cross_entropy(
            logits_of(weight, case.photos.features), torch.from_numpy(case.labels), reduction="none"
        )
        kept = losses <= losses.quantile(1 - case.noise)
        weight = learned(case.photos, np.where(kept.numpy(), case.labels, -1))
    return weight


def image_probabilities(case: Case) -> np.ndarray:
    """(N, C) of labelled rows, out of fold, by the layer alone."""
    x, targets = case.photos.features, one_hot(case.labels, case.photos.num_labels)
    strength, _ = best_layer(case.photos, x, targets)
    folds = np.random.default_rng(case.seed).permutation(len(x)) % FOLDS
    found = np.zeros(targets.shape, dtype=np.float32)
    for fold in range(FOLDS):
        weight = fit_layer(x[folds != fold], targets[folds != fold], strength)
        found[folds == fold] = logits_of(weight, x[folds == fold]).softmax(1)
    return found


def cleanlab(case: Case) -> torch.Tensor:
    """Labels that cleanlab doubts, by image probabilities out of fold, are left out."""
    from cleanlab.filter import find_label_issues

    issues = find_label_issues(case.labels, image_probabilities(case).astype(np.float64), n_jobs=1)
    return learned(case.photos, np.where(issues, -1, case.labels))


def self_training(case: Case) -> torch.Tensor:
    """Two rounds of its own pseudo-labels, above the confidence that is best on `validation`."""
    found = [first := baseline(case)]
    for threshold in (0.0, 0.5, 0.9):
        weight = first
        for _ in range(2):
            probabilities = logits_of(weight, case.photos.features).softmax(1)
            sure = (probabilities.max(1).values >= threshold).numpy()
            own = np.where(sure, probabilities.argmax(1).numpy(), -1)
            weight = learned(case.photos, np.where(case.labels >= 0, case.labels, own))
        found.append(weight)
    x, labels = case.photos.validation
    return max(found, key=lambda weight: accuracy(logits_of(weight, x), labels))


def cache_of_features(case: Case) -> torch.Tensor:
    """Test logits of a layer and a cache of labelled features, as in Tip-Adapter (arXiv 2111.03930)."""
    known = np.flatnonzero(case.labels >= 0)
    keys = nn.functional.normalize(case.photos.features[known], dim=1)
    values, weight, best = one_hot(case.labels[known], case.photos.num_labels), baseline(case), (-1.0, None)
    for sharpness in (1.0, 5.0, 20.0, 50.0):
        for share in (0.5, 2.0, 8.0, 32.0):

            def logits(x: torch.Tensor, sharpness: float = sharpness, share: float = share) -> torch.Tensor:
                affinity = (-sharpness * (1 - nn.functional.normalize(x, dim=1) @ keys.T)).exp()
                return logits_of(weight, x) + share * affinity @ values

            found = accuracy(logits(case.photos.validation[0]), case.photos.validation[1])
            if found > best[0]:
                best = (found, logits)
    return best[1](case.photos.test[0])


def balanced(case: Case) -> torch.Tensor:
    """Every class has the same weight."""
    targets = one_hot(case.labels, case.photos.num_labels)
    counts = targets.sum(0).clamp_min(1)
    return best_layer(case.photos, case.photos.features, targets * (len(targets) / (len(counts) * counts)))[1]


def logit_adjustment(case: Case) -> torch.Tensor:
    """Menon et al. (arXiv 2007.07314): the logarithm of a class's share is subtracted from its logit."""
    weight = baseline(case)
    weight[-1] -= torch.from_numpy(np.log(np.bincount(case.labels, minlength=case.photos.num_labels) + 1e-6)).float()
    return weight


def with_captions_of_others(case: Case) -> torch.Tensor:
    """A control: every image has the caption of another one."""
    rows = case.photos.training
    order = np.random.default_rng(case.seed).permutation(len(rows))
    return replaced(case, np.asarray(rows.with_format("numpy")["text_embeds"][:])[order])


def with_random_vectors(case: Case) -> torch.Tensor:
    """A control: every image has a random vector for a caption."""
    return replaced(case, np.random.default_rng(case.seed).normal(size=(len(case.labels), 384)))


def with_class_names(case: Case) -> torch.Tensor:
    """A control: every image has the name of its true class for a caption, as if the model had never been wrong."""
    photos = case.photos
    names = photos.training.features["label"].names
    return replaced(case, load_encoder(ENCODER).encode([f"a photo of a {name}" for name in names])[photos.truth])


def without_class_names(case: Case) -> torch.Tensor:
    """A control: the names of all classes, and the usual synonyms of CIFAR-10's, are taken out of the captions."""
    photos = case.photos
    names = photos.training.features["label"].names
    terms = [term for name in names for term in (*terms_of(name), *SYNONYMS.get(name, ()))]
    found = "|".join(sorted(map(re.escape, terms), key=len, reverse=True))
    pattern = re.compile(rf"\b(?:{found})(?:s|es)?\b", re.IGNORECASE)
    file = photos.folder.parent / f"without_names_{photos.name}.npy"
    if not file.exists():
        np.save(file, encoded([pattern.sub("", caption) for caption in photos.captions]))
    return replaced(case, np.load(file, allow_pickle=False))


def replaced(case: Case, text_embeds: np.ndarray) -> torch.Tensor:
    rows = case.photos.training.remove_columns("text_embeds")
    rows = rows.add_column("text_embeds", list(np.asarray(text_embeds, dtype=np.float16)))
    photos = Photos(**case.photos.__dict__ | {"training": rows})
    return captions(image=True)(Case(photos, case.labels, case.seed, case.noise))


CAPTIONS = {
    "auto": captions(image=True),
    "auto, captions alone": captions(),
}
RIVALS_OF_NOISE = {
    "label smoothing": label_smoothing,
    "GCE": generalised_cross_entropy,
    "small-loss filter": small_loss,
    "cleanlab": cleanlab,
}
RIVALS_OF_FEW = {
    "self-training": self_training,
    "Tip-Adapter": cache_of_features,
    "captions at inference": captions_at_inference,
}
RIVALS_OF_TAIL = {"balanced": balanced, "logit adjustment": logit_adjustment}
GRIDS = {
    "few_labels": (
        ["no labels", "1 a class", "4 a class", "16 a class", "10%"],
        {"baseline": baseline} | CAPTIONS | RIVALS_OF_FEW,
    ),
    "wrong_labels": (
        ["20% symmetric", "40% symmetric", "60% symmetric", "20% confusable", "40% confusable"],
        {"baseline": baseline} | CAPTIONS | RIVALS_OF_NOISE,
    ),
    "all_labels": (
        ["all"],
        {"baseline": baseline} | CAPTIONS | {"captions at inference": captions_at_inference},
    ),
    "controls": (
        ["4 a class", "40% symmetric"],
        {
            "baseline": baseline,
            "auto": captions(image=True),
            "captions of other images": with_captions_of_others,
            "random vectors": with_random_vectors,
            "class names": with_class_names,
            "without class names": without_class_names,
        },
    ),
    "long_tail": (["factor 20", "factor 100"], {"baseline": baseline} | CAPTIONS | RIVALS_OF_TAIL),
}


WITHOUT_LABELS = [*CAPTIONS, "captions at inference"]  # nothing else can be done without labels
# More classes take longer: of these two datasets some settings
OF_MANY_CLASSES = {"wrong_labels": ["40% symmetric", "20% confusable"]}


def case_of(photos: Photos, setting: str, seed: int) -> Case:
    rate = 0.0
    if setting.startswith("factor"):
        photos = with_rows(photos, with_long_tail(photos.training, float(setting.split()[1]), seed))
        labels = photos.truth
    else:
        labels = labels_with(photos.training, setting, seed)
        if setting.endswith(("symmetric", "confusable")):
            rate = float(setting.split("%")[0]) / 100
    return Case(photos, labels, seed, rate)


def labels_with(training: Dataset, setting: str, seed: int) -> np.ndarray:
    """(N,), with wrong labels, or -1 where a row is unlabelled."""
    truth = labels_of(training)
    num_labels = int(truth.max()) + 1
    if setting == "all":
        return truth
    if setting == "no labels":
        return np.full(len(truth), -1)
    if setting.endswith(("symmetric", "confusable")):
        share, kind = setting.split("% ")
        return labels_of(with_label_noise(training, float(share) / 100, seed, num_labels, kind))
    if setting == "at random":  # as many as 4 a class, so that some classes have one or none
        chosen = np.random.default_rng(seed).permutation(len(truth))[: 4 * num_labels]
        return np.where(np.isin(np.arange(len(truth)), chosen), truth, -1)
    if setting.endswith("a class"):
        number, order = int(setting.split()[0]), np.random.default_rng(seed).permutation(len(truth))
        labels = np.full(len(order), -1)
        for label in range(num_labels):
            rows = order[truth[order] == label][:number]
            labels[rows] = label
        return labels
    return labels_of(keep_label_fraction(training, float(setting.rstrip("%")) / 100, seed))


def with_rows(photos: Photos, rows: Dataset) -> Photos:
    places = {image_id: place for place, image_id in enumerate(photos.training["image_id"][:])}
    kept = [places[image_id] for image_id in rows["image_id"][:]]
    whole = photos.__dict__ | {"training": rows, "features": photos.features[kept]}
    whole["captions"] = [photos.captions[row] for row in kept]
    return Photos(**whole)


# --- What is measured ------------------------------------------------------------------------------------------------


def figures(logits: torch.Tensor, labels: np.ndarray, training_labels: np.ndarray) -> dict[str, float]:
    probabilities = logits.softmax(1).numpy()
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((sure * 15).astype(int), 14)
    errors = [abs(sure[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    counts = np.bincount(training_labels[training_labels >= 0], minlength=probabilities.shape[1])
    thirds = np.array_split(np.argsort(-counts, kind="stable"), 3)
    of_thirds = {
        name: float(right[np.isin(labels, classes)].mean())
        for name, classes in zip(("many", "medium", "few"), thirds, strict=True)
    }
    return {"accuracy": float(right.mean()), "calibration_error": float(sum(errors)), **of_thirds}


def run_grid(grid: str, photos: Photos, seed: int) -> None:
    settings, variants = GRIDS[grid]
    if photos.num_labels > 10:
        settings = OF_MANY_CLASSES.get(grid, settings)
    results = PhotoResults(grid, "python benchmarks/photos_frozen.py PHOTOS")
    for setting in settings:
        case = case_of(photos, setting, seed)
        for variant, method in variants.items():
            key = {"data": photos.name, "student": STUDENT, "variant": variant, "setting": setting, "seed": seed}
            if results.has(**key) or (setting == "no labels" and variant not in WITHOUT_LABELS):
                continue
            start = time.perf_counter()
            found = method(case)
            if found is None:
                continue
            is_layer = len(found) == photos.features.shape[1] + 1
            logits = logits_of(found, photos.test[0]) if is_layer else found
            facts = {**getattr(method, "facts", {})}
            row = key | figures(logits, photos.test[1], case.labels) | ({"estimates": facts} if facts else {})
            results.add(row)
            print(json.dumps(row), f"{time.perf_counter() - start:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--grids", nargs="+", default=list(GRIDS), choices=list(GRIDS))
    parser.add_argument("--data", nargs="+", default=["cifar10", "caltech101", "flowers102"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"), help="for features and embeddings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    photos = {name: load_photos(args.photos, name, args.cache) for name in args.data}
    for seed in args.seeds:
        for grid in args.grids:
            for name in args.data:
                run_grid(grid, photos[name], seed)


if __name__ == "__main__":
    main()
