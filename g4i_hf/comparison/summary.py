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


def left_out(path: str | Path, findings: list[Finding], seeds: list[int]) -> list[str]:
    """
    What a summary has figures of and `findings` have not: splits, students, variants or seeds; none where there is no
    summary.
    """
    names = ("split", "student", "variant")
    try:
        known = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = [tuple(row[name] for name in names) for row in known["findings"]]
        more = [f"seed {seed}" for seed in known["seeds"] if seed not in seeds]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    now = {name: {getattr(row, name) for row in findings} for name in names}
    placed = [(name, value) for row in rows for name, value in zip(names, row, strict=True) if value is not None]
    return [*dict.fromkeys(value for name, value in placed if value not in now[name]), *more]


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
    made: dict[str, Any] = {
        "command": command(sys.argv),
        "date": datetime.now(UTC).date().isoformat(),
        **made_by(),
    }
    made["commits_of_cells"] = sorted({result.made.get("commit") or "unknown" for result in results.values()})
    found = {"made": made, "seeds": seeds, "nearest_neighbour": bars}
    found["findings"] = [finding.to_dict() for finding in findings]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def command(argv: list[str]) -> str:
    """As it can be given in the root of a clone: files in it by their path from there, others by their name alone."""
    start = ["g4i"] if Path(argv[0]).name == "g4i" else ["python", _from_root(argv[0])]
    return shlex.join([*start, *map(_from_root, argv[1:])])


def _from_root(word: str) -> str:
    name, equals, value = word.partition("=")
    if word.startswith("--") and equals:
        return f"{name}={_from_root(value)}"
    if not os.path.isabs(word) and not os.path.exists(word):
        return word
    place = Path(word).resolve()
    return place.relative_to(ROOT).as_posix() if place.is_relative_to(ROOT) else place.name
