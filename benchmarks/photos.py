"""
Photographs of CIFAR-10, Caltech-101 and Flowers-102 with captions, and labels of which some are missing or wrong.

`PHOTOS` of the benchmarks holds a folder of Parquet files for each dataset (recipes/photos says where the images and
captions come from). Caltech-101 has no `validation`: a tenth of each class of its training split is taken.
"""

import argparse
import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from controls import keep_label_fraction, with_label_noise
from datasets import Dataset, DatasetDict, Image, load_dataset
from result_files import RESULTS
from scipy.special import softmax

from g4i_hf import View
from g4i_hf.data.checks import labels_of
from g4i_hf.embedding.embed import name_as_text
from g4i_hf.embedding.encoders import load_encoder
from g4i_hf.fitting.heads import Head, last_layers, on_all
from g4i_hf.fitting.targets import Targets
from g4i_hf.running import keep_unused_memory
from g4i_hf.training.features import ImageEncoder, image_features
from g4i_hf.views.encoders import encoder_of_fit

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
COMPONENTS = 256  # principal components of the features: 74% of the variance, on Flowers-102
DATA = ("cifar10", "caltech101", "flowers102")
SIGLIP2, ANSWERS = "SigLIP 2", "answers"
LOGITS = {  # of zero-shot classifiers for CIFAR-10: name -> column of its file
    SIGLIP2: "siglip2_b16",
    "SigLIP": "siglip_b16",
    "CLIP": "clip_vit_b32",
    "BiomedCLIP": "biomedclip",
    "French": "siglip2_b16_french",
    "Swahili": "siglip2_b16_swahili",
}


def parser_of(doc: str, seeds: Iterable[int] = range(3), cache: str = "runs/photos") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--counts", type=Path, help="of CIFAR-10H: answers of people for CIFAR-10")
    parser.add_argument("--data", nargs="+", default=DATA, choices=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--cache", type=Path, default=Path(cache), help="for features and embeddings")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """With `counts`, (10000, 10) how many people gave each class, or None."""
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_unused_memory()
    for folder in (args.cache, args.results):
        folder.mkdir(parents=True, exist_ok=True)
    args.counts = args.counts and np.load(args.counts, allow_pickle=False)
    return args


@dataclass
class Photos:
    """
    Attributes:
        training: rows with `image_id`, `label`, `text_embeds`.
        raw: (N, F) features of the training rows, and `raw_test` of those of `test`.
        features: (N, `COMPONENTS`) principal components; `validation` and `test` are pairs of these and labels.
        embeds: (N, D) of the captions, NaN where there is none.
        captions: the first one of each training row, "" where there is none.
        class_embeds: (C, D) of the names.
        test_text_embeds: (M, D), None where test images have no captions.
    """

    name: str
    training: Dataset
    raw: np.ndarray
    raw_test: np.ndarray
    features: torch.Tensor
    validation: tuple[torch.Tensor, np.ndarray]
    test: tuple[torch.Tensor, np.ndarray]
    embeds: np.ndarray
    captions: list[str]
    class_embeds: np.ndarray
    test_text_embeds: np.ndarray | None
    num_labels: int

    @property
    def truth(self) -> np.ndarray:
        return labels_of(self.training)

    @property
    def views(self) -> dict[str, View]:
        """Captions with class names, and image features."""
        caption = View(self.embeds, self.class_embeds, self_trains=False)
        return {"caption": caption, "image": View(self.raw)}

    def answers(self, counts: np.ndarray) -> np.ndarray:
        """(N, 10) how many people gave each class."""
        return counts[places_of(self.training)]


def places_of(rows: Dataset) -> list[int]:
    """Of images of CIFAR-10 in its test images, by which files of others name them."""
    return [int(image_id.split("/")[1]) for image_id in rows["image_id"][:]]


def views_of_models(training: Dataset, data: str, folder: Path) -> dict[str, View]:
    """What real models say of these images, see real_views.py: scores of zero-shot classifiers, and answers."""
    number, ids = training.features["label"].num_classes, training["image_id"][:]
    views, answers = {}, np.full(len(ids), -1)
    if data == "cifar10":
        logits = np.load(folder / "cifar10_logits.npz", allow_pickle=False)
        for name, column in LOGITS.items():
            shares = softmax(logits[column][places_of(training)], axis=1).astype(np.float32)
            views[name] = View(shares, np.eye(number, dtype=np.float32), source=name)
        with (folder / "cifar10_gpt4o.csv").open(newline="") as lines:
            said = {line["image_id"]: line["prediction"].strip().lower() for line in csv.DictReader(lines)}
        classes = {name: label for label, name in enumerate(training.features["label"].names)}
    else:
        lines = pq.read_table(folder / f"{data}_gpt4v.parquet").to_pylist()
        said = {line["image_id"]: line["first"] for line in lines if line["split"] == "train"}
        classes = {line["gt"]: line["label"] for line in lines}
    for row, image_id in enumerate(ids):
        answers[row] = classes.get(said.get(image_id), -1)
    return {**views, ANSWERS: replace(View.answers(answers, number), source=ANSWERS)}


def photos_of(root: Path, name: str) -> DatasetDict:
    """`train`, `validation` and `test`."""
    splits = load_dataset("parquet", data_dir=str(root / name))
    if "validation" not in splits:
        training = splits["train"]
        held_out = labels_of(keep_label_fraction(training, 0.1, seed=1234)) >= 0
        splits["train"] = training.select(np.flatnonzero(~held_out))
        splits["validation"] = training.select(np.flatnonzero(held_out))
    return splits


def load_photos(root: Path, name: str, cache: Path) -> Photos:
    whole = load_dataset("parquet", data_dir=str(root / name))
    student = encoder_of_fit(None, whole["train"])
    features = {split: features_by(student, rows, cache) for split, rows in whole.items()}
    embeds = {split: text_embeds(rows, cache / f"e_{name}_{split}.npy") for split, rows in whole.items()}
    mean = features["train"].mean(0)
    deviation = (features["train"] - mean).std()
    scaled = {split: torch.from_numpy((values - mean) / deviation) for split, values in features.items()}
    axes = torch.linalg.eigh(scaled["train"].T @ scaled["train"])[1][:, -COMPONENTS:]
    scaled = {split: values @ axes for split, values in scaled.items()}
    splits = photos_of(root, name)
    training = splits["train"].remove_columns(["image", "caption"])
    kept = np.flatnonzero(np.isin(whole["train"]["image_id"][:], training["image_id"][:]))
    if "validation" not in whole:
        scaled["validation"] = np.delete(scaled["train"], kept, axis=0)
    of_captions = embeds["train"][kept].astype(np.float32)
    of_captions[~of_captions.any(1)] = np.nan
    return Photos(
        name,
        training.add_column("text_embeds", list(embeds["train"][kept])),
        features["train"][kept],
        features["test"],
        scaled["train"][kept],
        (scaled["validation"], labels_of(splits["validation"])),
        (scaled["test"], labels_of(splits["test"])),
        of_captions,
        first_captions(splits["train"]),
        encoded([name_as_text(name) for name in training.features["label"].names]),
        embeds["test"] if embeds["test"].any() else None,
        int(labels_of(training).max()) + 1,
    )


def features_by(encoder: ImageEncoder, images: Dataset, cache: Path) -> np.ndarray:
    """(n, F)"""
    stored = images.cast_column("image", Image(decode=False))
    return image_features(encoder, stored, cache / "features", Accelerator(cpu=True))


def text_embeds(split: Dataset, file: Path) -> np.ndarray:
    """(n, D) float16, of the first caption; zeros where there is none. Kept in `file`."""
    if not file.exists():
        np.save(file, encoded(first_captions(split)))
    return np.load(file, allow_pickle=False)


def first_captions(split: Dataset) -> list[str]:
    return [(captions or [""])[0] or "" for captions in split["caption"][:]]


def encoded(texts: list[str]) -> np.ndarray:
    embeds = np.zeros((len(texts), 384), dtype=np.float16)
    rows = [row for row, text in enumerate(texts) if text]
    if rows:
        embeds[rows] = load_encoder(ENCODER).encode([texts[row] for row in rows])
    return embeds


# --- What fit trains -------------------------------------------------------------------------------------------------


def layers_of_fit(targets: Targets, features: np.ndarray) -> dict[str, Head]:
    """The last layers that `fit` leaves without `validation`."""
    heads = last_layers(targets, features)
    return on_all(targets, features, heads) if len(targets.evidence.holdout) else heads


# --- Labels ----------------------------------------------------------------------------------------------------------


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


def by_a_person(counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(N,) one answer of the (N, C) counts, drawn for each row."""
    shares = counts.cumsum(1) / counts.sum(1, keepdims=True)
    return (shares <= generator.random((len(counts), 1))).sum(1)


def worst_of_three(counts: np.ndarray, truth: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    labels = truth.copy()
    for _ in range(3):
        labels = np.where(labels == truth, by_a_person(counts, generator), labels)
    return labels


PEOPLE = {
    "a person": lambda counts, truth, generator: by_a_person(counts, generator),
    "worst of three": worst_of_three,
}
