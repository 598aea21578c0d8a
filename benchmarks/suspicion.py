"""
In which order should a person look at labels, so that wrong ones come first? AUROC, average precision, and F1 at the
best threshold, of the order of `g4i label --pick wrong` and of others on the same labels.

    pip install -e '.[demo]' cleanlab
    python benchmarks/suspicion.py PHOTOS --counts cifar10h-counts.npy

PHOTOS, `--cache`, `--counts` and the kinds of wrong labels are those of wrong_labels.py, with all labels. The others:

- `cleanlab`: normalized margin of the probabilities of a logistic regression on image features, cross-validated, as
  its users have it. Ours is the same margin of the label model's probabilities, which captions have a part in;
  the command shows those below zero.
- `deep k-NN` (Bahri et al., arXiv 2004.12289): the share of the 10 nearest images with another label.
- `LEMoN` (Zhang et al., arXiv 2407.18941) with its fixed parameters. The distance of image and label is here that of
  the caption and the name of the class; images are compared by image features, texts by the text encoder.

Writes results/suspicion.json.
"""

from itertools import product

import numpy as np
from cleanlab.rank import get_label_quality_scores
from photos import PEOPLE, Photos, labels_with, load_photos, parsed, parser_of
from result_files import Results
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize

from g4i_hf import LabelModel

KEY = ("data", "kind", "draw")
KINDS = {"20% symmetric": 2, "20% confusable": 2} | dict.fromkeys(PEOPLE, 3)  # and draws of each
NEIGHBOURS, NEIGHBOURS_OF_LEMON, WEIGHT, DECAY, DECAY_OF_PAIRS = 10, 30, 5.0, 0.1, 5.0


def doubts(photos: Photos, labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """(N,) by each method: higher for labels that are to be looked at first."""
    features = normalize(photos.raw)
    ours = LabelModel(photos.num_labels, seed).fit(photos.views, labels).probabilities_.astype(np.float64)
    regression = LogisticRegression(C=0.01, max_iter=200)
    alone = cross_val_predict(regression, StandardScaler().fit_transform(photos.raw), labels, method="predict_proba")
    _, nearest = NearestNeighbors(n_neighbors=NEIGHBOURS_OF_LEMON + 1).fit(features).kneighbors(features)
    nearest = nearest[:, 1:]
    return {
        "ours": -margins(labels, ours),
        "cleanlab": -margins(labels, alone),
        "deep k-NN": (labels[nearest[:, :NEIGHBOURS]] != labels[:, None]).mean(1),
        "LEMoN": by_lemon(photos, labels, features, nearest),
    }


def margins(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    shares = probabilities + 1e-9
    return get_label_quality_scores(labels, shares / shares.sum(1, keepdims=True), method="normalized_margin")


def by_lemon(photos: Photos, labels: np.ndarray, features: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """d(x, y) + 5 s_n + 5 s_m: neighbours in images, and in texts, which are those of the same class here."""
    view = photos.views["caption"]
    texts, names = normalize(np.nan_to_num(view.values)), normalize(view.class_values)
    of_pairs = 1 - (texts * names[labels]).sum(1)
    of_names = 1 - names @ names.T
    near = np.exp(-DECAY * (1 - np.einsum("nd,nkd->nk", features, features[nearest])))
    by_images = (of_names[labels[:, None], labels[nearest]] * near * np.exp(-DECAY_OF_PAIRS * of_pairs[nearest])).mean(
        1
    )
    by_texts = np.zeros(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        distances = 1 - features[rows] @ features[rows].T
        weighed = distances * np.exp(-DECAY_OF_PAIRS * of_pairs[rows])
        order = np.argsort(distances, axis=1)[:, 1 : NEIGHBOURS_OF_LEMON + 1]
        by_texts[rows] = np.take_along_axis(weighed, order, axis=1).mean(1)
    return of_pairs + WEIGHT * by_images + WEIGHT * by_texts


def scores(wrong: np.ndarray, doubt: np.ndarray) -> dict[str, float]:
    precision, recall, _ = precision_recall_curve(wrong, doubt)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return {
        "auroc": float(roc_auc_score(wrong, doubt)),
        "average_precision": float(average_precision_score(wrong, doubt)),
        "f1": float(f1.max()),
    }


def main() -> None:
    args = parsed(parser_of(__doc__))
    results = Results(args.results / "suspicion.json", KEY)
    for data, (kind, draws) in product(args.data, KINDS.items()):
        if kind in PEOPLE and (args.counts is None or data != "cifar10"):
            continue
        photos = load_photos(args.photos, data, args.cache)
        for draw in range(draws):
            if results.has(data, kind, draw):
                continue
            if kind in PEOPLE:
                labels = PEOPLE[kind](photos.answers(args.counts), photos.truth, np.random.default_rng(draw))
            else:
                labels = labels_with(photos.training, kind, draw)
            wrong = labels != photos.truth
            found = {name: scores(wrong, doubt) for name, doubt in doubts(photos, labels, draw).items()}
            results.add(data, kind, draw, wrong=float(wrong.mean()), **found)


if __name__ == "__main__":
    main()
