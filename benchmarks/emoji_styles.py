"""
Baseline against aligned student on Emoji Styles over several seeds, in the demo's own setting: the same YAML files,
the same scripts, last epoch, raw weights. Two runs at a time unless told otherwise, one thread each.

    python benchmarks/emoji_styles.py --seeds 0 1 2 3 4
    python benchmarks/emoji_styles.py --seeds 0 1 2 --measures all

Runs that are finished are not trained again. Writes results/emoji_styles.json; of the second command, with everything
that `evaluate.py` measures, results/emoji_styles_measures.json.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from grid import paired_summary
from provenance import RESULTS, ROOT, provenance

from g4i_hf.evaluation.comparison import ALL_MEASURES

SPLITS = ("validation", "test", "test_novel")
MEASURES = [f"{split}_accuracy" for split in SPLITS]
MEASURES += [f"test_novel_recall_at_{k}" for k in (1, 5)]
KEPT = [*MEASURES, "test_novel_chance_at_1", "test_novel_chance_at_5", "test_novel_gallery_size", "train_runtime"]


def script(name: str, *options: str) -> None:
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    command = [sys.executable, str(ROOT / "recipes" / name), *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def run(kind: str, seed: int, folder: Path, measures: list[str]) -> dict:
    output_dir = folder / f"{kind}-{seed}"
    config = "baseline.yaml" if kind == "baseline" else "train.yaml"
    options = ["--config", f"recipes/emoji_styles/{config}", "--output_dir", str(output_dir), "--seed", str(seed)]
    script("train.py", *options, "--save_strategy", "no", "--disable_tqdm", "true")
    script("evaluate.py", "--run", str(output_dir), *(["--measures", *measures] if measures else []))
    results = json.loads((output_dir / "all_results.json").read_text())
    print(f"{kind} seed {seed}: " + ", ".join(f"{name} {100 * results[name]:.1f}" for name in MEASURES), flush=True)
    more = [f"{split}_{name}" for split in SPLITS for name in ALL_MEASURES] if measures else []
    kept = {name: results[name] for name in dict.fromkeys([*KEPT, *more]) if name in results}
    return {"kind": kind, "seed": seed, **kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/emoji_styles_seeds"), help="where the runs go")
    parser.add_argument("--measures", nargs="+", default=[], help="of evaluate, beside its default")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    made = provenance()
    cells = [(kind, seed) for seed in args.seeds for kind in ("baseline", "aligned")]
    with ThreadPoolExecutor(args.processes) as pool:
        runs = list(pool.map(lambda cell: run(*cell, args.folder, args.measures), cells))

    def values(kind: str, measure: str) -> list[float]:
        return [next(r[measure] for r in runs if (r["kind"], r["seed"]) == (kind, seed)) for seed in args.seeds]

    figures = {f"{split}_{measure}" for split in SPLITS for measure in ALL_MEASURES}
    names = [name for name in runs[0] if name in figures] if args.measures else MEASURES
    summary = {name: vars(paired_summary(values("baseline", name), values("aligned", name))) for name in names}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"emoji_styles{'_measures' if args.measures else ''}.json").write_text(
        json.dumps({**made, "seeds": args.seeds, "summary": summary, "runs": runs}, indent=2) + "\n"
    )
    for name, row in summary.items():
        print(
            f"{name:24} {100 * row['baseline_mean']:5.1f} ± {100 * row['baseline_sd']:.1f}   "
            f"{100 * row['aligned_mean']:5.1f} ± {100 * row['aligned_sd']:.1f}   "
            f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        )


if __name__ == "__main__":
    main()
