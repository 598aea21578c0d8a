"""
Goldens: short committed texts in goldens/, such as the headings of a card. To accept what is there now:

    G4I_HF_REWRITE_GOLDENS=1 pytest -m "" tests/contract
"""

import os
import re
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent / "goldens"
REWRITE = "G4I_HF_REWRITE_GOLDENS"


def golden(name: str, lines: list[str]) -> list[str]:
    """The committed lines; with the variable set, those of now, which are written."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get(REWRITE):
        FOLDER.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").splitlines()


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def outline_of_card(card: str) -> list[str]:
    """Keys of the front matter, headings, columns of tables, and languages of code blocks, in their order."""
    lines = [f"key {name}" for name in front_matter(card)]
    body = card.split("---\n", 2)[2]
    for line in body.splitlines():
        if re.match(r"#+ ", line) or re.match(r"```\w", line):
            lines.append(line)
    return lines


def outline_of_page(page: str) -> list[str]:
    """Headings of an HTML page, without their markup."""
    found = re.findall(r"<h([1-4])[^>]*>(.*?)</h\1>", page, flags=re.DOTALL)
    return [f"h{level} {' '.join(re.sub(r'<[^>]+>', '', text).split())}" for level, text in found]
