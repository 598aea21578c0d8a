"""Image features of shards: a Parquet of vectors for each, by `g4i embed --shards`."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from PIL import Image

from .. import columns
from ..data.shards import Images, Shards
from ..data.texts import column_of
from ..inference.images import decoded
from ..options import DataOrShards, ViewArguments
from ..training.features import BATCH, BATCH_ON_CPU
from .encoders import Encoders
from .kinds import STUDENT_VIEW
from .making import maker_of
from .stages import VALUES


def embed_shards(view: ViewArguments, data: DataOrShards, say: Callable[[str], object]) -> None:
    """For each shard a row an image: its keys, digest, and `values` (F,) float32, NaN where it cannot be read."""
    maker = maker_of(view.view)
    if not isinstance(maker, Encoders) or view.view == STUDENT_VIEW:
        raise ValueError(f"View {view.view!r} cannot be made of shards. Take image:NAME.")
    shards = Shards(data, data.image_column)
    maker.check()
    encoder, device = maker.encoder(), Accelerator(cpu=not torch.accelerator.is_available()).device
    encoder.module.eval().to(device)
    blank = encoder.transform(Image.new("RGB", (32, 32)))[None].to(device)
    unknown = np.full(encoder.vectors(blank).shape[1], np.nan, dtype=np.float32)

    def embedded(images: Images) -> pa.Table:
        values, digests, reasons = [], [], []
        for batch in decoded(images, encoder.transform, BATCH_ON_CPU if device.type == "cpu" else BATCH):
            pixels = [each for _, (each, _) in batch if isinstance(each, torch.Tensor)]
            vectors = iter(encoder.vectors(torch.stack(pixels).to(device)).cpu().numpy() if pixels else ())
            for _, (each, digest) in batch:
                is_read = isinstance(each, torch.Tensor)
                values.append(next(vectors) if is_read else unknown)
                reasons.append("" if is_read else each)
                digests.append(digest)
        vectors = column_of(np.array(values, dtype=np.float32).reshape(-1, len(unknown)))
        texts = [pa.array(each, pa.string()) for each in (digests, reasons)]
        return pa.table([texts[0], vectors, texts[1]], [columns.IMAGE_DIGEST, VALUES, "reason"])

    made_of = {"the encoder": encoder.digest, "bfloat16": encoder.is_half(device.type)}
    shards.run(made_of, embedded, say, view.overwrite)
