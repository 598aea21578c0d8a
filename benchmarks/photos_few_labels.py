"""
What are captions worth on photographs with few labels? CIFAR-10 with 5% of the labels and a small ResNet from scratch:
the labelled images alone (the baseline), against all images with pseudo-labels from captions and alignment.

    python benchmarks/photos_few_labels.py --photos photos/cifar10 --tune
    python benchmarks/photos_few_labels.py --photos photos/cifar10 --seeds 0 1 2

The first command trains the baseline with the settings in `TRIALS` and chooses by `validation`; it writes
results/cifar10_few_labels_tuning.json. The second trains both variants with what was chosen, evaluates each of them
once on `test`, and writes results/cifar10_few_labels.json. A finished run is not trained or evaluated again.
One thread; a training takes about three minutes.

`--photos` is a folder of three Parquet files, named train, validation and test, with the columns image, label,
image_id and caption (a list of texts). The images are those of CIFAR-10 (Hub: uoft-cs/cifar10). The captions are the
`synthetic_caption` of FoMo-in-Flux (arXiv 2408.14471, MIT; github.com/ExplainableML/fomo_in_flux, file
data_lib/00_info/CIFAR10_test.json). Only CIFAR-10's official test images have captions, so the splits change places:

- validation: every tenth official test image, from the tenth on (1,000), with image_id `test/00009` and so on;
- train: the other official test images (9,000);
- test: 2,000 official training images of each class (20,000), without captions.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from provenance import RESULTS, ROOT, provenance, read_result

from g4i_hf.evaluation.statistics import paired_summary

SETTINGS = {
    "text_encoder": "sentence-transformers/all-MiniLM-L6-v2",
    "student": "resnet18",
    "student_args": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]},
    "image_size": 32,
    "train_crop": "pad",
    "hflip": 0.5,
    "label_fraction": 0.05,
    "max_steps": 1410,  # 10 epochs of all 9,000 images; of the 450 labelled ones, 176
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 64,
    "optim": "adamw_torch",
    "weight_decay": 0.05,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 50,
    "label_smoothing_factor": 0.1,
    "align_loss": "clip",
    "align_temperature": 0.2,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
}
VARIANTS = {
    "baseline": {"align_weight": 0, "unlabelled": "drop"},
    "captions": {"align_weight": 1, "supervision": "pseudo"},
}
TRIALS = [
    {"learning_rate": 1e-3},
    {"learning_rate": 3e-3},
    {"learning_rate": 1e-2},
    {"learning_rate": 3e-3, "auto_augment": "rand-m9-mstd0.5-inc1"},
    {"learning_rate": 3e-3, "max_steps": 705},
]
TUNING_SEEDS = (100, 101)  # none of those that are reported
TUNING = "cifar10_few_labels_tuning.json"
HOW = (
    "Student, number of steps, weight and temperature of the alignment were fixed beforehand. The other settings, "
    "which both variants have, are those of the trial with the best mean accuracy of the baseline on validation, over "
    f"seeds that are not among these: {TUNING}."
)


def command(name: str) -> list[str]:
    """How a command of g4i_hf is started."""
    return [sys.executable, str(ROOT / "recipes" / f"{name}.py")]


def start(name: str, *options: str) -> None:
    words = [*command(name), *options]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")


def trained(run: Path, photos: Path, variant: str, seed: int, chosen: dict) -> dict:
    """The results of a run, which is trained unless it is finished. `label_seed` is that of the run."""
    options = {"dataset_name": str(photos.resolve()), "embeddings_dir": str(run.parent / "embeddings")}
    options |= SETTINGS | VARIANTS[variant] | chosen | {"seed": seed, "output_dir": str(run)}
    run.parent.mkdir(parents=True, exist_ok=True)
    config = run.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(options, sort_keys=False))
    start("train", "--config", str(config))
    return json.loads((run / "all_results.json").read_text())


def tune(photos: Path, folder: Path) -> None:
    """Trains the baseline with every setting; writes which is best on `validation`."""
    made, trials = provenance(), []
    for number, options in enumerate(TRIALS):
        found = []
        for seed in TUNING_SEEDS:
            results = trained(folder / f"trial{number}-{seed}", photos, "baseline", seed, options)
            found.append(results["validation_accuracy"])
            print(f"{options}, seed {seed}: validation {100 * found[-1]:.1f}", flush=True)
        trials.append({"options": options, "validation_accuracy": found, "mean": sum(found) / len(found)})
    chosen = max(trials, key=lambda trial: trial["mean"])["options"]
    print(f"chosen: {chosen}")
    write(TUNING, made, photos, {"seeds": TUNING_SEEDS, "settings": SETTINGS, "trials": trials, "chosen": chosen})


def measured(run: Path, photos: Path, variant: str, seed: int, chosen: dict) -> dict:
    """The figures of a run, which is evaluated on `test` unless it was."""
    results = trained(run, photos, variant, seed, chosen)
    if "test_accuracy" not in results:
        start("evaluate", "--run", str(run), "--splits", "test")
        results = json.loads((run / "all_results.json").read_text())
    kept = ("validation_accuracy", "test_accuracy", "train_runtime")
    found = {"variant": variant, "seed": seed} | {name: results[name] for name in kept}
    return found | (pseudo_labels(run) if variant == "captions" else {})


def pseudo_labels(run: Path) -> dict[str, float]:
    """How many labels the captions gave, which share of them is right, and which share was expected to be."""
    from g4i_hf.cli import parse_options
    from g4i_hf.commands.train import OPTIONS
    from g4i_hf.data.checks import labels_of
    from g4i_hf.data.loading import load_data
    from g4i_hf.supervision.label_controls import keep_label_fraction
    from g4i_hf.workflows.train import TrainingRun

    options = ["--config", str(run / "train.yaml")]
    training_run = TrainingRun(*parse_options(OPTIONS, options))
    training_run.load()
    learned_from, seed = training_run.splits["train"], training_run.args.seed
    everything = load_data(training_run.data)["train"]
    if learned_from["image_id"][:] != everything["image_id"][:]:
        raise SystemExit(f"{run} was trained on other rows than there are.")
    truth, given = labels_of(everything), labels_of(learned_from)
    kept = labels_of(keep_label_fraction(everything, training_run.run.label_fraction, seed)) >= 0
    return {
        "pseudo_labels": int((given[~kept] >= 0).sum()),
        "pseudo_labels_right": float((given == truth)[~kept & (given >= 0)].mean()),
        "pseudo_labels_expected_right": training_run.supervised.facts["caption_accuracy_estimate"],
    }


def compare(photos: Path, folder: Path, seeds: list[int]) -> None:
    """Trains and evaluates both variants with the settings that were chosen; writes their comparison."""
    made, tuning, runs = provenance(), read_result(TUNING), []
    cells = [(seed, variant) for seed in seeds for variant in VARIANTS]
    for number, (seed, variant) in enumerate(cells, start=1):
        runs.append(measured(folder / f"{variant}-{seed}", photos, variant, seed, tuning["chosen"]))
        figures = {name: round(value, 3) for name, value in runs[-1].items() if name not in ("variant", "seed")}
        print(f"{number} of {len(cells)}: {variant}, seed {seed}: {figures}", flush=True)

    def values(variant: str, measure: str) -> list[float]:
        return [run[measure] for run in runs if run["variant"] == variant]

    measures = ("validation_accuracy", "test_accuracy")
    summary = {name: paired_summary(*(values(kind, name) for kind in VARIANTS)).to_dict() for name in measures}
    found = {"seeds": seeds, "settings": SETTINGS | tuning["chosen"], "variants": VARIANTS, "how_chosen": HOW}
    write("cifar10_few_labels.json", made, photos, found | {"summary": summary, "runs": runs})
    for name, row in summary.items():
        print(
            f"{name:20} {100 * row['baseline_mean']:5.1f} ± {100 * row['baseline_sd']:.1f}   "
            f"{100 * row['aligned_mean']:5.1f} ± {100 * row['aligned_sd']:.1f}   "
            f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        )


def write(name: str, made: dict, photos: Path, found: dict) -> None:
    made = made | {"command": made["command"].replace(str(photos), "DIR")}  # nobody else has this folder
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(made | found, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="train, validation and test.parquet")
    parser.add_argument("--tune", action="store_true", help="choose settings on validation; test stays closed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/cifar10_few_labels"), help="where the runs go")
    args = parser.parse_args()
    if args.tune:
        tune(args.photos, args.folder.resolve())
    else:
        compare(args.photos, args.folder.resolve(), args.seeds)


if __name__ == "__main__":
    main()
