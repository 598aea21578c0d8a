"""
Extension of griffe, which reads the docstrings for the reference without importing the package.

Public names are found where `g4i_hf` offers them. [`X`] and [`~a.b.X`], the notation of Hugging Face, become links to
what the reference has, and code otherwise.
"""

import ast
import re
from pathlib import Path

import griffe

REFERENCE = Path(__file__).parent / "reference"
MARK = re.compile(r"\[`(~?)([\w.]+)`\]")


class Docstrings(griffe.Extension):
    def __init__(self):
        pages = "".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
        self.documented = set(re.findall(r"^::: (\S+)", pages, flags=re.MULTILINE))

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        """`g4i_hf.X`, which is imported when it is asked for, is an alias of its place."""
        for name, place in ast.literal_eval(str(pkg["_PLACES"].value)).items():
            pkg.set_member(name, griffe.Alias(name, f"{pkg.path}.{place}.{name}", parent=pkg))

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            text = MARK.sub(self._linked, obj.docstring.value)
            obj.docstring.value = re.sub("^Example:$", "Examples:", text, flags=re.MULTILINE)  # a section, as code

    def _linked(self, match: re.Match) -> str:
        short, name = match.groups()
        last = name.rpartition(".")[2]
        targets = (name, f"g4i_hf.{last}")
        target = next((each for each in targets if each in self.documented), None)
        shown = last if short else name
        return f"[`{shown}`][{target}]" if target else f"`{shown}`"
