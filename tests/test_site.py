"""The documentation site: what docs/build.py prepares, and that it needs nothing heavy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import g4i_hf
from g4i_hf.options import OPTIONS_OF
from g4i_hf.options.fields import names_of

ROOT = Path(__file__).parent.parent
# As where only the packages of the site are installed
ALONE = "import runpy, sys; sys.modules |= dict.fromkeys(('torch', 'datasets')); "
ALONE += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "docs"
    subprocess.run([sys.executable, "-c", ALONE, ROOT / "docs" / "build.py", folder], check=True)
    return folder


@pytest.mark.slow
def test_the_navigation_has_every_page(prepared):
    found = {path.relative_to(prepared).as_posix() for path in prepared.rglob("*.md")}
    assert set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text())) == found


@pytest.mark.slow
def test_every_option_of_every_command_is_in_the_reference(prepared):
    text = (prepared / "reference" / "cli.md").read_text()
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S))
    shared = sections["Shared options"]
    for command, classes in OPTIONS_OF.items():
        for name in {name for cls in classes for name in names_of(cls)}:
            assert f"| `--{name}` |" in sections[f"g4i {command}"] + shared, (command, name)
    assert "| `--align_weight` | `0.3` | Weight lambda" in sections["g4i train"]
    assert "| `--supervision` | `none` | auto: class probabilities" in sections["g4i train"]
    assert "; `<captions_dir>.journal`. |" in sections["g4i caption"]


def test_the_reference_has_every_public_name():
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert set(re.findall(r"^::: g4i_hf\.(\S+)", pages, flags=re.M)) == set(g4i_hf.__all__) - {"__version__"}


def test_prose_that_is_long_or_puzzling_is_found():
    sys.path.insert(0, str(ROOT / "tests"))
    from prose import problems

    long = "This sentence has " + "very " * 30 + "many words."
    assert [line.split(": ")[1] for line in problems("page", f"# A title\n\n{long}\n")] == ["35 words"]
    assert not list(problems("page", f"```\n{long}\n```\n\n| {long} |\n|---|\n\n`surely`\n"))
    assert "confidence" in next(problems("page", "It surely helps."))
