"""
Two rivals without captions for the small ResNet from scratch on CIFAR-10: co-teaching with 40% wrong labels, FixMatch
with 10% of the labels.

    python benchmarks/photos_rivals.py PHOTOS

Student, labels, weak augmentation, batches of 64, steps, AdamW, rate and schedule are those of
recipes/photos/cifar10/train.yaml and of `photos_scratch.py`. `test` is opened once. Finished rows are not computed
again.

- Co-teaching (Han et al., arXiv 1804.06872) trains two students, and so takes twice the time. It is told the share of
  wrong labels, and leaves out that share after ten epochs, as in the paper. The student that is better on `validation`
  counts.
- FixMatch (Sohn et al., arXiv 2001.07685). The threshold is the paper's or a lower one: the better on `validation`
  after a training of a fifth of the steps. Beside 64 labelled images a step has 64 others, in the paper 448; it takes
  twice the time of the baseline. The weights are not averaged. Labels are not smoothed, as no probability would pass
  the threshold.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from controls import keep_label_fraction, with_label_noise
from datasets import Dataset, load_dataset
from photo_results import PhotoResults
from photos_frozen import figures
from photos_scratch import STUDENT, steps_of
from provenance import ROOT
from torch import nn
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from transformers import get_cosine_schedule_with_warmup

from g4i_hf.data.checks import labels_of
from g4i_hf.data.transforms import open_rgb
from g4i_hf.evaluation.predict import predict
from g4i_hf.options import AugmentationArguments, StudentArguments
from g4i_hf.training.build import BuiltStudent, build_student

NUM_LABELS = 10
SHARE_WRONG, SHARE_KEPT = 0.4, 0.1
UNLABELLED_FOR_ONE = 1  # FixMatch's mu


@dataclass
class Task:
    """CIFAR-10 with `labels` (N,), -1 for none, in place of those of the training split."""

    training: Dataset
    validation: Dataset
    test: Dataset
    labels: torch.Tensor
    recipe: dict
    steps: int
    seed: int

    @property
    def augmentation(self) -> AugmentationArguments:
        return AugmentationArguments(**{name: self.recipe[name] for name in ("image_size", "train_crop", "hflip")})

    def student(self, number: int = 0) -> BuiltStudent:
        """number: of several with other initial weights."""
        named = StudentArguments(student=self.recipe["student"], student_args=self.recipe["student_args"])
        names = {label: str(label) for label in range(NUM_LABELS)}
        built = build_student(named, self.augmentation, self.seed + 1000 * number, names, None)
        built.model.to(memory_format=torch.channels_last)  # a quarter less time
        return built


class Views:
    """Augmented training images, normalised."""

    def __init__(self, split: Dataset, built: BuiltStudent, augmentation: AugmentationArguments):
        self.transform = built.train_transform(augmentation)
        self.images = [self.transform.fixed(open_rgb(image)) for image in split["image"][:]]
        self.random_augment = transforms.RandAugment(num_ops=2, magnitude=10)
        self.cutout = transforms.RandomErasing(p=1, scale=(0.25, 0.25), ratio=(1, 1), value=0)  # half of each side

    def weak(self, rows: torch.Tensor) -> torch.Tensor:
        """A crop and perhaps a flip."""
        return self.transform.normalization(torch.stack([self.transform.drawn(self.images[row]) for row in rows]))

    def strong(self, rows: torch.Tensor) -> torch.Tensor:
        """The same, RandAugment and Cutout."""
        weak = [to_pil_image(self.transform.drawn(self.images[row])) for row in rows]
        pixels = torch.stack([pil_to_tensor(self.random_augment(image)) for image in weak])
        return torch.stack([self.cutout(image) for image in self.transform.normalization(pixels)])


class Optimizer:
    """That of the recipe, as Trainer builds it."""

    def __init__(self, model: nn.Module, task: Task):
        recipe, parameters = task.recipe, list(model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe["weight_decay"]},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.parameters = parameters
        self.adamw = torch.optim.AdamW(groups, lr=recipe["learning_rate"])
        self.schedule = get_cosine_schedule_with_warmup(self.adamw, recipe["warmup_steps"], task.steps)

    def step(self, loss: torch.Tensor) -> None:
        self.adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adamw.step()
        self.schedule.step()


def batches(rows: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Rows in random order, without end; the last of an epoch that do not fill a batch are left out."""
    while True:
        order = rows[torch.randperm(len(rows), generator=generator)]
        yield from order[: len(order) // size * size].split(size)


def logits_of(built: BuiltStudent, split: Dataset) -> torch.Tensor:
    what = {"batch_size": 256, "output_image_embeds": False}
    found = predict(built.model.eval(), built.processor, split, Accelerator(cpu=True), **what)
    return torch.from_numpy(found.logits)


# --- The rivals: each returns the students that it has trained -------------------------------------------------------


def co_teaching(task: Task, epochs: float) -> list[BuiltStudent]:
    """
    Each student learns from the rows of the batch for which the other one has the smallest losses.

    Args:
        epochs: after which as many rows are left out as have wrong labels.
    """
    students = [task.student(0), task.student(1)]
    optimizers = [Optimizer(built.model.student, task) for built in students]
    views, size = Views(task.training, students[0], task.augmentation), task.recipe["per_device_train_batch_size"]
    order = batches(torch.arange(len(task.labels)), size, torch.Generator().manual_seed(task.seed))
    smoothing = task.recipe["label_smoothing_factor"]
    for step in range(task.steps):
        rows = next(order)
        pixels, epoch = views.weak(rows), step * size / len(task.labels)
        kept = round(size * (1 - SHARE_WRONG * min(epoch / epochs, 1)))
        losses = [
            nn.functional.cross_entropy(
                built.model.student(pixels).logits, task.labels[rows], label_smoothing=smoothing, reduction="none"
            )
            for built in students
        ]
        smallest = [loss.detach().argsort()[:kept] for loss in losses]
        optimizers[0].step(losses[0][smallest[1]].mean())
        optimizers[1].step(losses[1][smallest[0]].mean())
    return students


def fixmatch(task: Task, threshold: float) -> list[BuiltStudent]:
    """A strongly augmented image learns the class that is predicted after weak augmentation, where that is sure."""
    built = task.student()
    student, optimizer = built.model.student, Optimizer(built.model.student, task)
    views, size = Views(task.training, built, task.augmentation), task.recipe["per_device_train_batch_size"]
    generator = torch.Generator().manual_seed(task.seed)
    labelled = batches((task.labels >= 0).nonzero()[:, 0], size, generator)
    others = batches(torch.arange(len(task.labels)), UNLABELLED_FOR_ONE * size, generator)
    for _ in range(task.steps):
        known, rows = next(labelled), next(others)
        with torch.no_grad():
            sure, guessed = student(views.weak(rows)).logits.softmax(1).max(1)
        logits = student(torch.cat([views.weak(known), views.strong(rows)])).logits
        of_labels = nn.functional.cross_entropy(logits[:size], task.labels[known])
        of_guesses = nn.functional.cross_entropy(logits[size:], guessed, reduction="none")
        optimizer.step(of_labels + (of_guesses * (sure >= threshold)).mean())
    return [built]


# Variant -> grid, setting, method, the values of its setting
RIVALS: dict[str, tuple[str, str, Callable, tuple]] = {
    "co-teaching": ("wrong_labels", "40% symmetric", co_teaching, (10,)),
    "FixMatch": ("few_labels", "10%", fixmatch, (0.8, 0.95)),
}


def best_on_validation(students: list[BuiltStudent], task: Task) -> tuple[BuiltStudent, float]:
    labels = labels_of(task.validation)
    accuracies = [float((logits_of(built, task.validation).argmax(1).numpy() == labels).mean()) for built in students]
    best = int(np.argmax(accuracies))
    return students[best], accuracies[best]


def trained(method: Callable, task: Task, value: float) -> tuple[BuiltStudent, float]:
    """The student and its accuracy on `validation`."""
    torch.manual_seed(task.seed)
    np.random.seed(task.seed)
    found = best_on_validation(method(task, value), task)
    print(f"{method.__name__} {value}, {task.steps} steps: {found[1]:.3f} on validation", flush=True)
    return found


def task_of(photos: Path, setting: str, seed: int) -> Task:
    splits = load_dataset("parquet", data_dir=str(photos / "cifar10"))
    training = splits["train"]
    if setting == "10%":
        given = keep_label_fraction(training, SHARE_KEPT, seed)
    else:
        given = with_label_noise(training, SHARE_WRONG, seed, NUM_LABELS)
    labels = torch.from_numpy(labels_of(given)).long()
    recipe = yaml.safe_load((ROOT / "recipes" / "photos" / "cifar10" / "train.yaml").read_text())
    steps = steps_of(photos, "cifar10")
    return Task(training, splits["validation"], splits["test"], labels, recipe, steps, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rivals", nargs="+", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    commands = [f"python benchmarks/photos_{name}.py PHOTOS" for name in ("scratch", "rivals")]
    for seed in args.seeds:
        for variant in args.rivals:
            grid, setting, method, values = RIVALS[variant]
            results = PhotoResults(grid, " && ".join(commands))
            key = {"data": "cifar10", "student": STUDENT, "variant": variant, "setting": setting, "seed": seed}
            if results.has(**key):
                continue
            start, task = time.perf_counter(), task_of(args.photos, setting, seed)
            chosen, short = values[0], replace(task, steps=task.steps // 5)
            if len(values) > 1:
                chosen = max(values, key=lambda value: trained(method, short, value)[1])
            built, _ = trained(method, task, chosen)
            found = figures(logits_of(built, task.test), labels_of(task.test), task.labels.numpy())
            measured = {name: found[name] for name in ("accuracy", "calibration_error")}
            row = key | measured | {"chosen": chosen}
            results.add(row)
            print(json.dumps(row), f"{time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
