"""
Do the 95% intervals hold the truth? Those of the label model (accuracy of captions, of image features and of all views
together; share of wrong labels) and those of `g4i fit` (accuracy on labels only, with views, and the difference).

    python benchmarks/coverage.py PHOTOS

PHOTOS and `--cache` are those of photos_frozen.py. Each set is reduced to 30 classes, 1,500 training images and 256
components, other ones in each draw. 1 to 10 labels a class, or as many as 4 a class drawn at random, so that some
classes have one or none; captions as they are, of other images, or of half of the images; 20% of the labels wrong. The
truth are the labels that were taken away: for the label model of all unlabelled rows, for `fit` of the kept ones.
Beside it, the accuracy of what `fit` releases on the rows that are left over and on `test`. `fit` knows from other
data sets how far estimates are off; here, from the other two alone (`PRIORS`); `as_fit` has the constants of `fit`.

Finished draws are not made again. Writes results/coverage.json.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from photos import Photos, load_photos
from provenance import RESULTS, provenance

from g4i_hf import LabelModel, View
from g4i_hf.label_model.views import WHOLE, Values
from g4i_hf.names import LABELS_ONLY, WITH_VIEWS
from g4i_hf.training.judged_heads import Known, judge_in_training, judged_heads, rows_to_keep
from g4i_hf.training.judging import PRIOR, Prior

FILE = RESULTS / "coverage.json"
CLASSES, ROWS = 30, 1500
EACH = (1, 2, 3, 5, 10, "at random")
WRONG = (0.0, 0.2)
CAPTIONS = ("right", "shuffled", "half")
KEY = ("data", "labels", "wrong", "captions", "seed")
OF_LABEL_MODEL, OF_FIT = ("together", "caption", "image", "wrong_labels"), (LABELS_ONLY, WITH_VIEWS, "difference")
# Of the other two sets, from draws that are not among these
PRIORS = {
    "caltech101": Prior(-0.02, 0.17, 0.095),
    "flowers102": Prior(0.0, 0.23, 0.105),
    "cifar10": Prior(0.01, 0.23, 0.115),
}


class Drawn:
    """A reduced set: rows, their truth, from 0 to `CLASSES` or fewer, and other images to look at."""

    def __init__(self, photos: Photos, seed: int):
        generator = np.random.default_rng(seed)
        self.classes = generator.permutation(photos.num_labels)[:CLASSES]
        number = np.full(photos.num_labels, -1)
        number[self.classes] = np.arange(len(self.classes))
        every = np.flatnonzero(number[photos.truth] >= 0)
        rows = np.sort(generator.permutation(every)[:ROWS])
        left, (test, of_test) = np.setdiff1d(every, rows), photos.test
        in_test = np.flatnonzero(number[of_test] >= 0)
        self.features, self.truth = photos.features.numpy()[rows], number[photos.truth[rows]]
        self.others = np.concatenate([photos.features.numpy()[left], test.numpy()[in_test]])
        self.truth_of_others = number[np.concatenate([photos.truth[left], of_test[in_test]])]
        self.image_ids = photos.training.select(rows)["image_id"][:]
        embeds = photos.training.select(rows).with_format("numpy")["text_embeds"][:]
        self.embeds, self.names = np.asarray(embeds, dtype=np.float32), photos.class_embeds[self.classes]

    def labels(self, each: int | str, wrong: float, seed: int) -> np.ndarray:
        """(N,) labels, -1 without one."""
        generator = np.random.default_rng([seed, 1])
        order, number = generator.permutation(len(self.truth)), int(self.truth.max()) + 1
        if each == "at random":
            chosen = order[: 4 * number]
        else:
            chosen = np.concatenate([order[self.truth[order] == label][:each] for label in range(number)])
        labels = np.full(len(self.truth), -1)
        labels[chosen] = self.truth[chosen]
        flipped = chosen[generator.random(len(chosen)) < wrong]
        labels[flipped] = (labels[flipped] + generator.integers(1, number, len(flipped))) % number
        return labels

    def captions(self, kind: str, seed: int) -> np.ndarray:
        """(N, D), NaN for an image without one."""
        generator, embeds = np.random.default_rng([seed, 2]), self.embeds.copy()
        if kind == "shuffled":
            return generator.permutation(embeds)
        if kind == "half":
            embeds[generator.random(len(embeds)) < 0.5] = np.nan
        return embeds


def measured(drawn: Drawn, each: int | str, wrong: float, captions: str, seed: int, prior: Prior) -> dict:
    labels, order = drawn.labels(each, wrong, seed), np.random.default_rng([seed, 3]).permutation(len(drawn.truth))
    views = {
        "caption": View(drawn.captions(captions, seed), drawn.names, learns=False),
        "image": View(drawn.features),
    }
    kept, start = rows_to_keep(labels, order), time.process_time()
    model = LabelModel(len(drawn.classes), seed)
    model.fit(views, labels, ids=order, kept=np.isin(np.arange(len(labels)), kept))
    found = {"seconds_of_label_model": round(time.process_time() - start, 2)}
    unlabelled, known = np.flatnonzero(labels < 0), labels >= 0
    right = model.probabilities_[unlabelled].argmax(1) == drawn.truth[unlabelled]
    estimate = model.accuracy_
    found["together"] = _row(estimate and estimate.share, estimate and estimate.interval, right.mean())
    for alone in model.models_:
        if not alone.taught:
            values = Values.without_names(alone.name, views[alone.name].values, model.spaces_[alone.name])
            has = unlabelled[values.has[unlabelled]]
            told = alone.by_model(WHOLE, {alone.name: values}, has).argmax(1)
            line = model.report_[alone.name]
            found[alone.name] = _row(line["accuracy"], line["interval"], (told == drawn.truth[has]).mean())
    of_noise = model.label_noise_, model.label_noise_interval_
    found["wrong_labels"] = _row(*of_noise, (labels[known] != drawn.truth[known]).mean())
    return found | _of_fit(drawn, Known.of(model, views, labels, order), kept, prior)


def _of_fit(drawn: Drawn, known: Known, kept: np.ndarray, prior: Prior) -> dict:
    start = time.process_time()
    judge = judge_in_training(known, drawn.features, kept)
    heads = judged_heads(known, drawn.features, judge)
    judgement = judge.judgement(prior)
    truth_of_judged = drawn.truth[judge.rows]
    right = {name: logits.argmax(1) == truth_of_judged for name, logits in judge.logits.items()}
    found = {name: _row(told.share, told.interval, right[name].mean()) for name, told in judgement.accuracies.items()}
    truth = right[WITH_VIEWS].mean() - right[LABELS_ONLY].mean()
    found["difference"] = _row(judgement.difference.share, judgement.difference.interval, truth)
    seen = {
        name: float((head.logits(drawn.others).argmax(1) == drawn.truth_of_others).mean())
        for name, head in heads.items()
    }
    as_fit = judge.judgement()
    of_fit = {name: _row(told.share, told.interval, right[name].mean()) for name, told in as_fit.accuracies.items()}
    of_fit |= {
        "difference": _row(as_fit.difference.share, as_fit.difference.interval, truth),
        "verdict": as_fit.verdict,
    }
    uncorrected = {name: judge.accuracy(name) for name in heads}
    differ = (judge.logits[WITH_VIEWS].argmax(1) != judge.logits[LABELS_ONLY].argmax(1)).mean()
    seconds = round(time.process_time() - start, 2)
    more = {
        "verdict": judgement.verdict,
        "on_others": seen,
        "uncorrected": uncorrected,
        "differ": float(differ),
        "as_fit": of_fit,
    }
    return found | more | {"seconds_of_heads": seconds}


def _row(estimate: float | None, interval: tuple[float, float] | None, truth: float) -> dict:
    return {"estimate": estimate, "interval": interval, "truth": float(truth)}


def summary(rows: list[dict]) -> Iterator[dict]:
    """For each cell over all sets, and all cells: how often intervals hold, and their median half-width."""
    groups: dict[tuple, list[dict]] = {("all", "all", "all"): rows}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in KEY[1:4]), []).append(row)
    for place, group in groups.items():
        line = dict(zip(KEY[1:4], place, strict=True)) | {"rows": len(group)}
        line |= {name: told for name in (*OF_LABEL_MODEL, *OF_FIT) if (told := held([row.get(name) for row in group]))}
        as_fit = [row["as_fit"] for row in group]
        line["as_fit"] = {name: held([row[name] for row in as_fit]) for name in OF_FIT}
        line["as_fit"]["verdicts"] = verdicts([row | {"verdict": row["as_fit"]["verdict"]} for row in group])
        yield line | {"verdicts": verdicts(group)}


def held(estimates: list[dict | None]) -> dict | None:
    told = [each for each in estimates if each and each["interval"] is not None]
    if not told:
        return None
    holds = [each["interval"][0] - 1e-9 <= each["truth"] <= each["interval"][1] + 1e-9 for each in told]
    return {
        "holds": float(np.mean(holds)),
        "half_width": float(np.median([(each["interval"][1] - each["interval"][0]) / 2 for each in told])),
        "error": float(np.mean([abs(each["estimate"] - each["truth"]) for each in told])),
    }


def verdicts(rows: list[dict]) -> dict:
    """How often each was given, and how often it was right: of the kept images, and of the others."""
    found = {}
    for verdict, sign in (("helped", 1), ("hurt", -1), ("cannot tell", 0)):
        given = [row for row in rows if row["verdict"] == verdict]
        found[verdict] = {"share": len(given) / len(rows)}
        if given and sign:
            of_others = [sign * (row["on_others"][WITH_VIEWS] - row["on_others"][LABELS_ONLY]) > 0 for row in given]
            right = [sign * row["difference"]["truth"] > 0 for row in given]
            found[verdict] |= {"right": float(np.mean(right)), "right_on_others": float(np.mean(of_others))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", nargs="+", default=["cifar10", "caltech101", "flowers102"])
    parser.add_argument("--draws", type=int, nargs=2, default=[114, 134], help="first, and the one after the last")
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"), help="for features and embeddings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    made = provenance() | {"command": "python benchmarks/coverage.py PHOTOS"}
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    known = {tuple(row[name] for name in KEY) for row in rows}
    loaded = {data: load_photos(args.photos, data, args.cache) for data in args.data}
    for seed in range(*args.draws):
        for data, photos in loaded.items():
            drawn = Drawn(photos, seed)
            for captions in CAPTIONS:
                for each in EACH:
                    for wrong in WRONG:
                        key = {"data": data, "labels": each, "wrong": wrong, "captions": captions, "seed": seed}
                        if tuple(key.values()) in known or (each == 1 and wrong):
                            continue
                        prior = PRIORS.get(data, PRIOR)
                        rows.append(key | measured(drawn, each, wrong, captions, seed, prior))
            lines = [",\n".join(f"  {json.dumps(row)}" for row in part) for part in (summary(rows), rows)]
            FILE.write_text(
                f'{{"made": {json.dumps(made, indent=1)},\n"summary": [\n{lines[0]}\n],\n"rows": [\n{lines[1]}\n]}}\n'
            )
            print(seed, data, "done", flush=True)


if __name__ == "__main__":
    main()
