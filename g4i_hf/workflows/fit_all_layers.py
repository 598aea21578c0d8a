"""Train all layers in `g4i fit`, from the fitted last layers, within the available time; kept if better."""

import copy
import math
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import BaseImageProcessor, set_seed

from ..data.checks import with_labels
from ..data.dataset import CaptionedImages
from ..evaluation.predict import predict
from ..label_model.plan import with_soft_labels
from ..options import AugmentationArguments, FitArguments
from ..training.arguments import AlignmentArguments
from ..training.checkpoint import newest_checkpoint
from ..training.judged_heads import Judge
from ..training.prepare import BuiltStudent
from ..training.progress import seconds_per_step, trial_arguments
from ..training.trainer import AlignmentTrainer
from .fit_result import FitFolder, by_first

EPOCHS, BATCH = 20.0, 64  # at most so many epochs
FEWEST_STEPS, FEWEST_EPOCHS = 300, 5  # fewer are not worth the time
USUAL_MINUTES = 30  # with a GPU
PRETRAINED_RATE, SCRATCH_RATE = 1e-4, 1e-3  # learning rates


def minutes_for_all_layers(args: FitArguments) -> float:
    """For both classifiers together: infinite if all layers were requested, 0 if they are not to be trained."""
    if args.finetune == "true" or not args.pretrained:
        return math.inf
    if args.finetune == "false":
        return 0
    return args.minutes or (USUAL_MINUTES if torch.accelerator.is_available() else 0)


def trainer_of_all_layers(
    args: FitArguments,
    built: BuiltStudent,
    training: Dataset,
    targets: np.ndarray,
    augmentation: AugmentationArguments,
    folder: Path,
    align_weight: float,
) -> AlignmentTrainer:
    """The trainer of a student with a fitted last layer, on the rows whose `targets` (N, C) are not zero."""
    if args.pretrained:
        built.model.freeze_norm_statistics()
    rows = np.flatnonzero(targets.any(1))
    split = with_soft_labels(with_labels(training.select(rows), np.full(len(rows), -1)), targets[rows])
    augmentation = replace(augmentation, train_crop="resized", crop_min_scale=0.35)
    images = CaptionedImages(split, built.train_transform(augmentation), args.seed)
    of_training = AlignmentArguments(
        output_dir=str(folder),
        align_weight=align_weight,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        learning_rate=PRETRAINED_RATE if args.pretrained else SCRATCH_RATE,
        weight_decay=0.05,
        logging_steps=0.1,
        save_steps=0.1,
        save_total_limit=1,
        seed=args.seed,
    )
    return AlignmentTrainer(built.model, of_training, images, **built.trainer_options())


def train_all_layers(
    trainers: dict[str, AlignmentTrainer],
    minutes: float,
    judge: Judge,
    images: Dataset,
    processor: BaseImageProcessor,
    accelerator: Accelerator,
    place: FitFolder,
    words: dict[str, str],
) -> list[str]:
    """
    Train for at most `minutes`, or resume. Returns the names of the classifiers that are better than before; the judge
    then has their logits. `images` are those of the judge, `words` the name of each classifier for users.
    """
    epochs = _epochs_within(minutes, list(trainers.values()), place)
    if epochs == 0:
        place.say(f"All layers are not trained: {minutes:g} minutes are too few; --finetune true trains them.")
        return []
    better = []
    for name, trainer in trainers.items():
        trainer.args.num_train_epochs = epochs
        set_seed(trainer.args.seed)  # for the same result when resumed, without a trial of the time
        trainer.train(resume_from_checkpoint=newest_checkpoint(trainer.args.output_dir))
        predictions = predict(accelerator.unwrap_model(trainer.model).eval(), processor, images, accelerator)
        logits = predictions and predictions.logits  # of the first process
        before, after = by_first(partial(judge.replaced_if_better, name, logits))
        if after > before:
            better.append(name)
        place.say(
            f"All layers, {words[name]}: {after:.1%} where the last layer alone has {before:.1%}; "
            f"{'kept' if name in better else 'left out'}."
        )
    return better


def _epochs_within(minutes: float, trainers: list[AlignmentTrainer], place: FitFolder) -> float:
    """Epochs of each trainer; 0 if the time is too short. A resumed run keeps those of its first start."""
    args = trainers[-1].args
    if minutes == math.inf:
        return args.num_train_epochs
    noted = by_first(lambda: place.noted().get("epochs"))
    if noted is not None:
        return noted
    with tempfile.TemporaryDirectory() as folder:
        model = copy.deepcopy(trainers[-1].model)
        trial = AlignmentTrainer(model, trial_arguments(args, folder), trainers[-1].train_dataset)
        seconds = seconds_per_step(trial)
    batch = args.per_device_train_batch_size * args.world_size
    steps_an_epoch = sum(math.ceil(len(trainer.train_dataset) / batch) for trainer in trainers)
    steps = by_first(lambda: 60 * minutes / seconds)
    epochs = min(args.num_train_epochs, steps / steps_an_epoch)
    if steps < FEWEST_STEPS * len(trainers) or epochs < FEWEST_EPOCHS:
        epochs = 0.0
    by_first(lambda: place.note(epochs=epochs))
    return epochs
