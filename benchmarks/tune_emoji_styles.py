"""
Chooses settings for Emoji Styles without the test splits. `test` is a style never seen, so each setting is trained
without one of the three training styles (Fluent) and judged by its accuracy on that style's training images, and
beside it on `validation`.

    python benchmarks/tune_emoji_styles.py --cell '{"align_weight": 0, "seed": 0}' --cell '{"seed": 0}'

A cell holds options of `train` that differ from the recipe. Appends a line a cell to
results/emoji_styles_tuning.jsonl; cells that are there already are not run again.
"""

import argparse
import json
import os
import sys
import tempfile
import time

from provenance import RESULTS, ROOT, provenance

HELD_OUT = "fluent-emoji-flat"
TRAINED_ON = "train without Fluent"  # other lines of the file are of runs on all of `train`


def run_cell(cell: dict) -> dict:
    from g4i_hf.cli import parse_options
    from g4i_hf.evaluation.evaluate import split_metrics
    from g4i_hf.evaluation.predict import predict
    from g4i_hf.options import OPTIONS_OF
    from g4i_hf.workflows.train import TrainingRun

    with tempfile.TemporaryDirectory() as folder:
        argv = ["--config", str(ROOT / "recipes" / "emoji_styles" / "train.yaml"), "--output_dir", folder]
        argv += [
            "--save_strategy",
            "no",
            "--eval_strategy",
            "no",
            "--logging_strategy",
            "no",
            "--disable_tqdm",
            "true",
        ]
        for name, value in cell.items():
            argv += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
        run = TrainingRun(*parse_options(OPTIONS_OF["train"], argv))
        run.load()
        splits = run.splits
        styles = splits["train"]["style"][:]
        held_out = splits["train"].select([i for i, style in enumerate(styles) if style == HELD_OUT])
        splits["train"] = splits["train"].select([i for i, style in enumerate(styles) if style != HELD_OUT])
        trainer = run.build_trainer()
        trainer.train()
        metrics = {}
        for name, split in (("held_out", held_out), ("validation", splits["validation"])):
            predictions = predict(trainer.model.eval(), run.built.processor, split, trainer.accelerator)
            metrics.update(split_metrics(predictions, split, name))
    kept = ("held_out_accuracy", "held_out_recall_at_5", "validation_accuracy")
    return {name: metrics[name] for name in kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", type=json.loads, action="append", required=True, help="JSON of options")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)
    path = RESULTS / "emoji_styles_tuning.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    done = [(line["trained_on"], line["cell"]) for line in map(json.loads, lines)]
    made = {name: value for name, value in provenance().items() if name != "command"}
    for cell in args.cell:
        if (TRAINED_ON, cell) in done:
            print(f"already there: {json.dumps(cell)}", file=sys.stderr)
            continue
        start = time.time()
        found = {
            "cell": cell,
            "trained_on": TRAINED_ON,
            **run_cell(cell),
            "seconds": round(time.time() - start),
            **made,
        }
        with path.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
