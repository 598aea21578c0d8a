"""
What are captions worth for the last layer of a pretrained EfficientNet-Lite0 on photographs? Wrong labels, few labels
and all labels, beside methods without captions, on CIFAR-10, Caltech-101 and Flowers-102.

    pip install -e '.[demo]' cleanlab
    python benchmarks/photos_frozen.py PHOTOS --counts cifar10h-counts.npy

PHOTOS holds a folder of Parquet files for each dataset (recipes/photos says where the images and captions come from),
`--counts` the answers of people for CIFAR-10 (wrong_labels.py). Image features, at the size that `fit` chooses, and
caption embeddings are computed once, and kept in `--cache`. Both last layers of `g4i fit`, on labels only and with
captions, are those that `fit` would leave, but for the factor that sets their confidence: from the same label model,
by the same functions, without `validation`. The rivals are logistic regressions on 256 principal components of the
features; their regularisation, and whatever else they choose, is the best on `validation`. Caltech-101
has none: a tenth of each class of its training split is taken.

Writes results/photos_*.json, where rows of other students stay as they are.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import torch
from photos import ENCODER, PEOPLE, Photos, encoded, labels_with, layers_of_fit, load_photos, parsed, parser_of
from result_files import Results
from scipy.sparse import csr_array, diags_array
from torch import nn

from g4i_hf import LabelModel, View
from g4i_hf.data.classes import terms_of
from g4i_hf.embedding.encoders import load_encoder
from g4i_hf.fitting.evidence import Evidence, rows_to_hold_out
from g4i_hf.fitting.targets import Targets
from g4i_hf.names import LABELS_ONLY, WITH_VIEWS

STUDENT = "efficientnet_lite0, last layer"
KEY = ("data", "student", "variant", "setting", "seed")
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
FOLDS = 5


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

    @property
    def noise(self) -> float:
        """Share of wrong labels, which methods that filter are told."""
        return float((self.labels != self.photos.truth)[self.labels >= 0].mean())

    @cached_property
    def layers_of_fit(self) -> dict[str, torch.Tensor]:
        return of_fit(self, self.photos.embeds)


def linear_probe(case: Case) -> torch.Tensor:
    return learned(case.photos, case.labels)


def of_fit(case: Case, embeds: np.ndarray | None, image: bool = True) -> dict[str, torch.Tensor]:
    """Test logits of the last layers of `g4i fit`, without `validation`; `image`: features are a view."""
    photos, order = case.photos, np.random.default_rng(case.seed).permutation(len(case.labels))
    views = {} if embeds is None else {"caption": View(embeds, photos.class_embeds, self_trains=False)}
    if image:
        views["image"] = photos.views["image"]
    holdout = rows_to_hold_out(case.labels, order)
    model = LabelModel(photos.num_labels, case.seed)
    model.fit(views, case.labels, ids=order, kept=np.isin(np.arange(len(order)), holdout))
    targets = Targets.of(Evidence(case.labels, views, model, order, holdout=holdout))
    heads = layers_of_fit(targets, photos.raw)
    return {name: torch.from_numpy(head.logits(photos.raw_test)) for name, head in heads.items()}


def labels_only(case: Case) -> torch.Tensor | None:
    return case.layers_of_fit.get(LABELS_ONLY)


def captions(case: Case) -> torch.Tensor:
    return case.layers_of_fit[WITH_VIEWS]


def captions_alone(case: Case) -> torch.Tensor:
    return of_fit(case, case.photos.embeds, image=False)[WITH_VIEWS]


def without_captions(case: Case) -> torch.Tensor:
    return of_fit(case, None)[WITH_VIEWS]


def instead(embeds: Callable[[Case], np.ndarray]) -> Callable[[Case], torch.Tensor]:
    return lambda case: of_fit(case, embeds(case))[WITH_VIEWS]


def captions_at_inference(case: Case) -> torch.Tensor | None:
    """Logits of the label model on test captions: it needs a VLM for every image."""
    if case.photos.test_text_embeds is None:
        return None
    views = {"caption": case.photos.views["caption"]}
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
    weight = linear_probe(case)
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
    found = [first := linear_probe(case)]
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


def label_propagation(case: Case) -> torch.Tensor:
    """Zhou et al. (NeurIPS 2003) over the 10 nearest neighbours by cosine; what it says of all rows is learned."""
    x = nn.functional.normalize(case.photos.features, dim=1)
    near = [(block @ x.T).topk(11) for block in x.split(1024)]
    alike, others = torch.cat([each.values for each in near])[:, 1:], torch.cat([each.indices for each in near])[:, 1:]
    rows = torch.arange(len(x)).repeat_interleave(10)
    graph = csr_array((alike.clamp_min(0).flatten() ** 3, (rows, others.flatten())), shape=(len(x), len(x)))
    graph = graph + graph.T
    inverse = 1 / np.sqrt(np.maximum(graph.sum(1), 1e-9))
    graph = diags_array(inverse) @ graph @ diags_array(inverse)
    given, found = one_hot(case.labels, case.photos.num_labels).numpy(), [linear_probe(case)]
    for share in (0.5, 0.9, 0.99):
        spread = given
        for _ in range(50):
            spread = share * (graph @ spread) + (1 - share) * given
        spread = spread / np.maximum(spread.sum(1, keepdims=True), 1e-12)
        found.append(learned(case.photos, case.labels, spread * (case.labels < 0)[:, None], soft_weight=1.0))
    x, labels = case.photos.validation
    return max(found, key=lambda weight: accuracy(logits_of(weight, x), labels))


def cache_of_features(case: Case) -> torch.Tensor:
    """Test logits of a layer and a cache of labelled features, as in Tip-Adapter (arXiv 2111.03930)."""
    known = np.flatnonzero(case.labels >= 0)
    keys = nn.functional.normalize(case.photos.features[known], dim=1)
    values, weight, best = one_hot(case.labels[known], case.photos.num_labels), linear_probe(case), (-1.0, None)
    for sharpness in (1.0, 5.0, 20.0, 50.0):
        for share in (0.5, 2.0, 8.0, 32.0):

            def logits(x: torch.Tensor, sharpness: float = sharpness, share: float = share) -> torch.Tensor:
                affinity = (-sharpness * (1 - nn.functional.normalize(x, dim=1) @ keys.T)).exp()
                return logits_of(weight, x) + share * affinity @ values

            found = accuracy(logits(case.photos.validation[0]), case.photos.validation[1])
            if found > best[0]:
                best = (found, logits)
    return best[1](case.photos.test[0])


def of_other_images(case: Case) -> np.ndarray:
    return np.random.default_rng(case.seed).permutation(case.photos.embeds)


def random_vectors(case: Case) -> np.ndarray:
    return np.random.default_rng(case.seed).normal(size=(len(case.labels), 384)).astype(np.float32)


def true_class_names(case: Case) -> np.ndarray:
    """As if the vision-language model had never been wrong."""
    names = case.photos.training.features["label"].names
    return load_encoder(ENCODER).encode([f"a photo of a {name}" for name in names])[case.photos.truth]


def without_class_names(case: Case) -> np.ndarray:
    """The names of all classes, and the usual synonyms of CIFAR-10's, are taken out of the captions."""
    names = case.photos.training.features["label"].names
    terms = [term for name in names for term in (*terms_of(name), *SYNONYMS.get(name, ()))]
    found = "|".join(sorted(map(re.escape, terms), key=len, reverse=True))
    pattern = re.compile(rf"\b(?:{found})(?:s|es)?\b", re.IGNORECASE)
    return encoded([pattern.sub("", caption) for caption in case.photos.captions]).astype(np.float32)


LAYERS = {"baseline": labels_only, "auto": captions, "linear probe": linear_probe}
AT_INFERENCE = {"captions at inference": captions_at_inference}
# Settings and variants
GRIDS = {
    "few_labels": (
        ["no labels", "1 a class", "4 a class", "16 a class", "at random", "10%"],
        LAYERS
        | {"auto, captions alone": captions_alone, "auto, without captions": without_captions}
        | {"self-training": self_training}
        | {"label propagation": label_propagation, "Tip-Adapter": cache_of_features}
        | AT_INFERENCE,
    ),
    "wrong_labels": (
        ["20% symmetric", "40% symmetric", "60% symmetric", "20% confusable", "40% confusable", *PEOPLE],
        LAYERS
        | {"auto, captions alone": captions_alone, "auto, without captions": without_captions}
        | {"label smoothing": label_smoothing}
        | {"GCE": generalised_cross_entropy, "small-loss filter": small_loss, "cleanlab": cleanlab},
    ),
    "all_labels": (["all"], LAYERS | AT_INFERENCE),
    "controls": (
        ["4 a class"],
        {
            "captions of other images": instead(of_other_images),
            "random vectors": instead(random_vectors),
            "class names": instead(true_class_names),
            "without class names": instead(without_class_names),
        },
    ),
}
WITHOUT_LABELS = ["auto", "auto, captions alone", "captions at inference"]  # nothing else can be done without labels
# More classes take longer: of these two datasets some settings
OF_MANY_CLASSES = {"wrong_labels": ["40% symmetric", "20% confusable"]}


def case_of(photos: Photos, setting: str, seed: int, counts: np.ndarray | None) -> Case:
    if setting in PEOPLE:
        labels = PEOPLE[setting](photos.answers(counts), photos.truth, np.random.default_rng(seed))
    else:
        labels = labels_with(photos.training, setting, seed)
    return Case(photos, labels, seed)


# --- What is measured ------------------------------------------------------------------------------------------------


def run_grid(grid: str, photos: Photos, seed: int, counts: np.ndarray | None, folder: Path) -> None:
    settings, variants = GRIDS[grid]
    if photos.num_labels > 10:
        settings = OF_MANY_CLASSES.get(grid, settings)
    results = Results(folder / f"photos_{grid}.json", KEY, made_by="student")
    for setting in settings:
        if setting in PEOPLE and (counts is None or photos.name != "cifar10"):
            continue
        case = case_of(photos, setting, seed, counts)
        for variant, method in variants.items():
            key = photos.name, STUDENT, variant, setting, seed
            if results.has(*key) or (setting == "no labels" and variant not in WITHOUT_LABELS):
                continue
            found = method(case)
            if found is None:
                continue
            is_layer = len(found) == photos.features.shape[1] + 1
            logits = (logits_of(found, photos.test[0]) if is_layer else found).numpy()
            results.add(*key, accuracy=float((logits.argmax(1) == photos.test[1]).mean()))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--grids", nargs="+", default=list(GRIDS), choices=list(GRIDS))
    args = parsed(parser)
    photos = {name: load_photos(args.photos, name, args.cache) for name in args.data}
    for seed, grid, name in product(args.seeds, args.grids, args.data):
        run_grid(grid, photos[name], seed, args.counts, args.results)


if __name__ == "__main__":
    main()
