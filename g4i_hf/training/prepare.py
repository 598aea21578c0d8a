"""Prepares images, labels, captions and the student for the trainer, for `g4i train` and for Python."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset, DatasetDict
from transformers import BaseImageProcessor, set_seed

from .. import columns
from ..data.checks import check_captioned, check_split, labels_of, readable_rows
from ..data.classes import class_names, has_meaning, with_class_names, words_as_json
from ..data.dataset import CaptionedImages
from ..data.loading import standardise
from ..data.record import content_digest
from ..data.stage import join_stage, read_stage
from ..data.transforms import train_transform
from ..embedding.embed import CACHE, EmbeddingStage, embeds_of_class_names, text_embeds_folder
from ..embedding.encoders import encoder_identity
from ..evaluation.predict import predict
from ..modeling import AlignedImageClassification
from ..modeling.packaged import available_student
from ..modeling.processing import (
    EvalTransform,
    ImageSettings,
    default_processor,
    generic_processor,
    pretrained_processor,
    student_processor,
)
from ..modeling.student import check_is_there, require_peft
from ..names import folder_digest, why_missing
from ..options import AugmentationArguments, EncoderArguments, RunArguments, StudentArguments
from ..output import say
from .arguments import AlignmentArguments, option_groups
from .features import FEATURES, student_features
from .optimization import class_weights_of
from .run_folder import lineage_of
from .supervision import Supervised, supervise, warn_of_unused_captions

logger = logging.getLogger(__name__)

TRAINING, EVALUATION = "train_dataset", "eval_dataset"
NAMES = {TRAINING: "train", EVALUATION: "validation"}


# --- The student -----------------------------------------------------------------------------------------------------


@dataclass
class BuiltStudent:
    model: AlignedImageClassification
    saved_processor: BaseImageProcessor  # saved next to the student
    processor: BaseImageProcessor  # that of the released student

    def train_transform(self, augmentation: AugmentationArguments) -> Callable:
        """The augmentation of training images, with the size and normalization of the student."""
        if augmentation.train_crop == "none":
            return EvalTransform(self.processor)
        settings = ImageSettings.from_processor(self.processor)
        return train_transform(augmentation, settings.size, settings.mean, settings.std, settings.interpolation)

    def trainer_options(self) -> dict[str, Any]:
        """Arguments of Trainer: the image processor, and accuracy as metric."""
        return {"processing_class": self.saved_processor, "compute_metrics": accuracy_of_logits}


def build_student(
    student: StudentArguments,
    augmentation: AugmentationArguments,
    seed: int,
    id2label: dict[int, str],
    text_embed_dim: int | None,
) -> BuiltStudent:
    """Build with initial weights from `seed`; `text_embed_dim` is D, None without embeddings."""
    check_student(student)
    set_seed(seed)
    image_size = augmentation.image_size or (None if student.pretrained else 224)
    model = AlignedImageClassification.from_student(
        student.student,
        id2label=id2label,
        text_embed_dim=text_embed_dim or 384,
        pretrained=student.pretrained,
        student_args=cast("dict[str, Any]", student.student_args),
        image_size=image_size,
        image_settings=augmentation.image_settings,
        revision=student.student_revision,
        lora=student.lora(),
        projector_hidden_size=student.projector_hidden_size,
        projector_norm=student.projector_norm,
    )
    config, settings = model.config.student_config, augmentation.image_settings
    if student.pretrained and config.model_type != "timm_wrapper":
        saved = pretrained_processor(student.student, student.student_revision, {"image_size": image_size, **settings})
    else:
        saved = generic_processor(ImageSettings.of(config, image_size, settings))
    return BuiltStudent(model, saved, student_processor(config, saved))


def check_student(student: StudentArguments) -> None:
    """Raise OSError, after one request, for a checkpoint or weights neither in the cache nor on the Hub."""
    name = student.student
    check_is_there(name, student.student_revision)
    if not student.pretrained or not timm.is_model(name) or "pretrained_cfg" in str(student.student_args):
        return
    weights = timm.get_pretrained_cfg(name)
    if weights and weights.hf_hub_id and not weights.file and (why := why_missing(weights.hf_hub_id, "model")):
        what = f"The pretrained weights of {name!r} are {weights.hf_hub_id} on the Hub, and {why}"
        raise OSError(f"{what}. Train with --pretrained false, or name the folder of a checkpoint as student.")


def inputs_of(encoder: EncoderArguments, student: str, id2label: dict[int, str]) -> dict[str, str | None]:
    """The inputs of a result except data and options, by content; see [`~g4i_hf.data.record.Record`]."""
    return {
        "the text encoder": encoder_identity(encoder) if encoder.text_encoder else None,
        "the student": folder_digest(student) if Path(student).is_dir() else None,
        "synonyms and descriptions of the classes": content_digest(words_as_json(id2label).encode()),
    }


def accuracy_of_logits(prediction) -> dict[str, float]:
    """`compute_metrics` of Trainer; empty without labels."""
    labelled = prediction.label_ids >= 0
    if not labelled.any():
        return {}
    predicted = np.argmax(prediction.predictions[labelled], axis=-1)
    return {"accuracy": float((predicted == prediction.label_ids[labelled]).mean())}


# --- Images, labels and captions -------------------------------------------------------------------------------------


@dataclass
class Prepared:
    """What the trainer needs, and where it is from."""

    splits: DatasetDict  # in use, without unreadable images; training rows perhaps with `soft_labels`
    embeddings: Path | None  # the stage of the embeddings, if the data had none
    num_missing: int  # in a dry run, distinct captions without an embedding
    built: BuiltStudent
    images: CaptionedImages  # to train on
    eval_images: dict[str, CaptionedImages]  # by split
    supervised: Supervised | None = None  # soft labels from captions; None in a dry run without embeddings


@dataclass
class Preparation:
    """From opened splits to what the trainer needs."""

    splits: DatasetDict
    id2label: dict[int, str]
    student: StudentArguments | BuiltStudent  # options, or a student that exists
    run: RunArguments
    encoder: EncoderArguments  # of the captions; without a `text_encoder` they are not embedded
    augmentation: AugmentationArguments
    args: AlignmentArguments
    evaluated: list[str]  # splits to evaluate
    stage: dict[str, Any]  # `embeddings_dir`, `source` and `shared` of [`~g4i_hf.embedding.embed.text_embeds_folder`]
    embeddings: Path | None = None  # as of [`Prepared`]
    num_missing: int = 0
    dim: int | None = None  # of the embeddings, None without

    def prepared(self) -> Prepared:
        """
        Embed captions, check the rows, build the student, and add soft labels. Raises ValueError for invalid data or
        options.
        """
        name, args = self.run.train_split, self.args
        self._check_options()  # before captions are embedded, which can take long
        self._embed()
        self._check_rows()
        built = self.student
        if isinstance(built, StudentArguments):
            built = build_student(built, self.augmentation, args.seed, self.id2label, self.dim)
        eval_images: dict[str, CaptionedImages] = {}
        supervised = None
        if not self.num_missing:  # otherwise nothing can be estimated
            supervised = self._supervised(built)
            self.splits[name] = supervised.split
            shown = EvalTransform(built.processor)
            eval_images = {name: CaptionedImages(self.splits[name], shown) for name in self.evaluated}
        transform = built.train_transform(self.augmentation)
        images = CaptionedImages(self.splits[name], transform, args.seed, args.align_captions)
        if self.num_missing:  # any embedding is enough to time steps
            images.use_one_embedding(self.dim)
        return Prepared(self.splits, self.embeddings, self.num_missing, built, images, eval_images, supervised)

    def _check_options(self) -> None:
        if isinstance(self.student, StudentArguments):
            check_student(self.student)
            if self.student.use_peft and self.args.freeze_backbone:
                raise ValueError("use_peft adapts the backbone, and freeze_backbone does not: leave one of both out.")
            if self.args.freeze_norm_statistics and not self.student.pretrained:
                raise ValueError(
                    "freeze_norm_statistics keeps what pretrained batch norms know, but pretrained is false: leave it "
                    "out, or set pretrained to true."
                )
            if self.student.use_peft:
                require_peft()
        if self.args.aligns:
            check_captioned(self.splits, self.run.train_split)

    def _embed(self) -> None:
        splits, encoder = self.splits, self.encoder
        has_embeds = any(columns.TEXT_EMBEDS in names for names in splits.column_names.values())
        if self.run.dry_run and encoder.text_encoder and not has_embeds:
            stage = EmbeddingStage(splits, encoder, **self.stage)
            if number := stage.num_to_embed():
                self.num_missing, self.dim = number, stage.encoder.dim
                return
        self.embeddings = text_embeds_folder(splits, encoder, **self.stage)
        if self.embeddings is not None:
            splits = join_stage(splits, self.embeddings, read_stage(self.embeddings))
        self.splits = DatasetDict(splits)
        self.dim = columns.text_embed_dim_of(splits[self.run.train_split].features.get(columns.TEXT_EMBEDS))

    def _check_rows(self) -> None:
        """Leave out unreadable images, and raise ValueError for other invalid rows."""
        splits, run, training, number = self.splits, self.run, self.run.train_split, len(self.id2label)
        for name in (training, *self.evaluated):
            splits[name] = readable_rows(splits[name], name, run.on_bad_images)
        dim = self.dim or (1 if self.args.aligns else None)
        if self.num_missing:
            dim = None
        elif self.dim and isinstance(self.student, BuiltStudent):
            dim = self.student.model.config.text_embed_dim
        labels = dict[str, Any](num_labels=number, require_labels=run.unlabelled == "error")
        check_split(splits[training], training, text_embed_dim=dim, **labels)
        for name in self.evaluated:
            check_split(splits[name], name, training=False, **labels)
        if isinstance(self.args.class_weights, list):
            class_weights_of(self.args.class_weights, number, splits[training])  # raises for invalid weights

    def _supervised(self, built: BuiltStudent) -> Supervised:
        """See [`~g4i_hf.training.supervision.supervise`]."""
        split, run, args = self.splits[self.run.train_split], self.run, self.args
        if args.aligns and run.supervision == "none" and run.unlabelled == "keep":
            warn_of_unused_captions(split)
        is_pretrained = isinstance(self.student, StudentArguments) and self.student.pretrained
        supervised = supervise(
            split,
            run,
            num_labels=len(self.id2label),
            seed=args.seed,
            soft_label_weight=args.soft_label_weight,
            image_features=partial(self._features_of_student, split, built) if is_pretrained else None,
            class_embeds=partial(class_name_examples, self.id2label, self.encoder, PartialState().device, self.dim),
            class_weights=args.class_weights,
        )
        if supervised.plan.soft_label_weight and args.classification_loss != "cross_entropy":
            raise ValueError("Soft labels need classification_loss: cross_entropy, whose softmax they teach.")
        if args.aligns and args.align_mask == "class" and not (labels_of(supervised.split) >= 0).any():
            logger.warning("align_mask is 'class', but every image learns from soft labels: no classes are masked.")
        return supervised

    def _features_of_student(self, split: Dataset, built: BuiltStudent) -> np.ndarray | None:
        accelerator, model, processor = Accelerator(cpu=self.args.use_cpu), built.model, built.processor
        if self.args.freeze_backbone and model.takes_features and not self.run.dry_run:  # training uses them too
            images, folder = split.select_columns([columns.IMAGE, columns.IMAGE_ID]), Path(self.args.output_dir)
            return student_features(model, processor, images, folder / FEATURES, accelerator)
        what = {"description": "Image features", "output_features": True, "output_image_embeds": False}
        predictions = predict(model.eval(), processor, split, accelerator, **what)
        model.train()
        return predictions and predictions.features


def class_name_examples(
    id2label: dict[int, str], args: EncoderArguments, device: str | torch.device, dim: int
) -> np.ndarray | None:
    """[`embeds_of_class_names`] of `dim` dimensions, or None; zeros for a name without meaning."""
    embeds = embeds_of_class_names(id2label, args, device, "class names beside the captions")
    if embeds is not None and embeds.shape[1] != dim:
        logger.warning("No class names beside the captions: %s has not embedded them.", args.text_encoder)
        return None
    if embeds is not None:
        unnamed = [index for index in sorted(id2label) if not has_meaning(id2label, index)]
        embeds[unnamed] = 0
        if 0 < len(unnamed) < len(id2label):
            names = ", ".join(id2label[index] for index in unnamed[:3])
            logger.warning("Names that tell nothing of a class: %s. It is learned from labels alone.", names)
    return embeds


# --- Datasets in memory ----------------------------------------------------------------------------------------------


def is_raw(data: Any) -> bool:
    """Whether rows have images to prepare here, not `pixel_values`."""
    return isinstance(data, Dataset) and data.format["type"] != "custom" and "pixel_values" not in data.column_names


def images_to_evaluate(
    data: Dataset, model: AlignedImageClassification, saved: BaseImageProcessor | None
) -> CaptionedImages:
    """Items of rows with `image`, and perhaps `label`, with the transform and classes of the model."""
    config = model.config.student_config
    processor = student_processor(config, saved or default_processor(config))
    split = standardise(data, "the dataset", {})
    if columns.LABEL in split.column_names:
        names = [model.config.id2label[index] for index in range(model.num_labels)]
        split = with_class_names({"the dataset": split}, names)["the dataset"]
    return CaptionedImages(split, EvalTransform(processor))


def prepare_in_memory(
    model: AlignedImageClassification | str,
    args: AlignmentArguments,
    training: Dataset,
    text_encoder: str,
    options: Mapping[str, Any],
) -> tuple[Prepared, dict[str, Any], dict[str, Any]]:
    """
    [`Preparation`] for an aligned model, or the name of its student, and rows with `image`, `label` and `caption` or
    `text_embeds`. The options are those of `Trainer`, of the student, of the augmentation and of labels from captions.
    Also returns those of `Trainer`, and the lineage as far as it is known. Raises ValueError for invalid data.
    """
    if not isinstance(training, Dataset):
        raise ValueError(
            "With a student's name, train_dataset is one split with image, label and caption, such as "
            f"load_images('pictures')['train']; it is a {type(training).__name__}."
        )
    of_student, of_images, of_run, of_trainer = _grouped(options, with_student=isinstance(model, str))
    evaluated = of_trainer.get(EVALUATION)
    several = isinstance(evaluated, Mapping)
    by_name = {f"{EVALUATION}[{key!r}]": evaluated[key] for key in evaluated} if several else {EVALUATION: evaluated}
    raw = {TRAINING: training} | {name: split for name, split in by_name.items() if is_raw(split)}
    run = RunArguments(**{"unlabelled": "keep"} | of_run, train_split=TRAINING)
    uses_captions = args.aligns or run.supervision != "none"
    splits = DatasetDict({name: standardise(split, name, {}) for name, split in raw.items()})
    splits, id2label = class_names(splits)
    if uses_captions:
        check_captioned(splits, TRAINING)
    student: StudentArguments | BuiltStudent
    if isinstance(model, str):
        student = StudentArguments(student=available_student(model), **of_student)
    else:
        id2label, config = model.config.id2label, model.config.student_config
        splits = with_class_names(splits, [id2label[index] for index in range(model.num_labels)], "of the model")
        saved = of_trainer.get("processing_class") or default_processor(config, warn=args.process_index == 0)
        student = BuiltStudent(model, saved, student_processor(config, saved))
    is_embedded = columns.TEXT_EMBEDS in splits[TRAINING].column_names  # the encoder is unknown here
    encoder = EncoderArguments(text_encoder if uses_captions and not is_embedded else None)
    eval_splits = [name for name in splits if name != TRAINING]
    for name in eval_splits:  # evaluation reads no captions
        texts = {columns.CAPTION, columns.TEXT_EMBEDS} & set(splits[name].column_names)
        splits[name] = splits[name].remove_columns(list(texts))
    stage: dict[str, Any] = {"embeddings_dir": CACHE, "source": "images", "shared": True}
    augmentation = AugmentationArguments(**of_images)
    preparation = Preparation(splits, id2label, student, run, encoder, augmentation, args, eval_splits, stage)
    prepared = preparation.prepared()
    for line in prepared.supervised.plan.reasons:
        say(line)
    by_name |= prepared.eval_images
    of_trainer[EVALUATION] = dict(zip(evaluated, by_name.values(), strict=True)) if several else by_name[EVALUATION]
    rows = {NAMES.get(name, name): split for name, split in prepared.splits.items()}
    known_student = student if isinstance(student, StudentArguments) else None
    lineage = lineage_of(rows, None, known_student, prepared.embeddings)
    return prepared, of_trainer, lineage | {"processes": args.world_size}


def _grouped(options: Mapping[str, Any], with_student: bool) -> list[dict[str, Any]]:
    """The options of the student, of the augmentation, of labels from captions, and all others."""
    groups = option_groups(with_student)
    grouped = [{name: value for name, value in options.items() if name in group} for group in groups]
    return [*grouped, {name: value for name, value in options.items() if name not in set.union(*groups)}]
