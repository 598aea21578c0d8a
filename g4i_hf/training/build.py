"""Build a student with its processors, from options; and the metric that Trainer computes of it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
from transformers import BaseImageProcessor, set_seed

from ..data.transforms import train_transform
from ..embedding.encoders import encoder_identity
from ..modeling import AlignedImageClassification
from ..modeling.processing import (
    EvalTransform,
    ImageSettings,
    generic_processor,
    pretrained_processor,
    student_processor,
)
from ..modeling.student import check_is_there
from ..names import folder_digest, why_missing
from ..options import AugmentationArguments, EncoderArguments, StudentArguments

logger = logging.getLogger(__name__)


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
    """Raise OSError, after one request, for a checkpoint or weights neither in the cache nor on the Hub."""
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
