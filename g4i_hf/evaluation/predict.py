"""Logits, features and embeddings of an aligned model for the splits of a dataset."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import BaseImageProcessor

from .. import columns
from ..data.dataset import AlignmentCollator, CaptionedImages, finish_batch, for_inference
from ..data.texts import Texts, caption_lists
from ..modeling import AlignedImageClassification
from ..modeling.processing import EvalTransform, saved_processor, student_processor
from ..names import EMA_FILE, check_run
from ..output import progress_bar

BLOCK = 1024  # rows processed at once, so that memory does not grow with the split


def blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, rows, BLOCK))


@dataclass
class Predictions:
    """Predictions for n images, in the order of their split."""

    image_ids: list[str]
    labels: np.ndarray  # (n,) class indices, -100 for unlabelled images
    logits: np.ndarray  # (n, num_labels) float32
    image_embeds: np.ndarray | None  # (n, D) float32, unit norm; None without texts to compare them with
    features: np.ndarray | None = None  # (n, F) float32, the input of the classifier; None unless requested

    @cached_property
    def predicted(self) -> np.ndarray:
        """(n,) class indices."""
        return np.concatenate([self.logits[rows].argmax(-1) for rows in blocks(len(self.logits))])

    @cached_property
    def score(self) -> np.ndarray:
        """(n,) softmax of the predicted class, as in a pipeline."""
        parts = [torch.from_numpy(self.logits[rows]).softmax(-1).amax(-1) for rows in blocks(len(self.logits))]
        return torch.cat(parts).numpy()

    def to_dataset(self, id2label: dict[int, str], scenes: np.ndarray) -> Dataset:
        """A row an image: `image_id`, `label`, `prediction` (names), `score` (softmax) and the number of its scene."""
        return Dataset.from_dict(
            {
                columns.IMAGE_ID: self.image_ids,
                "label": [id2label[int(label)] if label >= 0 else None for label in self.labels],
                "prediction": [id2label[int(label)] for label in self.predicted],
                "score": self.score,
                "scene": scenes,
            }
        )


def load_run(run: str | Path, weights: str = "raw") -> tuple[AlignedImageClassification, BaseImageProcessor]:
    """The aligned model of a run, in evaluation mode, with `raw` or `ema` weights, and its image processor."""
    check_run(run, weights)
    model = AlignedImageClassification.from_pretrained(run, trust_remote_code=False).eval()
    if weights == "ema":
        model.student.load_state_dict(load_file(Path(run) / EMA_FILE))
    config = model.config.student_config
    return model, student_processor(config, saved_processor(run, config))


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
    output_image_embeds: bool | None = None,
    features: np.ndarray | None = None,
) -> Predictions | None:
    """
    Logits for every row of a split, in its order, computed by all processes; image embeddings if the split has texts
    or on request; features on request. The arrays are memory-mapped files, so that memory does not grow with the
    split. None in processes other than the main one. With `features` (n, F) of the same backbone no image is read.
    Raises ValueError for a split without rows.
    """
    if len(split) == 0:
        raise ValueError("A split without rows cannot be evaluated.")
    needed = [name for name in (columns.IMAGE, columns.IMAGE_ID, columns.LABEL) if name in split.column_names]
    images = CaptionedImages(split.select_columns(needed), EvalTransform(processor))
    if features is not None:
        images.use_features(features)
    if output_image_embeds is None:
        output_image_embeds = columns.TEXT_EMBEDS in split.column_names
    names = ("logits", *["image_embeds"] * output_image_embeds, *["features"] * output_features)
    requested = {"output_image_embeds": output_image_embeds, "output_features": output_features}
    model = accelerator.prepare_model(model, evaluation_mode=True)
    loader = DataLoader(images, batch_size=batch_size, collate_fn=AlignmentCollator(), num_workers=num_workers)
    loader = accelerator.prepare(loader)
    # Anonymous memory-mapped files, freed with the last reference
    files = {name: tempfile.TemporaryFile() for name in names}  # noqa: SIM115
    last: dict[str, np.ndarray] = {}
    shown = {"desc": description, "unit": "batch", "shown": accelerator.is_main_process, "leave": False}
    for batch in progress_bar(loader, **shown):
        batch = for_inference(finish_batch(batch))
        outputs = model(**{name: batch[name] for name in ("pixel_values", "features") if name in batch}, **requested)
        gathered = accelerator.gather_for_metrics({name: outputs[name].float() for name in names})
        last = {name: values.cpu().numpy() for name, values in gathered.items()}
        if accelerator.is_main_process:
            for name, values in last.items():
                files[name].write(np.ascontiguousarray(values).data)
    if not accelerator.is_main_process:
        return None
    mapped: dict[str, Any] = {"image_embeds": None}
    for name, values in last.items():
        files[name].flush()
        mapped[name] = np.memmap(files[name], values.dtype, "c", shape=(len(split), *values.shape[1:]))
    return Predictions(
        image_ids=split[columns.IMAGE_ID][:],
        labels=images.labels,
        **mapped,
    )


def texts_of(split: Dataset, predictions: Predictions) -> Texts | None:
    """The texts of a split, in float32, to compare with image embeddings; None if their sizes differ."""
    texts = Texts.of(split) if predictions.image_embeds is not None else None
    if texts is None or len(texts.embeds) == 0 or texts.embeds.shape[1] != predictions.image_embeds.shape[1]:
        return None
    texts.embeds = texts.embeds[:].astype(np.float32)
    return texts


def captions_of(split: Dataset, texts: Texts) -> list[str]:
    """The caption of each text; the last one of a row with fewer captions than texts."""
    rows = zip(caption_lists(split), texts.counts, strict=True)
    return [captions[min(k, len(captions) - 1)] for captions, count in rows for k in range(count)]
