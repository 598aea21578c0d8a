"""`g4i train`: from options to a run folder."""

import logging
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset, DatasetDict

from .. import columns
from ..data.checks import check_captioned, check_split
from ..data.classes import class_names
from ..data.dataset import CaptionedImages
from ..data.images import rows_to_use
from ..data.loading import check_has_split, load_reviewed, source_of
from ..data.record import Record
from ..data.stage import join_stage, read_stage
from ..embedding import EmbeddingStage, text_embeds_folder
from ..evaluation.evaluate import split_metrics, update_results
from ..evaluation.predict import predict
from ..hub import StudentPublisher
from ..label_model.supervise import Supervised
from ..modeling.lora import require_peft
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
from ..training.build import (
    BuiltStudent,
    Prepared,
    build_student,
    check_student,
    class_name_examples,
    inputs_of,
    prepare,
)
from ..training.checkpoint import check_same_data
from ..training.lineage import lineage_of, student_source, write_lineage
from ..training.progress import as_block, describe_training, plan_of, summary_of_run, trial_arguments
from ..training.run_folder import clear_run, locked, open_run, resolved_options, write_options

logger = logging.getLogger(__name__)


class TrainingRun:
    """
    Loads the data, builds the student, trains and evaluates it. Checks all options and data before it writes to the
    run folder.
    """

    def __init__(self, run, data, encoder, student, augmentation, training: TrainingOptions):
        self.run: RunArguments = run
        self.data: DataArguments = data
        self.encoder: EncoderArguments = encoder
        self.student: StudentArguments = replace(student, student=available_student(student.student))
        self.augmentation: AugmentationArguments = augmentation
        self.args = AlignmentArguments.from_options(training)
        self.splits: dict[str, Dataset] = {}  # with embeddings, set by `load`
        self.id2label: dict[int, str] = {}
        self.text_embed_dim: int | None = None
        self.to_embed = 0  # in a dry run, distinct captions still to embed
        self.embeddings: Path | None = None  # their stage, if the data has no embeddings
        self.trainer: AlignmentTrainer | None = None
        self.prepared: Prepared | None = None  # set by `load`

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
        """
        The state of the run folder and its newest checkpoint, see [`~g4i_hf.training.run_folder.open_run`]. Raises
        OtherDataError for a run with other data.
        """
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
        return class_names(splits)

    @cached_property
    def record(self) -> Record:
        """The record of the splits in use, as stored; without rows in processes that write nothing."""
        (splits, id2label), run = self.opened, self.run
        used = {name: splits[name] for name in (run.train_split, run.eval_split) if name in splits}
        features = {run.image_features} & set(splits[run.train_split].column_names)
        return Record.of(
            used if self.args.should_save else {},
            id2label.values(),
            also=features,
            inputs=inputs_of(self.encoder, self.student.student),
            earlier=Record.read(self.args.output_dir),
        )

    def load(self) -> None:
        """Open the data, embed captions that have no embeddings, and check everything."""
        check_student(self.student)
        if self.student.use_peft:  # before captions are embedded, which can take long
            if self.args.freeze_backbone:
                raise ValueError("use_peft adapts the backbone, and freeze_backbone does not: leave one of both out.")
            require_peft()
        splits, self.id2label = self.opened
        if self.args.aligns:
            check_captioned(splits, self.run.train_split)
        if self.run.eval_split not in splits:
            text = "The data has no split %r: training is not evaluated. Hold one out with --validation_fraction 0.15."
            logger.warning(text, self.run.eval_split)
        splits, dim = self._embedded(DatasetDict(splits))
        training = splits[self.run.train_split]
        self.text_embed_dim = columns.text_embed_dim_of(training.features.get(columns.TEXT_EMBEDS)) or dim
        self._check(splits)
        self.splits = splits
        self.prepared = self.prepare()
        self.splits[self.run.train_split] = self.prepared.images.split

    def prepare(self) -> Prepared:
        """Items for training and evaluation, with soft labels from captions by the options."""
        run, args = self.run, self.args
        used = DatasetDict(
            {name: self.splits[name] for name in (run.train_split, run.eval_split) if name in self.splits}
        )
        if self.to_embed:  # a dry run, where any embedding is enough, and estimates are not possible
            training, transform = used[run.train_split], self.built.train_transform(self.augmentation)
            images = CaptionedImages(training, transform, args.seed, args.align_captions)
            images.use_one_embedding(self.text_embed_dim, training[columns.CAPTION][:])
            return Prepared(self.built, images, {})
        made_with = (self.student, self.augmentation, self.encoder, run.image_features)
        return prepare(
            used,
            run.train_split,
            lambda: self.built,
            run,
            args,
            self.augmentation,
            num_labels=len(self.id2label),
            is_pretrained=self.student.pretrained,
            class_embeds=partial(
                class_name_examples, self.id2label, self.encoder, PartialState().device, self.text_embed_dim
            ),
            folder=None if run.dry_run else Path(args.output_dir) / "supervision",
            made_with="" if run.dry_run else repr((*made_with, student_source(self.student), self.record.digest)),
        )

    def _embedded(self, splits: DatasetDict) -> tuple[DatasetDict, int | None]:
        """The splits with `text_embeds`, and None; in a dry run with captions to embed, the splits without, and D."""
        has_embeds = any(columns.TEXT_EMBEDS in split.column_names for split in splits.values())
        where = {"source": source_of(self.data), "shared": self.encoder.embeddings_dir is None}
        folder = self.encoder.embeddings_dir or Path(self.args.output_dir).parent / "embeddings"
        if self.run.dry_run and self.encoder.text_encoder and not has_embeds:
            stage = EmbeddingStage(splits, self.encoder, folder, **where)
            self.to_embed = stage.num_to_embed()
            if self.to_embed:
                return splits, stage.encoder.dim
        self.embeddings = text_embeds_folder(splits, self.encoder, folder, **where)
        if self.embeddings is None:
            return splits, None
        return join_stage(splits, self.embeddings, read_stage(self.embeddings)), None

    def _check(self, splits: DatasetDict) -> None:
        run = self.run
        for name in {run.train_split, run.eval_split} & set(splits):
            splits[name] = rows_to_use(splits[name], name, run.on_bad_images)
        training = splits[run.train_split]
        dim = columns.text_embed_dim_of(training.features.get(columns.TEXT_EMBEDS))
        needed = 1 if self.args.aligns and not self.to_embed else None
        labels = {"num_labels": len(self.id2label), "require_labels": run.require_labels}
        check_split(training, run.train_split, **labels, text_embed_dim=dim or needed)
        if run.eval_split in splits:
            check_split(splits[run.eval_split], run.eval_split, training=False, **labels)

    @property
    def supervised(self) -> Supervised | None:
        """The soft labels from captions, and how they were chosen."""
        return self.prepared and self.prepared.supervised

    @cached_property
    def built(self) -> BuiltStudent:
        return build_student(self.student, self.augmentation, self.args.seed, self.id2label, self.text_embed_dim)

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
        args = trainer.args
        trainer.data_record = self.record
        if args.should_save:
            if state == "fresh":
                clear_run(args.output_dir)
            self.record.write(args.output_dir)
            write_options(args.output_dir, self.resolved)
            write_lineage(args.output_dir, lineage_of(self.splits, self.data, self.student, self.embeddings))
        trainer.accelerator.wait_for_everyone()
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_run()
        metrics = result.metrics
        if self.supervised is not None:
            metrics |= self.supervised.facts
        name = self.run.eval_split
        if (split := self.splits.get(name)) is not None:
            predictions = predict(trainer.model.eval(), self.built.processor, split, trainer.accelerator)
            metrics |= split_metrics(predictions, split, name) if predictions else {}  # of the main process
        if args.should_save:
            update_results(args.output_dir, metrics)
        return metrics

    def summary(self, metrics: dict[str, Any]) -> str:
        """See [`~g4i_hf.training.progress.summary_of_run`]."""
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
        if self.to_embed:
            encoder = self.encoder.text_encoder
            rows["Captions"] = [f"{self.to_embed:,} different captions would be embedded first, by {encoder}"]
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
            uses += ["labels softened"] if plan.softens else []
        return describe_training(self.student.student, self.built.model, trainer.train_dataset, self.args, uses)
