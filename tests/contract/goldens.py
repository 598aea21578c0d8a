"""
Goldens: short committed texts in goldens/, the options of each command. To accept what is there now:

    G4I_HF_REWRITE_GOLDENS=1 pytest -m "" tests/contract
"""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "goldens"
REWRITE = "G4I_HF_REWRITE_GOLDENS"


def golden(name: str, lines: list[str]) -> list[str]:
    """The committed lines; with the variable set, those of now, which are written."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get(REWRITE):
        FOLDER.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").splitlines()
