"""
Ideas for better alignment, tried on Emoji Styles with one training style (Fluent) left out and taken for the test: no
test split is read. A short loop without Trainer, images in memory, so that an idea costs less than a minute of a core.

    python benchmarks/try_objectives.py --student levit --seeds 0 1 --ideas baseline paper bank

Appends a line a run to results/objective_trials.jsonl; runs that are there already are not made again. What came
of them is in research/LOG.md; what won is an option of `train`, which the comparison of students then measured.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace

import torch
import yaml
from objective_ideas import IDEAS, Idea, Images, TextHeads, alignment, some, weight_at
from provenance import RESULTS, ROOT, provenance
from torch.nn.functional import cross_entropy, normalize

RECIPE = ROOT / "recipes" / "emoji_styles"
STYLE = "fluent-emoji-flat"
EPOCHS, BATCH, PADDING = 20, 64, 4
LATER = {"feature": "pooled", "curriculum": False}  # fields that the first runs do not name
# Last map of more than one pixel, and last norm before the classifier, at 32 px
SPATIAL = {"resnet": "resnet.encoder.stages.2", "regnet": "regnet.encoder.stages.2", "convnext": "timm_model.stages.2"}
LAST_NORM = {"convnext": "timm_model.head.norm", "deit": "deit.layernorm", "swin": "swin.layernorm"}


# --- Data ------------------------------------------------------------------------------------------------------------


def load(size: int):
    """Training images without a style, padded for crops; that style's; `validation` without it; class names."""
    import numpy as np
    from torchvision import transforms

    from g4i_hf.cli import parse_options
    from g4i_hf.data.images import open_image, to_rgb
    from g4i_hf.options import OPTIONS_OF
    from g4i_hf.workflows.train import TrainingRun

    with tempfile.TemporaryDirectory() as folder:
        argv = ["--config", str(RECIPE / "baseline.yaml"), "--output_dir", folder]
        run = TrainingRun(*parse_options(OPTIONS_OF["train"], argv))
        run.load()
    splits = run.splits
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
    return training, images(rows(splits["train"], True), 0), images(rows(splits["validation"], False), 0), run.id2label


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


# --- One run ---------------------------------------------------------------------------------------------------------


class Feature:
    """Gives the model's output other image embeddings than those of the pooled feature, where the idea wants them."""

    def __init__(self, idea: Idea, student_name: str, model):
        from g4i_hf.modeling.modeling_aligned import Projector

        self.idea, self.model, self.seen = idea, model, None
        self.projector = model.projector
        if idea.feature == "spatial":
            stage = model.student.get_submodule(SPATIAL[student_name])
            stage.register_forward_hook(lambda module, inputs, output: self.see(output))
            with torch.no_grad():
                model(pixel_values=torch.zeros(2, 3, 32, 32))
            model.projector = self.projector = Projector(self.seen.shape[-1], model.config)
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
