"""
Milliseconds of the processor that decoders take for a JPEG photograph of 500 x 375 pixels, in turn, one thread: what
another decoder would give the input pipeline, beside all that it does for an image (decode, crop, resize, flip).

    pip install simplejpeg
    python benchmarks/jpeg_decoders.py

Writes results/jpeg_decoders.json.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from input_pipeline import SIZE, write_photographs
from PIL import Image
from provenance import RESULTS, provenance
from torchvision.io import ImageReadMode, decode_jpeg

from g4i_hf.data.transforms import open_for_crop, train_transform
from g4i_hf.options import AugmentationArguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transform = train_transform(AugmentationArguments(), SIZE, (0.5,) * 3, (0.5,) * 3)
    ways = {
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
        "torchvision": lambda data: decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), ImageReadMode.RGB),
        "simplejpeg": simplejpeg.decode_jpeg,
        "simplejpeg, fast DCT and upsampling": lambda data: simplejpeg.decode_jpeg(
            data, fastdct=True, fastupsample=True
        ),
        "simplejpeg, half the size": lambda data: simplejpeg.decode_jpeg(
            data, min_height=188, min_width=250, min_factor=2
        ),
        "g4i_hf, all of an image": lambda data: transform.drawn(
            transform.fixed(open_for_crop({"bytes": bytes(data), "path": None}))
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), 96)
        files = [bytearray(file.read_bytes()) for file in sorted(Path(folder).rglob("*.jpg"))]
    same = np.abs(ways["Pillow"](files[0]).astype(int) - ways["simplejpeg"](files[0]).astype(int)).max()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, decode in ways.items():
            started = time.process_time()
            for data in files:
                decode(data)
            found[name].append(1000 * (time.process_time() - started) / len(files))
    medians = {name: statistics.median(values) for name, values in found.items()}
    print(json.dumps(medians, indent=2))
    result = provenance() | {"simplejpeg differs from Pillow by": int(same), "ms": medians}
    (RESULTS / "jpeg_decoders.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
