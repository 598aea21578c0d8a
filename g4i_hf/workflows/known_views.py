"""What is known of the class of each image before training: captions, and the features of a pretrained student."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import timm
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import TimmWrapperConfig

from .. import columns
from ..data.answers import matched_answers
from ..data.images import open_image
from ..data.record import RECORD_FILE, image_digests
from ..hub.push import MANIFEST
from ..label_model import View
from ..label_model.supervise import ANSWER, CAPTION, CaptionedRows
from ..modeling.packaged import DEFAULT_STUDENT, available_student
from ..modeling.processing import image_size_of
from ..modeling.student import student_config_from
from ..options import AugmentationArguments, EncoderArguments, StudentArguments
from ..training.build import build_student, check_student, class_name_examples
from ..training.features import student_features
from ..training.head import Scale
from ..training.lineage import LINEAGE_FILE

SMALLEST = 128  # pixels: smaller images are enlarged, as pretrained students see little in them
STUDENT_VIEW = "image:student"
OWN_VIEWS = CAPTION, ANSWER, STUDENT_VIEW
SAMPLE = 200  # images whose size is looked at


def student_named(name: str | None, pretrained: bool = True) -> StudentArguments:
    """The one that the user names, or a small pretrained one."""
    student = StudentArguments(student=available_student(name or DEFAULT_STUDENT), pretrained=pretrained)
    check_student(student)
    return student


def image_size_for(student: str, images: Dataset) -> tuple[int | None, str]:
    """
    The shorter side of the median image, not above what the student was trained for, and a line that says so. None for
    a transformers checkpoint, which has an image processor of its own.
    """
    config = student_config_from(student)
    if not isinstance(config, TimmWrapperConfig):
        return None, ""
    rows = np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int)
    sides = [min(open_image(image).size) for image in images.select(rows)[columns.IMAGE]]
    known = timm.get_pretrained_cfg(student) if timm.is_model(student) else None
    usual = known.input_size[-1] if known else image_size_of(config)
    size = min(usual, max(SMALLEST, int(np.median(sides)) // 16 * 16))
    return size, f"Image size: {size} px, as the shorter side of the median image has {np.median(sides):.0f}."


def views_of(
    split: Dataset,
    features: Mapping[str, np.ndarray],
    id2label: dict[int, str],
    encoder: EncoderArguments | None,
    device: torch.device,
) -> dict[str, View]:
    """
    Args:
        split: with `text_embeds`, where captions are embedded, and `answer`, where a model was asked for the class.
        features: (N, F) of its images, by name of the view.
        encoder: of the captions, for the names of the classes; None: it is not known.
    """
    views = {}
    if columns.TEXT_EMBEDS in split.column_names:
        captioned, names = CaptionedRows.of(split), None
        texts = captioned.text_embeds()
        if encoder is not None:
            names = class_name_examples(id2label, encoder, device, texts.shape[1])
        embeds = np.full((len(split), texts.shape[1]), np.nan, dtype=texts.dtype)
        embeds[captioned.rows] = texts
        if (texts != texts[:1]).any():  # else all captions are equal, and predict nothing
            views[CAPTION] = View(embeds, names, learns=False)
    if (answers := answers_of(split, id2label)) is not None:
        views[ANSWER] = View.answers(answers, len(id2label))
    return views | {name: View(Scale.of(each)(each)) for name, each in features.items()}


def answers_of(split: Dataset, id2label: dict[int, str]) -> np.ndarray | None:
    """(N,) class indices, negative without one; None where no answer names a class."""
    if columns.ANSWER not in split.column_names:
        return None
    names = [id2label[index] for index in sorted(id2label)]
    found = matched_answers(split[columns.ANSWER], names)
    return found if (found >= 0).any() else None


def check_view(view: str) -> None:
    """A ValueError for an encoder that cannot be loaded, and for one that may have learned these very labels."""
    name = view.removeprefix("image:")
    if any((Path(name) / file).is_file() for file in (MANIFEST, RECORD_FILE, LINEAGE_FILE)):
        raise ValueError(
            f"View {view!r} (views) is a student of g4i_hf, which may have been trained on these labels: then nothing "
            "can judge by it. Name the network that it started from."
        )
    try:
        student_named(name)
    except (ValueError, OSError) as error:
        raise ValueError(f"View {view!r} (views): {error}") from error


def view_name(view: str) -> str:
    """A folder's place is nobody's business."""
    name = view.removeprefix("image:")
    return f"image:{Path(name).name}" if Path(name).is_dir() else view


def features_by(
    student: str, images: Dataset, id2label: dict[int, str], folder: Path, accelerator: Accelerator
) -> np.ndarray:
    """(N, F) of any pretrained timm or transformers encoder, at its own preprocessing; see [`student_features`]."""
    named = student_named(student)
    augmentation = AugmentationArguments(image_size=image_size_for(named.student, images)[0], train_crop="none")
    built = build_student(named, augmentation, 0, id2label, None)
    rows = images.select_columns([columns.IMAGE, columns.IMAGE_ID])
    return student_features(
        built.model, built.processor, rows, folder, accelerator, description=f"Features, {student}"
    )


def order_of(split: Dataset) -> tuple[list[str], np.ndarray]:
    """Digests of the images, and for each a number (N,) by its content, the same for equal ones."""
    digests = image_digests(split.select_columns([columns.IMAGE_ID, columns.IMAGE]))[columns.IMAGE_DIGEST]
    return digests, np.fromiter((int(digest[:15], 16) for digest in digests), dtype=np.int64, count=len(digests))
