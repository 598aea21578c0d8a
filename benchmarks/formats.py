"""
What does each file of a release cost: accuracy, agreement with PyTorch, size and time?

    pip install -e '.[demo,onnx]'
    OMP_NUM_THREADS=1 python benchmarks/formats.py PHOTOS

PHOTOS is that of photos_frozen.py. `g4i fit` learns from 3,000 labelled photographs, and `g4i release` judges its
files on up to 1,000 of `test`, as `validation` of a folder of images. An int8 file that it refuses has its reason.
`times` is how many times as fast as `onnx` it is, one image at a time. Writes results/formats.json.
"""

import logging
import shutil
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from photos import parsed, parser_of, photos_of
from result_files import Results

from g4i_hf import fit, release_student
from g4i_hf.hub.formats import PYTORCH, read_formats
from g4i_hf.options.evaluation import FORMATS, ONNX, ONNX_FP16, ONNX_INT8

KEY = ("data", "format")
MOST = {"train": 3_000, "validation": 1_000}


def write_images(images: Dataset, folder: Path, most: int) -> None:
    """In a folder a class."""
    names = images.features["label"].names
    for row in np.random.default_rng(0).permutation(len(images))[:most].tolist():
        file = folder / names[images[row]["label"]].replace("/", "_") / f"{row:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        images[row]["image"].convert("RGB").save(file)


def main() -> None:
    args = parsed(parser_of(__doc__, cache="runs/formats"))
    torch.set_num_threads(1)
    results = Results(args.results / "formats.json", KEY)
    for data in args.data:
        if all(results.has(data, name) for name in (PYTORCH, *FORMATS)):
            continue
        folder, run = args.cache / data, args.cache / f"{data}-run"
        shutil.rmtree(folder, ignore_errors=True)
        photos = photos_of(args.photos, data)
        for split, source in {"train": "train", "validation": "test"}.items():
            write_images(photos[source], folder / split, MOST[split])
        fit(str(folder), output_dir=str(run), group_by="none")
        try:
            release_student(run, formats=FORMATS)
        except ValueError as error:  # int8 alone may predict other classes
            logging.warning(error)
            results.add(data, ONNX_INT8, refused=str(error))
            release_student(run, formats=[ONNX, ONNX_FP16])
        judged = {each.format: vars(each) for each in read_formats(run / "classifier")}
        of_onnx = judged[ONNX]["milliseconds"]
        for name, figures in judged.items():
            del figures["format"]
            times = round(of_onnx / figures["milliseconds"], 2)
            results.add(data, name, **figures, times=times)


if __name__ == "__main__":
    main()
