"""What every file in results/ says of how it was made."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"


def provenance() -> dict:
    """Command, commit, date, versions and machine; no path and no host name."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "g4i_hf", "recipes"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    return {
        "command": " ".join(["python", str(script), *sys.argv[1:]]),
        "commit": commit + (" with changes" if changed else ""),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers", "timm", "datasets", "accelerate")},
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} CPU cores, {_processor()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
