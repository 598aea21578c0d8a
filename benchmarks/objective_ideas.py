"""What `try_objectives.py` tries: ways to teach a student with captions, and their losses."""

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, normalize


@dataclass
class Images:
    """Pixels (N, 3, H, W) uint8, labels (N,), texts (N, D) of unit norm, and which distinct caption each has (N,)."""

    pixels: torch.Tensor
    labels: torch.Tensor  # -100 where unlabelled
    texts: torch.Tensor
    caption: torch.Tensor


@dataclass
class Idea:
    """
    Args:
        kind: `none`; `clip` within the batch; `bank`: softmax over all captions of the training set; `classes`: the
            same, but any caption of the right class is right; `prototypes`: softmax over the mean text of each class;
            `teacher`: the classifier's own logits learn which classes have captions like that of the image (captions
            as privileged information, arXiv 1511.03643), with nothing projected.
        weight, temperature: of the alignment.
        schedule: `constant` or `cosine` (to zero).
        text: `plain`, `centred`, `whitened`, or `random`: a random direction for each distinct caption, which then
            tells no more than which images have the same (a control).
        target_temperature: of soft targets of `bank`, from the similarity of texts; 0 for the caption itself alone.
        mix: share of `classes` in the alignment, where the rest is `bank`.
        classifier: `linear`, or `text`: a cosine classifier that starts from the prototypes.
        projector: `mlp` or `linear`.
        feature: what is aligned: the `pooled` feature that the classifier is given, the same `before_norm`, or every
            place of a `spatial` map, of which the most similar one counts for a text (as in FILIP, arXiv 2111.07783).
        curriculum: whether the captions most like the mean of their class come first: 30% of them, all from the
            middle of training on.
    """

    kind: str = "none"
    weight: float = 0.0
    temperature: float = 0.1
    schedule: str = "constant"
    text: str = "plain"
    target_temperature: float = 0.0
    mix: float = 0.0
    classifier: str = "linear"
    projector: str = "mlp"
    feature: str = "pooled"
    curriculum: bool = False


PAPER = {"kind": "clip", "weight": 0.3, "temperature": 0.2}
WHITE = {"kind": "bank", "weight": 1.0, "text": "whitened"}
IDEAS = {
    "baseline": Idea(),
    "paper": Idea(**PAPER),
    "clip, weight 1, 0.1": Idea("clip", 1.0, 0.1),
    "clip, centred": Idea("clip", 1.0, 0.1, text="centred"),
    "clip, whitened": Idea("clip", 1.0, 0.1, text="whitened"),
    "bank": Idea("bank", 1.0),
    "bank, spatial": Idea("bank", 1.0, feature="spatial"),
    "bank, before the last norm": Idea("bank", 1.0, feature="before_norm"),
    "bank, curriculum": Idea("bank", 1.0, curriculum=True),
    "bank, random texts": Idea("bank", 1.0, text="random"),
    "bank, centred": Idea("bank", 1.0, text="centred"),
    "bank, whitened": Idea(**WHITE),
    "bank, whitened, weight 0.3": Idea(**WHITE | {"weight": 0.3}),
    "bank, whitened, falling from 2": Idea(**WHITE | {"weight": 2.0, "schedule": "cosine"}),
    "bank, whitened, linear": Idea(**WHITE, projector="linear"),
    "bank, soft targets": Idea("bank", 1.0, target_temperature=0.1),
    "bank, centred, soft targets": Idea("bank", 1.0, text="centred", target_temperature=0.1),
    "classes": Idea("classes", 1.0),
    "classes, whitened": Idea("classes", 1.0, text="whitened"),
    "half classes, half bank, whitened": Idea(**WHITE, mix=0.5),
    "prototypes": Idea("prototypes", 1.0),
    "prototypes, centred": Idea("prototypes", 1.0, text="centred"),
    "prototypes, whitened": Idea("prototypes", 1.0, text="whitened"),
    "classifier from text": Idea(classifier="text"),
    "teacher, 0.1": Idea("teacher", 1.0, 0.1),
    "teacher, 0.05": Idea("teacher", 1.0, 0.05),
    "teacher, centred, 0.1": Idea("teacher", 1.0, 0.1, text="centred"),
    "teacher, centred, 0.2": Idea("teacher", 1.0, 0.2, text="centred"),
}


# --- Texts -----------------------------------------------------------------------------------------------------------


class TextSpace:
    """Fitted on the distinct captions of the training set."""

    def __init__(self, kind: str, texts: torch.Tensor):
        self.kind = kind
        self.mean = texts.mean(0) if kind in ("centred", "whitened") else torch.zeros(texts.shape[1])
        self.rotation = None
        if kind == "whitened":  # with some shrinking, as there are few more captions than dimensions
            values, vectors = torch.linalg.eigh(torch.cov((texts - self.mean).T))
            self.rotation = vectors * (values + values.mean()).rsqrt()

    def __call__(self, texts: torch.Tensor) -> torch.Tensor:
        if self.kind == "random":
            return normalize(torch.randn(texts.shape, generator=torch.Generator().manual_seed(0)), dim=1)
        texts = texts - self.mean
        return normalize(texts if self.rotation is None else texts @ self.rotation, dim=1)


class TextHeads:
    """The distinct captions and the classes of a training set as directions of the text space."""

    def __init__(self, idea: Idea, images: Images, num_classes: int):
        first = torch.stack([(images.caption == caption).nonzero()[0, 0] for caption in images.caption.unique()])
        space = TextSpace(idea.text, images.texts[first])
        self.captions = space(images.texts[first])
        labelled = images.labels >= 0  # a caption has the class of a labelled image that it describes, or none
        self.of_class = torch.zeros(len(first), num_classes)
        self.of_class[images.caption[labelled], images.labels[labelled]] = 1
        self.prototypes = normalize(self.of_class.T @ self.captions, dim=1)
        self.targets = self.captions @ self.captions.T
        known = self.of_class.any(1)
        itself = torch.eye(len(first), dtype=torch.bool) & bool(labelled.all())
        others = self.targets.masked_fill(itself | ~known, -1e9)
        self.teacher = (others / idea.temperature).softmax(1) @ self.of_class
        self.typical = typical(self, images) if idea.curriculum else None

    def class_scores(self, idea: Idea, embeds: torch.Tensor) -> torch.Tensor:
        """log p(class) (n, C) of embeddings (n, D): of the prototypes, or added up over the captions of each class."""
        if idea.kind == "prototypes":
            return (embeds @ self.prototypes.T / idea.temperature).log_softmax(1)
        captions = (embeds @ self.captions.T / idea.temperature).softmax(1)
        return (captions @ self.of_class).clamp(min=1e-12).log()


def typical(heads: TextHeads, images: Images) -> torch.Tensor:
    """(N,) between 0 and 1: the share of images whose captions are liker the mean of their class; all have a label."""
    similarity = (heads.captions[images.caption] * heads.prototypes[images.labels]).sum(1)
    return similarity.argsort(descending=True).argsort() / len(similarity)


def alignment(idea: Idea, outputs, heads: TextHeads, images: Images, rows: torch.Tensor, progress: float):
    """0-d; `outputs.image_embeds` (n, D), or (n, places, D) of a spatial map; `progress` from 0 to 1."""
    embeds, caption, labels = outputs.image_embeds, images.caption[rows], images.labels[rows]
    if idea.kind == "teacher":
        return cross_entropy(outputs.logits, heads.teacher[caption])
    if idea.kind == "clip":
        logits = embeds @ heads.captions[caption].T / idea.temperature
        other = caption[:, None] != caption
        logits = logits.masked_fill(~other & ~torch.eye(len(rows), dtype=torch.bool), -1e9)
        target = torch.arange(len(rows))
        return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    if idea.kind == "prototypes":
        return cross_entropy(embeds @ heads.prototypes.T / idea.temperature, labels, reduction="sum") / some(labels)
    logits = embeds @ heads.captions.T / idea.temperature
    if idea.feature == "spatial":
        return cross_entropy(logits.amax(1), caption)
    by_class = cross_entropy(heads.class_scores(idea, embeds), labels, reduction="sum") / some(labels)
    if idea.kind == "classes":
        return by_class
    target = caption
    if idea.target_temperature:
        target = (heads.targets[caption] / idea.target_temperature).softmax(1)
    if idea.curriculum:
        weight = (heads.typical[rows] <= 0.3 + 1.4 * progress).float()
        return (weight * cross_entropy(logits, target, reduction="none")).mean()
    return idea.mix * by_class + (1 - idea.mix) * cross_entropy(logits, target)


def some(labels: torch.Tensor) -> torch.Tensor:
    return (labels >= 0).sum().clamp(min=1)


def weight_at(idea: Idea, progress: float) -> float:
    falling = (1 + math.cos(math.pi * progress)) / 2
    return idea.weight * {"constant": 1.0, "cosine": falling}[idea.schedule]
