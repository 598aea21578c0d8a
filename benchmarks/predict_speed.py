"""
How many images a second does `g4i predict` take, beside transformers' `pipeline` at its best batch size?

    OMP_NUM_THREADS=1 python benchmarks/predict_speed.py CLASSIFIER IMAGES

CLASSIFIER is a released one, such as `classifier` of `g4i fit`, and IMAGES a folder. Both read the files, decode and
predict the first `--n` images, in turn, three times; the best time of each counts.

Writes results/predict_speed.json.
"""

import argparse
import os
import time
from pathlib import Path

import torch
from result_files import RESULTS, write_result
from transformers import pipeline

from g4i_hf import predict
from g4i_hf.zero_shot.search import files_in

BATCHES = (1, 8, 32)
TIMES = 3


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
    seconds: dict[str, float] = {}
    for _ in range(TIMES):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds.get(name, float("inf")), time.perf_counter() - start)
    rates = {name: round(len(files) / each, 2) for name, each in seconds.items()}
    best = max(rate for name, rate in rates.items() if name.startswith("pipeline"))
    figures = {"images": len(files), "threads": torch.get_num_threads(), "images_per_second": rates}
    write_result(
        args.results / "predict_speed.json", **figures, times_the_pipeline=round(rates["g4i predict"] / best, 2)
    )
    print(rates)


if __name__ == "__main__":
    main()
