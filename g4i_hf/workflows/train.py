"""`g4i train`: from options to a run folder."""

import logging
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import DatasetDict

from ..data.classes import ClassNames, class_names
from ..data.loading import check_has_split, class_words, load_reviewed, source_of
from ..data.record import Record
from ..evaluation.metrics import split_metrics, update_results
from ..evaluation.predict import predict
from ..hub import StudentPublisher
from ..modeling.packaged import available_student
from ..options import (
    AugmentationArguments,
    DataArguments,
    EncoderArguments,
    RunArguments,
    StudentArguments,
    TrainingOptions,
)
from ..training import AlignmentArguments, AlignmentTrainer
from ..training.checkpoint import check_same_data
from ..training.prepare import Preparation, Prepared, inputs_of
from ..training.progress import as_block, describe_training, plan_of, summary_of_run, trial_arguments
from ..training.run_folder import (
    clear_run,
    lineage_of,
    locked,
    open_run,
    resolved_options,
    write_lineage,
    write_options,
)
from ..training.supervision import Supervised

logger = logging.getLogger(__name__)


class TrainingRun:
    """Loads, trains and evaluates. Checks all options and data before it writes to the run folder."""

    def __init__(self, run, data, encoder, student, augmentation, training: TrainingOptions):
        self.run: RunArguments = run
        self.data: DataArguments = data
        self.encoder: EncoderArguments = encoder
        self.student: StudentArguments = replace(student, student=available_student(student.student))
        self.augmentation: AugmentationArguments = augmentation
        self.args = AlignmentArguments.from_options(training)
        self.trainer: AlignmentTrainer | None = None
        self.prepared: Prepared  # set by `load`

    # --- The run folder ----------------------------------------------------------------------------------------------

    @cached_property
    def resolved(self) -> dict[str, Any]:
        options = (self.run, self.data, self.encoder, self.student, self.augmentation, self.args)
        return resolved_options(options, self.args.output_dir)

    def alone(self) -> AbstractContextManager[None]:
        """Lock the run folder, see [`~g4i_hf.training.run_folder.locked`]."""
        locks = self.args.process_index == 0 and not self.run.dry_run
        return locked(self.args.output_dir) if locks else nullcontext()

    def open(self) -> tuple[str, str | None]:
        """The state of the run folder and its newest checkpoint. Raises OtherDataError for a run with other data."""
        folder = self.args.output_dir
        state, checkpoint = open_run(folder, self.resolved, self.run.overwrite)
        if state != "fresh":
            record = self.record
            if self.args.should_save:  # an error here ends the other processes
                check_same_data(folder, record)
        return state, checkpoint

    # --- Data and student --------------------------------------------------------------------------------------------

    @cached_property
    def opened(self) -> tuple[DatasetDict, dict[int, str]]:
        """The splits as stored, and the class names by index."""
        with PartialState().main_process_first():  # which fills the cache for the others
            splits = load_reviewed(self.data)
        check_has_split(splits, self.run.train_split, "train_split")
        splits, id2label = class_names(splits)
        return splits, ClassNames(id2label, class_words(self.data))

    @cached_property
    def record(self) -> Record:
        """The record of the splits in use, as stored; without rows in processes that write nothing."""
        (splits, id2label), run = self.opened, self.run
        used = {name: splits[name] for name in (run.train_split, run.eval_split) if name in splits}
        return Record.of(
            used if self.args.should_save else {},
            id2label.values(),
            inputs=inputs_of(self.encoder, self.student.student, id2label),
            earlier=Record.read(self.args.output_dir),
        )

    def load(self) -> None:
        """Open the data, embed captions that have no embeddings, check everything and build the student."""
        splits, id2label = self.opened
        run, output_dir = self.run, Path(self.args.output_dir)
        if run.eval_split not in splits:
            text = "The data has no split %r: training is not evaluated. Hold one out with --validation_fraction 0.15."
            logger.warning(text, run.eval_split)
        folder = self.encoder.embeddings_dir
        stage = {"embeddings_dir": folder or output_dir.parent / "embeddings", "shared": folder is None}
        self.prepared = Preparation(
            *(splits, id2label, self.student, run, self.encoder, self.augmentation, self.args),
            evaluated=[run.eval_split] if run.eval_split in splits else [],
            stage=stage | {"source": source_of(self.data)},
        ).prepared()

    @property
    def supervised(self) -> Supervised | None:
        return self.prepared.supervised

    def build_trainer(self, args: AlignmentArguments | None = None) -> AlignmentTrainer:
        """The trainer; `args` replaces those of the run, for a trial."""
        args = args or self.args
        publisher = StudentPublisher(args) if args.push_to_hub else None
        evaluated = self.prepared.eval_images.get(self.run.eval_split)
        return AlignmentTrainer(self.prepared, args, eval_dataset=evaluated, publisher=publisher)

    # --- Training ----------------------------------------------------------------------------------------------------

    def train(self, state: str, checkpoint: str | None) -> dict[str, Any]:
        """Train from the result of [`open`]; returns the metrics, which are written last, to `all_results.json`."""
        self.trainer = trainer = self.build_trainer()
        args, prepared = trainer.args, self.prepared
        trainer.data_record = self.record
        if args.should_save:
            if state == "fresh":
                clear_run(args.output_dir)
            self.record.write(args.output_dir)
            write_options(args.output_dir, self.resolved)
            lineage = lineage_of(prepared.splits, self.data, self.student, prepared.embeddings)
            write_lineage(args.output_dir, lineage | {"processes": args.world_size}, resumed=checkpoint is not None)
        trainer.accelerator.wait_for_everyone()
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_run()
        metrics = result.metrics
        if self.supervised is not None:
            metrics |= self.supervised.facts
        name = self.run.eval_split
        if (split := prepared.splits.get(name)) is not None:
            predictions = predict(
                *(trainer.model.eval(), prepared.built.processor, split, trainer.accelerator),
                output_image_embeds=None if args.aligns else False,
            )
            metrics |= split_metrics(predictions, split, name) if predictions else {}  # of the main process
        if args.should_save:
            update_results(args.output_dir, metrics)
        return metrics

    def summary(self, metrics: dict[str, Any]) -> str:
        return summary_of_run(self.trainer, self._described(self.trainer), metrics)

    def publish(self) -> str:
        """Push the student. Returns the URL of the commit."""
        try:
            return self.trainer.push_to_hub()
        except (OSError, ValueError) as error:
            raise OSError(
                f"The run is finished and whole in {self.args.output_dir}, but was not pushed: {error}\nPush it with "
                f"g4i release --run {self.args.output_dir} --repo_id {self.trainer.hub_model_id} --push_to_hub true"
            ) from error

    def plan(self, checkpoint: str | None) -> str:
        """The plan of a dry run, with the time of a few steps in a temporary folder."""
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.build_trainer(trial_arguments(self.args, folder))
            planned = plan_of(trainer, self.args)
        rows = {"Would train": self._described(trainer)}
        if number := self.prepared.num_missing:
            encoder = self.encoder.text_encoder
            rows["Captions"] = [f"{number:,} different captions would be embedded first, by {encoder}"]
            if self.run.supervision == "auto":
                rows["Captions"].append("supervision: auto is decided then, by estimates from the embeddings")
        if checkpoint:
            planned["Steps"].append(f"would resume from {checkpoint}")
        return as_block(rows | planned)

    @property
    def reasons(self) -> list[str]:
        """The two lines that explain the choice of `supervision: auto`."""
        return [] if self.supervised is None else list(self.supervised.plan.reasons)

    def _described(self, trainer: AlignmentTrainer) -> list[str]:
        uses = []  # of captions, except for alignment
        if self.supervised is not None:
            plan = self.supervised.plan
            weight = plan.soft_label_weight
            uses += [f"soft labels from captions, weight {weight:.3g}"] if weight > 0 else []
            uses += ["labels softened"] if plan.relabels else []
        return describe_training(
            self.student.student, self.prepared.built.model, trainer.train_dataset, self.args, uses
        )
