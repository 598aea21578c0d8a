"""Which code, libraries and machine made a result."""

import os
import platform
import subprocess
from pathlib import Path

from ..training.lineage import versions


def made_by() -> dict[str, object]:
    """Commit (of a clone), versions and processor; no path and no host name."""
    return {
        "commit": _commit(),
        "versions": versions(),
        "machine": f"{os.cpu_count()} CPU cores, {_processor()}",
    }


def _commit() -> str | None:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/g4i_hf", ":/recipes")
    except OSError:  # no git
        return None
    return commit + (" with changes" if changed else "") if commit else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
