"""`g4i fit`: from images with captions to a classifier and what its captions were worth, by the other commands."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import Dataset, DatasetDict
from huggingface_hub import constants, model_info

from .. import columns
from ..data.checks import labels_of
from ..data.images import open_image
from ..data.loading import class_names, load_data
from ..evaluation.statistics import paired_summary
from ..files import read_mapping, replace_text
from ..options import DataArguments, FitArguments

VALIDATION_FRACTION = 0.15
# For images of `LARGE` pixels and more: ImageNet weights, Apache-2.0. For smaller ones a small ResNet from scratch
PRETRAINED = "timm/tf_efficientnet_lite0.in1k"
FROM_SCRATCH = {"student": "resnet18", "student_args": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]}}
LARGE, LARGEST, SMALLEST = 96, 224, 32
EPOCHS, FEWEST_STEPS, MOST_STEPS = 50, 1_000, 20_000
BATCH = 64
BASELINE = {"align_weight": 0, "supervision": "none", "label_noise": "keep", "unlabelled": "drop"}
SAMPLE = 200  # images whose size is looked at


@dataclass
class FitResult:
    """
    Attributes:
        classifier: folder of the released student.
        report: HTML page.
        config: `fit.yaml`, for `g4i train --config`.
        accuracy, baseline_accuracy: on `validation`, by seed.
        gain: their mean difference; `interval` its 95% interval over seeds, None with one seed.
    """

    classifier: Path
    report: Path
    config: Path
    accuracy: list[float]
    baseline_accuracy: list[float]
    gain: float
    interval: tuple[float, float] | None


class Fit:
    """
    Args:
        args, data: the options of the command.
        say: takes a line for the user.
    """

    def __init__(self, args: FitArguments, data: DataArguments, say: Callable[[str], object] = print):
        self.args, self.data, self.say = args, data, say
        name = Path(data.dataset_name).resolve().name if Path(data.dataset_name).is_dir() else data.dataset_name
        self.folder = Path(args.output_dir or f"runs/{name.replace('/', '--')}")
        self.config = self.folder / "fit.yaml"

    def run(self) -> FitResult | None:
        """
        Returns:
            None after a dry run.

        Raises:
            ValueError, OSError: for data that cannot be trained on, or a command that failed.
        """
        splits = self._opened()
        options = self._options(splits)
        commands = self._commands(options)
        if self.args.dry_run:
            self.say("\nWould run:")
            for words in commands:
                self.say(f"  {shlex.join(['g4i', *words])}")
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        head = "# What `g4i fit` chose. Edit it, and train with: g4i train --config " + str(self.config) + "\n"
        replace_text(self.config, head + yaml.safe_dump(options, sort_keys=False))
        start = time.monotonic()
        for number, words in enumerate(commands, 1):
            spent = time.monotonic() - start
            left = ""
            if number > 2:
                left = f", about {spent / (number - 1) * (len(commands) - number + 1) / 60:.0f} minutes left"
            self.say(f"\n[{number}/{len(commands)}{left}] {shlex.join(['g4i', *words])}")
            _run(words)
        return self._finished()

    # --- Decisions ---------------------------------------------------------------------------------------------------

    def _opened(self) -> DatasetDict:
        """The splits, after the decisions about captions and `validation`; says what is in them."""
        splits = load_data(self.data)
        if "train" not in splits:
            raise ValueError(f"The data has no split 'train'. It has: {', '.join(splits)}.")
        if "validation" not in splits:
            self.data.validation_fraction = self.data.validation_fraction or VALIDATION_FRACTION
            splits = load_data(self.data)
            self.say(
                f"Validation: the data has no such split, so {len(splits['validation']):,} labelled training images "
                f"are held out, {self.data.validation_fraction:.0%} of each class."
            )
        splits, names = class_names(splits)
        training = splits["train"]
        labelled, captioned = int((labels_of(training) >= 0).sum()), _captioned(training)
        self.say(
            f"Data: {len(training):,} training images of {len(names)} classes, {labelled:,} with a label, "
            f"{captioned:,} with a caption; {len(splits['validation']):,} validation images."
        )
        if not captioned and not self.args.captioner:
            raise ValueError(
                "No training image has a caption. Write them with a model (--captioner MODEL or the address of a "
                "server), put them into metadata.jsonl beside the images, or name their column with --caption_column."
            )
        if captioned and self.args.captioner:
            self.say("Captioner: not used, as the images have captions.")
            self.args.captioner = None
        return splits

    def _options(self, splits: DatasetDict) -> dict[str, Any]:
        """Options of `g4i train`."""
        args, training = self.args, splits["train"]
        size = args.image_size or self._size(training)
        student = self._student(size)
        batch = max(2, min(BATCH, len(training) // 8))
        steps = int(np.clip(EPOCHS * len(training) / batch, FEWEST_STEPS, MOST_STEPS))
        data = {name: value for name, value in vars(self.data).items() if value is not None}
        if args.captioner:
            data["dataset_name"] = str(self.folder / "captions")
        options = data | {
            "text_encoder": args.text_encoder,
            **student,
            "image_size": size,
            "train_crop": "pad" if size <= 64 else "resized",
            "hflip": 0.5,
            "supervision": "auto",
            "require_labels": False,
            "max_steps": steps,
            "per_device_train_batch_size": batch,
            "per_device_eval_batch_size": BATCH,
            "optim": "adamw_torch",
            "learning_rate": 1e-4 if student["pretrained"] else 1e-3,
            "weight_decay": 0.05,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.05,
            "label_smoothing_factor": 0.1,
            "align_weight": 0.3,
            "align_temperature": 0.2,
            **dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "steps"),
            **dict.fromkeys(("eval_steps", "save_steps", "logging_steps"), 0.1),
            "save_total_limit": 1,
        }
        if args.train_config:
            given = read_mapping(args.train_config)
            if "num_train_epochs" in given and "max_steps" not in given:
                options["max_steps"] = -1
            options |= given
        folders = {
            "embeddings_dir": str(self.folder / "embeddings"),
            "output_dir": self._run_folder("with_captions", 0),
        }
        options |= data | folders | {"seed": 0}
        if args.minutes:
            options["max_steps"] = self._steps_in(args.minutes, options)
        length = (
            f"{options['max_steps']:,} steps" if options["max_steps"] > 0 else f"{options['num_train_epochs']} epochs"
        )
        self.say(f"Training: {length} in each of {2 * args.seeds} runs.")
        return options

    def _size(self, training: Dataset) -> int:
        """The shorter side of the median image, as a multiple of 16."""
        rows = np.linspace(0, len(training) - 1, min(SAMPLE, len(training))).astype(int)
        side = np.median([min(open_image(image).size) for image in training.select(rows)[columns.IMAGE]])
        size = int(np.clip(side // 16 * 16, SMALLEST, LARGEST))
        self.say(f"Image size: {size} px, as the shorter side of the median image has {side:.0f}.")
        return size

    def _student(self, size: int) -> dict[str, Any]:
        """Its options."""
        args = self.args
        if args.student:
            return {"student": args.student, "pretrained": bool(args.pretrained)}
        if args.pretrained is not False and size >= LARGE and _is_reachable(PRETRAINED):
            self.say(f"Student: {PRETRAINED}, pretrained on ImageNet; another with --student.")
            return {"student": PRETRAINED, "pretrained": True}
        why = "the images are small" if size < LARGE else f"{PRETRAINED} is not reachable"
        self.say(f"Student: a small ResNet from scratch, as {why}; another with --student and --pretrained.")
        return FROM_SCRATCH | {"pretrained": False}

    def _steps_in(self, minutes: float, options: dict[str, Any]) -> int:
        """How many steps of each run fit into so many minutes; some are timed."""
        from ..cli import build_options
        from ..options import OPTIONS_OF
        from .train import TrainingRun

        given = options | {"dry_run": True, "output_dir": str(self.folder / "timed")}
        run = TrainingRun(*build_options(OPTIONS_OF["train"], given))
        run.load()
        seconds = run.seconds_per_step()
        steps = int(60 * minutes / (2 * self.args.seeds * seconds))
        self.say(f"Time: {seconds:.3g} s a step, so {minutes:g} minutes are {steps:,} steps for each run.")
        return max(steps, 1)

    # --- Commands ----------------------------------------------------------------------------------------------------

    def _commands(self, options: dict[str, Any]) -> list[list[str]]:
        """The commands after `g4i`, in their order."""
        args, config, found = self.args, str(self.config), []
        if args.captioner:
            words = ["caption", "--dataset_name", self.data.dataset_name]
            words += ["--captions_dir", str(self.folder / "captions"), "--journal", str(self.folder / "answers")]
            if args.captioner.startswith(("http://", "https://")):
                words += ["--base_url", args.captioner, "--captioner_model", args.captioner_model]
            else:
                words += ["--captioner_model", args.captioner]
            found.append(words)
        for seed in range(args.seeds):
            words = ["train", "--config", config, "--seed", str(seed), "--output_dir"]
            without = [word for name, value in BASELINE.items() for word in (f"--{name}", str(value))]
            found.append([*words, self._run_folder("baseline", seed), *without])
            found.append([*words, self._run_folder("with_captions", seed)])
        runs = ["--run", self._run_folder("with_captions", 0), "--baseline", self._run_folder("baseline", 0)]
        found.append(["evaluate", *runs, "--splits", "validation", "--report", str(self.folder / "report.html")])
        release = ["release", *runs, "--student_dir", str(self.folder / "classifier")]
        if args.seeds > 1:
            for option, name in (("--seed_runs", "with_captions"), ("--seed_baselines", "baseline")):
                release += [option, *(self._run_folder(name, seed) for seed in range(1, args.seeds))]
        return [*found, release]

    def _run_folder(self, name: str, seed: int) -> str:
        return str(self.folder / f"{name}-{seed}")

    # --- The end -----------------------------------------------------------------------------------------------------

    def _finished(self) -> FitResult:
        accuracies = [
            [_accuracy(self._run_folder(name, seed)) for seed in range(self.args.seeds)]
            for name in ("with_captions", "baseline")
        ]
        result = FitResult(
            self.folder / "classifier", self.folder / "report.html", self.config, *accuracies, 0.0, None
        )
        result.gain = float(np.mean(accuracies[0]) - np.mean(accuracies[1]))
        if self.args.seeds > 1:
            paired = paired_summary(accuracies[1], accuracies[0])
            result.interval = (paired.low, paired.high)
        self.say("\n" + "\n".join(self._summary(result)))
        return result

    def _summary(self, result: FitResult) -> list[str]:
        means = [100 * float(np.mean(each)) for each in (result.baseline_accuracy, result.accuracy)]
        if result.interval is None:
            chance = "a single run: the difference may be chance, --seeds 3 tells"
        else:
            low, high = (100 * bound for bound in result.interval)
            chance = f"95% interval {low:+.1f} to {high:+.1f} over {self.args.seeds} seeds"
        return [
            f"Accuracy on validation: {means[0]:.1f}% without captions, {means[1]:.1f}% with captions "
            f"({100 * result.gain:+.1f} points; {chance})",
            f"Classifier: {result.classifier}, a plain checkpoint with a card",
            f"Report:     {result.report}",
            f"Choices:    {result.config}, to edit and train again",
        ]


def fit(dataset_name: str | Path, **options: Any) -> FitResult | None:
    """
    Trains a classifier with captions and without, as `g4i fit` does.

    Args:
        dataset_name: folder or Hub id, see [`~g4i_hf.load_images`].
        options: others of the command, such as `student`, `captioner`, `minutes` and `seeds`.

    Returns:
        Folders and accuracies; None after a dry run.
    """
    from ..cli import build_options
    from ..options import OPTIONS_OF

    return Fit(*build_options(OPTIONS_OF["fit"], {"dataset_name": str(dataset_name)} | options)).run()


def _run(words: list[str]) -> None:
    """Runs a command in a process of its own, whose output goes where ours goes."""
    ended = subprocess.run([sys.executable, "-m", "g4i_hf", *words], check=False)
    if ended.returncode:
        raise ValueError(f"g4i {words[0]} failed, see above. After mending it, the same g4i fit resumes there.")


def _captioned(split: Dataset) -> int:
    """Number of rows with a caption, or with an embedding of one."""
    for name in (columns.CAPTION, columns.TEXT_EMBEDS):
        if name in split.column_names:
            return sum(bool(value) for value in split[name][:])
    return 0


def _is_reachable(model: str) -> bool:
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE"):
        return False
    try:
        return bool(model_info(model, timeout=5))
    except (OSError, ValueError):
        return False


def _accuracy(run: str) -> float:
    return json.loads((Path(run) / "all_results.json").read_text(encoding="utf-8"))["validation_accuracy"]
