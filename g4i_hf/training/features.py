"""Features of images by a frozen student, computed once: a folder of Parquet files, by the content of each image."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import BaseImageProcessor

from .. import columns
from ..data.dataset import AlignmentCollator, CaptionedImages, finish_batch
from ..data.record import image_digests
from ..files import replace_text
from ..modeling import AlignedImageClassification
from ..modeling.processing import EvalTransform
from ..modeling.student import classifier_layers

ROWS_A_FILE = 1024  # an interruption loses less than these
RECORD_FILE = "features.json"
FEATURES = "features"  # folder of them in a run folder


def student_features(
    model: AlignedImageClassification,
    processor: BaseImageProcessor,
    images: Dataset,
    folder: str | Path,
    accelerator: Accelerator,
    batch_size: int = 64,
    num_workers: int = 0,
    description: str = "Image features",
) -> np.ndarray:
    """
    What enters the last layer of the student, with the transform of evaluation. Only images that `folder` does not
    hold are computed, the processes sharing the work, and written every `ROWS_A_FILE` images. Features of other
    weights, or of another image size, are replaced.

    Args:
        images: n rows with `image` and `image_id`.
        folder: of these features; another call with it resumes, or adds images.

    Returns:
        (n, F) float32, on every process.
    """
    folder, digests = Path(folder), image_digests(images)[columns.IMAGE_DIGEST]
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            _open(folder, model, processor)
        known = _read(folder)
    first_row = {digest: row for row, digest in reversed(list(enumerate(digests)))}
    rows = [row for digest, row in first_row.items() if digest not in known]
    accelerator.wait_for_everyone()
    if rows:
        rows = sorted(rows)
        _compute(model, processor, images.select(rows), [digests[row] for row in rows], folder, accelerator,
                 batch_size, num_workers, description)  # fmt: skip
        accelerator.wait_for_everyone()
        known = _read(folder)
    return np.stack([known[digest] for digest in digests])


def _open(folder: Path, model: AlignedImageClassification, processor: BaseImageProcessor) -> None:
    """Empties the folder where it holds features of another student."""
    record = {"backbone": backbone_digest(model), "processor": _settings(processor)}
    file = folder / RECORD_FILE
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == record:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    for path in folder.glob("*.parquet*"):
        path.unlink()
    replace_text(file, json.dumps(record, indent=2) + "\n")


def backbone_digest(model: AlignedImageClassification) -> str:
    """Of all weights and buffers of the student but those of its last layer."""
    last = [
        tensor for layer in classifier_layers(model.student) for tensor in layer.state_dict(keep_vars=True).values()
    ]
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.student.state_dict(keep_vars=True).items():
        if not any(tensor is each for each in last):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _settings(processor: BaseImageProcessor) -> dict[str, Any]:
    """What its pixels depend on."""
    known = getattr(processor, "data_config", None) or processor.to_dict()
    return json.loads(json.dumps(known, default=str))


def _read(folder: Path) -> dict[str, np.ndarray]:
    """digest -> (F,)"""
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        values = table["values"].combine_chunks()
        values = values.flatten().to_numpy().reshape(len(values), -1)
        found.update(zip(table["image"].to_pylist(), values, strict=True))
    return found


@torch.no_grad()
def _compute(
    model: AlignedImageClassification,
    processor: BaseImageProcessor,
    images: Dataset,
    digests: list[str],
    folder: Path,
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int,
    description: str,
) -> None:
    shown = CaptionedImages(images.select_columns([columns.IMAGE, columns.IMAGE_ID]), EvalTransform(processor))
    loader = DataLoader(shown, batch_size=batch_size, collate_fn=AlignmentCollator(), num_workers=num_workers)
    was_training, model = model.training, model.eval()
    loader, prepared = accelerator.prepare(loader), accelerator.prepare_model(model, evaluation_mode=True)
    is_main, waiting, written = accelerator.is_main_process, [], 0
    with tqdm(total=len(digests), desc=description, unit="image", disable=not is_main, leave=False) as bar:
        for batch in loader:
            pixels = finish_batch(batch)["pixel_values"]
            features = prepared(pixels, output_features=True, output_image_embeds=False).features.float()
            values = accelerator.gather_for_metrics(features).cpu().numpy()
            bar.update(len(values))
            if not is_main:
                continue
            waiting.append(values)
            number = sum(map(len, waiting))
            if number >= ROWS_A_FILE or written + number == len(digests):
                _write(folder, digests[written : written + number], np.concatenate(waiting))
                waiting, written = [], written + number
    model.train(was_training)


def _write(folder: Path, digests: list[str], values: np.ndarray) -> None:
    """One more file, whole or not at all."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    path = folder / f"{len(list(folder.glob('*.parquet'))):06d}.parquet"
    pq.write_table(pa.table({"image": digests, "values": column}), path.with_suffix(".parquet.tmp"))
    path.with_suffix(".parquet.tmp").replace(path)
