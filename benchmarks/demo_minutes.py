"""
What do some minutes for all layers add to the demo of README?

    pip install -e '.[demo]'
    python benchmarks/demo_minutes.py

Runs `g4i fit` on its 1,722 photographs with `--minutes` for each seed, on all cores, and `g4i evaluate` on `test`.
Minutes are of the clock: run it on a quiet machine. Writes results/demo_minutes.json, a row a seed.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from result_files import RESULTS, ROOT, Results

PICTURES = ROOT / "recipes" / "photos_demo" / "pictures"


def g4i(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "g4i_hf", *map(str, words)], check=True)


def measured(folder: Path, minutes: float, seed: int) -> dict:
    began = time.monotonic()
    g4i("fit", PICTURES, "-o", folder, "--image_size", 128, "--minutes", minutes, "--seed", seed)
    seconds = round(time.monotonic() - began)
    g4i("evaluate", folder, "--splits", "test")
    said = json.loads((folder / "all_results.json").read_text())
    return {"seconds": seconds, "of_fit": said["all_layers"]} | json.loads((folder / "test_results.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(3))
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "demo_minutes", help="of the fits")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of demo_minutes.json")
    args = parser.parse_args()
    results = Results(args.results / "demo_minutes.json", ("minutes", "seed"))
    results.here["command"] = "python benchmarks/demo_minutes.py"
    for seed in args.seeds:
        if not results.has(args.minutes, seed):
            folder = args.cache / f"{args.minutes:g}-{seed}"
            results.add(args.minutes, seed, **measured(folder, args.minutes, seed))


if __name__ == "__main__":
    main()
