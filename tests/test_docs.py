"""The walk through the API runs as it stands and prints what it says."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MARK = "--- end of block {} ---"
PARTS = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", flags=re.S)


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
