"""`ZeroShotImageClassifier`: classes by their names, without a classifier of them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor, TimmWrapperConfig, ZeroShotImageClassificationPipeline
from transformers.image_utils import load_image

from ..data.images import to_rgb
from ..embedding.encoders import TextEncoder
from ..modeling import AlignedImageClassification
from ..modeling.modeling_aligned import MAX_LOGIT_SCALE
from ..modeling.processing import student_processor
from .checkpoint import TextSide, open_aligned
from .encoder import open_encoder
from .label_texts import PLACE_OF_LABEL, LabelTexts, in_text_space

DEFAULT_TEMPERATURE = 0.2  # that of training, `align_temperature`, for models that say nothing of theirs

Images = str | Path | PIL.Image.Image
Templates = str | Sequence[str]


class ZeroShotImageClassifier(ZeroShotImageClassificationPipeline):
    """
    Called like transformers' `pipeline("zero-shot-image-classification")`, which it is: batches, devices and data sets
    work as there. The image goes through the aligned model, the labels through the text encoder of its captions, once
    for each set of labels.

    Args:
        model: Hub id or folder of a released student (with `aligned/`), of an aligned model or of a run; or the model.
        subfolder: where in it the aligned model lies; found where none is given.
        revision, token: of the Hub.
        text_encoder: another name of the captions' encoder, as after moving its folder; or an encoder. Needed where
            that was a local folder, and then the files of the one given must be the same.
        temperature: of the scores; by default the learned one, else that of training.
        image_processor: of a model that is given as an object and whose student is none of timm's.
        device: as in `pipeline`: an accelerator where there is one.
        kwargs: further arguments of `pipeline`, such as `batch_size`.

    Raises:
        OSError: when nothing is found under the name.
        ValueError: when it holds no aligned model, or that of a baseline.

    Example:
        >>> classifier = ZeroShotImageClassifier("me/my-student")
        >>> classifier("pear.png", candidate_labels=["a fruit", "a tool"])
        [{'score': 0.93, 'label': 'a fruit'}, {'score': 0.07, 'label': 'a tool'}]
    """

    def __init__(
        self,
        model: str | Path | AlignedImageClassification,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        text_encoder: str | Path | TextEncoder | None = None,
        temperature: float | None = None,
        image_processor: BaseImageProcessor | None = None,
        device: int | str | torch.device | None = None,
        **kwargs,
    ):
        if isinstance(model, AlignedImageClassification):
            model, side = model.eval(), TextSide()
            image_processor = image_processor or _own_processor(model)
        else:
            model, found, side = open_aligned(str(model), subfolder, revision, token)
            image_processor = image_processor or found
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be positive.")
        self.side = side.moved(text_encoder) if text_encoder is not None else side
        self._temperature, self._texts = temperature, None
        task = "zero-shot-image-classification"
        super().__init__(model=model, image_processor=image_processor, task=task, device=device, **kwargs)

    def check_model_type(self, supported_models: Any) -> None:
        """Whatever the list of transformers holds: its models carry a text tower, ours stands beside."""

    @property
    def texts(self) -> LabelTexts:
        """
        The text encoder, loaded when it is first needed: captions that come with their vectors do without.

        Raises:
            OSError: when it cannot be loaded.
            ValueError: when none is known, when it is not the one of the captions, or its vectors do not fit.
        """
        if self._texts is None:
            self._texts = LabelTexts(self.model, *open_encoder(self.side, self.device))
        return self._texts

    def __call__(
        self,
        image: Images | list[Images],
        candidate_labels: Sequence[str] | str | None = None,
        *,
        hypothesis_template: Templates = PLACE_OF_LABEL,
        **kwargs,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """
        Args:
            image: path, URL, PIL image, or a list, data set or generator of them.
            candidate_labels: the classes, as a list or with commas between them.
            hypothesis_template: what the text encoder reads of a label. The default is the label as it stands, where
                transformers has "This is a photo of {}.": captions say what is to be seen, and seldom that it is a
                photograph. Several templates are averaged.
            kwargs: `batch_size`, `num_workers`, `timeout`.

        Returns:
            A list of `{"score", "label"}`, the best first; a list of such lists for several images. The scores are a
            softmax over the labels; of a model with a learned bias (`siglip`), as in transformers, a sigmoid of each.

        Raises:
            ValueError: without labels, or for a template without `{}`.
        """
        labels, templates = _labels(candidate_labels), _templates(hypothesis_template)
        return super().__call__(image, labels, hypothesis_template=templates, **kwargs)

    def embed_images(self, images: Images | list[Images], **kwargs) -> torch.Tensor:
        """(D,) of an image, (n, D) of a list of them: projected features of unit norm, float32 on the CPU."""
        embeds = super().__call__(images, None, **kwargs)
        return embeds if isinstance(embeds, torch.Tensor) else torch.stack(list(embeds))

    def nearest(
        self,
        images: Images | list[Images],
        captions: Sequence[str],
        *,
        text_embeds: np.ndarray | torch.Tensor | None = None,
        top_k: int = 5,
        **kwargs,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """
        The captions that say most nearly what an image shows.

        Args:
            images: as in a call.
            captions: to choose from.
            text_embeds: (n, D) their vectors as `g4i embed` writes them; without, they are embedded now.
            top_k: how many.
            kwargs: `batch_size`, `num_workers`, `timeout`.

        Returns:
            A list of `{"score", "caption"}`, the best first, the score a cosine; a list of such lists for several
            images.

        Raises:
            ValueError: without captions, or when the vectors do not fit them or the model.
        """
        captions = list(captions)
        if not captions:
            raise ValueError("captions is empty: give at least one.")
        texts = self.texts.of(captions) if text_embeds is None else self._given(text_embeds, captions)
        embeds = self.embed_images(images, **kwargs)
        ranked = (embeds.view(-1, embeds.shape[-1]) @ texts.T).topk(min(top_k, len(captions)))
        found = [
            [{"score": score, "caption": captions[position]} for score, position in zip(*row, strict=True)]
            for row in zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True)
        ]
        return found if embeds.ndim == 2 else found[0]

    def _given(self, text_embeds: np.ndarray | torch.Tensor, captions: list[str]) -> torch.Tensor:
        expected = (len(captions), self.model.config.text_embed_dim)
        if tuple(text_embeds.shape) != expected:
            raise ValueError(
                f"text_embeds has the shape {tuple(text_embeds.shape)}, but captions and model need {expected}."
            )
        return in_text_space(self.model, torch.as_tensor(text_embeds))

    @property
    def scale(self) -> float:
        """What cosines are multiplied with: the inverse temperature."""
        if self._temperature is None and hasattr(self.model, "logit_scale"):
            return min(self.model.logit_scale.exp().item(), MAX_LOGIT_SCALE)
        return 1 / (self._temperature or self.side.temperature or DEFAULT_TEMPERATURE)

    # --- The steps of a pipeline ---

    def _sanitize_parameters(self, candidate_labels=None, hypothesis_template=None, timeout=None):
        texts = {"candidate_labels": candidate_labels, "hypothesis_template": hypothesis_template}
        given = {name: value for name, value in texts.items() if value is not None}
        return ({"timeout": timeout} if timeout is not None else {}), {}, given

    def preprocess(self, image, timeout=None):
        if isinstance(image, (str, Path)) and os.path.isfile(image):
            image = PIL.Image.open(image)
        image = to_rgb(image) if isinstance(image, PIL.Image.Image) else load_image(image, timeout=timeout)
        return {"pixel_values": self.image_processor(images=image, return_tensors="pt")["pixel_values"]}

    def _forward(self, model_inputs):
        outputs = self.model(**model_inputs, output_image_embeds=True)
        return {"image_embeds": outputs.image_embeds.float()}

    def postprocess(self, model_outputs, candidate_labels=None, hypothesis_template=(PLACE_OF_LABEL,)):
        embeds = model_outputs["image_embeds"][0]
        if candidate_labels is None:
            return embeds
        logits = self.scale * (self.texts.of(candidate_labels, hypothesis_template) @ embeds)
        if hasattr(self.model, "logit_bias"):
            scores = (logits + self.model.logit_bias.cpu()).sigmoid()
        else:
            scores = logits.softmax(-1)
        ranked = sorted(zip(scores.tolist(), candidate_labels, strict=True), key=lambda pair: -pair[0])
        return [{"score": score, "label": label} for score, label in ranked]


def _own_processor(model: AlignedImageClassification) -> BaseImageProcessor:
    config = model.config.student_config
    if not isinstance(config, TimmWrapperConfig):
        raise ValueError(f"A student of type {config.model_type} does not know its image size: give image_processor.")
    return student_processor(config, fallback=None)


def _labels(labels: Sequence[str] | str | None) -> list[str]:
    """
    Raises:
        ValueError: when there is no label, or one is no text.
    """
    found = [label.strip() for label in labels.split(",")] if isinstance(labels, str) else list(labels or ())
    found = [label for label in found if not isinstance(label, str) or label.strip()]
    if not found or not all(isinstance(label, str) for label in found):
        raise ValueError(f"candidate_labels is {labels!r}; give class names, as a list or with commas between them.")
    return found


def _templates(templates: Templates) -> tuple[str, ...]:
    """
    Raises:
        ValueError: when there is none, or a label has no place in one.
    """
    found = (templates,) if isinstance(templates, str) else tuple(templates)
    without = [template for template in found if PLACE_OF_LABEL not in template]
    if not found or without:
        wrong = without[0] if without else templates
        raise ValueError(f"hypothesis_template is {wrong!r}; the label needs a place in it: 'a drawing of {{}}'.")
    return found
