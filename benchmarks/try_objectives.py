"""
Ideas for better alignment, tried on Emoji Styles with one training style (Fluent) left out and taken for the test: no
test split is read. A short loop without Trainer, images in memory, so that an idea costs less than a minute of a core.

    python benchmarks/try_objectives.py --student levit --seeds 0 1 --ideas baseline paper bank

Appends a line a run to results/objective_trials.jsonl; runs that are there already are not made again. LOG.md says
what came of them; what won is an option of recipes/train.py, which the comparison of students then measured.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass, replace

import torch
import yaml
from provenance import RESULTS, ROOT, provenance
from torch.nn.functional import cross_entropy, normalize

RECIPE = ROOT / "recipes" / "emoji_styles"
STYLE = "fluent-emoji-flat"
EPOCHS, BATCH, PADDING = 20, 64, 4


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
        text: `plain`, `centred` or `whitened`.
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


LATER = {"feature": "pooled", "curriculum": False}  # fields that the first runs do not name
# Last map of more than one pixel, and last norm before the classifier, at 32 px
SPATIAL = {"resnet": "resnet.encoder.stages.2", "regnet": "regnet.encoder.stages.2", "convnext": "timm_model.stages.2"}
LAST_NORM = {"convnext": "timm_model.head.norm", "deit": "deit.layernorm", "swin": "swin.layernorm"}
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


# --- Data ------------------------------------------------------------------------------------------------------------


@dataclass
class Images:
    """Pixels (N, 3, H, W) uint8, labels (N,), texts (N, D) of unit norm, and which distinct caption each has (N,)."""

    pixels: torch.Tensor
    labels: torch.Tensor  # -100 where unlabelled
    texts: torch.Tensor
    caption: torch.Tensor


def load(size: int):
    """Training images without a style, padded for crops; that style's; `validation` without it; class names."""
    import numpy as np
    from torchvision import transforms

    from g4i_hf.cli import parse_options
    from g4i_hf.data.images import open_image, to_rgb
    from g4i_hf.recipes import train

    with tempfile.TemporaryDirectory() as folder:
        argv = ["--config", str(RECIPE / "baseline.yaml"), "--output_dir", folder]
        run, data, encoder, _, _, args = parse_options(train.OPTIONS, argv)
        splits, id2label, *_ = train.load_data(run, data, encoder, args)
    fixed = transforms.Resize((size, size), interpolation=transforms.InterpolationMode.BICUBIC)

    def images(split, padding: int) -> Images:
        shown = transforms.Compose([fixed, transforms.Pad(padding, padding_mode="edge")])
        pixels = [np.asarray(shown(to_rgb(open_image(image)))) for image in split["image"]]
        _, caption = np.unique(split["caption"][:], return_inverse=True)
        return Images(
            torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(split["label"][:]),
            normalize(torch.tensor(np.asarray(split["text_embeds"][:], dtype=np.float32)), dim=1),
            torch.from_numpy(caption),
        )

    def rows(split, left_out: bool):
        return split.select([row for row, style in enumerate(split["style"][:]) if (style == STYLE) == left_out])

    training = images(rows(splits["train"], False), PADDING)
    return training, images(rows(splits["train"], True), 0), images(rows(splits["validation"], False), 0), id2label


def with_labels(images: Images, share: float) -> Images:
    """A share of the labels of each class, at least one, the same for every seed."""
    order = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(0))
    kept = []
    for label in images.labels.unique():
        of_class = order[images.labels[order] == label]
        kept.append(of_class[: max(1, round(share * len(of_class)))])
    labels = torch.full_like(images.labels, -100)
    kept = torch.cat(kept)
    labels[kept] = images.labels[kept]
    return replace(images, labels=labels)


def batches(images: Images, size: int, generator: torch.Generator):
    """Shuffled batches with random crops and flips."""
    for chosen in torch.randperm(len(images.labels), generator=generator).split(BATCH):
        if len(chosen) < 2:
            continue
        shifts = torch.randint(2 * PADDING + 1, (len(chosen), 2), generator=generator).tolist()
        crops = [images.pixels[row, :, y : y + size, x : x + size] for row, (y, x) in zip(chosen, shifts, strict=True)]
        flips = torch.rand(len(chosen), generator=generator) < 0.5
        pixels = torch.stack(crops)
        yield scaled(torch.where(flips[:, None, None, None], pixels.flip(3), pixels)), chosen


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float().div_(127.5).sub_(1)


# --- Texts -----------------------------------------------------------------------------------------------------------


class TextSpace:
    """Fitted on the distinct captions of the training set."""

    def __init__(self, kind: str, texts: torch.Tensor):
        self.mean = torch.zeros(texts.shape[1]) if kind == "plain" else texts.mean(0)
        self.rotation = None
        if kind == "whitened":  # with some shrinking, as there are few more captions than dimensions
            values, vectors = torch.linalg.eigh(torch.cov((texts - self.mean).T))
            self.rotation = vectors * (values + values.mean()).rsqrt()

    def __call__(self, texts: torch.Tensor) -> torch.Tensor:
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


# --- One run ---------------------------------------------------------------------------------------------------------


def weight_at(idea: Idea, progress: float) -> float:
    import math

    falling = (1 + math.cos(math.pi * progress)) / 2
    return idea.weight * {"constant": 1.0, "cosine": falling}[idea.schedule]


class Feature:
    """Gives the model's output other image embeddings than those of the pooled feature, where the idea wants them."""

    def __init__(self, idea: Idea, student_name: str, model):
        from g4i_hf.modeling.projector import Projector

        self.idea, self.model, self.seen = idea, model, None
        self.projector = model.projector
        if idea.feature == "spatial":
            stage = model.student.get_submodule(SPATIAL[student_name])
            stage.register_forward_hook(lambda module, inputs, output: self.see(output))
            with torch.no_grad():
                model(pixel_values=torch.zeros(2, 3, 32, 32))
            dim = model.config.text_embed_dim
            model.projector = self.projector = Projector(self.seen.shape[-1], dim, "mlp", 2 * dim, "none")
        elif idea.feature == "before_norm":
            norm = model.student.get_submodule(LAST_NORM[student_name])
            norm.register_forward_pre_hook(lambda module, inputs: self.see(inputs[0]))
        self.is_first_token = student_name == "deit"

    def see(self, maps: torch.Tensor) -> None:
        """(n, C, H, W) or (n, tokens, C) -> (n, places, C)."""
        self.seen = maps.flatten(2).transpose(1, 2) if maps.ndim == 4 else maps

    def __call__(self, pixels: torch.Tensor):
        outputs = self.model(pixel_values=pixels, output_image_embeds=self.idea.feature == "pooled")
        if self.idea.feature == "spatial":
            outputs.image_embeds = self.projector(self.seen)
        elif self.idea.feature == "before_norm":
            outputs.image_embeds = self.projector(self.seen[:, 0] if self.is_first_token else self.seen.mean(1))
        return outputs


def train(idea: Idea, student: dict, rate: float, seed: int, data) -> dict[str, float]:
    """`student`: with its `name`, `student` and `student_args`."""
    from g4i_hf import AlignedImageClassification
    from g4i_hf.modeling.student import classifier_layers

    training, left_out, validation, id2label = data
    size = left_out.pixels.shape[-1]
    torch.manual_seed(seed)
    model = AlignedImageClassification.from_student(
        student["student"],
        id2label=id2label,
        text_embed_dim=training.texts.shape[1],
        student_args=student["student_args"],
        image_size=size,
        projector_type=idea.projector,
    )
    heads = TextHeads(idea, training, len(id2label))
    if idea.classifier == "text":  # a fixed random map keeps the geometry of the prototypes
        (layer,) = classifier_layers(model.student)
        generator = torch.Generator().manual_seed(seed)
        into = torch.randn(training.texts.shape[1], layer.in_features, generator=generator)
        centred = heads.prototypes - heads.prototypes.mean(0)
        layer.weight.data = normalize(centred @ into, dim=1) * layer.weight.norm(dim=1).mean()
    feature = Feature(idea, student["name"], model)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
    steps = EPOCHS * -(-len(training.labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=50 / steps, cycle_momentum=False
    )
    generator, step = torch.Generator().manual_seed(seed), 0
    model.train()
    for _ in range(EPOCHS):
        for pixels, rows in batches(training, size, generator):
            outputs, labels = feature(pixels), training.labels[rows]
            loss = cross_entropy(outputs.logits, labels, label_smoothing=0.1, reduction="sum") / some(labels)
            if idea.kind != "none":
                loss = loss + weight_at(idea, step / steps) * alignment(
                    idea, outputs, heads, training, rows, step / steps
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step < steps - 1:
                schedule.step()
            step += 1
    model.eval()
    found = score(idea, feature, heads, left_out)
    return found | {f"validation_{name}": value for name, value in score(idea, feature, heads, validation).items()}


@torch.no_grad()
def score(idea: Idea, feature: Feature, heads: TextHeads, images: Images) -> dict[str, float]:
    """Accuracy of the classifier; with alignment also of the texts, and of both together (mean of log p)."""
    chunks = scaled(images.pixels).split(256)
    outputs = [feature(chunk) for chunk in chunks]
    classifier = torch.cat([output.logits for output in outputs]).log_softmax(1)
    scores = {"classifier": classifier}
    if idea.kind not in ("none", "teacher") and idea.feature != "spatial":
        scores["texts"] = heads.class_scores(idea, torch.cat([output.image_embeds for output in outputs]))
        scores["both"] = classifier + scores["texts"]
    right = {name: (values.argmax(1) == images.labels).float().mean().item() for name, values in scores.items()}
    return {name: round(100 * value, 2) for name, value in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", required=True, help="of recipes/emoji_styles/compare.yaml")
    parser.add_argument("--ideas", nargs="+", choices=list(IDEAS), help="all that fit --labels by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--labels", type=float, default=1.0, help="share of the training labels that is kept")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    args = parser.parse_args()
    fitting = [name for name, idea in IDEAS.items() if args.labels == 1 or not idea.curriculum]
    if unfit := set(args.ideas or fitting) - set(fitting):
        parser.error(f"{', '.join(sorted(unfit))}: how typical a caption is of its class needs --labels 1")
    torch.set_num_threads(1)
    student = yaml.safe_load((RECIPE / "compare.yaml").read_text())["students"][args.student]
    student["name"] = args.student
    (training, *others), path = load(32), RESULTS / "objective_trials.jsonl"
    data = [with_labels(training, args.labels), *others]
    lines = path.read_text().splitlines() if path.exists() else []
    done = [json.loads(line)["run"] for line in lines]
    for seed in args.seeds:
        for name in args.ideas or fitting:
            run = {"student": args.student, "idea": name, "seed": seed, "learning_rate": args.learning_rate}
            options = {
                key: value for key, value in asdict(IDEAS[name]).items() if key not in LATER or value != LATER[key]
            }
            run |= {"options": options} | ({"labels": args.labels} if args.labels < 1 else {})
            if run in done:
                continue
            start = time.process_time()
            accuracy = train(IDEAS[name], student, args.learning_rate, seed, data)
            line = {"run": run, "accuracy": accuracy, "thread_seconds": round(time.process_time() - start, 1)}
            with path.open("a") as file:
                file.write(json.dumps(line | {"made": provenance()}) + "\n")
            print(args.student, name, seed, accuracy, line["thread_seconds"], flush=True)


if __name__ == "__main__":
    main()
