"""
Memory and rate of `g4i predict --shards` by the length of a shard: images of 32 px, a tiny student, one task.

    python benchmarks/shards.py

The shard is one Parquet file with one row group, the worst case. Peak resident memory is that of the process, with
what it imports. Writes results/shards.json.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from result_files import RESULTS, write_result

from g4i_hf import AlignedImageClassification
from g4i_hf.hub import save_student

IMAGES = (1_000, 10_000, 100_000)
CHANNELS = [8, 8, 16, 32]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MEASURE = """
import re, sys
from g4i_hf.running import main
main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # ru_maxrss would have that of the parent
"""


def stored(images: int) -> Iterator[dict]:
    generator = np.random.default_rng(0)
    for row in range(images):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "JPEG", quality=95)
        yield {"bytes": file.getvalue(), "path": f"{row}.jpg"}


def save_tiny_student(folder: Path) -> None:
    torch.manual_seed(0)
    args = {"layers": [1, 1, 1, 1], "channels": CHANNELS}
    what = {"id2label": {0: "ant", 1: "bee"}, "text_embed_dim": 8, "image_size": 32, "student_args": args}
    save_student(AlignedImageClassification.from_student("resnet18", **what), folder)


def measured(folder: Path, images: int) -> dict:
    place = folder / str(images)
    place.mkdir()
    table = pa.table({"image": pa.array(list(stored(images)), IMAGE)})
    pq.write_table(table, place / "0.parquet", row_group_size=images)
    words = ["predict", folder / "student", "--shards", place / "*.parquet", "--out", place / "out"]
    began = time.monotonic()
    command = [sys.executable, "-c", MEASURE, *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    peak = int(done.stdout.splitlines()[-1])
    assert pq.read_metadata(place / "out" / "0.parquet").num_rows == images
    size = (place / "0.parquet").stat().st_size
    return {
        "images": images,
        "shard_mb": size / 1e6,
        "peak_mb": peak * 1024 / 1e6,
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        save_tiny_student(Path(place) / "student")
        rows = [measured(Path(place), images) for images in IMAGES]
    write_result(RESULTS / "shards.json", command="python benchmarks/shards.py", rows=rows)
    print(json.dumps(rows, indent=1))
