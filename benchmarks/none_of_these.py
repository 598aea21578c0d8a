"""
Unlabelled images that belong to no class: does the label model find them, and what do they cost the student? Of 30
known classes (of CIFAR-10 five) there are four labels each; the pool holds no images of other classes, as many, or
three times as many.

    python recipes/efficientnet_lite0/convert.py
    python benchmarks/none_of_these.py PHOTOS

PHOTOS and `--cache` are those of photos_frozen.py. The student is the last layer that `g4i fit` fits on what
`LabelModel` says: with the weights that images of no class get, without these weights, and with such images left out
by the truth. Its accuracy is that on `test`, images of known classes. AUROC and the false alarms where 95% are found
are those of the label model's probability that no class explains an image, of the lowest probability of the most
probable class, and of the energy of the student's logits (rows since this was added).
Writes results/none_of_these.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from photos import Photos, layers_of_fit, load_photos
from provenance import RESULTS, provenance, write_rows
from sklearn.metrics import roc_auc_score, roc_curve

from g4i_hf import LabelModel, View
from g4i_hf.names import WITH_VIEWS
from g4i_hf.training.head import fit_head
from g4i_hf.training.judged_heads import Known

FILE = RESULTS / "none_of_these.json"
KNOWN, LABELS = 30, 4
OTHERS = (0, 1, 3)  # of other classes, for each image of a known one
KEY = ("data", "seed", "others")


def measured(photos: Photos, others: int, seed: int) -> dict:
    generator = np.random.default_rng(seed)
    kept = generator.permutation(photos.num_labels)[: min(KNOWN, photos.num_labels // 2)]
    place = np.full(photos.num_labels, -1)
    place[kept] = np.arange(len(kept))
    of_known, of_others = (generator.permutation(np.flatnonzero(np.isin(photos.truth, kept) == is_known))
                           for is_known in (True, False))  # fmt: skip
    if others:
        of_known = of_known[: len(of_others) // others]  # as many of each class as there are, in the mean
    rows = np.concatenate([of_known, of_others[: others * len(of_known)]])
    truth = place[photos.truth[rows]]
    labels = np.full(len(rows), -1)
    for label in range(len(kept)):
        chosen = np.flatnonzero(truth == label)[:LABELS]
        labels[chosen] = label
    embeds = np.asarray(photos.training.select(rows).with_format("numpy")["text_embeds"][:], dtype=np.float32)
    embeds[~embeds.any(1)] = np.nan  # no caption
    features = photos.features.numpy()[rows]
    views = {"caption": View(embeds, photos.class_embeds[kept], learns=False), "image": View(features)}
    model = LabelModel(len(kept), seed).fit(views, labels)
    known = Known.of(model, views, labels, np.arange(len(rows)))
    strength = layers_of_fit(known, features)[WITH_VIEWS].strength
    weighed, plain = known.targets(), model.posterior_.astype(np.float32)
    x, y = photos.test
    of_test = np.isin(y, kept)
    x, y = x.numpy()[of_test], place[y[of_test]]

    def accuracy(targets: np.ndarray) -> float:
        head = fit_head(features, targets, strength)
        return float((head.logits(x).argmax(1) == y).mean())

    unlabelled, share = labels < 0, model.none_share_
    is_none = truth[unlabelled] < 0
    row = {"images": len(rows), "tested": len(y), "share": float(is_none.mean())}
    row |= {"said": share and share.share, "said_at_least": share and share.interval[0]}
    row |= {"weighed": accuracy(weighed), "plain": accuracy(plain), "by_hand": accuracy(plain * (truth >= 0)[:, None])}
    if others:
        head = fit_head(features, plain, strength)
        energy = -torch.from_numpy(head.logits(features[unlabelled])).logsumexp(1).numpy()  # Liu et al., NeurIPS 2020
        scores = {"none": model.none_[unlabelled], "max_softmax": -model.probabilities_[unlabelled].max(1)}
        scores["energy"] = energy
        for name, score in scores.items():
            alarms, found, _ = roc_curve(is_none, score)
            row[f"{name}_auroc"] = float(roc_auc_score(is_none, score))
            row[f"{name}_false_alarms"] = float(alarms[found >= 0.95].min())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", nargs="+", default=["caltech101", "flowers102", "cifar10"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"), help="for features and embeddings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    made = provenance() | {"command": "python benchmarks/none_of_these.py PHOTOS"}
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    known = {tuple(row[name] for name in KEY) for row in rows}
    for data in args.data:
        photos = load_photos(args.photos, data, args.cache)
        for seed in args.seeds:
            for others in OTHERS:
                cell = {"data": data, "seed": seed, "others": others}
                if tuple(cell.values()) not in known:
                    rows.append(cell | measured(photos, others, seed) | {"commit": made["commit"]})
                    write_rows(FILE, made, rows)


if __name__ == "__main__":
    main()
