"""
Runs the benchmarks and compares their ratios, each to a peer measured in the same run, with the last committed ones.

    python benchmarks/run_all.py
    python benchmarks/run_all.py --only step_time embed_speed

Each script writes its file in results/ anew; `git diff results/` shows all of it, `git checkout results/` takes it
back.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from provenance import ROOT, read_result

# What is measured beside a peer; trainings, and what needs gigabytes of disk or a quarter of an hour, go by name
USUAL = ("step_time", "embed_speed", "embed_fixed_length", "input_pipeline", "fed_from_memory")
LONGER = ("alignment_scale", "captioner_under_faults", "caption_resume", "store_scale")
COMPARED = ("ratio", "share_of_capacity")


def ratios(found: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Path and value of every number in JSON that is called a ratio."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield from ratios(value, f"{path}.{key}" if path else key)
    elif isinstance(found, list):
        for place, value in enumerate(found):
            name = value.get("student", place) if isinstance(value, dict) else place
            yield from ratios(value, f"{path}[{place if name == place else f'{place}: {name}'}]")
    elif isinstance(found, int | float) and path.rsplit(".", 1)[-1].endswith(COMPARED):
        yield path, float(found)


def committed(name: str) -> dict[str, float]:
    """The ratios of the last commit; none where it has no such file."""
    shown = subprocess.run(
        ["git", "show", f"HEAD:results/{name}.json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return dict(ratios(json.loads(shown.stdout))) if shown.returncode == 0 else {}


def compared(name: str) -> list[str]:
    before = committed(name)
    now = dict(ratios(read_result(f"{name}.json")))
    lines = []
    for path in dict.fromkeys([*before, *now]):
        old, new = (f"{values[path]:.3f}" if path in values else "-" for values in (before, now))
        change = f"{now[path] / before[path] - 1:+.1%}" if before.get(path) and path in now else ""
        lines.append(f"{name + ': ' + path:90} {old:>9} {new:>9} {change:>8}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(USUAL), choices=USUAL + LONGER)
    args = parser.parse_args()
    lines, failed = [], []
    for name in args.only:
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        if subprocess.run([sys.executable, f"benchmarks/{name}.py"], cwd=ROOT, check=False).returncode:
            failed.append(name)
            continue
        print(f"   {time.perf_counter() - start:.0f} s", flush=True)
        lines += compared(name)
    print(f"\n{'':90} {'committed':>9} {'now':>9}")
    print("\n".join(lines))
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
