"""
Pseudo-labels without captions, for comparison with those that captions tell: the baseline with a tenth of the labels
labels the other training images of Emoji Styles by what it sees (self-training; Lee, 2013), and a student of the same
initial weights is trained with all of them.

    python benchmarks/self_training.py
    python benchmarks/self_training.py --final true

The first stage is the baseline of recipes/emoji_styles/students_few_labels.yaml, to the bit. Writes
results/emoji_styles_self_training.json. `--final true` scores the test splits too, which is noted in LOG.md.
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
from g4i_hf.comparison.findings import as_table, find
from g4i_hf.comparison.grid import cells_of
from g4i_hf.comparison.provenance import made_by
from g4i_hf.comparison.results import append_result, finished, other_than, read_results
from g4i_hf.data.labels import keep_label_fraction, labels_of, with_labels
from g4i_hf.recipes import compare, train

STUDENTS = ["resnet, 10%", "regnet, 10%", "swin, 10%"]
SPLITS = ["validation", "test", "test_novel"]
SEEN = "seen"  # the training images once more, to be predicted
VARIANT, BY_CAPTIONS = "self-training", ["pseudo-labels, aligned"]


def teach_itself(cell, train_config: str) -> tuple:
    """Both trainings of a cell: what the first and the second predict, and the share of right pseudo-labels."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run, data, encoder, _, _, args = parse_options(
            train.OPTIONS, ["--config", train_config, "--output_dir", folder]
        )
        emoji, *_ = train.load_data(run, data, encoder, args)  # embedded, which spares the cells to do it
        first = trained(cell, cell.options, train_config, emoji | {SEEN: emoji["train"]}, place / "first", [SEEN])
        truth, kept = labels_of(emoji["train"]), labels_of(keep_label_fraction(emoji["train"], 0.1, cell.seed))
        labels = np.where(kept >= 0, kept, first.predicted[SEEN])
        options = {name: value for name, value in cell.options.items() if name not in ("label_fraction", "unlabelled")}
        emoji["train"] = with_labels(emoji["train"], labels)
        second = trained(cell, options, train_config, emoji, place / "second", [])
    return first, second, float((labels == truth)[kept < 0].mean())


def trained(cell, options: dict, train_config: str, data: dict, folder: Path, more: list[str]):
    folder.mkdir()
    for name, split in data.items():
        split.to_parquet(str(folder / f"{name}.parquet"))
    cell = replace(cell, options=options | {"dataset_name": str(folder)})
    return compare.train_cell(cell, train_config, [*SPLITS, *more])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2", "3", "4"])
    parser.add_argument("--final", choices=["true", "false"], default="false")
    given = parser.parse_args()
    config = str(ROOT / "recipes" / "emoji_styles" / "students_few_labels.yaml")
    options = ["--config", config, "--final", given.final, "--seeds", *given.seeds, "--only_students", *STUDENTS]
    (args,) = parse_options(compare.OPTIONS, options)
    args.variants[VARIANT] = {"unlabelled": "keep"}
    args.only_variants = ["baseline", VARIANT, *BY_CAPTIONS]
    cells = cells_of(args)
    path = RESULTS / "emoji_styles_self_training.jsonl"
    results = finished(cells, read_results(args.results) + read_results(path), SPLITS)
    missing = [cell for cell in cells if cell.name not in results and cell.variant == VARIANT]
    baselines = {(cell.student, cell.seed): cell for cell in cells if cell.variant == "baseline"}
    made = made_by()
    with compare.workers(args, args.processes) as pool:
        waiting = {
            pool.submit(teach_itself, baselines[cell.student, cell.seed], args.train_config): cell for cell in missing
        }
        for future in tqdm(as_completed(waiting), total=len(waiting), desc="Students", unit="student"):
            cell, (first, second, share) = waiting[future], future.result()
            before = results[baselines[cell.student, cell.seed].name]
            training = second.training | {
                "right_pseudo_labels": share,
                "first_is_baseline": not other_than(before, first),
            }
            place = {"variant": VARIANT, "digest": cell.digest, "options": cell.options, "training": training}
            results[cell.name] = replace(second, **place, made=made)
            append_result(path, results[cell.name])
    labels, bars = compare.open_labels(args, baselines[STUDENTS[0], args.seeds[0]])
    findings = find(args, cells, results, labels)
    print("\n" + as_table(findings, bars, {None, *STUDENTS}))
    rows = [result for result in results.values() if result.variant == VARIANT]
    right = {f"{row.student}, seed {row.seed}": row.training["right_pseudo_labels"] for row in rows}
    found = provenance() | {
        "right_pseudo_labels": right,
        "first_stages_that_are_the_baseline": sum(row.training["first_is_baseline"] for row in rows),
        "findings": [finding.to_dict() for finding in findings],
    }
    (RESULTS / "emoji_styles_self_training.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
