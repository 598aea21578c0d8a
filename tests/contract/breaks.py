"""Run the deliberate breaks of BREAKS.md: each is applied to a copy of the project, and its test must fail there.

python tests/contract/breaks.py              all of them, about ten minutes
python tests/contract/breaks.py losses hub   those whose heading or title has one of these words
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("BREAKS.md")
ENTRY = re.compile(
    r"^- \*\*(?P<title>.+?)\*\* in `(?P<file>[^`]+)`\n"
    r"  - is: ``(?P<before>.+?)``\n"
    r"  - broken: ``(?P<after>.*?)``\n"
    r"  - red: `(?P<test>[^`]+)`$",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Break:
    room: str
    title: str
    file: str
    before: str
    after: str
    test: str


def read_breaks(text: str) -> list[Break]:
    """The entries of the table. In `is` and `broken`, a line after the first stands as it does in the file."""
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        room = section.splitlines()[0]
        found += [Break(room, **match.groupdict()) for match in ENTRY.finditer(section)]
    return found


def copy_project(folder: Path) -> None:
    """Copy the tracked files, links as links."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


def goes_red(change: Break, project: Path) -> bool:
    """Apply one break in `project`, run its test, take the break back."""
    path = project / change.file
    text = path.read_text(encoding="utf-8")
    if text.count(change.before) != 1:
        raise SystemExit(f"{change.file} has this {text.count(change.before)} times, not once: {change.before}")
    path.write_text(text.replace(change.before, change.after), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    command += ["-m", "slow or not slow", change.test]
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    path.write_text(text, encoding="utf-8")
    if ended.returncode not in (0, 1):  # 1: tests failed; others: no such test, an error of pytest
        raise SystemExit(f"{change.test}: pytest ended with {ended.returncode}\n{ended.stdout[-2000:]}{ended.stderr}")
    return ended.returncode == 1


def main(words: list[str]) -> None:
    breaks = read_breaks(TABLE.read_text(encoding="utf-8"))
    chosen = [b for b in breaks if not words or any(w.lower() in f"{b.room} {b.title}".lower() for w in words)]
    green = []
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        for number, change in enumerate(chosen, 1):
            red = goes_red(change, Path(folder))
            print(f"{number}/{len(chosen)} {'red' if red else 'GREEN'}  {change.room}: {change.title}", flush=True)
            if not red:
                green.append(change.title)
    if green:
        raise SystemExit(f"{len(green)} of {len(chosen)} breaks were not noticed: {', '.join(green)}")


if __name__ == "__main__":
    main(sys.argv[1:])
