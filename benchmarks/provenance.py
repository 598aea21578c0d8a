"""What every file in results/ says of how it was made."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from g4i_hf.training.lineage import versions

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"


def provenance() -> dict:
    """Command, commit, date, versions and machine; no path and no host name."""
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    command = " ".join(["python", str(script), *sys.argv[1:]])
    return {"command": command, "date": datetime.now(UTC).date().isoformat(), **made_by()}


def read_result(name: str) -> dict:
    return json.loads((RESULTS / name).read_text())


def write_rows(file: Path, made: dict, rows: list[dict]) -> None:
    """Says the last row, and writes all of them, a line each."""
    print(json.dumps(rows[-1]), flush=True)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    file.write_text(f'{{"made": {json.dumps(made, indent=1)},\n"rows": [\n{lines}\n]}}\n')


def made_by() -> dict[str, Any]:
    """Commit (of a clone), versions and processor; no path and no host name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    machine = f"{os.cpu_count()} CPU cores, {next(names, platform.processor())}"
    return {"commit": _commit(), "versions": versions(), "machine": machine}


def _commit() -> str | None:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "g4i_hf", "recipes")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no clone
        return None
