"""
Train all layers in `g4i fit`: of the classifier that ships, from its fitted last layer, within a budget of time. The
images that judge look on several times; the latest weights that are about as good as the best ship, unless they are
clearly worse than the last layer alone.
"""

import contextlib
import copy
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, set_seed

from ..data.checks import with_labels
from ..data.dataset import CaptionedImages
from ..data.transforms import shrunk_once
from ..evaluation.predict import predict
from ..files import replacing_file
from ..modeling import AlignedImageClassification
from ..modeling.student import classifier_layers
from ..names import ALL_LAYERS
from ..options import FitArguments
from ..processes import on_main_process
from ..training.arguments import AlignmentArguments
from ..training.callbacks import NonFiniteLoss
from ..training.checkpoint import checkpoints_of, newest_checkpoint
from ..training.prepare import BuiltStudent
from ..training.progress import seconds_per_step, trial_arguments
from ..training.supervision import with_soft_labels
from ..training.trainer import AlignmentTrainer
from .evidence import FitImages
from .folder import FitFolder
from .judge import Judge, chosen_look
from .runs import save_run

BATCH = 64
RATE, SCRATCH_RATE = 6e-4, 1e-3  # of learning, at its peak
EMA = 0.95  # decay of the average of the weights, which is judged and ships
EPOCHS, SCRATCH_EPOCHS = 8, 20  # the usual length, with as many steps as these bounds say
USUAL_STEPS = 120, 1_500
MOST_EPOCHS, MOST_STEPS = 20, 300  # more than both are not trained, however many minutes are given
FEWEST_STEPS, ENOUGH_STEPS = 20, 60  # too few minutes for the first are an error, which suggests the second
LOOKS = 3, 10  # how often the judge looks, at least and at most
SHARE_OF_LOOKS = 0.1  # of the time
FORWARD = 1 / 3  # time of an image that is only judged, relative to one that is trained on
FEW_IMAGES = 4  # of a step that is timed only to say how long all layers would take
ALIGNMENT: dict[str, Any] = {"align_weight": 0.0}  # with captions: results/all_layers_alignment.json
BEST, LOOKS_FILE = "best.safetensors", "looks.npz"  # in the run, until the result is written


def wants_all_layers(args: FitArguments) -> bool:
    """Whether all layers are trained: on request, or as there is a GPU."""
    return is_request(args) or (args.finetune == "auto" and torch.accelerator.is_available())


def is_request(args: FitArguments) -> bool:
    return args.finetune == "true" or args.minutes is not None or not args.pretrained


@dataclass
class Trained:
    """What training all layers has led to."""

    classifier: str  # `labels_only` or `with_views`: whose targets were learned
    kept: bool  # whether these layers ship, as they are not clearly worse than the last one alone
    minutes: float
    epochs: float
    last_layer_accuracy: float
    accuracy: float | None  # of the best weights; None if none were judged
    gain_interval: tuple[float, float] | None
    logits: np.ndarray | None = None  # (n, C) of the images that judge, where they are kept

    def as_result(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "logits"}


class AllLayers:
    """
    Args:
        judging: the images of the judge.
        name: of the classifier.
        targets: (N, C), zeros for rows that are not learned.
        aligns: whether it has captions.
    """

    planned: dict[str, Any]  # how many steps, and how often the judge looks; `seconds` so far

    def __init__(
        self,
        images: FitImages,
        judge: Judge,
        judging: Dataset,
        name: str,
        targets: np.ndarray,
        aligns: bool,
        place: FitFolder,
    ):
        self.images, self.judge, self.judging, self.name = images, judge, judging, name
        self.targets, self.aligns, self.place = targets, aligns, place
        self.folder = place.folder / ALL_LAYERS

    def train(self) -> Trained:
        """As planned, from the last layer and the projector that are saved; or resume."""
        steps = self.planned["steps"]
        on_main_process(lambda: self.place.note(all_layers=self.planned))
        if self.images.args.pretrained and self.aligns:
            fitted = AlignedImageClassification.from_pretrained(self.place.folder / self.name, trust_remote_code=False)
            self.built.model.projector.load_state_dict(fitted.projector.state_dict())
        of_training = self._arguments(steps, self.planned["looks"])
        trainer = AlignmentTrainer(self.built.model, of_training, self.data, **self.built.trainer_options())
        best = Best(self, trainer)
        trainer.add_callback(best)
        set_seed(trainer.args.seed)  # for the same result when resumed, without a trial of the time
        newest = newest_checkpoint(self.folder)
        if newest is None or not newest.endswith(f"-{steps}"):
            self._trained(trainer, newest, best)
            steps = trainer.state.global_step
        trained = on_main_process(lambda: self._judged(best, steps))
        if trained.kept:
            trained.logits = self._keep(trainer, best, trained.accuracy)
        return trained

    def _judged(self, best: "Best", steps: int) -> Trained:
        """
        They ship unless they lose more than the standard error of the difference. Where few images judge, that says
        little, and all layers have gained on nearly all data (results/all_layers.json).
        """
        last = self.judge.estimate().accuracies[self.name].share
        spent, epochs = round(best.seconds() / 60, 1), round(steps / self.steps_an_epoch, 2)
        if not (looks := best.looks()):
            return Trained(self.name, False, spent, epochs, last, None, None)
        gain = self.judge.gain(self.name, np.stack([*looks.values()]))
        accuracy = float(np.clip(last + gain.share, 0, 1))
        return Trained(self.name, gain.share > -gain.error, spent, epochs, last, accuracy, gain.interval)

    # --- How long ----------------------------------------------------------------------------------------------------

    @property
    def steps_an_epoch(self) -> int:
        return math.ceil(len(self.data) / (BATCH * self.images.accelerator.num_processes))

    @property
    def usual_steps(self) -> int:
        epochs = EPOCHS if self.images.args.pretrained else SCRATCH_EPOCHS
        return int(np.clip(epochs * self.steps_an_epoch, *USUAL_STEPS))

    def minutes_here(self) -> int:
        """How long the usual length would take."""
        seconds = self._seconds_per_step(FEW_IMAGES) * min(BATCH, len(self.data)) / min(FEW_IMAGES, len(self.data))
        return max(1, math.ceil(self.usual_steps * seconds / (1 - SHARE_OF_LOOKS) / 60))

    def plan(self, minutes: float | None) -> None:
        """For `minutes`, or the usual length. A ValueError if these are too few."""
        per_step = self._seconds_per_step(BATCH)
        a_look = FORWARD * len(self.judging) / (BATCH * self.images.accelerator.num_processes)  # as long as such steps
        for_looks = (LOOKS[0] + 1) * a_look  # the best weights are judged once more
        steps = self.usual_steps
        if minutes is not None:
            every = 60 * minutes / per_step
            most = max(MOST_EPOCHS * self.steps_an_epoch, MOST_STEPS)
            steps = min(int(every - max(SHARE_OF_LOOKS * every, for_looks)), most)
        if steps < FEWEST_STEPS:
            every = max(ENOUGH_STEPS / (1 - SHARE_OF_LOOKS), ENOUGH_STEPS + for_looks)
            enough = math.ceil(every * per_step / 6 + 1) / 10
            raise ValueError(
                f"minutes is {minutes:g}, too few to train all layers: a step takes {per_step:.2g} s, and "
                f"{FEWEST_STEPS} steps are the least. --minutes {enough:g} is enough here; --finetune false fits the "
                "last layers alone."
            )
        looks = int(np.clip(SHARE_OF_LOOKS * steps / max(a_look, 1e-9), *LOOKS))
        takes = (steps + (looks + 1) * a_look) * per_step / 60
        self.place.say(
            f"All layers: {steps:,} steps of {BATCH} images, {steps / self.steps_an_epoch:.1f} epochs, about "
            f"{max(takes, 0.1):.1f} minutes. Ctrl-C ends them and keeps the best so far."
        )
        self.planned = {"steps": steps, "looks": looks, "seconds": 0.0}

    def _seconds_per_step(self, batch: int) -> float:
        """Of training, the same in all processes."""
        with tempfile.TemporaryDirectory() as folder:
            args = self._arguments(self.usual_steps, 1)
            args.per_device_train_batch_size = batch
            model = copy.deepcopy(self.built.model)
            seconds = seconds_per_step(AlignmentTrainer(model, trial_arguments(args, folder), self.data))
        return on_main_process(lambda: max(seconds, 1e-6))

    # --- What is trained ---------------------------------------------------------------------------------------------

    @cached_property
    def built(self) -> BuiltStudent:
        """A new student with the last layer that was fitted on its features."""
        built = self.images.build()
        self.judge.heads[self.name].put_into(built.model)
        built.model.to(memory_format=torch.channels_last)  # on a CPU a step takes a quarter less time
        return built

    @cached_property
    def data(self) -> CaptionedImages:
        """The rows whose targets are not zero."""
        images, rows = self.images, np.flatnonzero(self.targets.any(1))
        split = with_labels(images.training.select(rows), np.full(len(rows), -1))
        augmentation = replace(images.augmentation, train_crop="resized", crop_min_scale=0.35)
        transform = shrunk_once(self.built.train_transform(augmentation))
        return CaptionedImages(with_soft_labels(split, self.targets[rows]), transform, images.args.seed)

    def _arguments(self, steps: int, looks: int) -> AlignmentArguments:
        args = self.images.args
        return AlignmentArguments(
            output_dir=str(self.folder),
            **(ALIGNMENT if self.aligns else {"align_weight": 0.0}),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE if args.pretrained else SCRATCH_RATE,
            weight_decay=0.05,
            ema_decay=EMA,
            freeze_norm_statistics=args.pretrained,
            logging_steps=max(1, steps // 10),
            save_steps=max(1, steps // looks),
            save_total_limit=1,
            seed=args.seed,
        )

    def _trained(self, trainer: AlignmentTrainer, newest: str | None, best: "Best") -> None:
        """Train until the end, an interruption, or a loss that is not a number."""
        try:
            trainer.train(resume_from_checkpoint=newest)
        except KeyboardInterrupt:
            if self.images.accelerator.num_processes > 1:  # the others wait for this one
                raise
            self.place.say("All layers: interrupted.")
        except NonFiniteLoss as error:
            self.place.say(f"All layers: {error} What was best before that is kept.")

    # --- What is kept ------------------------------------------------------------------------------------------------

    def _keep(self, trainer: AlignmentTrainer, best: "Best", accuracy: float) -> np.ndarray | None:
        """Save the best weights as a run, as sure on average as they are right; logits of the images that judge."""
        model = self.images.accelerator.unwrap_model(trainer.model)
        model.load_state_dict(load_file(best.file))
        logits = best.logits(model)
        factor = on_main_process(lambda: self.judge.factor_of_confidence(logits, accuracy))
        with torch.no_grad():
            for parameter in classifier_layers(model.student)[0].parameters():
                parameter.mul_(factor)
        trainer.ema = trainer.args.ema_decay = None  # the weights of the run are the average
        save_run(trainer, self.images)
        return logits if logits is None else factor * logits


class Best(TrainerCallback):
    """Before each checkpoint the judge looks at the average of the weights; the best stays in a file."""

    def __init__(self, run: AllLayers, trainer: AlignmentTrainer):
        self.run, self.trainer, self.file = run, trainer, run.folder / BEST
        self.since = time.monotonic()

    def looks(self) -> dict[str, np.ndarray]:
        """By step, the (n,) classes that were predicted then."""
        file = self.run.folder / LOOKS_FILE
        return dict(np.load(file, allow_pickle=False)) if file.is_file() else {}

    def seconds(self) -> float:
        """Since the first start, without the time between a kill and the next start."""
        return self.run.place.noted()["all_layers"]["seconds"] + time.monotonic() - self.since

    def on_step_end(self, args, state, control, **kwargs):
        if not control.should_save:
            return
        with self._averaged() as model:
            logits, tensors = self.logits(model), model.state_dict()
            on_main_process(lambda: self._look(logits, tensors, state))

    def logits(self, model: AlignedImageClassification) -> np.ndarray | None:
        """(n, C) of the images that judge, in the first process."""
        images, was_training = self.run.images, model.training
        what = {"description": "Judging", "output_image_embeds": False}
        predictions = predict(model.eval(), self.run.built.processor, self.run.judging, images.accelerator, **what)
        model.train(was_training)
        return None if predictions is None else np.array(predictions.logits)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[AlignedImageClassification]:
        """The model with the average of the student's weights."""
        model = self.run.images.accelerator.unwrap_model(self.trainer.model)
        raw = {name: tensor.clone() for name, tensor in model.student.state_dict().items()}
        model.student.load_state_dict(self.trainer.ema.averaged.state_dict())
        try:
            yield model
        finally:
            model.student.load_state_dict(raw)

    def _look(self, logits: np.ndarray, tensors: dict[str, torch.Tensor], state: Any) -> None:
        run, step = self.run, str(state.global_step)
        if not np.isfinite(logits).all():
            return
        looks = self.looks() | {step: logits.argmax(1)}  # once more after a kill, which predicts the same
        right = run.judge.right(np.stack([*looks.values()]))
        if [*looks][chosen_look(right)] == step:
            with replacing_file(self.file) as staging:
                whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
                save_file(whole, staging, metadata={"format": "pt"})
        with replacing_file(run.folder / LOOKS_FILE) as staging, open(staging, "wb") as file:
            np.savez(file, **looks)
        gain = right[[*looks].index(step)].mean() - run.judge.right(run.judge.logits[run.name].argmax(1)).mean()
        seconds, self.since = self.seconds(), time.monotonic()
        run.place.note(all_layers=run.place.noted()["all_layers"] | {"seconds": seconds})
        run.place.say(f"All layers, step {state.global_step:,} of {state.max_steps:,}: {100 * gain:+.1f} points.")


def clean_up(folder: Path, kept: bool) -> None:
    """Once the result is written: of a run that is not `kept` nothing stays, of another the run alone."""
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for name in (BEST, LOOKS_FILE):
        (folder / name).unlink(missing_ok=True)
    for checkpoint in checkpoints_of(folder):
        shutil.rmtree(checkpoint)
