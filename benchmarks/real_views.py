"""
What do real models as views add, what does a bad one cost, and do more labels ever cost?

    pip install crowd-kit
    python benchmarks/real_views.py PHOTOS --real_views FOLDER

PHOTOS and `--cache` are those of photos_frozen.py. FOLDER says what models of others say of these images:

- `cifar10_logits.npz`, zero-shot logits (10000, 10) of CIFAR-10's test images: SigLIP 2 (also with prompts in French
  and Swahili), SigLIP, CLIP, and BiomedCLIP, a model of another field. From pwhofman/efficient-credal-prediction.
- `cifar10_gpt4o.csv`, answers of GPT-4o for a fifth of them, from Sushmit404/cifar10-gpt4o-vision-test.
- `caltech101_gpt4v.parquet` and `flowers102_gpt4v.parquet`, the first answer of GPT-4V for about 30% of the training
  images, from whwu95/GPT4Vis (MIT).

Views of CIFAR-10, with 3,000 images: each alone, all pairs, triples with captions or SigLIP 2, and some quadruples;
of the other sets captions, answers and image features, each alone and together. Accuracies are those of the
probabilities of images that have a label in no setting. The rivals get each view's probabilities from a label model of
that view alone, as in views.py; `by itself` are the accuracies of these, of the images with the view and of all.

Writes results/real_views.json; `--summary` prints what it says. With `--through_fit` some cells go through `g4i fit`
itself, and its classifiers are scored on `test`: results/real_views_fit.json.
"""

from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from statistics import fmean

import numpy as np
from datasets import DatasetDict
from photos import (
    ANSWERS,
    ENCODER,
    SIGLIP2,
    Photos,
    labels_with,
    load_photos,
    parsed,
    parser_of,
    photos_of,
    views_of_models,
)
from photos_fit import fitted, predictions_of
from result_files import Results, grouped
from views import rivals_of

from g4i_hf import LabelModel, View
from g4i_hf.data.checks import with_labels
from g4i_hf.label_model.views import has_value

SETTINGS = ("no labels", "1 a class", "2 a class", "4 a class", "at random")
IMAGES = 3_000  # of CIFAR-10
CAPTIONS, IMAGE = "captions", "image"
OWN = {CAPTIONS: "caption", IMAGE: "image"}
QUADRUPLES = (
    (CAPTIONS, SIGLIP2, "CLIP", IMAGE),
    (CAPTIONS, SIGLIP2, "BiomedCLIP", IMAGE),
    (CAPTIONS, SIGLIP2, "Swahili", IMAGE),
    (CAPTIONS, SIGLIP2, ANSWERS, IMAGE),
    (CAPTIONS, "BiomedCLIP", "Swahili", IMAGE),
    (CAPTIONS, "CLIP", "BiomedCLIP", IMAGE),
    (CAPTIONS, "SigLIP", "CLIP", IMAGE),
    (SIGLIP2, "SigLIP", "CLIP", IMAGE),
    (SIGLIP2, "BiomedCLIP", "Swahili", IMAGE),
    (SIGLIP2, "French", "Swahili", IMAGE),
    (CAPTIONS, SIGLIP2, "SigLIP", "CLIP"),
    (CAPTIONS, SIGLIP2, "BiomedCLIP", "Swahili"),
)
THROUGH_FIT = {
    "cifar10": (
        (CAPTIONS, IMAGE),
        (CAPTIONS, SIGLIP2, IMAGE),
        (CAPTIONS, "BiomedCLIP", IMAGE),
        (SIGLIP2, "Swahili", IMAGE),
        (ANSWERS, IMAGE),
    ),
    "caltech101": ((CAPTIONS, IMAGE), (CAPTIONS, ANSWERS, IMAGE)),
    "flowers102": ((CAPTIONS, IMAGE), (CAPTIONS, ANSWERS, IMAGE)),
}
SETTINGS_OF_FIT = ("no labels", "1 a class", "4 a class")
KEY = ("data", "views", "setting", "seed")


def views_of(photos: Photos, rows: np.ndarray, folder: Path) -> dict[str, View]:
    """Captions and image features first, then those of models."""
    training, own = photos.training.select(rows), photos.views
    views = {name: replace(own[kind], values=own[kind].values[rows]) for name, kind in OWN.items()}
    of_models = views_of_models(training, photos.name, folder)
    return views | {name: replace(view, self_trains=False) for name, view in of_models.items()}


def sets_of(views: dict[str, View]) -> list[tuple[str, ...]]:
    pairs = [pair for number in (1, 2) for pair in combinations(views, number)]
    triples = [triple for triple in combinations(views, 3) if {CAPTIONS, SIGLIP2} & set(triple)]
    return [*pairs, *triples, *([each for each in QUADRUPLES if set(each) <= set(views)])]


def measured(model: LabelModel, truth: np.ndarray, scored: np.ndarray) -> dict:
    estimate = model.accuracy_
    return {
        "accuracy": float((model.probabilities_[scored].argmax(1) == truth[scored]).mean()),
        "said": estimate and estimate.share,
        "interval": estimate and estimate.interval,
        "of_views": {name: [line["accuracy"], line["interval"]] for name, line in model.report_.items()},
        "left_out": [name for name, line in model.report_.items() if line.get("left_out")],
    }


def rows_of(photos: Photos, seed: int) -> np.ndarray:
    if photos.name != "cifar10":
        return np.arange(len(photos.truth))
    return np.sort(np.random.default_rng([seed, 4]).permutation(len(photos.truth))[:IMAGES])


def through_fit(root: Path, names: list[str], seeds: list[int], cache: Path, real_views: Path, folder: Path) -> None:
    """Some cells by `g4i fit` as it stands: what its classifiers get right on `test`, and what it says of them."""
    results = Results(folder / "real_views_fit.json", KEY)
    for seed, data in product(seeds, names):
        photos, splits = load_photos(root, data, cache), photos_of(root, data)
        rows = rows_of(photos, seed)
        views, training = views_of(photos, rows, real_views), splits["train"].select(rows)
        for chosen, setting in product(THROUGH_FIT[data], SETTINGS_OF_FIT):
            key = data, " + ".join(chosen), setting, seed
            if results.has(*key):
                continue
            named = {CAPTIONS: "caption", IMAGE: "image:student"}
            given = [named.get(name) or views[name] for name in chosen]
            labels = labels_with(photos.training.select(rows), setting, seed)
            drawn = DatasetDict(train=with_labels(training, labels))
            options = {"views": given, "text_encoder": ENCODER, "seed": seed}
            result, place = fitted(drawn, cache / f"fit-{data}", **options)
            row = {"judged_on": result.judged_on, "released": result.released, "verdict": result.verdict}
            for name, found in predictions_of(place, splits["test"]).items():
                said = {"estimate": f"{name}_accuracy", "interval": f"{name}_interval"}
                row[name] = float((found.predicted == found.labels).mean())
                row |= {f"{name}_{what}": getattr(result, field) for what, field in said.items()}
            results.add(*key, **row)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--real_views", type=Path, required=True)
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--through_fit", action="store_true")
    args = parsed(parser)
    if args.through_fit:
        through_fit(args.photos, args.data, args.seeds, args.cache, args.real_views, args.results)
        return
    results = Results(args.results / "real_views.json", KEY)
    for seed, data in product(args.seeds, () if args.summary else args.data):
        photos = load_photos(args.photos, data, args.cache)
        rows = rows_of(photos, seed)
        views, truth, drawn = views_of(photos, rows, args.real_views), photos.truth[rows], photos.training.select(rows)
        labels = {setting: labels_with(drawn, setting, seed) for setting in SETTINGS}
        scored = np.all([each < 0 for each in labels.values()], axis=0)
        for setting in SETTINGS:
            alone: dict[str, np.ndarray] = {}
            for chosen in sets_of(views):
                key = data, " + ".join(chosen), setting, seed
                if setting == "no labels" and chosen == (IMAGE,) or results.has(*key) and len(chosen) > 1:
                    continue
                model = LabelModel(photos.num_labels, seed)
                model.fit({name: views[name] for name in chosen}, labels[setting])
                row = measured(model, truth, scored)
                if len(chosen) == 1:
                    alone[chosen[0]] = model.probabilities_
                    present = scored & has_value(views[chosen[0]].values)
                    row["by_itself"] = measured(model, truth, present)["accuracy"]
                elif set(chosen) <= set(alone):
                    given = [alone[name] for name in chosen]
                    row["rivals"] = {
                        name: float((found[scored].argmax(1) == truth[scored]).mean())
                        for name, found in rivals_of(given, photos.num_labels).items()
                    }
                if not results.has(*key):
                    results.add(*key, **row)
    for line in summary(results.rows):
        print(line)


# --- What the rows say -----------------------------------------------------------------------------------------------


def summary(rows: list[dict]) -> list[str]:
    """How much less accurate than another set of views, or than with fewer labels, in points."""
    cells = {(*cell, row["seed"]): row for cell, of in grouped(rows, "data", "views", "setting").items() for row in of}

    def accuracy(data: str, views: list[str], setting: str, seed: int) -> float | None:
        found = cells.get((data, " + ".join(views), setting, seed))
        return found and found["accuracy"]

    behind: dict[str, dict[tuple, list[float]]] = {}
    for (data, views, setting, seed), row in cells.items():
        names = views.split(" + ")
        others = {"fewer labels": accuracy(data, names, SETTINGS[SETTINGS.index(setting) - 1], seed)}
        if setting in ("no labels", "at random"):
            others.clear()
        if len(names) > 1:
            unknown = setting == "no labels" and len(names) == 2
            alone = [accuracy(data, [name], setting, seed) for name in names]
            others["the best view" + ", two without labels" * unknown] = max(
                each for each in alone if each is not None
            )
        if IMAGE in names and len(names) > 1:
            without = [name for name in names if name != IMAGE]
            others["without image features"] = accuracy(data, without, setting, seed)
        others |= {f"rival {name}": each for name, each in row.get("rivals", {}).items()}
        for name, other in others.items():
            if other is not None:
                each = behind.setdefault(name, {}).setdefault((data, views, setting), [])
                each.append(100 * (other - row["accuracy"]))
    lines = []
    for name, found in sorted(behind.items()):
        means = {cell: fmean(each) for cell, each in found.items()}
        draws = [each for of_cell in found.values() for each in of_cell]
        worst = sorted(means, key=means.get)[:-9:-1]
        within = [f"{100 * np.mean(np.array(list(means.values())) <= 1):.1f}% of {len(means)} cells within 1"]
        within += [f"{100 * np.mean(np.array(draws) <= 3):.1f}% of {len(draws)} draws within 3"]
        lines.append(f"behind {name}: {', '.join(within)}, mean {fmean(draws):.2f}")
        lines += [f"    {means[cell]:5.1f}  {', '.join(cell)}" for cell in worst]
    return [*lines, *_estimates(cells)]


def _estimates(cells: dict[tuple, dict]) -> list[str]:
    """What is said of views, and of all together."""
    lines, off = [], {}
    for (data, views, setting, seed), row in cells.items():
        few = "no labels" if setting == "no labels" else "labels"
        for name, (said, interval) in row["of_views"].items():
            alone = cells.get((data, name, setting, seed))
            if alone and said is not None:
                holds = interval and interval[0] <= alone["by_itself"] <= interval[1]
                off.setdefault((f"of a view, {few}", bool(interval)), []).append((said - alone["by_itself"], holds))
        if row["said"] is not None:
            holds = row["interval"] and row["interval"][0] <= row["accuracy"] <= row["interval"][1]
            alone = "one view" if " + " not in views else "all views"
            off.setdefault((f"of {alone}, {few}", bool(row["interval"])), []).append(
                (row["said"] - row["accuracy"], holds)
            )
    for (name, with_interval), found in sorted(off.items()):
        error = 100 * np.array([each for each, _ in found])
        holds = f", intervals hold {100 * np.mean([each for _, each in found]):.1f}%" if with_interval else ""
        far = 100 * np.mean(np.abs(error) > 10)
        lines.append(f"accuracy {name}: {len(found)}, mean error {error.mean():.1f}, {far:.1f}% off by over 10{holds}")
    return lines


if __name__ == "__main__":
    main()
