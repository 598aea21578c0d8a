"""Zero-shot classification, and images by a text, with an aligned model and the text encoder of its captions."""

import base64
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import torch
from datasets import Dataset, Image
from huggingface_hub import get_session
from huggingface_hub.constants import HF_HOME
from transformers import BaseImageProcessor, TimmWrapperConfig, ZeroShotImageClassificationPipeline

from .. import columns
from ..data.images import HEIC_REMEDY, IMAGE_SUFFIXES, UNOPENED_SUFFIXES, open_image, to_rgb, why_unnamable
from ..data.record import content_digest
from ..embedding.encoders import TextEncoder
from ..files import replacing_file
from ..modeling import AlignedImageClassification
from ..modeling.modeling_aligned import MAX_LOGIT_SCALE
from ..modeling.processing import student_processor
from ..names import file_digest
from ..output import progress_bar
from ..training.features import FEATURES, ImageEncoder, encoder_digest, stored_features
from .checkpoint import TextSide, open_aligned, open_encoder

logger = logging.getLogger(__name__)
CACHE = Path(HF_HOME) / "g4i_hf" / "search"  # of `g4i search`, as nothing is added to a release
BATCH, THREADS = 32, 8
DEFAULT_TEMPERATURE = 0.2  # the default of `align_temperature`, for models without a record of theirs
PLACE_OF_LABEL = "{}"
TEXTS_AT_ONCE = 64
SETS_KEPT = 16  # sets of labels with cached vectors

Images: TypeAlias = str | Path | PIL.Image.Image
Templates: TypeAlias = str | Sequence[str]


class ZeroShotImageClassifier(ZeroShotImageClassificationPipeline):
    """
    transformers' `pipeline("zero-shot-image-classification")` with an aligned model for images and the text encoder of
    its captions for labels, which runs once for each set of labels.

    Args:
        model: Hub id or folder of a released student (with `aligned/`), of an aligned model or of a run; or the model.
        subfolder: of the aligned model; by default it is searched.
        revision: branch, tag or commit on the Hub.
        token: of the Hub.
        text_encoder: another name or folder of the encoder, or a loaded encoder. Required if it was in a local folder;
            its files must be the same.
        temperature: of the scores; by default the learned one, otherwise that of training.
        image_processor: required for a model object whose student is not a timm model.
        device: as in `pipeline`; by default an accelerator, if available.
        kwargs: further arguments of `pipeline`, such as `batch_size`.

    Raises:
        OSError: if the name is not found.
        ValueError: without an aligned model, or for that of a baseline.

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
            config = model.config.student_config
            model, side = model.eval(), TextSide()
            if image_processor is None and not isinstance(config, TimmWrapperConfig):
                raise ValueError(
                    f"A student of type {config.model_type} does not know its image size: give image_processor."
                )
            image_processor = image_processor or student_processor(config, fallback=None)
        else:
            model, saved, side = open_aligned(str(model), subfolder, revision, token)
            image_processor = image_processor or saved
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be positive.")
        self.side = side.moved(text_encoder) if text_encoder is not None else side
        self._temperature = temperature
        self._kept: dict[tuple[tuple[str, ...], tuple[str, ...]], torch.Tensor] = {}  # vectors of sets of labels
        task = "zero-shot-image-classification"
        super().__init__(model=model, image_processor=image_processor, task=task, device=device, **kwargs)

    def check_model_type(self, supported_models: Any) -> None:
        """Accept any model: those that transformers lists have a text tower, and this one does not."""

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Loaded on first use. Raises OSError if that fails; ValueError if the encoder is unknown or another one."""
        encoder, name = open_encoder(self.side, self.device)
        if encoder.dim != self.model.config.text_embed_dim:
            raise ValueError(
                f"The text encoder {name} gives vectors of {encoder.dim} numbers, but the model was aligned with "
                f"vectors of {self.model.config.text_embed_dim}. Name the encoder of its captions as text_encoder."
            )
        return encoder

    def embed_texts(self, labels: Sequence[str], templates: Sequence[str] = (PLACE_OF_LABEL,)) -> torch.Tensor:
        """(n, D) of unit norm; of several templates the mean, as in CLIP (arXiv 2103.00020, section 3.1.4)."""
        key = (tuple(labels), tuple(templates))
        if key not in self._kept:
            texts = [template.replace(PLACE_OF_LABEL, label) for template in templates for label in labels]
            starts = range(0, len(texts), TEXTS_AT_ONCE)
            batches = [self.text_encoder.encode(texts[start : start + TEXTS_AT_ONCE]) for start in starts]
            vectors = torch.from_numpy(np.concatenate(batches)).float()
            means = vectors.unflatten(0, (len(templates), len(labels))).mean(0)
            self._kept[key] = torch.nn.functional.normalize(means, dim=-1)
            if len(self._kept) > SETS_KEPT:
                del self._kept[next(iter(self._kept))]  # the oldest
        return self._kept[key]

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
            image: path, URL, PIL image, or a list, dataset or generator of them.
            candidate_labels: the classes, as a list or separated by commas.
            hypothesis_template: text for a label. The default is the label only, where transformers has "This is a
                photo of {}.": captions describe an image, and rarely say that it is a photo. Several templates are
                averaged.
            kwargs: `batch_size`, `num_workers`, `timeout`.

        Returns:
            A list of `{"score", "label"}`, the best first; a list of such lists for several images. The scores are a
                softmax over the labels; for a model with a learned bias (`siglip`), as in transformers, a sigmoid of
                each.

        Raises:
            ValueError: without labels, or for a template without `{}`.
        """
        if isinstance(candidate_labels, str):
            candidate_labels = candidate_labels.split(",")
        labels = [label.strip() if isinstance(label, str) else label for label in candidate_labels or ()]
        labels = [label for label in labels if label != ""]
        if not labels or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"candidate_labels is {candidate_labels!r}; give class names, in a list or with commas.")
        templates = (hypothesis_template,) if isinstance(hypothesis_template, str) else tuple(hypothesis_template)
        if not templates or any(PLACE_OF_LABEL not in template for template in templates):
            raise ValueError(f"hypothesis_template is {hypothesis_template!r}; the label needs a place in it: {{}}.")
        return super().__call__(image, labels, hypothesis_template=templates, **kwargs)

    def embed_images(self, images: Images | list[Images] | Iterator[Images], **kwargs) -> torch.Tensor:
        """(D,) for an image, (n, D) for a list or generator: projected features of unit norm, float32 on the CPU."""
        embeds = super().__call__(images, None, **kwargs)
        if isinstance(embeds, torch.Tensor):
            return embeds
        embeds = list(embeds)
        return torch.stack(embeds) if embeds else torch.empty(0, self.model.config.text_embed_dim)

    @property
    def scale(self) -> float:
        """Factor of cosines: the inverse temperature."""
        if self._temperature is None and hasattr(self.model, "logit_scale"):
            return min(self.model.logit_scale.exp().item(), MAX_LOGIT_SCALE)
        return 1 / (self._temperature or self.side.temperature or DEFAULT_TEMPERATURE)

    # --- The steps of a pipeline ---

    def _sanitize_parameters(self, candidate_labels=None, hypothesis_template=None, timeout=None):
        texts = {"candidate_labels": candidate_labels, "hypothesis_template": hypothesis_template}
        for_postprocess = {name: value for name, value in texts.items() if value is not None}
        return ({"timeout": timeout} if timeout is not None else {}), {}, for_postprocess

    def preprocess(self, image, timeout=None):
        if isinstance(image, (str, Path)):
            image = {"bytes": _content_at(str(image), timeout), "path": str(image)}
        image = to_rgb(open_image(image))
        return {"pixel_values": self.image_processor(images=image, return_tensors="pt")["pixel_values"]}

    def _forward(self, model_inputs):
        outputs = self.model(**model_inputs, output_image_embeds=True)
        return {"image_embeds": outputs.image_embeds.float()}

    def postprocess(self, model_outputs, candidate_labels=None, hypothesis_template=(PLACE_OF_LABEL,)):
        embeds = model_outputs["image_embeds"][0]
        if candidate_labels is None:
            return embeds
        logits = self.scale * (self.embed_texts(candidate_labels, hypothesis_template) @ embeds)
        if hasattr(self.model, "logit_bias"):
            scores = (logits + self.model.logit_bias.cpu()).sigmoid()
        else:
            scores = logits.softmax(-1)
        ranked = sorted(zip(scores.tolist(), candidate_labels, strict=True), key=lambda pair: -pair[0])
        return [{"score": score, "label": label} for score, label in ranked]


class ImageSearch:
    """
    Finds images by text. Every image is embedded once; a query takes one run of the text encoder. In a folder of
    `g4i fit`, images that it has seen are embedded by their stored features.

    Args:
        model: run folder, aligned student or Hub id, see [`~g4i_hf.ZeroShotImageClassifier`]; or a classifier.
        images: folder, including subfolders; list of files or PIL images; or dataset with a column `image`.
        cache: folder for the embeddings of an image folder, by the content of the images and the model. If it is not
            writable, they are not stored.
        kwargs: of [`~g4i_hf.ZeroShotImageClassifier`], such as `text_encoder` and `device`.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no image.

    Example:
        >>> search = ImageSearch("runs/pictures", "pictures/validation")
        >>> search("a red flower", top_k=1)
        [{'image': 'pictures/validation/roses/7.jpg', 'score': 0.61}]
    """

    def __init__(
        self,
        model: str | Path | ZeroShotImageClassifier,
        images: str | Path | Sequence[Any] | Dataset,
        cache: str | Path | None = None,
        **kwargs,
    ):
        name = None if isinstance(model, ZeroShotImageClassifier) else Path(model)
        if not isinstance(model, ZeroShotImageClassifier):
            model = ZeroShotImageClassifier(model, **kwargs)
        self.classifier: ZeroShotImageClassifier = model
        self._features = None if name is None else self._features_of_fit(name)
        if isinstance(images, (str, Path)):
            images = files_in(images)
        if not len(images):
            raise ValueError("images is empty: give at least one.")
        self.images: Sequence[Any] = images[columns.IMAGE] if isinstance(images, Dataset) else images
        self._stored = self.images
        if isinstance(images, Dataset):
            self._stored = images.cast_column(columns.IMAGE, Image(decode=False))[columns.IMAGE]
        self.image_embeds = self._cached(Path(cache) if cache else None)

    def __call__(self, query: str, top_k: int = 5) -> list[dict[str, Any]]:
        """
        Returns:
            `{"image", "score"}` for each of the `top_k` nearest images, the best first: the image as given (a path,
                for a folder), and the cosine similarity of image and text.
        """
        text = self.classifier.embed_texts([query])[0].numpy()
        scores = self.image_embeds @ text
        best = [row for row in np.argsort(-scores, kind="stable")[:top_k] if not np.isnan(scores[row])]  # NaN is last
        return [{"image": self.images[row], "score": float(scores[row])} for row in best]

    def _cached(self, folder: Path | None) -> np.ndarray:
        """(n, D) float32 of unit norm; NaN for an unreadable image."""
        if not (folder or self._features) or not all(isinstance(image, str) for image in self._stored):
            return self._embedded([])
        with ThreadPoolExecutor(THREADS) as pool:
            digests = list(pool.map(_digest_of_file, self._stored))
        if folder is None:
            return self._embedded(digests)
        of_model = encoder_digest(self.classifier.model, self.classifier.image_processor)
        file = folder / f"{content_digest(' '.join([of_model, *digests]).encode())}.npy"
        if file.is_file():
            return np.load(file, allow_pickle=False)
        embeds = self._embedded(digests)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing_file(file) as staging, staging.open("wb") as opened:
                np.save(opened, embeds)
        except OSError as error:
            logger.info("The image embeddings are not cached: %s", error)
        return embeds

    def _features_of_fit(self, name: Path) -> Path | None:
        """The folder with features by this student that a `g4i fit` with this run or classifier has stored."""
        model = self.classifier.model
        if not model.takes_features:
            return None
        digest = ImageEncoder.of_student(model, self.classifier.image_processor).digest
        places = (place / FEATURES / digest for place in (name, name.parent))
        return next((place for place in places if place.is_dir()), None)

    def _embedded(self, digests: Sequence[str]) -> np.ndarray:
        """By the stored features of images with these digests, else by the images."""
        model, number = self.classifier.model, len(self.images)
        embeds = np.full((number, model.config.text_embed_dim), np.nan, dtype=np.float32)
        stored = stored_features(self._features) if self._features and digests else {}
        if known := [row for row, digest in enumerate(digests) if digest in stored]:
            features = torch.from_numpy(np.stack([stored[digests[row]] for row in known])).to(self.classifier.device)
            with torch.no_grad():
                embeds[known] = model(features=features, output_image_embeds=True).image_embeds.float().cpu().numpy()
        others = np.setdiff1d(np.arange(number), known)
        rows: list[int] = []

        def readable() -> Iterator[PIL.Image.Image]:
            """One at a time, as decoded images can be large."""
            bar = progress_bar(
                others.tolist(), desc="Embedding images", unit="image", leave=False, shown=len(others) > BATCH
            )
            for row in bar:
                if (image := _opened(self._stored[row])) is not None:
                    rows.append(row)
                    yield image

        if len(others):
            values = self.classifier.embed_images(readable(), batch_size=BATCH).numpy()  # which fills `rows`
            embeds[rows] = values
        if (bad := np.flatnonzero(np.isnan(embeds[:, 0]))).size:
            first = self._stored[bad[0]]
            where = first if isinstance(first, (str, Path)) else f"row {bad[0]}"
            logger.warning("%d of %d images cannot be read, such as %s.", len(bad), len(embeds), where)
        return embeds


def _content_at(address: str, timeout: float | None) -> bytes | None:
    """Of a URL; None for a file."""
    if address.startswith("data:"):
        return base64.b64decode(address.partition(",")[2])
    if address.startswith(("https://", "http://")):
        reply = get_session().get(address, timeout=timeout)
        reply.raise_for_status()
        return reply.content
    return None


def _digest_of_file(path: str) -> str:
    try:
        return file_digest(path)
    except OSError:
        return "unreadable"


def _opened(image: Any) -> PIL.Image.Image | None:
    """RGB and upright; None if it cannot be read."""
    if isinstance(image, (str, Path)):
        image = {"bytes": None, "path": str(image)}
    try:
        return to_rgb(open_image(image))
    except Exception:  # Pillow's readers raise almost anything for a damaged file
        return None


def files_in(folder: str | Path) -> list[str]:
    """The images in a folder and its subfolders, by name."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r} of images.")
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and not path.name.startswith(".")]
    files = sorted(str(path) for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
    if heic := sum(path.suffix.lower() in UNOPENED_SUFFIXES for path in paths):
        logger.warning("%s: %d HEIC images are not searched. %s", folder, heic, HEIC_REMEDY)
    if not files:
        raise FileNotFoundError(f"{folder} holds no image.")
    if why := next(filter(None, map(why_unnamable, files)), None):
        raise ValueError(f"Not all images can be taken: {why}")
    return files
