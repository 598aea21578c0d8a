"""What is known of the class of each image before training: captions, and the features of a pretrained student."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import timm
import torch
from datasets import Dataset
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, TimmWrapperConfig

from .. import columns
from ..data.answers import matched_answers
from ..data.images import open_image
from ..data.record import RECORD_FILE, image_digests
from ..data.texts import values_of
from ..embedding.image_text import is_image_text
from ..hub.push import MANIFEST
from ..label_model import View
from ..label_model.supervise import ANSWER, CAPTION, CaptionedRows
from ..modeling.packaged import DEFAULT_STUDENT, available_student
from ..modeling.processing import image_size_of
from ..modeling.student import student_config_from
from ..options import AugmentationArguments, EncoderArguments, StudentArguments
from ..training.build import build_student, check_student, class_name_examples
from ..training.features import ImageEncoder
from ..training.head import Scale
from ..training.lineage import LINEAGE_FILE

SMALLEST = 128  # pixels: smaller images are enlarged, as pretrained students see little in them
STUDENT_VIEW = "image:student"
OWN_VIEWS = CAPTION, ANSWER, STUDENT_VIEW
SAMPLE = 200  # images whose size is looked at
NOT_ONE = 0.01  # by which the sum of probabilities may differ from 1


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
    captions = captions_view(split, id2label, encoder, device) if columns.TEXT_EMBEDS in split.column_names else None
    if captions is not None:
        views[CAPTION] = captions
    answers = answers_of(split, id2label)
    if answers is not None and len(np.unique(answers[answers >= 0])) > 1:  # else they predict nothing
        views[ANSWER] = View.answers(answers, len(id2label))
    return views | {name: View(Scale.of(each)(each)) for name, each in features.items()}


def captions_view(
    split: Dataset, id2label: dict[int, str], encoder: EncoderArguments | None, device: torch.device
) -> View | None:
    """Of rows with `text_embeds`; None where all captions are equal, so that they predict nothing."""
    captioned, names = CaptionedRows.of(split), None
    texts = captioned.text_embeds()
    if encoder is not None:
        names = class_name_examples(id2label, encoder, device, texts.shape[1])
    embeds = np.full((len(split), texts.shape[1]), np.nan, dtype=texts.dtype)
    embeds[captioned.rows] = texts
    return View(embeds, names, learns=False) if (texts != texts[:1]).any() else None


def answers_of(split: Dataset, id2label: dict[int, str]) -> np.ndarray | None:
    """(N,) class indices, negative without one; None where no answer names a class."""
    if columns.ANSWER not in split.column_names:
        return None
    names = [id2label[index] for index in sorted(id2label)]
    found = matched_answers(split[columns.ANSWER], names)
    return found if (found >= 0).any() else None


def scores_of(split: Dataset, column: str, num_labels: int) -> View:
    """
    What another model says of each image, by a column of probabilities or logits (C,) in the order of the classes;
    null or NaN where it says nothing. A ValueError for a column that holds something else.
    """
    what = f"View 'scores:{column}' (views)"
    if column not in split.column_names:
        raise ValueError(f"{what}: the data has no such column. Its columns: {', '.join(split.column_names)}.")
    rows = [[np.nan] * num_labels if row is None else row for row in values_of(split, column)]
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != num_labels:
            given = f"{len(row)} numbers" if isinstance(row, list) else repr(row)[:40]
            wanted = f"a list of {num_labels} numbers is wanted, one a class in the order of the classes"
            raise ValueError(f"{what}, row {number}: {given}; {wanted}.")
    scores = np.array(rows, dtype=np.float64)
    has = np.isfinite(scores).all(1)
    if not np.isnan(scores[~has]).all():
        raise ValueError(f"{what}, row {np.flatnonzero(~has)[0]}: some numbers are NaN or infinite. Give null there.")
    known = scores[has]
    if (known < 0).any() or (abs(known.sum(1) - 1) > NOT_ONE).any():  # logits
        known = np.exp(known - known.max(1, keepdims=True))
    scores[has] = known / known.sum(1, keepdims=True)
    return View(scores.astype(np.float32), np.eye(num_labels, dtype=np.float32), learns=False)


def check_encoder_of(view: str) -> None:
    """A ValueError for an encoder that cannot be loaded, and for one that may have learned these very labels."""
    name = view.removeprefix("image:")
    if any((Path(name) / file).is_file() for file in (MANIFEST, RECORD_FILE, LINEAGE_FILE)):
        raise ValueError(
            f"View {view!r} (views) is a student of g4i_hf, which may have been trained on these labels: then nothing "
            "can judge by it. Name the network that it started from."
        )
    try:
        student = student_named(name).student
        config = None if is_image_text(student) else student_config_from(student)
    except (ValueError, OSError) as error:
        raise ValueError(f"View {view!r} (views): {error}") from error
    if not isinstance(config, (type(None), TimmWrapperConfig, *MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING)):
        raise ValueError(f"View {view!r} (views): a model of the kind {config.model_type!r} is no image encoder.")


def view_name(view: str) -> str:
    """A folder's place is nobody's business."""
    name = view.removeprefix("image:")
    return f"image:{Path(name).name}" if Path(name).is_dir() else view


def encoder_by_student(name: str | None, image_size: int | None = None) -> ImageEncoder:
    """Any pretrained timm or transformers network with its own preprocessing, but for an `image_size`."""
    augmentation = AugmentationArguments(image_size=image_size, train_crop="none")
    built = build_student(student_named(name), augmentation, 0, {0: "0", 1: "1"}, None)
    return ImageEncoder.of_student(built.model, built.processor)


def encoder_of_fit(student: str | None, images: Dataset) -> ImageEncoder:
    """A student at the size that `g4i fit` chooses for these images."""
    return encoder_by_student(student, image_size_for(student_named(student).student, images)[0])


def order_of(split: Dataset) -> tuple[list[str], np.ndarray]:
    """Digests of the images, and for each a number (N,) by its content, the same for equal ones."""
    digests = image_digests(split.select_columns([columns.IMAGE_ID, columns.IMAGE]))[columns.IMAGE_DIGEST]
    return digests, np.fromiter((int(digest[:15], 16) for digest in digests), dtype=np.int64, count=len(digests))
