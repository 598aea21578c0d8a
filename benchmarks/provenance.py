"""What every file in results/ says of how it was made."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from g4i_hf.study import made_by

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"


def provenance() -> dict:
    """Command, commit, date, versions and machine; no path and no host name."""
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    command = " ".join(["python", str(script), *sys.argv[1:]])
    return {"command": command, "date": datetime.now(UTC).date().isoformat(), **made_by()}


def read_result(name: str) -> dict:
    return json.loads((RESULTS / name).read_text())
