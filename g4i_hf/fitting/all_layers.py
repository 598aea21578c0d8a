"""Train all layers in `g4i fit`, from the fitted last layers, within the available time; kept if better."""

import copy
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed

from ..data.checks import with_labels
from ..data.dataset import CaptionedImages
from ..evaluation.predict import predict
from ..options import FitArguments
from ..processes import on_main_process
from ..training.arguments import AlignmentArguments
from ..training.checkpoint import newest_checkpoint
from ..training.progress import seconds_per_step, trial_arguments
from ..training.supervision import with_soft_labels
from ..training.trainer import AlignmentTrainer
from .evidence import FitImages
from .folder import FINETUNED, FitFolder
from .heads import Head
from .judge import Judge
from .runs import save_run

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


def train_all_layers(
    minutes: float,
    images: FitImages,
    judge: Judge,
    judging: Dataset,
    targets: Mapping[str, np.ndarray],
    align_weights: Mapping[str, float],
    place: FitFolder,
    words: Mapping[str, str],
) -> list[str]:
    """
    Train both classifiers from the judged heads for at most `minutes`, or resume. Those that judge better take the
    place of the runs of the last layers, and the judge has their logits then.

    Args:
        judging: the images of the judge.
        targets: (N, C) by name, zeros for rows that are not learned.
        words: the name of each classifier for users.

    Returns:
        The names of those that are better.
    """
    trainers = {
        name: _trainer(images, head, targets[name], place.folder / f"{FINETUNED}{name}", align_weights[name])
        for name, head in judge.heads.items()
    }
    epochs = _epochs_within(minutes, list(trainers.values()), place)
    if epochs == 0:
        place.say(f"All layers are not trained: {minutes:g} minutes are too few; --finetune true trains them.")
    better = []
    for name, trainer in trainers.items() if epochs else ():
        trainer.args.num_train_epochs = epochs
        set_seed(trainer.args.seed)  # for the same result when resumed, without a trial of the time
        trainer.train(resume_from_checkpoint=newest_checkpoint(trainer.args.output_dir))
        model = images.accelerator.unwrap_model(trainer.model).eval()
        predictions = predict(model, images.built.processor, judging, images.accelerator)
        logits = predictions and predictions.logits  # of the first process
        before, after = on_main_process(partial(judge.replace_if_better, name, logits))
        if after > before:
            better.append(name)
        place.say(
            f"All layers, {words[name]}: {after:.1%} where the last layer alone has {before:.1%}; "
            f"{'kept' if name in better else 'left out'}."
        )
    for name in better:
        save_run(trainers[name], images)
    on_main_process(lambda: _put_in_place(better, place.folder))
    return better


def _trainer(
    images: FitImages, head: Head, targets: np.ndarray, folder: Path, align_weight: float
) -> AlignmentTrainer:
    """Of a new student with this last layer, on the rows whose `targets` (N, C) are not zero."""
    args, built = images.args, images.build()
    head.put_into(built.model)
    if args.pretrained:
        built.model.freeze_norm_statistics()
    rows = np.flatnonzero(targets.any(1))
    split = with_soft_labels(with_labels(images.training.select(rows), np.full(len(rows), -1)), targets[rows])
    augmentation = replace(images.augmentation, train_crop="resized", crop_min_scale=0.35)
    captioned = CaptionedImages(split, built.train_transform(augmentation), args.seed)
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
    return AlignmentTrainer(built.model, of_training, captioned, **built.trainer_options())


def _put_in_place(better: list[str], root: Path) -> None:
    """Runs of all layers take the place of those of the last layer, or go where they are no better."""
    for folder in root.glob(f"{FINETUNED}*"):
        if (name := folder.name.removeprefix(FINETUNED)) in better:
            shutil.rmtree(root / name)
            folder.rename(root / name)
        else:
            shutil.rmtree(folder)


def _epochs_within(minutes: float, trainers: list[AlignmentTrainer], place: FitFolder) -> float:
    """Epochs of each trainer; 0 if the time is too short. A resumed run keeps those of its first start."""
    args = trainers[-1].args
    if minutes == math.inf:
        return args.num_train_epochs
    noted = on_main_process(lambda: place.noted().get("epochs"))
    if noted is not None:
        return noted
    with tempfile.TemporaryDirectory() as folder:
        model = copy.deepcopy(trainers[-1].model)
        trial = AlignmentTrainer(model, trial_arguments(args, folder), trainers[-1].train_dataset)
        seconds = seconds_per_step(trial)
    batch = args.per_device_train_batch_size * args.world_size
    steps_an_epoch = sum(math.ceil(len(trainer.train_dataset) / batch) for trainer in trainers)
    steps = on_main_process(lambda: 60 * minutes / seconds)
    epochs = min(args.num_train_epochs, steps / steps_an_epoch)
    if steps < FEWEST_STEPS * len(trainers) or epochs < FEWEST_EPOCHS:
        epochs = 0.0
    on_main_process(lambda: place.note(epochs=epochs))
    return epochs
