"""The JSON file with the figures of a comparison, which tables are made from."""

import json
import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .findings import Finding
from .provenance import made_by
from .results import Result

ROOT = Path(__file__).resolve().parent.parent.parent


def unscored_splits(path: str | Path, findings: list[Finding]) -> list[str]:
    """Splits that a summary has figures of and `findings` have not; none where there is no summary."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["findings"]
        known = dict.fromkeys(row["split"] for row in rows)
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [split for split in known if split not in {row.split for row in findings}]


def write_summary(
    path: str | Path, results: dict[str, Result], findings: list[Finding], bars: dict[str, float], seeds: list[int]
) -> None:
    """
    Args:
        path: JSON file.
        results: of the cells that `findings` are made from; their commits may be others than the one that is at work.
        findings: rows of the table.
        bars: split -> accuracy of the nearest training image.
        seeds: of the grid.
    """
    made: dict[str, Any] = {"command": command(sys.argv), "date": datetime.now(UTC).date().isoformat(), **made_by()}
    made["commits_of_cells"] = sorted({result.made.get("commit") or "unknown" for result in results.values()})
    found = {"made": made, "seeds": seeds, "nearest_neighbour": bars}
    found["findings"] = [finding.to_dict() for finding in findings]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def command(argv: list[str]) -> str:
    """As it can be given in the root of a clone: files in it by their path from there, others by their name alone."""
    return shlex.join(["python", *map(_from_root, argv)])


def _from_root(word: str) -> str:
    name, equals, value = word.partition("=")
    if word.startswith("--") and equals:
        return f"{name}={_from_root(value)}"
    if not os.path.isabs(word) and not os.path.exists(word):
        return word
    place = Path(word).resolve()
    return place.relative_to(ROOT).as_posix() if place.is_relative_to(ROOT) else place.name
