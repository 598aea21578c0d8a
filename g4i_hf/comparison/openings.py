"""Whenever labels are opened that choices must not depend on, a line says so."""

import sys
from datetime import UTC, datetime
from pathlib import Path


def note_opening(path: str | None, splits: list[str], results: str) -> None:
    """Appends to a Markdown file a line with date, splits, results and command; without a file, prints it."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    date = datetime.now(UTC).date().isoformat()
    line = f"- {date}: {', '.join(splits)} opened for `{results}` by `{command}`"
    if path is None:
        print(line)
        return
    known = Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(("" if known.endswith("\n") or not known else "\n") + line + "\n")
