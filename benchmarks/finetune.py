"""
Does it help a pretrained student on few images to have read about them? The recipe efficientnet_lite0 with its
backbone frozen, with LoRA adapters, and with all layers trained, each without captions (the baseline) and with them.

    python benchmarks/finetune.py --tune
    python benchmarks/finetune.py --seeds 0 1 2 3 4

Data and student are made first, as the recipe says. The first command chooses on `validation`: the learning rate of
each baseline, then the weight of the alignment at that rate. The second trains all cells with what was chosen and
opens `test`. Every cell is a line in results/finetune_cells.jsonl and is not run again; the second command writes
results/finetune.json. One thread.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from provenance import RESULTS, ROOT, provenance

from g4i_hf.evaluation.comparison import paired_summary

CELLS = RESULTS / "finetune_cells.jsonl"
METHODS = {
    "frozen": {"freeze_backbone": "true"},
    "lora": {"use_peft": "true"},
    "full": {},
}
RATES = {
    "frozen": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),  # the two lowest were added when the third was the best of the others
    "lora": (1e-3, 3e-3, 1e-2),
    "full": (3e-4, 1e-3, 3e-3),
}
# A frozen backbone's features, and so its accuracy, do not depend on the weight: it takes that of `full`
WEIGHTS = {"lora": (0.1, 0.3, 1.0), "full": (0.1, 0.3, 1.0)}
ORDER = ("full", "frozen", "lora")  # in which they are tuned and trained
TUNING_SEEDS = (100, 101)  # none of those that are reported
MEASURES = ("validation_accuracy", "test_accuracy", "test_recall_at_1", "test_recall_at_5")


def run_cell(cell: dict, splits_read: tuple[str, ...]) -> dict:
    """Trains one cell and measures it on the named splits."""
    import torch

    from g4i_hf.cli import parse_options
    from g4i_hf.evaluation.evaluate import split_metrics
    from g4i_hf.evaluation.predict import predict
    from g4i_hf.options import OPTIONS_OF
    from g4i_hf.workflows.train import TrainingRun

    with tempfile.TemporaryDirectory() as folder:
        options = METHODS[cell["method"]] | {name: cell[name] for name in ("learning_rate", "align_weight", "seed")}
        options |= dict.fromkeys(("save_strategy", "eval_strategy", "logging_strategy"), "no")
        options |= {"output_dir": folder, "disable_tqdm": "true"}
        argv = ["--config", str(ROOT / "recipes" / "efficientnet_lite0" / "train.yaml")]
        argv += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        run = TrainingRun(*parse_options(OPTIONS_OF["train"], argv))
        run.load()
        model = run.built.model
        model.to(memory_format=torch.channels_last)  # half the time on a CPU, the same result but for rounding
        trainer = run.build_trainer()
        trainer.train()
        found = {}
        for name in splits_read:
            predictions = predict(trainer.model.eval(), run.built.processor, run.splits[name], trainer.accelerator)
            found.update(split_metrics(predictions, run.splits[name], name))
            found[f"{name}_loss"] = cross_entropy(predictions.logits, predictions.labels)
    found["trained_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return found


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(-1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]))


def read_cells() -> list[dict]:
    return [json.loads(line) for line in CELLS.read_text().splitlines()] if CELLS.is_file() else []


def measure(stage: str, cell: dict, splits_read: tuple[str, ...]) -> dict:
    """The line of a cell: read, or measured and appended."""
    done = [line for line in read_cells() if (line["stage"], line["cell"]) == (stage, cell)]
    if done:
        return done[0]
    start = time.time()
    line = {"stage": stage, "cell": cell, **run_cell(cell, splits_read), "seconds": round(time.time() - start)}
    line |= {name: value for name, value in provenance().items() if name != "command"}
    with CELLS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    figures = {name: round(line[name], 4) for name in (*MEASURES, "validation_loss") if name in line}
    print(stage, json.dumps(cell), figures, f"{line['seconds']} s", flush=True)
    return line


def best(lines: list[dict], name: str):
    """The value of an option with the best mean accuracy on `validation`, by the mean loss where it is equal."""
    scores = {}
    for value in {line["cell"][name] for line in lines}:
        chosen = [line for line in lines if line["cell"][name] == value]
        figures = (np.mean([line[key] for line in chosen]) for key in ("validation_accuracy", "validation_loss"))
        accuracy, loss = map(float, figures)
        scores[value] = (round(accuracy, 9), -loss)
    return max(scores, key=scores.get)


def tune() -> dict[str, dict]:
    """Learning rate of the baseline, then the weight, method by method; cells that are there are only read."""
    chosen = {}
    for method in ORDER:
        grid = [
            {"method": method, "align_weight": 0, "learning_rate": rate, "seed": seed}
            for rate in RATES[method]
            for seed in TUNING_SEEDS
        ]
        rate = best([measure("tuning", cell, ("validation",)) for cell in grid], "learning_rate")
        grid = [
            {"method": method, "align_weight": weight, "learning_rate": rate, "seed": seed}
            for weight in WEIGHTS.get(method, ())
            for seed in TUNING_SEEDS
        ]
        found = [measure("tuning", cell, ("validation",)) for cell in grid]
        weight = best(found, "align_weight") if found else chosen["full"]["align_weight"]
        chosen[method] = {"learning_rate": rate, "align_weight": weight}
        print("chosen", method, json.dumps(chosen[method]), flush=True)
    return chosen


def compare(seeds: list[int], chosen: dict[str, dict]) -> None:
    """Trains all cells with the chosen settings and writes results/finetune.json."""
    made = provenance()
    runs = []
    for method in ORDER:
        for seed in seeds:
            for weight in (0, chosen[method]["align_weight"]):
                cell = {"method": method, "align_weight": weight}
                cell |= {"learning_rate": chosen[method]["learning_rate"], "seed": seed}
                runs.append(measure("comparison", cell, ("validation", "test")))
    summary = {}
    for method in ORDER:
        ours = {(r["cell"]["align_weight"] > 0, r["cell"]["seed"]): r for r in runs if r["cell"]["method"] == method}
        values = {
            name: [[ours[aligned, seed][name] for seed in seeds] for aligned in (False, True)] for name in MEASURES
        }
        summary[method] = {name: vars(paired_summary(*pair)) for name, pair in values.items()}
        summary[method]["trained_parameters"] = ours[False, seeds[0]]["trained_parameters"]
    names = ("validation_samples", "test_samples", "test_chance_at_1", "test_chance_at_5")
    found = {**made, "images": count_images(), "seeds": seeds, "chosen": chosen, "tuning_seeds": TUNING_SEEDS}
    found |= {"rates": RATES, "weights": WEIGHTS, **{name: runs[0][name] for name in names}, "summary": summary}
    found["runs"] = [{"cell": run["cell"], **{name: run[name] for name in (*MEASURES, "seconds")}} for run in runs]
    (RESULTS / "finetune.json").write_text(json.dumps(found, indent=2) + "\n")
    for method, rows in summary.items():
        for name in MEASURES:
            row = {key: 100 * value for key, value in rows[name].items()}
            print(
                f"{method:7} {name:20} {row['baseline_mean']:5.1f} ± {row['baseline_sd']:.1f}   "
                f"{row['aligned_mean']:5.1f} ± {row['aligned_sd']:.1f}   "
                f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
            )


def count_images() -> dict[str, dict[str, int]]:
    """Images of every split and class."""
    from g4i_hf.data.loading import class_names, open_images

    splits, id2label = class_names(open_images("runs/stamps/tuxpaint-stamps"))
    return {name: dict(Counter(id2label[label] for label in split["label"])) for name, split in splits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="choose settings on validation; test stays closed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    if not Path("runs/stamps/tuxpaint-stamps").is_dir() or not Path("runs/efficientnet_lite0").is_dir():
        raise SystemExit("Make data and student first, with the commands in recipes/efficientnet_lite0/README.md.")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    chosen = tune()
    if not args.tune:
        compare(args.seeds, chosen)


if __name__ == "__main__":
    main()
