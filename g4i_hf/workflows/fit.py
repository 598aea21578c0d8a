"""`g4i fit`: from images with captions to a classifier and what its captions were worth, by the other commands."""

import contextlib
import itertools
import json
import os
import shlex
import shutil
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

from .. import columns
from ..cli import OWN_MODULE, Parser, build_options, import_module, say
from ..data.checks import check_split, few_labels_in_words, labels_of
from ..data.classes import class_names
from ..data.equal_images import describe_equal_images
from ..data.images import open_image, rows_to_use
from ..data.loading import check_has_split, hold_out, load_data
from ..data.record import RECORD_FILE, Record, differences
from ..data.texts import num_captioned
from ..embedding.encoders import check_encoder
from ..evaluation.comparison import accuracy_interval, paired_summary
from ..files import portable, replace_text
from ..hub.push import MANIFEST, check_replaceable
from ..names import file_digest, why_missing
from ..options import OPTIONS_OF, DataArguments, EncoderArguments, FitArguments, StudentArguments, is_address
from ..training.build import check_student, inputs_of
from ..training.run_folder import clear_run, locked
from .train import TrainingRun

VALIDATION_FRACTION = 0.15
# For images of `LARGE` pixels and more: ImageNet weights, Apache-2.0. For smaller ones a small ResNet from scratch
PRETRAINED = "timm/tf_efficientnet_lite0.in1k"
FROM_SCRATCH: dict[str, Any] = {
    "student": "resnet18",
    "student_args": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]},
}
LARGE, LARGEST, SMALLEST = 96, 224, 32
EPOCHS, FEWEST_STEPS, MOST_STEPS = 50, 1_000, 20_000
BATCH = 64
BASELINE = {"align_weight": 0, "supervision": "none", "unlabelled": "drop"}
SAMPLE = 200  # images whose size is looked at
FIGURES = ("text_to_image", "calibration", "zero_shot", "labels")
ASKED = "fit.json"
CLASSIFIER, REPORT, BASELINE_RUN, CAPTIONED_RUN = "classifier", "report.html", "baseline", "with_captions"


@dataclass
class FitResult:
    """What `fit` leaves; accuracies are those on `validation`, by seed. Without labels there is no baseline."""

    classifier: Path  # folder of the released student
    report: Path  # HTML page
    config: Path  # `fit.yaml`, for `g4i train --config`
    accuracy: list[float]
    baseline_accuracy: list[float]
    gain: float | None  # their mean difference, None without a baseline
    interval: tuple[float, float] | None  # its 95% interval over seeds, None with one seed
    validation_images: int  # the labelled ones that can be read
    suspicious_labels: int | None  # how many of these labels captions contradict; None without captions


class Fit:
    """The command; `say` takes a line for the user."""

    def __init__(self, args: FitArguments, data: DataArguments, say: Callable[[str], object] = say):
        self.args, self.data, self.say = args, data, say
        name = Path(data.dataset_name).resolve().name if Path(data.dataset_name).is_dir() else data.dataset_name
        self.folder = Path(args.output_dir or f"runs/{name.replace('/', '--')}")
        self.config = self.folder / "fit.yaml"
        self.repeat = self._repeat()  # now: decisions change the options
        self.class_names: list[str] = []
        self.validation_images = self.num_captioned = 0
        self.held_out = self.unused_captioner = False
        self.has_baseline = True  # which needs labels

    def run(self) -> FitResult | None:
        """None after a dry run. A ValueError for data that cannot be trained on, or a command that failed."""
        self._check_student()
        check_replaceable(self.folder / CLASSIFIER, "model")
        splits = self._opened()
        record = self._record_of(splits)
        changed = self._changed(record, but=(columns.CAPTION,) if self.args.captioner else ())
        if not changed and self._is_finished():
            self.say(f"{self.folder} holds this very result, finished: nothing has changed since.")
            return self._finished()
        self._check(splits, record)
        if columns.TEXT_EMBEDS not in splits["train"].column_names:
            check_encoder(self._given().get("text_encoder", self.args.text_encoder))
        captioning = self._captioning()
        if captioning and not self.args.dry_run:
            self.say(f"\n{shlex.join(['g4i', *captioning])}")
            _run(captioning)
            captioned = class_names(load_data(build_options(OPTIONS_OF["train"], self._data_options())[1]))[0]
            record = self._record_of(DatasetDict({name: captioned[name] for name in splits}))
            changed = changed or self._changed(record)
        if changed and not self.args.dry_run:
            self._set_aside()
        options = self._options(splits)
        commands = self._commands()
        if self.args.dry_run:
            self.say("\nWould run:")
            for words in ([captioning] if captioning else []) + commands:
                self.say(f"  {shlex.join(['g4i', *words])}")
            return None
        if self.args.overwrite:
            for run in self._runs():
                clear_run(run)
        self._write(options)
        record.write(self.folder)
        start = time.monotonic()
        for number, words in enumerate(commands, 1):
            left, trainings = "", self._num_trainings()
            if 1 < number <= trainings:  # what follows takes seconds
                minutes = (time.monotonic() - start) / 60 / (number - 1) * (trainings - number + 1)
                left = f", about {minutes:.0f} minutes left" if minutes > 1.5 else ""
            self.say(f"\n[{number}/{len(commands)}{left}] {shlex.join(['g4i', *words])}")
            _run(words)
        self._note(self._result())
        return self._finished()

    def _write(self, options: dict[str, Any]) -> None:
        """`fit.yaml`, and what was asked for, by which the same command finds its decisions again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        head = f"# What g4i fit chose. Edit it, and repeat all with: {shlex.join(self.repeat)}\n"
        written = {name: portable(value) for name, value in options.items()}
        replace_text(self.config, head + yaml.safe_dump(written, sort_keys=False))
        self._note(result={})

    def _note(self, result: dict[str, str]) -> None:
        """What was asked for, and digests of the files of the result when it is finished."""
        text = json.dumps({"asked": self._asked(), "result": result}, indent=1)
        replace_text(self.folder / ASKED, text + "\n")

    def _noted(self) -> dict[str, Any]:
        file = self.folder / ASKED
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def _repeat(self) -> list[str]:
        """The command that trains again as the file of choices says; what the file has not is given again."""
        own = {name: getattr(self.args, name) for name in ("captioner", "captioner_model", "seeds")}
        given = {name: value for name, value in (vars(self.data) | own).items() if value is not None}
        more = {"output_dir": self.folder, "train_config": self.config, "overwrite": "true"}
        return ["g4i", "fit", given.pop("dataset_name"), *_words(given | more)]

    def _asked(self) -> dict[str, Any]:
        """What decisions depend on."""
        given = vars(self.args) | vars(self.data) | {"seeds": None, "dry_run": None, "overwrite": None}
        return {name: portable(value) for name, value in given.items()}

    def _decided(self) -> dict[str, Any] | None:
        """The decisions of an earlier start of the same command: times and what is reachable may be others now."""
        if not self.config.is_file() or self._noted().get("asked") != self._asked():
            return None
        self.say(f"Decisions: those of {self.config}, made by this command before.")
        return Parser(OPTIONS_OF["train"]).yaml_file(self.config)

    # --- An earlier result -------------------------------------------------------------------------------------------

    def _record_of(self, splits: DatasetDict) -> Record:
        given = {"text_encoder": self.args.text_encoder} | self._given()
        encoder = {name: value for name, value in given.items() if name.startswith("text_encoder")}
        student = (self._named_student(given) or FROM_SCRATCH)["student"]
        inputs = inputs_of(EncoderArguments(**encoder), student)
        also = {given.get("image_features")} & {*splits["train"].column_names}
        return Record.of(splits, self.class_names, also=also, inputs=inputs, earlier=Record.read(self.folder))

    def _changed(self, record: Record, but: tuple[str, ...] = ()) -> bool:
        """Whether the data is other than that of the runs in the folder, which is said."""
        if self.args.overwrite or not self._earlier():
            return False
        earlier = Record.read(self.folder)
        if earlier is None:
            self.say(f"{self.folder} holds results, and it is not known of what data.")
            return True
        found = differences(earlier, record)
        words = [what for kind, what in found.items() if kind not in but]
        if words:
            self.say(f"Changed since the last run in {self.folder}: {', '.join(words)}.")
        return bool(words)

    def _runs(self) -> list[Path]:
        """The run folders that are there, of all seeds."""
        return sorted(path for name in (BASELINE_RUN, CAPTIONED_RUN) for path in self.folder.glob(f"{name}-*"))

    def _earlier(self) -> list[Path]:
        """What there is of an earlier result."""
        return [*self._runs(), *filter(Path.exists, (self.folder / name for name in (CLASSIFIER, REPORT)))]

    def _set_aside(self) -> None:
        """Moves an earlier result into a folder of its own; after a kill, the next start moves the rest."""
        for run in self._runs():
            with locked(run):  # an OSError where another process trains it
                pass
        copied = [path for path in (self.config, self.folder / ASKED) if path.exists()]
        record = self.folder / RECORD_FILE
        moved = [*self._earlier(), *([record] if record.exists() else [])]  # the record last
        numbered = (self.folder / f"earlier-{number}" for number in itertools.count(1))
        place = next(place for place in numbered if not any((place / path.name).exists() for path in moved))
        place.mkdir(exist_ok=True)
        for path in copied:
            shutil.copyfile(path, place / path.name)
        for path in moved:
            path.rename(place / path.name)
        (self.folder / ASKED).unlink(missing_ok=True)
        self.say(f"The earlier result is kept in {place}.")

    def _is_finished(self) -> bool:
        if self.args.overwrite or self.args.dry_run:
            return False
        noted, result = self._noted(), self._result()
        return bool(result) and noted.get("asked") == self._asked() and noted.get("result") == result

    def _result(self) -> dict[str, str]:
        """Digests of the files of a finished result; empty where one is missing."""
        kinds = (BASELINE_RUN, CAPTIONED_RUN) if self.has_baseline else (CAPTIONED_RUN,)
        runs = [Path(self._run_folder(kind, seed)) for kind in kinds for seed in range(self.args.seeds)]
        files = [run / name for run in runs for name in ("all_results.json", "model.safetensors")]
        files += [self.config, self.folder / REPORT, self.folder / CLASSIFIER / MANIFEST]
        files += sorted((self.folder / "captions").glob("*.parquet")) if self.args.captioner else []
        if not all(file.is_file() for file in files):
            return {}
        return {file.relative_to(self.folder).as_posix(): file_digest(file) for file in files}

    # --- Decisions ---------------------------------------------------------------------------------------------------

    def _check_student(self) -> None:
        """An OSError for a student that is not there, before captions are written and embedded."""
        if named := self._named_student(self._given()):
            check_student(StudentArguments(**named))
        elif self.args.pretrained and (why := why_missing(PRETRAINED, "model")):
            raise OSError(
                f"pretrained is true, but the default student {PRETRAINED} is not there: {why}. Leave --pretrained "
                "out to train a small ResNet from scratch, or name another with --student."
            )

    def _named_student(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """The options of the student that the user names; None where there is none."""
        name, pretrained = self.args.student or given.get("student"), self.args.pretrained
        pretrained = given.get("pretrained", False) if pretrained is None else pretrained
        return {"student": name, "pretrained": bool(pretrained)} if name else None

    def _opened(self) -> DatasetDict:
        """`train` and `validation`, held out where the data has none. Decides about captions and a baseline."""
        splits = load_data(self.data)
        check_has_split(splits, "train")
        if "validation" not in splits:
            self.data.validation_fraction = self.data.validation_fraction or VALIDATION_FRACTION
            splits, self.held_out = hold_out(splits, self.data.validation_fraction), True
        splits, names = class_names(splits)
        self.class_names = list(names.values())
        training = splits["train"]
        evaluated = rows_to_use(splits["validation"], "validation", self._bad_images())
        self.validation_images = int((labels_of(evaluated) >= 0).sum())
        self.num_captioned = num_captioned(training)
        if self.num_captioned and self.args.captioner:
            self.args.captioner, self.unused_captioner = None, True
        labelled = (labels_of(training) >= 0).any()
        self.has_baseline = bool(labelled)
        return DatasetDict({name: splits[name] for name in ("train", "validation")})

    def _check(self, splits: DatasetDict, record: Record) -> None:
        """Checks the splits, and says what is in them."""
        names = self.class_names
        if self.held_out:
            self.say(
                f"Validation: the data has no such split, so {self.validation_images:,} labelled training images "
                f"are held out, {self.data.validation_fraction:.0%} of each class."
            )
        for name, split in splits.items():
            bad = self._bad_images()
            check_split(split, name, num_labels=len(names), training=False, require_labels=False, on_bad_images=bad)
        training = splits["train"]
        validation_labels = labels_of(splits["validation"])
        if not self.validation_images:
            what = "No image of the split 'validation' has a label, so accuracies cannot be compared"
            raise ValueError(f"{what}. Label some, or leave the split out: fit then holds out a share of train.")
        labelled, captioned = int((labels_of(training) >= 0).sum()), self.num_captioned
        self.say(
            f"Data: {len(training):,} training images of {len(names)} classes, {labelled:,} with a label, "
            f"{captioned:,} with a caption; {self.validation_images:,} validation images."
        )
        if few := few_labels_in_words(labels_of(training), names):
            self.say(few)
        for line in describe_equal_images(record.rows):
            self.say(line)
        absent = [name for label, name in enumerate(names) if label not in validation_labels]
        if absent:
            self.say(
                f"Validation: no labelled image of {len(absent):,} of the {len(names):,} classes, such as "
                f"{absent[0]!r}: accuracies say nothing about these."
            )
        if not captioned and not self.args.captioner:
            raise ValueError(
                "No training image has a caption. Write them with a model (--captioner MODEL or the address of a "
                "server), put them into metadata.jsonl beside the images, or name their column with --caption_column."
            )
        if not self.has_baseline:
            self.say("Labels: none, so captions are compared with the names of the classes. There is no baseline.")
        if self.unused_captioner:
            self.say(
                f"Captioner: not used, as {captioned:,} of {len(training):,} images have a caption. To write others, "
                "run g4i caption, and g4i fit on the folder that it writes."
            )

    def _options(self, splits: DatasetDict) -> dict[str, Any]:
        """Options of `g4i train`."""
        if (decided := self._decided()) is not None:
            return decided
        args, training = self.args, splits["train"]
        given = self._given()
        size = args.image_size or given.get("image_size") or self._size(training)
        student = self._student(size, given)
        batch = default_batch_size(len(training))
        steps = int(np.clip(EPOCHS * len(training) / batch, FEWEST_STEPS, MOST_STEPS))
        options = {
            "text_encoder": args.text_encoder,
            "train_crop": "pad" if size <= 64 else "resized",
            "hflip": 0.5,
            "supervision": "auto",
            "require_labels": False,
            "on_bad_images": args.on_bad_images,
            "max_steps": -1 if "num_train_epochs" in given else steps,
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
        folders = {
            "embeddings_dir": str(self.folder / "embeddings"),
            "output_dir": self._run_folder(CAPTIONED_RUN, 0),
        }
        options |= given | student | {"image_size": size} | self._data_options() | folders | {"seed": 0}
        if args.minutes and not (args.captioner and args.dry_run):  # captions that are not there cannot be timed
            options["max_steps"] = self._steps_in(args.minutes, options)
        built = build_options(OPTIONS_OF["train"], options)[-1]  # checks them
        length = f"{built.max_steps:,} steps" if built.max_steps > 0 else f"{built.num_train_epochs:g} epochs"
        number = self._num_trainings()
        self.say(f"Training: {length} in {f'each of {number} runs' if number > 1 else 'one run'}.")
        return options

    def _given(self) -> dict[str, Any]:
        """The options of `train_config`, without those that are fit's own."""
        if not self.args.train_config:
            return {}
        given = Parser(OPTIONS_OF["train"]).yaml_file(Path(self.args.train_config))
        if module := given.pop("module", None):
            import_module(module)
        if names := {"train_split", "eval_split"} & set(given):
            raise ValueError(
                f"{self.args.train_config} sets {min(names)}: fit trains on train, and compares on validation."
            )
        return given

    def _bad_images(self) -> str:
        return self._given().get("on_bad_images", self.args.on_bad_images)

    def _data_options(self) -> dict[str, Any]:
        """Those of the dataset that is trained on: of the captions that were written, which know their images."""
        data = {name: value for name, value in vars(self.data).items() if value is not None}
        if not self.args.captioner:
            return data
        kept = {name: data[name] for name in ("validation_fraction", "class_names_file") if name in data}
        return kept | {"dataset_name": str(self.folder / "captions")}

    def _size(self, training: Dataset) -> int:
        """The shorter side of the median image, as a multiple of 16."""
        rows, sides = np.linspace(0, len(training) - 1, min(SAMPLE, len(training))).astype(int), []
        for image in training.select(rows)[columns.IMAGE]:
            with contextlib.suppress(OSError, ValueError):  # training says which images cannot be read
                sides.append(min(open_image(image).size))
        side = np.median(sides) if sides else LARGEST
        size = int(np.clip(side // 16 * 16, SMALLEST, LARGEST))
        self.say(f"Image size: {size} px, as the shorter side of the median image has {side:.0f}.")
        return size

    def _student(self, size: int, given: dict[str, Any]) -> dict[str, Any]:
        """Its options: those that the user gives, or a choice by the size of the images."""
        args = self.args
        if named := self._named_student(given):
            return named
        if args.pretrained or (args.pretrained is None and size >= LARGE and why_missing(PRETRAINED, "model") is None):
            self.say(f"Student: {PRETRAINED}, pretrained on ImageNet; another with --student.")
            return {"student": PRETRAINED, "pretrained": True}
        why = "the images are small" if size < LARGE else f"{PRETRAINED} is not reachable"
        why = "pretrained is false" if args.pretrained is False else why
        self.say(f"Student: a small ResNet from scratch, as {why}; another with --student and --pretrained.")
        return FROM_SCRATCH | {"pretrained": False}

    def _steps_in(self, minutes: float, options: dict[str, Any]) -> int:
        """How many steps of each run fit into so many minutes; some are timed."""
        given = options | {"dry_run": True, "output_dir": str(self.folder / "timed")}
        run = TrainingRun(*build_options(OPTIONS_OF["train"], given))
        run.load()
        seconds = run.seconds_per_step()
        steps = int(60 * minutes / (self._num_trainings() * seconds))
        self.say(f"Time: {seconds:.3g} s a step, so {minutes:g} minutes are {steps:,} steps for each run.")
        return max(steps, 1)

    def _num_trainings(self) -> int:
        return self.args.seeds * (2 if self.has_baseline else 1)

    # --- Commands ----------------------------------------------------------------------------------------------------

    def _captioning(self) -> list[str]:
        """The command that captions the training images; empty without a captioner."""
        args = self.args
        if not args.captioner:
            return []
        words = ["caption", "--captions_dir", str(self.folder / "captions"), "--caption_splits", "train"]
        data = {name: value for name, value in vars(self.data).items() if name != "validation_fraction"}
        words += _words({name: value for name, value in data.items() if value is not None})
        if is_address(args.captioner):
            return [*words, "--base_url", args.captioner, "--captioner_model", args.captioner_model]
        return [*words, "--captioner_model", args.captioner]

    def _commands(self) -> list[list[str]]:
        """The commands after `g4i`, in their order."""
        args, config, found = self.args, str(self.config), []
        module = ["--module", os.environ[OWN_MODULE]] if os.environ.get(OWN_MODULE) else []
        for seed in range(args.seeds):
            words = ["train", "--config", config, "--seed", str(seed), "--output_dir"]
            if self.has_baseline:
                found.append([*words, self._run_folder(BASELINE_RUN, seed), *_words(BASELINE)])
            found.append([*words, self._run_folder(CAPTIONED_RUN, seed)])
        runs = ["--run", self._run_folder(CAPTIONED_RUN, 0)]
        runs += ["--baseline", self._run_folder(BASELINE_RUN, 0)] if self.has_baseline else []
        report = ["--splits", "validation", "--measures", *FIGURES, "--report", str(self.folder / REPORT)]
        report += _words({"on_bad_images": "skip"}) if self._bad_images() == "skip" else []
        found.append(["evaluate", *runs, *report])
        release = ["release", *runs, "--student_dir", str(self.folder / CLASSIFIER)]
        if args.seeds > 1:
            seeds = {"--seed_runs": CAPTIONED_RUN} | ({"--seed_baselines": BASELINE_RUN} if self.has_baseline else {})
            for option, name in seeds.items():
                release += [option, *(self._run_folder(name, seed) for seed in range(1, args.seeds))]
        return [[*words, *module] for words in (*found, release)]

    def _checking(self) -> list[str]:
        """
        The command that lists suspicious labels: of `validation`, or of all images that were in `train`. It has the
        captions of that split alone, so that it need not list those that were counted.
        """
        data = self._data_options()
        words = ["check", data.pop("dataset_name")]
        words += [] if data.pop("validation_fraction", None) else ["--split", "validation"]
        return [*words, *_words(data), "--text_encoder", self.args.text_encoder]

    def _run_folder(self, name: str, seed: int) -> str:
        return str(self.folder / f"{name}-{seed}")

    # --- The end -----------------------------------------------------------------------------------------------------

    def _finished(self) -> FitResult:
        seeds, suspicious = range(self.args.seeds), "validation_suspicious_labels"
        accuracy = [_results(self._run_folder(CAPTIONED_RUN, seed))["validation_accuracy"] for seed in seeds]
        baseline = []
        if self.has_baseline:
            baseline = [_results(self._run_folder(BASELINE_RUN, seed))["validation_accuracy"] for seed in seeds]
        paired = paired_summary(baseline, accuracy) if len(baseline) > 1 else None
        result = FitResult(
            classifier=self.folder / CLASSIFIER,
            report=self.folder / REPORT,
            config=self.config,
            accuracy=accuracy,
            baseline_accuracy=baseline,
            gain=float(np.mean(accuracy) - np.mean(baseline)) if baseline else None,
            interval=(paired.low, paired.high) if paired else None,
            validation_images=self.validation_images,
            suspicious_labels=_results(self._run_folder(CAPTIONED_RUN, 0)).get(suspicious),
        )
        self.say("\n" + "\n".join(self._summary(result)))
        return result

    def _summary(self, result: FitResult) -> list[str]:
        number = result.validation_images
        lines = [f"Accuracy on {number:,} validation images, with the 95% interval over images:"]
        by_name = {"without": result.baseline_accuracy, "with": result.accuracy}
        for name, accuracies in by_name.items():
            if not accuracies:
                continue
            mean = float(np.mean(accuracies))
            low, high = (100 * bound for bound in accuracy_interval(mean, number))
            lines.append(f"  {name + ' captions':17}{100 * mean:5.1f}%  ({low:.1f}% to {high:.1f}%)")
        chance = "a single run: the difference may be chance, --seeds 3 tells"
        if result.interval is not None:
            low, high = (100 * bound for bound in result.interval)
            chance = f"95% interval {low:+.1f} to {high:+.1f} over {self.args.seeds} seeds"
        if result.gain is not None:
            lines.append(f"  {'difference':17}{100 * result.gain:+5.1f} points  ({chance})")
        if result.suspicious_labels:
            lines.append(f"Captions contradict {result.suspicious_labels:,} of these {number:,} labels.")
            lines.append("To list the labels of a split that its own captions contradict:")
            lines.append(f"  {shlex.join(['g4i', *self._checking()])}")
        lines.append(f"Classifier: {result.classifier}, a plain checkpoint with a card")
        lines.append(f"Report:     {result.report}")
        return [*lines, f"Choices:    {result.config}, to edit; its first line says how to repeat all with it"]


def fit(dataset_name: str | Path, **options: Any) -> FitResult | None:
    """
    Trains a classifier with captions and without, as `g4i fit` does.

    Args:
        dataset_name: folder or Hub id, see [`~g4i_hf.load_images`].
        options: others of the command, such as `student`, `captioner`, `minutes` and `seeds`.

    Returns:
        Folders and accuracies; None after a dry run.
    """
    return Fit(*build_options(OPTIONS_OF["fit"], {"dataset_name": str(dataset_name)} | options)).run()


def default_batch_size(num_images: int) -> int:
    """An eighth of the training images, from 2 to 64."""
    return max(2, min(BATCH, num_images // 8))


def _words(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _run(words: list[str]) -> None:
    """Runs a command in a process of its own, whose output goes where ours goes."""
    ended = subprocess.run([sys.executable, "-m", "g4i_hf", *words], check=False)
    if ended.returncode:
        remedy = "After mending it, the same g4i fit resumes there (without --overwrite)."
        if words[0] == "caption":
            remedy += " Or run g4i caption yourself, with options such as --api_key_env, and g4i fit on its folder."
        raise ValueError(f"g4i {words[0]} failed, see above. {remedy}")


def _results(run: str) -> dict[str, Any]:
    return json.loads((Path(run) / "all_results.json").read_text(encoding="utf-8"))
