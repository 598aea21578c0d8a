"""Build the student, processors, images and soft labels that the trainer needs, from options or a dataset."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict
from transformers import BaseImageProcessor, PreTrainedConfig, TimmWrapperConfig, set_seed

from .. import columns
from ..cli import say
from ..data.checks import check_captioned, check_split, labels_of
from ..data.classes import class_names, terms_of, with_class_names
from ..data.dataset import CaptionedImages
from ..data.loading import standardise
from ..data.stage import join_stage, read_stage
from ..data.transforms import train_transform
from ..embedding import EncoderArguments, text_embeds_folder
from ..embedding.embed import CACHE, embeds_of_class_names
from ..embedding.encoders import encoder_identity
from ..evaluation.predict import predict
from ..label_model.supervise import Supervised, supervise, warn_of_unused_captions
from ..modeling import AlignedImageClassification
from ..modeling.processing import (
    EvalTransform,
    ImageSettings,
    default_processor,
    generic_processor,
    pretrained_processor,
    student_processor,
)
from ..modeling.student import check_is_there
from ..names import folder_digest, why_missing
from ..options import AugmentationArguments, RunArguments, StudentArguments, SupervisionOptions
from .arguments import AlignmentArguments
from .features import FEATURES, student_features
from .lineage import lineage_of
from .optimization import class_weights_of

logger = logging.getLogger(__name__)

TRAINING, EVALUATION = "train_dataset", "eval_dataset"
NAMES = {TRAINING: "train", EVALUATION: "validation"}


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

    def eval_images(self, split: Dataset | None) -> CaptionedImages | None:
        return None if split is None else CaptionedImages(split, EvalTransform(self.processor))

    def trainer_options(self) -> dict[str, Any]:
        """Arguments of Trainer: the image processor, and accuracy as metric."""
        return {
            "processing_class": self.saved_processor,
            "compute_metrics": accuracy_of_logits,
            "preprocess_logits_for_metrics": predicted_classes,
        }


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
        student_args=student.student_args,
        image_size=image_size,
        image_settings=augmentation.image_settings,
        revision=student.student_revision,
        lora=student.lora(),
        projector_type=student.projector_type,
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
    """
    Raise OSError for a checkpoint or pretrained weights that are neither in the cache nor on the Hub. This takes one
    request to the Hub, within seconds.
    """
    name = student.student
    check_is_there(name, student.student_revision)
    if not student.pretrained or not timm.is_model(name) or "pretrained_cfg" in str(student.student_args):
        return
    weights = timm.get_pretrained_cfg(name)
    if weights and weights.hf_hub_id and not weights.file and (why := why_missing(weights.hf_hub_id, "model")):
        what = f"The pretrained weights of {name!r} are {weights.hf_hub_id} on the Hub, and {why}"
        raise OSError(f"{what}. Train with --pretrained false, or name the folder of a checkpoint as student.")


def inputs_of(encoder: EncoderArguments, student: str) -> dict[str, str | None]:
    """The inputs of a result except data and options, by content; see [`~g4i_hf.data.record.Record`]."""
    return {
        "the text encoder": encoder_identity(encoder) if encoder.text_encoder else None,
        "the student": folder_digest(student) if Path(student).is_dir() else None,
    }


def processor_of(config: PreTrainedConfig, warn: bool) -> BaseImageProcessor:
    """The default for a student's configuration; `warn` logs what was assumed if the configuration is incomplete."""
    processor = default_processor(config)
    if warn and not isinstance(config, TimmWrapperConfig):
        logger.warning(
            "There is no processing_class: the students that are pushed will say that their images have %d pixels "
            "and ImageNet's normalisation. Give the trainer the image processor of its data where that is wrong.",
            ImageSettings.from_processor(processor).size,
        )
    return processor


def class_name_examples(
    id2label: dict[int, str], args: EncoderArguments, device: str | torch.device, dim: int
) -> np.ndarray | None:
    """
    [`~g4i_hf.embedding.embed.embeds_of_class_names`], with zeros for a name without meaning, such as `LABEL_3`. Also
    None if captions have not `dim` dimensions, as another encoder has embedded them.
    """
    embeds = embeds_of_class_names(id2label, args, device, "class names beside the captions")
    if embeds is not None and embeds.shape[1] != dim:
        logger.warning("No class names beside the captions: %s has not embedded them.", args.text_encoder)
        return None
    if embeds is not None:
        unnamed = [index for index in sorted(id2label) if not terms_of(id2label[index])]
        embeds[unnamed] = 0
        if 0 < len(unnamed) < len(id2label):
            names = ", ".join(id2label[index] for index in unnamed[:3])
            logger.warning("Names that tell nothing of a class: %s. It is learned from labels alone.", names)
    return embeds


def _image_features(
    split: Dataset, run: RunArguments, args: AlignmentArguments, is_pretrained: bool, built: Callable[[], BuiltStudent]
) -> Callable[[], np.ndarray | None] | None:
    """The function that computes image features (N, F) in the main process; None without them."""
    name = run.image_features
    if name == "student" and not is_pretrained:
        raise ValueError("image_features is 'student', but pretrained is false: random weights see nothing.")
    if name == "student" or (name is None and run.supervision == "auto" and is_pretrained):
        return lambda: _features_of_student(built(), split, args, run.dry_run)
    if name is not None and name not in split.column_names:
        present = ", ".join(split.column_names)
        raise ValueError(f"image_features is {name!r}, but the data has no such column. Its columns: {present}.")
    if name is None:
        return None
    return lambda: np.asarray(split.with_format("numpy")[name][:], dtype=np.float32)


def _features_of_student(
    built: BuiltStudent, split: Dataset, args: AlignmentArguments, dry_run: bool
) -> np.ndarray | None:
    accelerator = Accelerator(cpu=args.use_cpu)
    if args.freeze_backbone and built.model.takes_features and not dry_run:  # training uses the same features
        images = split.select_columns([columns.IMAGE, columns.IMAGE_ID])
        return student_features(built.model, built.processor, images, Path(args.output_dir) / FEATURES, accelerator)
    what = {"description": "Image features", "output_features": True, "output_image_embeds": False}
    predictions = predict(built.model.eval(), built.processor, split, accelerator, **what)
    built.model.train()
    return predictions and predictions.features


def predicted_classes(logits, labels):
    """`preprocess_logits_for_metrics` of Trainer: the class of each image, to keep one number in place of C."""
    return logits.argmax(-1)


def accuracy_of_logits(prediction) -> dict[str, float]:
    """`compute_metrics` of Trainer, on logits or the output of [`predicted_classes`]; empty without labels."""
    labelled = prediction.label_ids >= 0
    if not labelled.any():
        return {}
    predicted = prediction.predictions
    predicted = np.argmax(predicted, axis=-1) if predicted.ndim == 2 else predicted
    return {"accuracy": float((predicted[labelled] == prediction.label_ids[labelled]).mean())}


# --- Datasets with images, labels and captions, as the trainer takes them --------------------------------------------


def is_raw(data: Any) -> bool:
    """Whether rows have images to prepare here, not `pixel_values`."""
    return isinstance(data, Dataset) and data.format["type"] != "custom" and "pixel_values" not in data.column_names


def images_to_evaluate(
    data: Dataset, model: AlignedImageClassification, saved: BaseImageProcessor | None
) -> CaptionedImages:
    """
    Items of rows with `image`, and perhaps `label` by name or number, with the transform and classes of the model.
    """
    config = model.config.student_config
    processor = student_processor(config, saved or processor_of(config, warn=False))
    split = standardise(data, "the dataset", {})
    if columns.LABEL in split.column_names:
        names = [model.config.id2label[index] for index in range(model.num_labels)]
        split = with_class_names({"the dataset": split}, names)["the dataset"]
    return CaptionedImages(split, EvalTransform(processor))


@dataclass
class Prepared:
    """The arguments of the trainer, from splits with images, labels, captions and their embeddings."""

    built: BuiltStudent
    images: CaptionedImages  # to train on
    eval_images: dict[str, CaptionedImages]  # by split
    supervised: Supervised | None = None  # soft labels from captions; None in some dry runs

    @property
    def soft_label_weight(self) -> float | None:
        return self.supervised and (self.supervised.plan.soft_label_weight or None)


def prepare(
    splits: DatasetDict,
    train_split: str,
    built: Callable[[], BuiltStudent],
    run: RunArguments,
    args: AlignmentArguments,
    augmentation: AugmentationArguments,
    *,
    num_labels: int,
    is_pretrained: bool,
    class_embeds: Callable[[], np.ndarray | None] | None,
    folder: Path | None = None,
    made_with: str = "",
) -> Prepared:
    """
    Add the soft labels of the training rows by `supervision` and `image_features` (see
    [`~g4i_hf.label_model.supervise.supervise`]), and make items of all splits.

    Args:
        is_pretrained: whether the student has useful features before it is trained.
        class_embeds: gives (C, D), the class names by the encoder of the captions.
        folder: stores estimates, which another call with the same `made_with` reads.

    Raises:
        ValueError: for options that contradict each other or the data.
    """
    split = splits[train_split]
    if args.aligns and run.supervision == "none" and run.unlabelled == "keep":
        warn_of_unused_captions(split)
    if isinstance(args.class_weights, list):
        class_weights_of(args.class_weights, num_labels, split)  # raises for invalid weights
    supervised = supervise(
        split,
        run,
        num_labels=num_labels,
        seed=args.seed,
        soft_label_weight=args.soft_label_weight,
        image_features=_image_features(split, run, args, is_pretrained, built),
        class_embeds=class_embeds,
        class_weights=args.class_weights,
        folder=folder,
        made_with=made_with,
    )
    if supervised.plan.soft_label_weight and args.classification_loss != "cross_entropy":
        raise ValueError("Soft labels need classification_loss: cross_entropy, whose softmax they teach.")
    if args.aligns and args.align_mask == "class" and not (labels_of(supervised.split) >= 0).any():
        logger.warning("align_mask is 'class', but every image learns from soft labels: no classes are masked.")
    transform = built().train_transform(augmentation)
    images = CaptionedImages(supervised.split, transform, args.seed, args.align_captions)
    eval_images = {name: built().eval_images(splits[name]) for name in splits if name != train_split}
    return Prepared(built(), images, eval_images, supervised)


def prepare_in_memory(
    model: AlignedImageClassification | str,
    args: AlignmentArguments,
    training: Dataset,
    text_encoder: str,
    options: Mapping[str, Any],
) -> tuple[Prepared, dict[str, Any], dict[str, Any]]:
    """
    Prepare an aligned model, or the name of its student, and rows with `image`, `label` and `caption` or
    `text_embeds`. The options are those of `Trainer`, of the student, of the augmentation and of labels from captions.
    Also returns those of `Trainer`, and the lineage as far as it is known. Raises ValueError for invalid data.
    """
    if not is_raw(training):
        raise ValueError(
            "With a student's name, train_dataset is one split with image, label and caption, such as "
            f"load_images('pictures')['train']; it is a {type(training).__name__}."
        )
    of_student, of_images, of_run, of_trainer = _grouped(options, with_student=isinstance(model, str))
    evaluated = of_trainer.get(EVALUATION)
    several = isinstance(evaluated, Mapping)
    by_name = {f"{EVALUATION}[{key!r}]": evaluated[key] for key in evaluated} if several else {EVALUATION: evaluated}
    raw = {TRAINING: training} | {name: split for name, split in by_name.items() if is_raw(split)}
    with columns.named_in_python("Rename the right one to '{name}', by rename_column"):
        splits = DatasetDict({name: standardise(split, name, {}) for name, split in raw.items()})
        splits, id2label = class_names(splits)
    if not isinstance(model, str):
        splits = with_class_names(splits, [model.config.id2label[i] for i in range(model.num_labels)], "of the model")
    run, encoder = RunArguments(**of_run), EncoderArguments(text_encoder)
    is_embedded = columns.TEXT_EMBEDS in splits[TRAINING].column_names  # the encoder is unknown here
    needs_texts = args.aligns or run.supervision != "none"
    embeddings = _add_embeddings(splits, encoder) if needs_texts else None
    dim = columns.text_embed_dim_of(splits[TRAINING].features.get(columns.TEXT_EMBEDS))
    augmentation = AugmentationArguments(**of_images)
    if isinstance(model, str):
        student = StudentArguments(student=model, **of_student)
        built = build_student(student, augmentation, args.seed, id2label, dim)
    else:
        student, built = None, _built_from(model, args, of_trainer)
    _check(splits, built.model, dim)
    prepared = prepare(
        splits,
        TRAINING,
        lambda: built,
        run,
        args,
        augmentation,
        num_labels=built.model.num_labels,
        is_pretrained=student.pretrained if student else run.image_features == "student",
        class_embeds=None if is_embedded else partial(class_name_examples, id2label, encoder, args.device, dim),
    )
    for line in prepared.supervised.plan.reasons:
        say(line)
    by_name |= prepared.eval_images
    of_trainer[EVALUATION] = dict(zip(evaluated, by_name.values(), strict=True)) if several else by_name[EVALUATION]
    lineage = lineage_of({NAMES.get(name, name): splits[name] for name in splits}, None, student, embeddings)
    return prepared, of_trainer, lineage


def _built_from(model: AlignedImageClassification, args: AlignmentArguments, options: dict[str, Any]) -> BuiltStudent:
    config = model.config.student_config
    saved = options.get("processing_class") or processor_of(config, warn=args.process_index == 0)
    return BuiltStudent(model, saved, student_processor(config, saved))


def _check(splits: DatasetDict, model: AlignedImageClassification, dim: int | None) -> None:
    for name, split in splits.items():
        expected = model.config.text_embed_dim if name == TRAINING and dim is not None else None
        is_training = {"training": name == TRAINING, "text_embed_dim": expected}
        check_split(split, name, num_labels=model.num_labels, require_labels=False, **is_training)


def _grouped(options: Mapping[str, Any], with_student: bool) -> list[dict[str, Any]]:
    """The options of the student, of the augmentation, of labels from captions, and all others."""
    groups = [{field.name for field in fields(cls)} for cls in (StudentArguments, AugmentationArguments)]
    groups.append({field.name for field in fields(SupervisionOptions)})
    if not with_student:  # the model is built: `Trainer` rejects its options
        groups[0], groups[1] = set(), groups[1] - {"image_size", "interpolation", "crop_pct"}
    grouped = [{name: value for name, value in options.items() if name in group} for group in groups]
    return [*grouped, {name: value for name, value in options.items() if name not in set.union(*groups)}]


def _add_embeddings(splits: DatasetDict, encoder: EncoderArguments) -> Path | None:
    """Add embeddings of the captions to the training rows; returns their stage, None if rows have embeddings."""
    check_captioned(splits, TRAINING)
    training = DatasetDict({TRAINING: splits[TRAINING]})
    stage = text_embeds_folder(training, encoder, CACHE, source="images", shared=True)
    if stage is not None:
        splits[TRAINING] = join_stage(training, stage, read_stage(stage))[TRAINING]
    return stage
