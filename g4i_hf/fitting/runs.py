"""A fitted last layer becomes a run folder, with a projector that learns the captions on the same features."""

from pathlib import Path

import numpy as np

from ..data.dataset import CaptionedImages
from ..modeling.processing import EvalTransform
from ..options import RunArguments
from ..processes import on_main_process
from ..training.arguments import AlignmentArguments
from ..training.run_folder import clear_run, lineage_of, resolved_options, write_lineage, write_options
from ..training.trainer import AlignmentTrainer
from .evidence import FitImages
from .heads import Head

EPOCHS, STEPS, BATCH = 30, 600, 256  # of the projector; so many steps at most
OF_RUNS = "What g4i evaluate and g4i release read of this run. To repeat g4i fit, see the first line of ../fit.yaml."


def save_last_layer(folder: Path, head: Head, images: FitImages, rows: np.ndarray, aligns: bool) -> None:
    """With a projector for captions, fitted on these training rows, if it `aligns`."""
    built, training = images.built, images.training.select(rows)
    captioned = CaptionedImages(training, EvalTransform(built.processor))
    captioned.use_features(images.features[rows])
    on_main_process(lambda: clear_run(folder))
    batch = min(BATCH, len(training))
    args = AlignmentArguments(
        output_dir=str(folder),
        align_weight=AlignmentArguments.align_weight if aligns else 0.0,
        freeze_backbone=True,
        max_steps=min(STEPS, EPOCHS * -(-len(training) // batch)),
        per_device_train_batch_size=batch,
        logging_strategy="no",
        save_strategy="no",
        seed=images.args.seed,
    )
    layer = head.put_into(built.model)
    trainer = AlignmentTrainer(built.model, args, captioned, **built.trainer_options())
    layer.requires_grad_(False)  # it is fitted
    if args.aligns:
        trainer.train()
    save_run(trainer, images)


def save_run(trainer: AlignmentTrainer, images: FitImages) -> None:
    trainer.save_run()
    if not trainer.args.should_save:
        return
    folder = trainer.args.output_dir
    run = RunArguments(unlabelled="keep")
    options = (run, images.data, images.encoder, images.student, images.augmentation, trainer.args)
    write_options(folder, resolved_options(options, folder), OF_RUNS)
    images.record.write(folder)
    write_lineage(folder, lineage_of(images.splits, None if images.in_memory else images.data, images.student))
