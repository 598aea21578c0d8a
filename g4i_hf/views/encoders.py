"""Encoders of images: the student of `g4i fit`, or any other network with its own weights and preprocessing."""

from pathlib import Path

import numpy as np
import timm
import torch
from datasets import Dataset
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoImageProcessor, TimmWrapperConfig
from transformers.utils import cached_file

from .. import columns
from ..data.classes import terms_of, texts_of
from ..data.images import open_image
from ..embedding.encoders import encoder_identity, load_encoder, load_tower, model_type_of
from ..modeling.configuration_aligned import AlignedImageClassificationConfig
from ..modeling.packaged import DEFAULT_STUDENT, available_student
from ..modeling.processing import EvalTransform, image_size_of
from ..modeling.student import student_config_from
from ..names import folder_digest, folder_or_id, loading
from ..options import AugmentationArguments, EncoderArguments, StudentArguments
from ..training.features import FEATURES, ImageEncoder, encoder_digest, image_features
from ..training.prepare import build_student, check_student
from .kinds import STUDENT_VIEW
from .stages import Inputs, Maker, NewView

SMALLEST, ENLARGED = 128, 4  # pixels, and times: pretrained students see more in small images that are enlarged
SAMPLE = 200  # images that decide the size
MARKS = {"config.json": AlignedImageClassificationConfig.model_type, "README.md": "\n- g4i_hf\n"}  # of runs and cards


def student_named(name: str | None, pretrained: bool = True) -> StudentArguments:
    """The one that the user names, or a small pretrained one. A ValueError for one that may have learned labels."""
    student = StudentArguments(student=available_student(name or DEFAULT_STUDENT), pretrained=pretrained)
    check_student(student)
    if _is_of_ours(student.student):
        raise ValueError(
            f"{name} is a student of g4i_hf, which may have been trained on these labels: then nothing can judge by "
            "it. Name the network that it started from."
        )
    return student


def _is_of_ours(name: str) -> bool:
    if timm.is_model(name) or name in CONFIG_MAPPING:
        return False
    may_be_missing = [
        f"_raise_exceptions_for_{what}" for what in ("missing_entries", "connection_errors", "gated_repo")
    ]
    paths = {file: cached_file(name, file, **dict.fromkeys(may_be_missing, False)) for file in MARKS}
    return any(path and MARKS[file] in Path(path).read_text("utf-8", "replace") for file, path in paths.items())


def image_size_for(student: str, images: Dataset) -> tuple[int | None, str]:
    """The usual size of a timm student, less for tiny images, and a line about it; None where it is fixed."""
    config = student_config_from(student)
    if not isinstance(config, TimmWrapperConfig):
        return None, ""
    rows = np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int)
    sides = [min(open_image(image).size) for image in images.select(rows)[columns.IMAGE]]
    known = timm.get_pretrained_cfg(student) if timm.is_model(student) else None
    usual = known.input_size[-1] if known else image_size_of(config)
    side = float(np.median(sides))
    size = min(usual, max(SMALLEST, int(ENLARGED * side) // 32 * 32))
    line = f"Image size: {size} px; the shorter side of the median image has {side:.0f}."
    return size, f"{line} A smaller --image_size is faster and usually less accurate."


class Encoders(Maker):
    """`image:NAME` of an encoder, or `image:student`"""

    is_computed = True

    @property
    def has_names(self) -> bool:
        return self.view != STUDENT_VIEW and is_image_text(self.what)

    def check(self) -> bool:
        if self.view == STUDENT_VIEW:
            return False
        try:
            student = student_named(self.what).student
            config = None if is_image_text(student) else student_config_from(student)
        except (ValueError, OSError) as error:
            raise ValueError(f"View {self.view!r} (views): {error}") from error
        if not isinstance(config, (type(None), TimmWrapperConfig, *MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING)):
            what = f"a model of the kind {config.model_type!r} is no image encoder"
            raise ValueError(f"View {self.view!r} (views): {what}.")
        return self.has_names

    def digests(self, images: Dataset) -> dict[str, str]:
        is_folder = self.view != STUDENT_VIEW and Path(self.what).is_dir()
        return {f"the encoder {self.what}": folder_digest(self.what)} if is_folder else {}

    def encoder(self) -> ImageEncoder:
        """That of `image:NAME`."""
        if not self.has_names:
            return encoder_by_student(self.what)
        tower = ImageTower(self.what)
        return ImageEncoder(tower, EvalTransform(tower.processor), tower, encoder_digest(tower, tower.processor))

    def make(self, inputs: Inputs) -> NewView:
        is_student = self.view == STUDENT_VIEW
        encoder = encoder_of_fit(inputs.student, inputs.images) if is_student else self.encoder()
        name = f"image:{folder_or_id(self.what)}"  # without the place of a folder, which is private
        has_names, device = self.has_names, inputs.accelerator.device
        rows = inputs.images.select_columns([columns.IMAGE, columns.IMAGE_ID])

        def class_values() -> np.ndarray | None:
            is_wanted = has_names and inputs.id2label and inputs.accelerator.is_main_process
            return named_in_its_space(self.what, inputs.id2label, device) if is_wanted else None

        def values() -> np.ndarray:
            place = Path(inputs.output_dir) / FEATURES
            return image_features(encoder, rows, place, inputs.accelerator, description=f"Features, {name}")

        text_encoder = encoder_identity(EncoderArguments(self.what)) if has_names else None
        depends_on = {"encoder_digest": encoder.digest, "text_encoder": text_encoder}
        return NewView(name, has_names, depends_on, values, class_values)


def encoder_by_student(name: str | None, image_size: int | None = None) -> ImageEncoder:
    """Any pretrained timm or transformers network with its own preprocessing, but for an `image_size`."""
    augmentation = AugmentationArguments(image_size=image_size, train_crop="none")
    built = build_student(student_named(name), augmentation, 0, {0: "0", 1: "1"}, None)
    return ImageEncoder.of_student(built.model, built.processor)


def encoder_of_fit(student: str | None, images: Dataset) -> ImageEncoder:
    """A student at the size that `g4i fit` chooses for these images."""
    return encoder_by_student(student, image_size_for(student_named(student).student, images)[0])


# --- Encoders of images and texts in one space: CLIP, SigLIP and SigLIP 2 --------------------------------------------


# By `model_type`: the image tower, and the output that lies in the space of the texts
IMAGE_TOWERS = {
    "clip": ("CLIPVisionModelWithProjection", "image_embeds"),
    "siglip": ("SiglipVisionModel", "pooler_output"),  # also SigLIP 2
}
WORDINGS = (
    "a photo of a {}.",
    "a picture that shows a {}.",
    "a close-up of a {}.",
    "a {} in the middle of a photo.",
    "a {}, seen from a distance.",
)
TEXTS_AT_ONCE = 64


def is_image_text(name: str) -> bool:
    """Whether a folder or Hub id is an encoder of images and texts, by its configuration."""
    return not timm.is_model(name) and model_type_of(name) in IMAGE_TOWERS


class ImageTower(torch.nn.Module):
    """(B, 3, H, W) pixels -> (B, D) of unit norm. Raises OSError, with the reason, if it cannot be loaded."""

    def __init__(self, name: str):
        super().__init__()
        model_class, self.output = IMAGE_TOWERS[model_type_of(name)]
        with loading(f"The image encoder {name!r}"):
            self.model = load_tower(model_class, name, None, "image")
            self.processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        embeds = getattr(self.model(pixel_values=pixels), self.output)
        return torch.nn.functional.normalize(embeds.float(), dim=-1)


def named_in_its_space(name: str, id2label: dict[int, str], device: str | torch.device) -> np.ndarray:
    """
    (C, D) float32: each class by the text tower, the mean over its terms in some wordings and its description; zeros
    for a name that says nothing, such as `LABEL_3`. An OSError for an encoder without a text tower.
    """
    encoder = load_encoder(name, device=device)
    means = np.zeros((len(id2label), encoder.dim), dtype=np.float32)
    texts: list[tuple[int, str]] = []
    for row in sorted(id2label):
        names, description = texts_of(id2label, row)
        terms = dict.fromkeys(term for name in names for term in terms_of(name))
        texts += [(row, wording.format(term)) for term in terms for wording in WORDINGS]
        texts += [(row, description)] * len(WORDINGS) if description else []  # counts as one term
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        rows, batch = zip(*texts[start : start + TEXTS_AT_ONCE], strict=True)
        np.add.at(means, list(rows), encoder.encode(list(batch)))
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
