"""Builds what the trainer needs from options: student, image processors, images."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from transformers import BaseImageProcessor, PreTrainedConfig, TimmWrapperConfig, set_seed

from .. import columns
from ..data.checks import check_split
from ..data.dataset import CaptionedImages
from ..data.transforms import train_transform
from ..modeling import AlignedImageClassification
from ..modeling.processing import (
    EvalTransform,
    ImageSettings,
    default_processor,
    generic_processor,
    pretrained_processor,
    student_processor,
)
from ..options import AugmentationArguments, StudentArguments
from .arguments import AlignmentArguments
from .lineage import student_source

logger = logging.getLogger(__name__)


@dataclass
class BuiltStudent:
    """
    Attributes:
        model: the aligned model.
        saved_processor: image processor saved beside it.
        processor: the one its released student is used with.
    """

    model: AlignedImageClassification
    saved_processor: BaseImageProcessor
    processor: BaseImageProcessor

    def train_transform(self, augmentation: AugmentationArguments) -> Callable:
        """The augmentation of training images, at the size and with the normalization of the student."""
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
    """seed: of the initial weights. id2label: class names by index. text_embed_dim: D, None without embeddings."""
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
    if student.use_peft:  # adapters belong to the commit that was loaded, not to a branch
        model.config.lora["revision"] = student_source(student)["revision"]
    config, settings = model.config.student_config, augmentation.image_settings
    if student.pretrained and config.model_type != "timm_wrapper":
        saved = pretrained_processor(student.student, student.student_revision, {"image_size": image_size, **settings})
    else:
        saved = generic_processor(ImageSettings.of(config, image_size, settings))
    return BuiltStudent(model, saved, student_processor(config, saved))


def processor_of(config: PreTrainedConfig, warn: bool) -> BaseImageProcessor:
    """The default for a student's configuration; `warn` of what was assumed where that is incomplete."""
    processor = default_processor(config)
    if warn and not isinstance(config, TimmWrapperConfig):
        logger.warning(
            "There is no processing_class: the students that are pushed will say that their images have %d pixels "
            "and ImageNet's normalisation. Give the trainer the image processor of its data where that is wrong.",
            ImageSettings.from_processor(processor).size,
        )
    return processor


def from_name(
    name: str,
    args: AlignmentArguments,
    training: Dataset,
    options: Mapping[str, Any],
) -> tuple[AlignedImageClassification, CaptionedImages, dict[str, Any]]:
    """
    For [`~g4i_hf.AlignmentTrainer`] with a student's name. `options` are those of `Trainer`, of the student and of the
    augmentation.

    Returns:
        The model, the training images, and the options of `Trainer` with evaluation images, processor and accuracy.

    Raises:
        ValueError: for labels without class names, or captions that are not embedded.
    """
    if args is None or training is None:
        raise ValueError("With a student's name, AlignmentTrainer needs args (AlignmentArguments) and train_dataset.")
    labels = training.features.get(columns.LABEL)
    if not isinstance(labels, ClassLabel):
        raise ValueError("train_dataset has no column 'label' of ClassLabel: open the images with g4i_hf.load_images.")
    dim = columns.text_embed_dim_of(training.features.get(columns.TEXT_EMBEDS))
    if dim is None and args.aligns:
        raise ValueError(
            "train_dataset has no column 'text_embeds': add it with g4i_hf.embed_captions, or train a baseline with "
            "align_weight=0."
        )
    check_split(training, "train_dataset", num_labels=labels.num_classes, text_embed_dim=dim, require_labels=False)
    of_student, of_images, options = _split_options(options)
    augmentation = AugmentationArguments(**of_images)
    built = build_student(
        StudentArguments(student=name, **of_student), augmentation, args.seed, dict(enumerate(labels.names)), dim
    )
    images = CaptionedImages(training, built.train_transform(augmentation), args.seed, args.align_captions)
    evaluated = options.get("eval_dataset")
    if isinstance(evaluated, Mapping):
        evaluated = {name: built.eval_images(split) for name, split in evaluated.items()}
    else:
        evaluated = built.eval_images(evaluated)
    return built.model, images, {**built.trainer_options(), **options, "eval_dataset": evaluated}


def _split_options(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of the student, of the augmentation, and the others."""
    groups = [{each.name for each in fields(cls)} for cls in (StudentArguments, AugmentationArguments)]
    found = [{name: value for name, value in options.items() if name in group} for group in groups]
    return [*found, {name: value for name, value in options.items() if name not in set.union(*groups)}]


def predicted_classes(logits, labels):
    """`preprocess_logits_for_metrics` of Trainer: keeps one number an image rather than one a class."""
    return logits.argmax(-1)


def accuracy_of_logits(prediction) -> dict[str, float]:
    """`compute_metrics` of Trainer, on logits or what [`predicted_classes`] makes of them; nothing without labels."""
    labelled = prediction.label_ids >= 0
    if not labelled.any():
        return {}
    predicted = prediction.predictions
    predicted = np.argmax(predicted, axis=-1) if predicted.ndim == 2 else predicted
    return {"accuracy": float((predicted[labelled] == prediction.label_ids[labelled]).mean())}
