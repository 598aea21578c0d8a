"""
What pseudo-labels from captions are compared with: the baseline with a tenth of the labels labels the other training
images of Emoji Styles by what it sees (self-training; Yarowsky, 1995). One round, every image, as the captions do.

    python benchmarks/self_training.py
    g4i compare --config recipes/emoji_styles/pseudo_labels.yaml

The first command trains the baselines of that grid again and writes a data set for each student and seed into
`runs/self_training`, and results/emoji_styles_self_training.json: how many of these labels are right, and whether the
baselines predicted what those of the grid did. The second trains students with them, and with what captions tell.
"""

import argparse
import json
import tempfile
from concurrent.futures import as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np
from provenance import RESULTS, ROOT, provenance
from tqdm import tqdm

from g4i_hf.cli import parse_options
from g4i_hf.data.checks import labels_of, with_labels
from g4i_hf.options import OPTIONS_OF
from g4i_hf.supervision.label_controls import keep_label_fraction
from g4i_hf.workflows.compare import Study, train_cell
from g4i_hf.workflows.train import TrainingRun

CONFIG = ROOT / "recipes" / "emoji_styles" / "pseudo_labels.yaml"
FOLDER = Path("runs/self_training")
SEEN = "seen"  # the training images once more, to be predicted


def write_labels(cell, train_config: str, splits: list[str]):
    """
    The data set of a student and seed, embedded as it is.

    Returns:
        What the baseline predicts, and how many of the labels that were not kept it has right.
    """
    with tempfile.TemporaryDirectory() as place:
        run = TrainingRun(*parse_options(OPTIONS_OF["train"], ["--config", train_config, "--output_dir", place]))
        run.load()
        emoji = run.splits
        write(emoji | {SEEN: emoji["train"]}, Path(place))
        copy = replace(cell, options=cell.options | {"dataset_name": place})
        result = train_cell(copy, train_config, [*splits, SEEN])
    truth = labels_of(emoji["train"])
    kept = labels_of(keep_label_fraction(emoji["train"], cell.options["label_fraction"], cell.seed))
    labels = np.where(kept >= 0, kept, result.predicted[SEEN])
    write(emoji | {"train": with_labels(emoji["train"], labels)}, FOLDER / cell.student / str(cell.seed))
    return result, float((labels == truth)[kept < 0].mean())


def write(splits: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        split.to_parquet(str(folder / f"{name}.parquet"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    (args,) = parse_options(OPTIONS_OF["compare"], ["--config", str(CONFIG), "--only_variants", "baseline"])
    study, splits = Study(args), args.splits + args.final_splits
    cells, known = study.cells, study.results
    rows = []
    with study.workers(args.processes) as pool:
        waiting = {pool.submit(write_labels, cell, args.train_config, splits): cell for cell in cells}
        for future in tqdm(as_completed(waiting), total=len(waiting), desc="Baselines", unit="cell"):
            cell, (result, right) = waiting[future], future.result()
            same = not result.other_than(known[cell.name]) if cell.name in known else None
            rows.append({"student": cell.student, "seed": cell.seed, "right": right, "is_that_of_the_grid": same})
    rows.sort(key=lambda row: (row["student"], row["seed"]))
    found = provenance() | {"rows": rows}
    (RESULTS / "emoji_styles_self_training.json").write_text(json.dumps(found, indent=2) + "\n")
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
