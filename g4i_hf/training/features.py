"""Features of images by a frozen encoder, computed once and stored in Parquet files, by the content of each image."""

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image as PILImage
from torch import nn
from torch.utils.data import DataLoader
from transformers import BaseImageProcessor

from .. import columns
from ..data.dataset import AlignmentCollator, CaptionedImages, finish_batch, for_inference
from ..data.images import open_image, to_rgb
from ..data.near_copies import SIDE
from ..data.record import image_digests
from ..data.texts import column_of, read_vectors
from ..files import replacing_file
from ..modeling import AlignedImageClassification
from ..modeling.processing import EvalTransform
from ..modeling.student import classifier_layers
from ..output import progress_bar

ROWS_A_FILE = 1024  # an interruption loses fewer rows than this
BATCH_ON_CPU, BATCH = 16, 256  # a small batch fits the cache of a CPU
FEATURES = "features"  # their folder in a run folder


@dataclass
class ImageEncoder:
    module: nn.Module  # holds the weights
    transform: Callable[[Any], torch.Tensor]  # an image -> its pixels, a tensor
    features: Callable[[torch.Tensor], torch.Tensor]  # pixels (B, ...) -> (B, F)
    digest: str  # of everything except the image that features depend on
    is_exact: bool = False  # whether it computes in float32 on a GPU too, if a last layer is fitted on the features

    def is_half(self, device: str) -> bool:
        """Whether it computes in bfloat16 on this type of device."""
        return device != "cpu" and not self.is_exact

    @torch.no_grad()
    def vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, F) float32"""
        device = pixels.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.is_half(device)):
            return self.features(pixels).float()

    @classmethod
    def of_student(
        cls, model: AlignedImageClassification, processor: BaseImageProcessor, is_exact: bool = False
    ) -> "ImageEncoder":
        """The input of the last layer of a student, with the transform of evaluation."""

        def features(pixels: torch.Tensor) -> torch.Tensor:
            return model(pixels, output_features=True, output_image_embeds=False).features

        layers = classifier_layers(model.student)
        last = [tensor for layer in layers for tensor in layer.state_dict(keep_vars=True).values()]
        digest = encoder_digest(model.student, processor, last)
        return cls(model, EvalTransform(processor), features, digest, is_exact)


def encoder_digest(module: nn.Module, processor: BaseImageProcessor, left_out: Collection[torch.Tensor] = ()) -> str:
    """Digest of the processor, and of weights and buffers except those in `left_out`."""
    pixels = getattr(processor, "data_config", None) or processor.to_dict()
    digest = hashlib.blake2b(json.dumps(pixels, default=str, sort_keys=True).encode(), digest_size=16)
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not any(tensor is other for other in left_out):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def student_features(
    model: AlignedImageClassification,
    processor: BaseImageProcessor,
    images: Dataset,
    folder: str | Path,
    accelerator: Accelerator,
    num_workers: int = 0,
    description: str = "Image features",
) -> np.ndarray:
    """The [`image_features`] of a student, for its last layer."""
    encoder = ImageEncoder.of_student(model, processor, is_exact=True)
    return image_features(encoder, images, folder, accelerator, num_workers, description)


class _Thumbnail:
    """A stored image -> (3, SIDE, SIDE) floats; a JPEG is decoded at a reduced size."""

    @staticmethod
    def open_stored(stored: Any) -> PILImage.Image:
        image = open_image(stored)
        image.draft(None, (8 * SIDE, 8 * SIDE))
        return to_rgb(image)

    def __call__(self, image: PILImage.Image) -> torch.Tensor:
        pixels = np.asarray(image.resize((SIDE, SIDE), PILImage.Resampling.BOX), dtype=np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def thumbnails(images: Dataset, folder: str | Path, accelerator: Accelerator) -> np.ndarray:
    """(n, SIDE, SIDE, 3), stored beside the [`image_features`] in `folder`."""
    encoder = ImageEncoder(nn.Identity(), _Thumbnail(), nn.Flatten(), f"thumbnails-{SIDE}", is_exact=True)
    flat = image_features(encoder, images, folder, accelerator, description="Thumbnails")
    return flat.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def image_features(
    encoder: ImageEncoder,
    images: Dataset,
    folder: str | Path,
    accelerator: Accelerator,
    num_workers: int = 0,
    description: str = "Image features",
) -> np.ndarray:
    """
    (n, F) float32 features of images, on every process. Those that `folder` lacks are computed on all processes and
    stored every `ROWS_A_FILE` images: another call resumes, or adds images. They are in a subfolder for each encoder,
    its preprocessing and the precision of the device.
    """
    is_half = encoder.is_half(accelerator.device.type)
    folder = Path(folder) / (f"{encoder.digest}-bf16" if is_half else encoder.digest)
    digests, known = image_digests(images)[columns.IMAGE_DIGEST], stored_features(folder)
    first_row = {digest: row for row, digest in reversed(list(enumerate(digests)))}
    rows = [row for digest, row in first_row.items() if digest not in known]
    accelerator.wait_for_everyone()
    if rows:
        rows = sorted(rows)
        missing = [digests[row] for row in rows]
        _compute(encoder, images.select(rows), missing, folder, accelerator, num_workers, description)
        accelerator.wait_for_everyone()
        known = stored_features(folder)
    return np.stack([known[digest] for digest in digests])


def stored_features(folder: Path) -> dict[str, np.ndarray]:
    """digest -> (F,)"""
    features: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.parquet")):
        try:
            values, (digests,) = read_vectors(path, "image")
        except ValueError as error:
            raise ValueError(f"{error} Remove the file: its features are then computed again.") from error
        features.update(zip(digests, values, strict=True))
    return features


def images_with_features(folder: Path) -> set[str]:
    """Digests of the images whose features by any encoder are in a folder."""
    tables = (pq.read_table(path, columns=["image"]) for path in folder.glob("*/*.parquet"))
    return {digest for table in tables for digest in table["image"].to_pylist()}


def _compute(
    encoder: ImageEncoder,
    images: Dataset,
    digests: list[str],
    folder: Path,
    accelerator: Accelerator,
    num_workers: int,
    description: str,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    batch_size = BATCH_ON_CPU if accelerator.device.type == "cpu" else BATCH
    shown = CaptionedImages(images.select_columns([columns.IMAGE, columns.IMAGE_ID]), encoder.transform)
    loader = DataLoader(shown, batch_size=batch_size, collate_fn=AlignmentCollator(), num_workers=num_workers)
    # Not prepared by Accelerate, as the trainer would find it wrapped, and not average gradients
    was_training, module = encoder.module.training, encoder.module.eval().to(accelerator.device)
    loader = accelerator.prepare(loader)
    is_main, buffer, written = accelerator.is_main_process, [], 0
    with progress_bar(total=len(digests), desc=description, unit="image", shown=is_main, leave=False) as bar:
        for batch in loader:
            features = encoder.vectors(for_inference(finish_batch(batch))["pixel_values"])
            values = accelerator.gather_for_metrics(features).cpu().numpy()
            bar.update(len(values))
            if not is_main:
                continue
            buffer.append(values)
            number = sum(map(len, buffer))
            if number >= ROWS_A_FILE or written + number == len(digests):
                _write(folder, digests[written : written + number], np.concatenate(buffer))
                buffer, written = [], written + number
    module.train(was_training)


def _write(folder: Path, digests: list[str], values: np.ndarray) -> None:
    with replacing_file(folder / f"{digests[0]}.parquet") as staging:
        pq.write_table(pa.table({"image": digests, "values": column_of(values)}), staging)
