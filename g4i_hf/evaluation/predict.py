"""Running an aligned model over the splits of a data set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL.Image import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import BaseImageProcessor

from .. import columns
from ..data.collator import AlignmentCollator, finish_batch
from ..data.dataset import CaptionedImages
from ..data.texts import Texts
from ..modeling import AlignedImageClassification
from ..modeling.processing import saved_processor, student_processor
from ..training.ema import EMA_FILE


@dataclass
class Predictions:
    """
    Args:
        image_ids: n of them.
        labels: (n,) class indices, -100 where unlabelled.
        logits: (n, num_labels) float32.
        image_embeds: (n, D) float32, unit norm.
        text_mean: (D,) what the model subtracts from text embeddings, if anything.
        features: (n, F) float32, what enters the classifier; None unless asked for.
    """

    image_ids: list[str]
    labels: np.ndarray
    logits: np.ndarray
    image_embeds: np.ndarray
    text_mean: np.ndarray | None = None
    features: np.ndarray | None = None

    @property
    def predicted(self) -> np.ndarray:
        return self.logits.argmax(-1)

    @property
    def scores(self) -> np.ndarray:
        """(n, num_labels) softmax of the logits, as in a pipeline."""
        return torch.from_numpy(self.logits).softmax(-1).numpy()

    def to_dataset(self, id2label: dict[int, str]) -> Dataset:
        """A row an image: `image_id`, `label`, `prediction` (names) and `score` (softmax)."""
        return Dataset.from_dict(
            {
                columns.IMAGE_ID: self.image_ids,
                "label": [id2label[int(label)] if label >= 0 else None for label in self.labels],
                "prediction": [id2label[int(label)] for label in self.predicted],
                "score": self.scores.max(-1),
            }
        )


def load_run(run: str | Path, weights: str = "raw") -> tuple[AlignedImageClassification, BaseImageProcessor]:
    """
    The aligned model of a run folder, in evaluation mode, and the image processor of its student.

    Args:
        run: run folder.
        weights: `"raw"`, or `"ema"` for the moving average of the student, running statistics included. The projector
            has no average: it is the raw one either way.

    Raises:
        FileNotFoundError: when the folder holds no finished run, or no average.
    """
    check_run(run, weights)
    model = AlignedImageClassification.from_pretrained(run).eval()
    if weights == "ema":
        model.student.load_state_dict(load_file(Path(run) / EMA_FILE))
    config = model.config.student_config
    return model, student_processor(config, saved_processor(run, config))


def check_run(run: str | Path, weights: str = "raw") -> None:
    """
    Raises:
        FileNotFoundError: when the folder holds no trained model, or no average where its weights are wanted.
    """
    if not Path(run).is_dir():
        raise FileNotFoundError(f"There is no run {str(run)!r}: no such folder.")
    if not (Path(run) / "model.safetensors").is_file():
        raise FileNotFoundError(f"{run} holds no trained model. Train one with recipes/train.py --output_dir {run}.")
    if weights == "ema" and not (Path(run) / EMA_FILE).is_file():
        raise FileNotFoundError(f"{run} holds no {EMA_FILE}: it was trained without ema_decay. Use --weights raw.")


@dataclass
class EvalTransform:
    """A class rather than a function within one, so that processes of a data loader can take it along."""

    processor: BaseImageProcessor

    def __call__(self, image: Image) -> torch.Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]


def eval_transform(processor: BaseImageProcessor) -> EvalTransform:
    """PIL image -> (3, H, W): one image at a time, as in a pipeline, so that predictions agree to the bit."""
    return EvalTransform(processor)


def for_prediction(split: Dataset, transform: Callable) -> CaptionedImages:
    """The images and labels of a split."""
    needed = [name for name in (columns.IMAGE, columns.IMAGE_ID, columns.LABEL) if name in split.column_names]
    return CaptionedImages(split.select_columns(needed), transform)


@torch.no_grad()
def predict(
    model: AlignedImageClassification,
    processor: BaseImageProcessor,
    split: Dataset,
    accelerator: Accelerator,
    batch_size: int = 64,
    num_workers: int = 0,
    description: str = "Evaluating",
    output_features: bool = False,
) -> Predictions:
    """
    Logits and image embeddings, on request features too, of every row of a split, in its order, the processes sharing
    the work.
    """
    if len(split) == 0:
        raise ValueError("A split without rows cannot be evaluated.")
    images = for_prediction(split, eval_transform(processor))
    text_mean = getattr(model, "text_mean", None)
    model = accelerator.prepare_model(model, evaluation_mode=True)
    names = ("logits", "image_embeds", "features") if output_features else ("logits", "image_embeds")
    outputs = run_batches(model, images, accelerator, batch_size, num_workers, description, names)
    return Predictions(
        image_ids=split[columns.IMAGE_ID][:],
        labels=images.labels,
        text_mean=text_mean.float().cpu().numpy() if text_mean is not None else None,
        **outputs,
    )


@torch.no_grad()
def run_batches(
    model: torch.nn.Module,
    images: CaptionedImages,
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int,
    description: str,
    names: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """
    The named outputs of a prepared model, (n, ...) float32, for all images in their order and on all processes.
    """
    loader = DataLoader(images, batch_size=batch_size, collate_fn=AlignmentCollator(), num_workers=num_workers)
    loader = accelerator.prepare(loader)
    wanted = {"output_image_embeds": "image_embeds" in names, "output_features": "features" in names}
    gathered: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for batch in tqdm(loader, desc=description, unit="batch", disable=not accelerator.is_main_process, leave=False):
        outputs = model(finish_batch(batch)["pixel_values"], **wanted)
        for name, values in accelerator.gather_for_metrics({name: outputs[name].float() for name in names}).items():
            gathered[name].append(values.cpu())
    return {name: torch.cat(parts).numpy() for name, parts in gathered.items()}


def texts_of(split: Dataset, predictions: Predictions) -> Texts | None:
    """
    The texts of a split as its image embeddings are compared with them: float32, centred where the model is. None
    without any, or where they have another size than the image embeddings, as those of a baseline may.
    """
    texts = Texts.of(split)
    if texts is None or len(texts.embeds) == 0 or texts.embeds.shape[1] != predictions.image_embeds.shape[1]:
        return None
    texts.embeds = centred(texts.embeds, predictions)
    return texts


def centred(text_embeds: np.ndarray, predictions: Predictions) -> np.ndarray:
    """(n, D) float32: text embeddings without the mean that the model subtracts, of unit norm."""
    text_embeds = text_embeds.astype(np.float32)
    if predictions.text_mean is None:
        return text_embeds
    text_embeds = text_embeds - predictions.text_mean
    return text_embeds / np.maximum(np.linalg.norm(text_embeds, axis=1, keepdims=True), 1e-12)
