"""`AlignmentTrainer`: stock Trainer with an alignment term in its loss."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset
from transformers.trainer_utils import has_length

from ..data.collator import AlignmentCollator, collator_from, finish_batch
from ..data.sampler import Draw, GlobalBatchSampler
from ..data.streamed_images import StreamedImages
from ..losses import classification_loss, soft_label_loss
from ..losses.gather import gather_counts, reduce_sum, world_size
from ..modeling import AlignedImageClassification
from .alignment_arguments import AlignmentArguments
from .alignment_term import AlignmentTerm
from .build import from_name
from .checkpointing_trainer import CheckpointingTrainer
from .class_weights import class_weights_of
from .ema import EmaCallback
from .lone_images import check_trains_on_one_image, has_batch_norm, smallest_batch
from .loss_check import LossCheck
from .nan_steps import SkipNanSteps
from .progress import replace_progress
from .skipped_images import SkippedImages
from .stopwatch import Stopwatch
from .stream_position import StreamPosition
from .trackers import forget_local_student, name_run, use_run_folder
from .train_batches import TrainLoader, train_batches


class AlignmentTrainer(CheckpointingTrainer):
    """
    Trains an [`AlignedImageClassification`] with

        total = classification loss + align_weight x alignment loss + soft_label_weight x loss of soft labels

    All are means over the rows of the global batch, so that the gradient does not depend on how many processes share
    it. With `align_weight=0` the projector is frozen and nothing of the alignment enters the graph: the student learns
    exactly as under stock `Trainer`.

    Logs `loss`, and unweighted `loss_ce`, `loss_align`, `align_weight`, `cosine_positive`, `cosine_negative` and
    `retrieval_top1`, means over all processes since the last log, a learned `logit_scale` and `logit_bias`, and
    `loss_soft_labels` where the training rows have `soft_labels`, such as the probabilities of a
    [`~g4i_hf.CaptionClassifier`].

    Args:
        model: the aligned model; or the student's name (timm name, folder or Hub id, or transformers model type),
            which is built for the classes and embeddings of `train_dataset`.
        args: [`AlignmentArguments`].
        train_dataset: beside a name, a dataset with `image`, `label` and `text_embeds`, as [`~g4i_hf.load_images`] and
            [`~g4i_hf.embed_captions`] give it. Beside a model, map-style with items as those of
            [`~g4i_hf.data.dataset.CaptionedImages`]; or [`~g4i_hf.data.streamed_images.StreamedImages`].
        kwargs: everything that `Trainer` takes; `publisher`, a [`~g4i_hf.hub.StudentPublisher`], for `push_to_hub`;
            and beside a name, options of [`~g4i_hf.options.StudentArguments`] and `AugmentationArguments`, such as
            `pretrained=True`, `image_size=32` and `train_crop="pad"`.

    Raises:
        ValueError: when `push_to_hub` is set without a publisher, or `ema_decay` or `max_nan_steps` with DeepSpeed, or
            `max_nan_steps` with FSDP.
    """

    def __init__(
        self,
        model: AlignedImageClassification | str,
        args: AlignmentArguments,
        train_dataset=None,
        **kwargs,
    ):
        if isinstance(model, str):
            model, train_dataset, kwargs = from_name(model, args, train_dataset, kwargs)
        if kwargs.get("data_collator") is None:
            kwargs["data_collator"] = collator_from(args)
        model.freeze_unused()
        if args.freeze_backbone:
            model.freeze_backbone()
        if args.align_weight == 0:
            # Outside optimizer, clipping and DDP: appending even zero gradients changes the clipping norm's last bits
            model.projector.requires_grad_(False)
        name_run(args)
        forget_local_student(model.config)
        # Before Trainer sees the model: a learned temperature is one of its parameters
        self.alignment = AlignmentTerm(args, model, train_dataset)
        self.soft_label_weight = 1.0 if args.soft_label_weight is None else args.soft_label_weight
        super().__init__(model=model, args=args, train_dataset=train_dataset, **kwargs)
        self._watch_training()
        # The loss of a batch is a mean; Trainer divides it by the accumulation steps
        self.loss_is_scaled_for_ga = False
        self.class_weights = class_weights_of(args.class_weights, model.num_labels, train_dataset)
        if args.ema_decay is not None:
            if self.is_deepspeed_enabled:  # Trainer loads its checkpoints without `_load_from_checkpoint`
                raise ValueError(
                    f"ema_decay is {args.ema_decay}, but with DeepSpeed the average would start anew when training "
                    "goes on from a checkpoint: leave it out, or launch with ddp.yaml of recipes/accelerate_configs."
                )
            self.ema = EmaCallback(model.student, args.ema_decay)
            self.add_callback(self.ema)
        self.logged_sums: dict[str, torch.Tensor] = {}  # of terms, on device, since the last log

    def _watch_training(self) -> None:
        """Callbacks that time, show and check training; the stopwatch goes first, as progress reads it."""
        use_run_folder(self)
        self.stopwatch = Stopwatch()
        self.add_callback(self.stopwatch)
        progress = replace_progress(self, self.stopwatch)
        self.loss_check: LossCheck | None = None
        if self.args.stop_on_nan:
            before_raising = progress.close if progress is not None else None
            self.loss_check = LossCheck(self.train_dataset, before_raising)
            self.add_callback(self.loss_check)
        self.skipped_images = SkippedImages(self.train_dataset)
        if self._may_skip_images:
            self.add_callback(self.skipped_images)
        self.nan_steps: SkipNanSteps | None = None
        if self.args.max_nan_steps:
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                raise ValueError(
                    "max_nan_steps is set, but gradients that are sharded cannot be taken back: leave it out."
                )
            self.nan_steps = SkipNanSteps(self, self.args.max_nan_steps)
            self.add_callback(self.nan_steps)
        if isinstance(self.train_dataset, StreamedImages):
            self.add_callback(StreamPosition())

    # --- Data --------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """Rows in global batches, see [`~g4i_hf.training.train_batches.train_batches`]; they carry the epoch."""
        if isinstance(self.train_dataset, torch.utils.data.IterableDataset):
            return super().get_train_dataloader()
        args = self.args
        rows, sampler = train_batches(self.train_dataset, self._train_batch_size, args, self.accelerator)
        if has_length(sampler):
            self.alignment.steps_per_epoch = math.ceil(len(sampler) / args.gradient_accumulation_steps)
            steps = args.max_steps if args.max_steps > 0 else args.num_train_epochs * self.alignment.steps_per_epoch
            self.check_lone_images(rows, sampler, steps)
        workers = args.dataloader_num_workers
        return TrainLoader(
            rows,
            device=self.accelerator.device,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory and self.accelerator.device.type == "cuda",
            persistent_workers=args.dataloader_persistent_workers,
            generator=torch.Generator() if args.dataloader_persistent_workers else None,  # see TrainLoader
            prefetch_factor=args.dataloader_prefetch_factor if workers > 0 else None,
        )

    def check_lone_images(self, rows: Dataset, sampler: BatchSampler, steps: float) -> None:
        """
        Before training, not at the end of its first epoch.

        Args:
            rows, sampler: of the loader.
            steps: optimizer steps of the training.

        Raises:
            ValueError: when a batch of a single image will come that the model cannot train on.
        """
        if self.is_deepspeed_enabled or self.is_fsdp_enabled or not isinstance(sampler, GlobalBatchSampler):
            return  # there may be no whole model here, or no known number of rows
        reaches_last = steps * self.args.gradient_accumulation_steps >= len(sampler) or sampler.batch_size == 1
        if smallest_batch(sampler) > 1 or not reaches_last or not has_batch_norm(self.model):
            return
        with self._whole_images():
            batch = self._prepare_inputs(self.data_collator([rows[Draw(0, 0)]]))
        check_trains_on_one_image(self.model, batch["pixel_values"], with_projector="text_embeds" in batch)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        with self._whole_images():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        with self._whole_images():
            return super().get_test_dataloader(test_dataset)

    @contextlib.contextmanager
    def _whole_images(self) -> Iterator[None]:
        """Trainer has one collator for everything; images are mixed in training alone."""
        collator = self.data_collator
        if isinstance(collator, AlignmentCollator):
            self.data_collator = AlignmentCollator()
        try:
            yield
        finally:
            self.data_collator = collator

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """On the device, 8-bit pixels are normalised and mixed."""
        return finish_batch(super()._prepare_inputs(inputs))

    # --- Loss --------------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch=None
    ):
        training = model.training
        if training:
            self.skipped_images.note(inputs.get("bad_images"))
        if training and self.loss_check is not None:
            self.loss_check.note_rows(inputs.get("rows"), self.state.global_step + 1)
        aligning = training and "text_embeds" in inputs
        if training and not aligning:
            self._check_needs_no_texts(inputs)
        outputs = model(pixel_values=inputs["pixel_values"], output_image_embeds=aligning)
        mixing = {name: inputs.get(name) for name in ("mix_partner", "mix_share")}
        weights = self.class_weights
        loss, divisor = classification_loss(
            outputs.logits,
            inputs["labels"],
            self.args.label_smoothing_factor if training else 0.0,
            **mixing,
            kind=self.args.classification_loss,
            bce_target_threshold=self.args.bce_target_threshold,
            class_weights=None if weights is None else weights.to(outputs.logits.device, outputs.logits.dtype),
        )
        if training:
            loss = self._global_mean("loss_ce", loss, divisor)
            if self.soft_label_weight > 0 and "soft_labels" in inputs:
                soft_loss, rows = soft_label_loss(outputs.logits, inputs["soft_labels"], **mixing)
                loss = loss + self.soft_label_weight * self._global_mean("loss_soft_labels", soft_loss, rows)
            if aligning:
                alignment, terms = self.alignment(outputs, inputs, self.state)
                for name, (value, count) in terms.items():
                    self._add(name, value, count)
                if alignment is not None:
                    loss, terms = self.alignment.added(loss, alignment, self.state)
                    for name, (value, count) in terms.items():
                        self._add(name, value, count)
        return (loss, outputs) if return_outputs else loss

    def _check_needs_no_texts(self, inputs: dict[str, Any]) -> None:
        if self.args.align_weight > 0:
            raise ValueError(
                f"align_weight is {self.args.align_weight}, but the batch has no text_embeds. Its keys: "
                f"{', '.join(inputs)}. Embed the captions with g4i embed, or set align_weight to 0."
            )

    def _global_mean(self, name: str, local_mean: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
        """Scales a mean over local rows so that DDP's average over processes is the mean over all rows."""
        self._add(name, local_mean * divisor, divisor)
        if world_size() == 1:
            return local_mean
        total = gather_counts(divisor.reshape(1)).sum()
        # In this order: a quotient of two integers would be rounded to float32
        return local_mean * divisor * world_size() / torch.where(total > 0, total, 1)

    # --- Logging -----------------------------------------------------------------------------------------------------

    def _add(self, name: str, value: torch.Tensor, count: torch.Tensor) -> None:
        """Sums up without waiting for the device."""
        entry = torch.stack([value.detach().to(torch.float32), count.to(torch.float32)])
        self.logged_sums[name] = self.logged_sums[name] + entry if name in self.logged_sums else entry
        if self.loss_check is not None:
            self.loss_check.note(name, value, self.state.global_step + 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Trainer logs on every process at the same steps, so all of them come here to add up their sums
        if "loss" in logs and self.logged_sums:
            names = list(self.logged_sums)
            sums = reduce_sum(torch.stack([self.logged_sums[name] for name in names])).tolist()
            logs.update({name: total / max(count, 1.0) for name, (total, count) in zip(names, sums, strict=True)})
            self.logged_sums = {}
        elif "loss" in logs and self.nan_steps is not None:  # every step since the last log was left out
            logs["loss"] = math.nan  # Trainer has 0.0 there
        if "loss" in logs and self.nan_steps is not None:
            logs["nan_steps"] = self.nan_steps.steps
        super().log(logs, start_time)

    def left_out(self) -> dict[str, int]:
        """For `all_results.json`: what training did without, where it was allowed to."""
        found = {} if self.nan_steps is None else {"train_nan_steps": self.nan_steps.steps}
        return found | ({"train_bad_images": self.skipped_images.total} if self._may_skip_images else {})

    @property
    def _may_skip_images(self) -> bool:
        return getattr(self.train_dataset, "on_bad_images", "error") == "skip"
