"""The files in results/: a row for each measurement, and how it was made."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

import numpy as np
from filelock import FileLock

from g4i_hf.files import replace_text
from g4i_hf.training.run_folder import versions

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
OPTIONS = "--counts COUNTS", "--real_views FOLDER", "--words"  # that a command is noted with


class Results:
    """
    Rows of a file. Each is written as soon as it is measured, so that a script that is started again measures what is
    missing. A row says its commit and machine where they are not those in `made`.

    Args:
        key: columns that tell rows apart.
        made_by: the column whose values have a `made` each, where several scripts write one file.
    """

    def __init__(self, file: Path, key: tuple[str, ...], made_by: str | None = None):
        self.file, self.key, self.made_by = file, key, made_by
        given = "".join(f" {option}" for option in OPTIONS if option.split()[0] in sys.argv)
        self.here = provenance() | {"command": f"python benchmarks/{Path(sys.argv[0]).name} PHOTOS{given}"}
        self.read()

    def read(self) -> None:
        found = json.loads(self.file.read_text()) if self.file.exists() else {"made": {}, "rows": []}
        self.made, self.rows = found["made"], found["rows"]
        self.keys = {tuple(row[name] for name in self.key) for row in self.rows}

    def has(self, *key: str | int | float) -> bool:
        return key in self.keys

    def add(self, *key: str | int | float, **figures) -> None:
        (ROOT / "runs").mkdir(exist_ok=True)
        with FileLock(ROOT / "runs" / f"{self.file.name}.lock"):
            self.read()  # another script may have written it since
            if self.has(*key):
                return
            row = dict(zip(self.key, key, strict=True)) | figures
            made = self.made.setdefault(row[self.made_by], {}) if self.made_by else self.made
            made |= self.here | made | {"command": self.here["command"]}
            row |= {name: self.here[name] for name in ("commit", "machine") if self.here[name] != made[name]}
            self.rows.append(row)
            self.keys.add(key)
            self.write()
        print(json.dumps(row), flush=True)

    def write(self) -> None:
        lines = ",\n".join(f"  {json.dumps(row)}" for row in self.rows)
        replace_text(self.file, f'{{"made": {json.dumps(self.made, indent=1)},\n"rows": [\n{lines}\n]}}\n')


def write_result(file: Path, **figures) -> None:
    """A file without rows."""
    file.write_text(json.dumps(provenance() | figures, indent=2) + "\n")


def read_result(name: str) -> dict:
    return json.loads((RESULTS / name).read_text())


def grouped(rows: Iterable[dict], *names: str) -> dict[tuple, list[dict]]:
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def mean(rows: list[dict], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return fmean(values) if values else None


def right_of(row: dict) -> np.ndarray:
    """(m,) 1 or 0, whether each image of `test` is right: `test_images` bits in `right`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))[: row["test_images"]].astype(float)


def provenance() -> dict:
    """Command, date, commit (of a clone), versions and processor; no path and no host name."""
    script = Path(sys.argv[0]).name
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "command": " ".join(["python", f"benchmarks/{script}", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "versions": versions(),
        "machine": f"{os.cpu_count()} CPU cores, {next(names, platform.processor())}",
    }


def _commit() -> str | None:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "g4i_hf", "recipes")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no clone
        return None
