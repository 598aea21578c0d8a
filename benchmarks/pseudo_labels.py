"""
The obvious rival of captions as a teacher, on Emoji Styles with a tenth of the labels: a logistic regression on the
text embeddings of the labelled images names the class of all others, and a student is trained on these labels as usual
(`pseudo-labels`), or with alignment as well. Beside them the baseline and `heavier` of students_few_labels.yaml, whose
cells must be there.

    python benchmarks/pseudo_labels.py                # trains what is missing; scores `validation`
    python benchmarks/pseudo_labels.py --final        # scores the test splits too, and notes that in LOG.md

Writes results/emoji_styles_pseudo_labels.jsonl and results/emoji_styles_pseudo_labels.json.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from caption_knowledge import splits_of_recipe
from datasets import ClassLabel, DatasetDict
from provenance import RESULTS, ROOT
from sklearn.linear_model import LogisticRegression

from g4i_hf import columns
from g4i_hf.comparison.arguments import CompareArguments
from g4i_hf.comparison.findings import Labels, as_table, find
from g4i_hf.comparison.grid import Cell
from g4i_hf.comparison.openings import note_opening
from g4i_hf.comparison.results import read_results
from g4i_hf.comparison.summary import write_summary
from g4i_hf.data.labels import UNLABELLED, keep_label_fraction, labels_of

RECIPE = ROOT / "recipes" / "emoji_styles"
SHARE = 0.1
STUDENTS = ("resnet", "regnet", "swin")
CELLS = RESULTS / "emoji_styles_pseudo_labels.jsonl"
VARIANTS = {
    "pseudo-labels": {"align_weight": 0},
    "pseudo-labels, aligned": {"align_weight": 1, "align_loss": "clip", "align_temperature": 0.2},
}
FINAL_SPLITS = ("test", "test_novel")


def with_pseudo_labels(splits: DatasetDict, seed: int, folder: Path) -> float:
    """Writes the data set with the labels that captions give; returns the share of right ones among these."""
    truth, labels = labels_of(splits["train"]), labels_of(keep_label_fraction(splits["train"], SHARE, seed))
    texts = np.asarray(splits["train"][columns.TEXT_EMBEDS][:], dtype=np.float32)
    known = labels != UNLABELLED
    found = LogisticRegression(C=100, max_iter=1000).fit(texts[known], labels[known]).predict(texts[~known])
    labels[~known] = found
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        split = split.remove_columns(columns.TEXT_EMBEDS)
        if name == "train":
            feature = ClassLabel(names=split.features[columns.LABEL].names)
            split = split.remove_columns(columns.LABEL).add_column(columns.LABEL, labels.tolist(), feature=feature)
        split.to_parquet(str(folder / f"{name}.parquet"))
    return float((found == truth[~known]).mean())


def train(seed: int, folder: Path) -> None:
    grid = yaml.safe_load((RECIPE / "compare.yaml").read_text())
    students = {f"{name}, 10%": grid["students"][name] for name in STUDENTS}
    variants = {name: options | {"dataset_name": str(folder)} for name, options in VARIANTS.items()}
    config = {"train_config": str(RECIPE / "baseline.yaml"), "options": grid["options"], "students": students}
    config |= {"variants": variants, "seeds": [seed], "splits": ["validation"], "final_splits": list(FINAL_SPLITS)}
    config |= {"cluster_column": "concept", "results": str(CELLS), "processes": 2}
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(config))
    subprocess.run([sys.executable, "recipes/compare.py", "--config", str(path)], cwd=ROOT, check=True)


def score(splits: DatasetDict, seeds: list[int], final: bool) -> None:
    results = [*read_results(RESULTS / "emoji_styles_students.jsonl"), *read_results(CELLS)]
    variants = ("baseline", "heavier", *VARIANTS)
    students = [f"{name}, 10%" for name in STUDENTS]
    latest = {f"{result.student}/{result.variant}/{result.seed}": result for result in results}
    wanted = [(student, variant, seed) for seed in seeds for student in students for variant in variants]
    cells = [Cell(*place, {}, "") for place in wanted]
    if missing := [cell.name for cell in cells if cell.name not in latest]:
        sys.exit(f"There is no result of {', '.join(missing)}: run students_few_labels.yaml with these seeds.")
    args = CompareArguments(
        train_config="x", students={name: {} for name in students}, variants={name: {} for name in variants}
    )
    if final:
        note_opening(str(ROOT / "LOG.md"), list(FINAL_SPLITS), str(CELLS.relative_to(ROOT)))
    labels = {
        name: Labels(labels_of(splits[name]), np.asarray(splits[name]["concept"][:]))
        for name in ("validation", *(FINAL_SPLITS if final else ()))
    }
    used = {cell.name: latest[cell.name] for cell in cells}
    findings = find(args, cells, used, labels)
    print(as_table(findings, {}))
    write_summary(RESULTS / "emoji_styles_pseudo_labels.json", used, findings, {}, seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--final", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits, _ = splits_of_recipe()
    if not args.final:
        for seed in args.seeds:
            folder = ROOT / "runs" / "pseudo_labels" / str(seed)
            right = with_pseudo_labels(splits, seed, folder)
            print(f"seed {seed}: {right:.1%} of the labels that captions give are right", flush=True)
            train(seed, folder)
    score(splits, args.seeds, args.final)


if __name__ == "__main__":
    main()
