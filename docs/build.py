"""
Prepares the pages of the site for `zensical build`; needs no torch and no network.

    python docs/build.py build/docs

Copies the pages and images of docs/, generates the reference of the command line from the option dataclasses, and
turns links to files of the repository outside docs/ into their paths, as the site does not have them.
"""

import ast
import posixpath
import re
import shutil
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from g4i_hf.options import OPTIONS_OF  # noqa: E402
from g4i_hf.options.fields import described, grouped, title_of  # noqa: E402

SHOWN = {".md", ".png", ".svg", ".css"}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
HEAD = """\
# Command line

Generated from the option dataclasses in `g4i_hf/options`. In a terminal, `g4i COMMAND --help all` lists the same
options, and `--help` the usual ones.

Options come from defaults, then a YAML file (`--config`), then the command line; later ones win. `--print_config`
prints the resolved options as such a file. Names may have `-` or `_`. A boolean option without a value is true.
"""


def pages(docs: Path) -> dict[str, str | Path]:
    """Every file of the site by its path: the text of a page, or the file to copy."""
    found: dict[str, str | Path] = {}
    for path in sorted(docs.rglob("*")):
        name = path.relative_to(docs).as_posix()
        if path.suffix == ".md":
            found[name] = inside_the_site(path.read_text(encoding="utf-8"), posixpath.dirname(name))
        elif path.suffix in SHOWN:
            found[name] = path
    return found | {"reference/cli.md": command_line()}  # in place of the page that says how to list the options


def inside_the_site(text: str, folder: str) -> str:
    """The text of a page in `folder` of docs/, with links to files outside docs/ replaced by their paths."""

    def replaced(match: re.Match) -> str:
        words, target = match.groups()
        place = posixpath.normpath(posixpath.join("docs", folder, target.partition("#")[0]))
        if "://" in target or target.startswith("#") or place.startswith("docs/"):
            return match[0]
        return words if place in words else f"{words} (`{place}`)"

    return LINK.sub(replaced, text).replace("<details>", "<details markdown>")


# --- Reference of the command line -----------------------------------------------------------------------------------


def command_line() -> str:
    """A section for each command, and one for the groups of options that several commands share."""
    groups = {name: grouped(classes) for name, classes in OPTIONS_OF.items()}
    times = Counter(declaring for found in groups.values() for declaring in found)
    shared = {
        declaring: group for found in groups.values() for declaring, group in found.items() if times[declaring] > 1
    }
    source = ast.parse((ROOT / "g4i_hf" / "commands.py").read_text(encoding="utf-8"))
    about = {node.name.lower(): ast.get_docstring(node) for node in source.body if isinstance(node, ast.ClassDef)}
    lines = [HEAD]
    for name in ("fit", *(name for name in groups if name != "fit")):
        lines += [f"## g4i {name}", "", fenced(about[name]), ""]
        if also := [f"[{heading(each)[0]}](#{slug(heading(each)[0])})" for each in groups[name] if each in shared]:
            lines += [f"Also takes: {', '.join(also)}.", ""]
        for declaring, group in groups[name].items():
            if declaring not in shared:
                lines += table(declaring, group, f"{name}: ")
    lines += ["## Shared options", ""]
    for declaring, group in shared.items():
        lines += table(declaring, group)
    return "\n".join(lines)


def heading(declaring: type) -> tuple[str, str]:
    """Title of a group of options, and what follows its colon, which explains it."""
    return re.match(r"(Trainer: [^:;]+|[^:;]+)[:;]? ?(.*)", title_of(declaring)).groups()


def table(declaring: type, group: dict[str, Any], before: str = "") -> list[str]:
    """The options of a group, under its title."""
    name, about = heading(declaring)
    lines = [f"### {before}{name}", "", *([about[0].upper() + about[1:] + ".", ""] if about else [])]
    lines += ["| option | default | |", "|---|---|---|"]
    for name, field in group.items():
        text, default = described(field)
        lines.append(f"| `--{name}` | {f'`{default}`' if default else ''} | {cell(text)} |")
    return [*lines, ""]


def slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def fenced(docstring: str) -> str:
    """A docstring with its indented commands as a code block of the shell."""
    return re.sub(
        r"((?:^    .*\n)+)", lambda lines: f"```sh\n{textwrap.dedent(lines[1])}```\n", docstring + "\n", flags=re.M
    )


def cell(text: str) -> str:
    """Text for a cell of a table; within code, `<` stays as it is."""
    return re.sub("`[^`]*`|<", lambda found: "&lt;" if found[0] == "<" else found[0], text.replace("|", r"\|"))


if __name__ == "__main__":
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    for name, content in pages(ROOT / "docs").items():
        place = out / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            place.write_text(content, encoding="utf-8")
        else:
            shutil.copyfile(content, place)
