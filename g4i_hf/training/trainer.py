"""`AlignmentTrainer`: Trainer with an alignment term in its loss, and checkpoints that are complete or absent."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import IntervalStrategy, set_seed, unwrap_peft_model

from ..data.dataset import AlignmentCollator, CaptionedImages, DrawnRows, GlobalBatchSampler, TrainLoader, finish_batch
from ..losses.classification import classification_loss, soft_label_loss
from ..modeling import AlignedImageClassification
from ..modeling.modeling_aligned import single_values_normalized
from ..modeling.processing import EvalTransform, default_processor
from ..options import DEFAULT_TEXT_ENCODER
from ..options.caller import called_from_python
from . import callbacks, optimization
from .alignment_term import AlignmentTerm, TermSums, global_mean
from .arguments import TRAINER_ARGUMENTS, AlignmentArguments, check_keywords, option_groups
from .checkpoint import (
    check_resumable,
    newest_checkpoint,
    order_of,
)
from .features import FEATURES, student_features
from .prepare import Prepared, images_to_evaluate, is_raw, prepare_in_memory
from .progress import progress_of
from .run_folder import forget_local_student, locked, name_run, tensorboard_folder, write_lineage
from .saving import SavingTrainer

logger = logging.getLogger(__name__)


class AlignmentTrainer(SavingTrainer):
    """
    Trains an [`AlignedImageClassification`] with

        total = classification loss + align_weight x alignment loss + soft_label_weight x loss of soft labels

    Each is a mean over the rows of the global batch, so that the gradient does not depend on the number of processes.
    With `align_weight=0` the student learns bit for bit as under stock `Trainer`.

    Logs `loss` and, unweighted, means over all processes since the last log: `loss_ce`, `loss_align`, `align_weight`,
    `cosine_positive`, `cosine_negative`, `retrieval_top1`, a learned `logit_scale` and `logit_bias`, and
    `loss_soft_labels`. The last one needs `soft_labels`, such as the probabilities of a [`~g4i_hf.LabelModel`].

    Args:
        model: the aligned model, also in a `PeftModel`, whose adapters are merged where the model is saved; or the
            name of the student (timm name, folder or Hub id, or transformers model type), which is built for the
            classes of `train_dataset`; or a [`~g4i_hf.training.prepare.Prepared`].
        args: [`AlignmentArguments`]; the defaults train an image classifier from scratch into `runs/classifier`.
        train_dataset: a dataset with `image`, `label` and `caption`, as [`~g4i_hf.load_images`] opens it. Images are
            augmented and captions embedded here, unless there is a column `text_embeds`. With an aligned model also
            items like those of [`~g4i_hf.data.dataset.CaptionedImages`].
        model_init: in place of `model`, a function that returns a new one, as in Trainer; for `hyperparameter_search`.
        text_encoder: Hub id or folder of the encoder for captions without embeddings.
        publisher: a [`~g4i_hf.hub.StudentPublisher`], for `push_to_hub`.
        kwargs: arguments of `Trainer`; with such a dataset also options of [`~g4i_hf.options.AugmentationArguments`]
            and `SupervisionOptions`, such as `train_crop="pad"` and `supervision="auto"`; with a name also those of
            `StudentArguments`, such as `pretrained=True`.

    Raises:
        ValueError: for a dataset without labels or, unless `align_weight` is 0, without captions; for `push_to_hub`
            without a publisher; for `ema_decay` with DeepSpeed or a `PeftModel`.
        TypeError: for another model, or other arguments.
    """

    def __init__(
        self,
        model: AlignedImageClassification | Prepared | str | None = None,
        args: AlignmentArguments | None = None,
        train_dataset=None,
        *,
        model_init: Callable[..., AlignedImageClassification] | None = None,
        text_encoder: str = DEFAULT_TEXT_ENCODER,
        publisher=None,
        **kwargs,
    ):
        args, self.lineage = args or AlignmentArguments(), None
        if not isinstance(args, AlignmentArguments):
            what = f"args is a {type(args).__name__}"
            raise TypeError(f"{what}: give AlignmentArguments, which also take the options of TrainingArguments.")
        if model is None and model_init is not None:
            set_seed(args.seed)
            self.model_init = model_init
            model = self.call_model_init()
        elif model_init is not None:
            raise ValueError("Both model and model_init are given: leave one out.")
        _check_given(model, train_dataset)
        options = option_groups(isinstance(model, str)) if isinstance(model, str) or is_raw(train_dataset) else [set()]
        check_keywords(kwargs, "AlignmentTrainer", {*TRAINER_ARGUMENTS, *set.union(*options)})
        if isinstance(model, str) or is_raw(train_dataset):
            with called_from_python(column="rename_column('...', '{}')"):
                model, kwargs, self.lineage = prepare_in_memory(model, args, train_dataset, text_encoder, kwargs)
        self.planned_weight = None
        if isinstance(model, Prepared):
            self.planned_weight = model.supervised and model.supervised.plan.soft_label_weight
            kwargs = model.built.trainer_options() | kwargs
            model, train_dataset = model.built.model, model.images
        # Trainer has one collator for everything, but images are mixed in training only
        self.own_collator = kwargs.get("data_collator")
        if self.own_collator is None or isinstance(self.own_collator, AlignmentCollator):
            kwargs["data_collator"] = AlignmentCollator()
        name_run(args)
        # Before Trainer sees the model: a learned temperature is one of its parameters
        self._set_up(model, args, train_dataset)
        self.publisher = publisher
        given = {"model": model} if model_init is None else {"model_init": lambda: model}
        super().__init__(args=args, train_dataset=train_dataset, **given, **kwargs)
        self.model_init = model_init
        # The loss of a batch is a mean; Trainer divides it by the accumulation steps
        self.loss_is_scaled_for_ga = False
        self.takes_timm_optimizer = self.optimizer_cls_and_kwargs is None
        self._check_arguments()
        self._add_callbacks()
        self._read_options()

    def _set_up(self, model: AlignedImageClassification, args: AlignmentArguments, train_dataset: Any) -> None:
        """Freezes what the options leave out, and adds the parameters of the alignment."""
        model.freeze_unused()
        if args.freeze_backbone:
            model.freeze_backbone()
        if args.freeze_norm_statistics:
            model.freeze_norm_statistics()
        if not args.aligns:
            # Outside optimizer, clipping and DDP: even zero gradients change the last bits of the clipping norm
            model.projector.requires_grad_(False)
        elif not any(parameter.requires_grad for parameter in model.projector.parameters()):
            model.projector.requires_grad_(True)  # peft freezes it, and then the images would not learn from texts
        forget_local_student(model.config)
        self.alignment = AlignmentTerm(args, model, train_dataset)

    def _read_options(self) -> None:
        """What options decide that a search may change."""
        args, model = self.args, self.model
        if self.takes_timm_optimizer:
            self.optimizer_cls_and_kwargs = optimization.timm_optimizer(args)
        self.class_weights = optimization.class_weights_of(args.class_weights, model.num_labels, self.train_dataset)
        self.terms = TermSums()  # since the last log
        self.pop_callback(callbacks.EmaCallback)
        self.ema = None if args.ema_decay is None else callbacks.EmaCallback(model.student, args.ema_decay)
        if self.ema is not None:
            self.add_callback(self.ema)

    def _hp_search_setup(self, trial: Any) -> None:
        """Trainer has made a new model by `model_init`, and takes the options of the trial here."""
        super()._hp_search_setup(trial)
        if self.model_init is not None:
            self._set_up(self.model, self.args, self.train_dataset)
            self._check_arguments()
            self._read_options()

    @property
    def train_collator(self) -> Callable:
        args = self.args
        mixing = (args.mixup_alpha, args.cutmix_alpha, args.mix_prob, args.mix_switch_prob)
        return self.own_collator or AlignmentCollator(*mixing)

    @property
    def soft_label_weight(self) -> float:
        given = self.args.soft_label_weight
        return (self.planned_weight or 1.0) if given is None else given

    def _check_arguments(self) -> None:
        """Checks that need the data or the accelerator."""
        args = self.args
        if args.eval_strategy != IntervalStrategy.NO:
            _check_labelled(self.eval_dataset)
        if args.layer_decay is not None and not hasattr(self.model.student, "timm_model"):
            what = f"layer_decay is set, but {type(self.model.student).__name__} is no student of timm's"
            raise ValueError(f"{what}, whose layers are known. Leave it out, or choose one of timm's.")
        if args.ema_decay is not None and self.is_deepspeed_enabled:
            # Trainer loads the checkpoints of DeepSpeed without `_load_from_checkpoint`
            raise ValueError(
                f"ema_decay is {args.ema_decay}, but with DeepSpeed the average would start anew at a resume: "
                "leave it out, or launch with ddp.yaml of recipes/accelerate_configs."
            )
        if self.is_adapted:
            unfit = {"ema_decay": args.ema_decay is not None, "FSDP": self.is_fsdp_enabled}
            unfit |= {"DeepSpeed": self.is_deepspeed_enabled}
            for name in [name for name in unfit if unfit[name]]:
                raise ValueError(f"{name} does not combine with a model of get_peft_model: leave one of both out.")

    def _add_callbacks(self) -> None:
        args = self.args
        self.add_callback(callbacks.StepsOfOptions())
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):  # its default folder is named after date and host
                callback.logging_dir = tensorboard_folder(args)
        # Replaces Trainer's progress bar; a notebook keeps its table
        shows = any(self.pop_callback(kind) for kind in (ProgressCallback, PrinterCallback))
        self.progress = progress_of(args) if shows else None
        self.loss_check = callbacks.LossCheck()
        for callback in filter(None, (self.progress, self.loss_check)):
            self.add_callback(callback)

    def evaluate(self, eval_dataset=None, *args, **kwargs) -> dict[str, float]:
        """Also accepts a dataset with `image` and `label`, as training does, or several by name."""
        items = self._as_items(eval_dataset)
        _check_labelled(self.eval_dataset if items is None else items)
        return super().evaluate(items, *args, **kwargs)

    def predict(self, test_dataset, *args, **kwargs):
        """Also accepts a dataset with `image`, as training does."""
        return super().predict(self._as_items(test_dataset), *args, **kwargs)

    def _as_items(self, data: Any) -> Any:
        """Items with `pixel_values` of a dataset with images; other data unchanged."""
        if isinstance(data, Mapping):
            return {name: self._as_items(split) for name, split in data.items()}
        if not is_raw(data):
            return data
        model = self.accelerator.unwrap_model(self.model)
        with called_from_python(column="rename_column('...', '{}')"):
            return images_to_evaluate(data, model, self.processing_class)

    # --- Data --------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """Global batches, split into `per_device_train_batch_size` rows a process."""
        args, data, accelerator = self.args, self.train_dataset, self.accelerator
        sampler = GlobalBatchSampler(
            len(data),
            self._train_batch_size,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            shuffle=args.train_sampling_strategy != "sequential",
            drop_last=args.dataloader_drop_last,
            repeats=args.repeated_augmentation,
        )
        return TrainLoader(
            DrawnRows(data),
            device=accelerator.device,
            batch_sampler=sampler,
            collate_fn=self.train_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and accelerator.device.type == "cuda",
            persistent_workers=args.dataloader_persistent_workers,
            generator=torch.Generator() if args.dataloader_persistent_workers else None,  # see TrainLoader
            prefetch_factor=args.dataloader_prefetch_factor if args.dataloader_num_workers > 0 else None,
        )

    def _cache_features(self) -> None:
        """Compute the features of a frozen backbone once, if every epoch would see the same pixels."""
        args, data = self.args, self.train_dataset
        if not args.freeze_backbone or getattr(data, "features", None) is not None:
            return
        transform = getattr(data, "transform", None)
        if not isinstance(transform, EvalTransform) or args.mixup_alpha or args.cutmix_alpha:
            why = "images are augmented (--train_crop none leaves that out)"
        elif self.is_fsdp_enabled or self.is_deepspeed_enabled:
            why = "its weights are sharded"
        elif self.model_init is not None:
            why = "model_init makes it anew"
        elif not self.model.takes_features:
            why = "the student has more than one linear layer behind its feature"
        else:
            data.use_features(
                student_features(
                    self.model, transform.processor, data.images_with_ids(), Path(args.output_dir) / FEATURES,
                    self.accelerator, args.dataloader_num_workers,
                )
            )  # fmt: skip
            logger.info("The backbone is frozen and images are not augmented: training reads cached features.")
            return
        logger.info("The backbone is frozen, but runs in every step, as %s.", why)

    # --- Loss --------------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch=None
    ):
        inputs = finish_batch(inputs)  # on the device: 8-bit pixels are normalised and mixed
        training = model.training
        aligning = training and self.args.aligns
        shown = {name: inputs[name] for name in ("pixel_values", "features") if name in inputs}
        is_single = training and len(inputs["labels"]) == 1  # such as the last batch of 73 images by 9
        with single_values_normalized(model) if is_single else contextlib.nullcontext():
            outputs = model(**shown, output_image_embeds=aligning)
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
                loss, terms = self.alignment.add_to(loss, outputs, inputs)
                for name, (value, count) in terms.items():
                    self._note(name, value, count)
        return (loss, outputs) if return_outputs else loss

    def _global_mean(self, name: str, local_mean: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
        self._note(name, local_mean * divisor, divisor)
        return global_mean(local_mean, divisor)

    # --- Logging -----------------------------------------------------------------------------------------------------

    def _note(self, name: str, value: torch.Tensor, count: torch.Tensor) -> None:
        self.terms.add(name, value, count)
        self.loss_check.note(name, value, self.state.global_step + 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Trainer logs on every process at the same steps, so all of them reduce their sums here
        if "loss" in logs:
            logs |= self.terms.means()
        super().log(logs, start_time)

    # --- Optimizer ---------------------------------------------------------------------------------------------------

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return optimization.decayed_names(model, self.args.weight_decay_on, super().get_decay_parameter_names(model))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's optimizer, with the learning rates of `layer_decay`."""
        if self.optimizer is None:
            super().create_optimizer(model)
            if self.args.layer_decay is not None:
                optimization.scale_learning_rates(self.optimizer, self.model, self.args.layer_decay)
        return self.optimizer

    # --- Checkpoints -------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """
        `resume_from_checkpoint=True` takes the newest complete checkpoint; the rest is as in Trainer.

        Raises:
            CheckpointError: if a checkpoint cannot be written, such as to a full disk; the earlier ones are intact.
            OtherDataError: if the checkpoint was trained on other data, or in another order.
            OSError: if another process trains into the run folder.
        """
        if self.train_dataset is None:
            raise ValueError("This trainer has no train_dataset: give it one to train.")
        with locked(self.args.output_dir) if self.args.process_index == 0 else contextlib.nullcontext():
            if resume_from_checkpoint is True:
                resume_from_checkpoint = newest_checkpoint(self.args.output_dir)
                if resume_from_checkpoint is None:
                    raise FileNotFoundError(f"{self.args.output_dir} holds no whole checkpoint to resume from.")
            self.resumed_from = resume_from_checkpoint
            if resume_from_checkpoint and self.args.process_index == 0:  # an error here ends the other processes
                check_resumable(resume_from_checkpoint, self.data_record, order_of(self.args))
            self._cache_features()
            if self.lineage is not None and self.args.should_save:  # `g4i train` writes a more complete one
                write_lineage(self.args.output_dir, self.lineage, resumed=bool(resume_from_checkpoint))
            try:
                return super().train(resume_from_checkpoint, *args, **kwargs)
            finally:
                if self.progress is not None:  # so that an error is printed on a new line
                    self.progress.close()

    # --- Pushing: a release instead of the run folder ----------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Called before training, so that a token without write access fails early."""
        if self.publisher is None:
            raise ValueError(
                "push_to_hub is set: give the trainer a publisher=g4i_hf.hub.StudentPublisher(args), which pushes the "
                "plain student with a card, not the run folder."
            )
        if self.processing_class is None:  # a student is unusable without one
            self.processing_class = default_processor(self.model.config.student_config, self.is_world_process_zero())
        if self.is_world_process_zero():
            self.hub_model_id = self.publisher.start()

    def push_to_hub(self, commit_message: str | None = "End of training", **kwargs) -> str | None:
        """Save the run and push its release. Returns the URL of the commit, on the first process."""
        if self.hub_model_id is None:
            self.init_hf_repo()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        return self.publisher.push_run(commit_message)


def _check_given(model: Any, data: Any) -> None:
    """Raise TypeError for another model, or data that cannot be rows."""
    if isinstance(model, (str, Prepared)):  # of which `Preparation` checks the data
        return
    if not isinstance(bare := unwrap_peft_model(model), AlignedImageClassification):
        given = "None" if model is None else f"a {type(bare).__name__}"
        raise TypeError(
            f"model is {given}: give an AlignedImageClassification, as its from_student makes of a configuration or "
            "checkpoint, or the name of a student, such as 'resnet18'."
        )
    is_whole = isinstance(data, (str, Path, Mapping)) or not (data is None or hasattr(data, "__len__"))
    if is_whole or (isinstance(data, list) and not {"pixel_values", "features"} & set(data[0])):
        raise TypeError(
            f"train_dataset is a {type(data).__name__}: give one split with image and label, such as "
            "load_images('pictures')['train'], or items with pixel_values and labels."
        )


def _check_labelled(data: Any) -> None:
    """Raise ValueError for images to evaluate of which none has a label: their loss would be 0."""
    for images in data.values() if isinstance(data, Mapping) else [data]:
        if isinstance(images, CaptionedImages) and not (images.labels >= 0).any():
            raise ValueError(
                "eval_dataset has no label, so it cannot be evaluated. Label some images, or use predict."
            )
