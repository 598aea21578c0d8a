"""
How many images a second does `g4i predict` take, beside transformers' `pipeline` at its best batch size?

    OMP_NUM_THREADS=1 python benchmarks/predict_speed.py CLASSIFIER IMAGES

CLASSIFIER is a released one, such as `classifier` of `g4i fit`, and IMAGES a folder. Both read the files, decode and
predict the first `--n` images, in turn, three times. The best time of each counts, and the least CPU time, which other
processes change less. If the release has `onnx/model.onnx`, `g4i predict` uses it, and once more runs without; its
session alone runs on pixels that are decoded already, one image at a time. Opening the classifier counts for
`g4i predict`. `with decoding` it does so from files, as a loop of one's own would.

Writes results/predict_speed.json.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from result_files import RESULTS, write_result
from transformers import pipeline

from g4i_hf import predict
from g4i_hf.data.images import to_rgb
from g4i_hf.inference.classifier import open_classifier
from g4i_hf.zero_shot.search import files_in

BATCHES = (1, 8, 32)
TIMES = 3


def session_alone(graph: Path, classifier: str, files: list[str], *, decodes: bool) -> Callable[[], None]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(graph, options)
    opened = open_classifier(classifier)

    def image_of(file: str) -> np.ndarray:
        return opened.graph.pixels.images(opened.transform(to_rgb(Image.open(file)))[None])

    images = [] if decodes else [image_of(file) for file in files]

    def run() -> None:
        for image in images or map(image_of, files):
            session.run(["logits"], {"images": image})

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier")
    parser.add_argument("images")
    parser.add_argument("--n", type=int, default=128, help="number of images")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    files = files_in(args.images)[: args.n]
    of_pipeline = pipeline("image-classification", model=args.classifier, device="cpu", trust_remote_code=False)
    ways = {f"pipeline, batches of {size}": lambda size=size: of_pipeline(files, batch_size=size) for size in BATCHES}
    ways["g4i predict"] = lambda: predict(args.classifier, files)
    if (graph := Path(args.classifier) / "onnx" / "model.onnx").is_file():
        bare = Path(tempfile.mkdtemp()) / "classifier"
        shutil.copytree(args.classifier, bare, ignore=shutil.ignore_patterns("onnx"))
        ways["g4i predict, by PyTorch"] = lambda: predict(bare, files)
        for name, decodes in {"ONNX session alone": False, "ONNX session with decoding": True}.items():
            ways[name] = session_alone(graph, args.classifier, files, decodes=decodes)
    seconds, of_cpu = dict[str, float](), dict[str, float]()
    for _ in range(TIMES):
        for name, run in ways.items():
            start, began = time.perf_counter(), time.process_time()
            run()
            of_cpu[name] = min(of_cpu.get(name, float("inf")), time.process_time() - began)
            seconds[name] = min(seconds.get(name, float("inf")), time.perf_counter() - start)
    rates = {name: round(len(files) / each, 2) for name, each in seconds.items()}
    best = max(rate for name, rate in rates.items() if name.startswith("pipeline"))
    command = f"python benchmarks/predict_speed.py CLASSIFIER IMAGES --n {args.n}"
    figures = {
        "command": command,
        "images": len(files),
        "threads": torch.get_num_threads(),
        "images_per_second": rates,
        "cpu_milliseconds_an_image": {name: round(1000 * each / len(files), 1) for name, each in of_cpu.items()},
    }
    write_result(
        args.results / "predict_speed.json", **figures, times_the_pipeline=round(rates["g4i predict"] / best, 2)
    )
    print(rates)


if __name__ == "__main__":
    main()
