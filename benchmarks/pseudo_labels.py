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
import os
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
from g4i_hf.cli import parse_options
from g4i_hf.comparison.arguments import CompareArguments
from g4i_hf.comparison.findings import Labels, as_table, find
from g4i_hf.comparison.grid import cells_of
from g4i_hf.comparison.openings import note_opening
from g4i_hf.comparison.results import digest_of_rows, finished, read_results
from g4i_hf.comparison.summary import left_out, write_summary
from g4i_hf.data.labels import UNLABELLED, keep_label_fraction, labels_of

RECIPE = ROOT / "recipes" / "emoji_styles"
SHARE = 0.1
STUDENTS = ("resnet", "regnet", "swin")
CELLS = RESULTS / "emoji_styles_pseudo_labels.jsonl"
SUMMARY = RESULTS / "emoji_styles_pseudo_labels.json"
FOLDER = Path("runs/pseudo_labels")  # from the root of the clone: it is among the options of the cells
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


def grid_of(seed: int) -> Path:
    """The file of recipes/compare.py for the cells of a seed, whose data set lies beside it."""
    grid = yaml.safe_load((RECIPE / "compare.yaml").read_text())
    students = {f"{name}, 10%": grid["students"][name] for name in STUDENTS}
    variants = {name: options | {"dataset_name": str(FOLDER / str(seed))} for name, options in VARIANTS.items()}
    config = {"train_config": str(RECIPE.relative_to(ROOT) / "baseline.yaml"), "options": grid["options"]}
    config |= {"students": students, "variants": variants, "seeds": [seed], "splits": ["validation"]}
    config |= {"final_splits": list(FINAL_SPLITS), "cluster_column": "concept", "processes": 2}
    config |= {"results": str(CELLS.relative_to(ROOT))}
    path = FOLDER / str(seed) / "compare.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def score(splits: DatasetDict, names: list[str], seeds: list[int], final: bool) -> None:
    files = [(RECIPE / "students_few_labels.yaml", seeds, ["baseline", "heavier"])]
    files += [(grid_of(seed), [seed], None) for seed in seeds]
    cells, results = [], {}
    for path, of_file, variants in files:
        (args,) = parse_options((CompareArguments,), ["--config", str(path)])
        args.seeds, args.only_variants = of_file, variants
        args.only_students = [f"{name}, 10%" for name in STUDENTS]
        cells += cells_of(args)
        results |= finished(cells_of(args), read_results(args.results), ("validation", *FINAL_SPLITS))
    if missing := [cell.name for cell in cells if cell.name not in results]:
        sys.exit(f"There is no result of {', '.join(missing)}: run students_few_labels.yaml with these seeds.")
    labels = {
        name: Labels(
            labels_of(splits[name]),
            np.asarray(splits[name]["concept"][:]),
            digest_of_rows(splits[name][columns.IMAGE_ID], names),
        )
        for name in ("validation", *(FINAL_SPLITS if final else ()))
    }
    if final:
        note_opening(str(ROOT / "LOG.md"), list(FINAL_SPLITS), str(CELLS.relative_to(ROOT)))
    variants = {name: {} for name in ("baseline", "heavier", *VARIANTS)}
    args = CompareArguments(train_config="x", students=dict.fromkeys(STUDENTS), variants=variants)
    findings = find(args, cells, results, labels)
    print(as_table(findings, {}))
    if others := left_out(SUMMARY, findings, seeds):
        sys.exit(f"{SUMMARY.name} has figures of {', '.join(others)}, and is left as it is.")
    write_summary(SUMMARY, results, findings, {}, seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--final", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(ROOT)
    splits, _ = splits_of_recipe()
    for seed in args.seeds:
        right = with_pseudo_labels(splits, seed, FOLDER / str(seed))
        print(f"seed {seed}: {right:.1%} of the labels that captions give are right", flush=True)
        subprocess.run([sys.executable, "recipes/compare.py", "--config", str(grid_of(seed))], check=True)
    score(splits, splits["train"].features[columns.LABEL].names, args.seeds, args.final)


if __name__ == "__main__":
    main()
