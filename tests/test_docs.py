"""The walk through the API runs as it stands and prints what it says."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MARK = "--- end of block {} ---"
BY_NAME = re.compile(r"""(install|add)\s+(-\S+\s+)*["'`]?g4i[-_]hf\b""")
PARTS = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", flags=re.S)


@pytest.mark.slow
def test_the_walkthrough_prints_what_it_shows(tmp_path):
    page = (ROOT / "docs" / "walkthrough.md").read_text()
    parts = PARTS.findall(page)
    assert len(parts) == page.count("```python") > 6  # every block shows its output
    script = "".join(f"{code}\nprint({MARK.format(number)!r})\n" for number, (code, _) in enumerate(parts))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    done = subprocess.run([sys.executable, "-"], cwd=tmp_path, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout
    for number, (code, expected) in enumerate(parts):
        output, printed = printed.split(MARK.format(number) + "\n", 1)
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(expected, output, flags), f"{code}\nprinted:\n{output}"


def test_nothing_tells_readers_to_install_the_package_by_its_name():
    """No index has it, so that whoever registers the name there would be installed in its place."""
    assert BY_NAME.search("pip install g4i_hf") and BY_NAME.search("uv pip install -U 'g4i-hf[onnx]'")
    folders = [ROOT / name for name in ("g4i_hf", "recipes", "hub_cards", "docs", "benchmarks")]
    files = [path for folder in folders for kind in ("md", "py", "j2", "yaml") for path in folder.rglob(f"*.{kind}")]
    assert len(files) > 200
    for path in [*files, *ROOT.glob("*.md")]:
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))  # a message over several lines
        assert not (found := BY_NAME.search(text)), f"{path.relative_to(ROOT)}: {found[0]}"
