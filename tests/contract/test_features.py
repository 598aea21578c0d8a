"""What pages name is there: FEATURES.md, SECURITY.md and CONTRIBUTING.md."""

import re
from pathlib import Path

from doors import ROOT

HERE = Path(__file__).parent


def test_every_test_that_is_named_exists():
    rows = [line.split("|") for line in (HERE / "FEATURES.md").read_text().splitlines() if line.count("|") == 5]
    named = 0
    for cells in rows:
        for word in cells[3].replace("**", "").split(","):
            name, _, test = word.strip().split(" (")[0].partition("::")
            own = HERE / f"test_contract_{name}.py"
            file = own if own.is_file() else HERE.parent / name
            if name.startswith("`") or not name or set(name) <= {"-"} or name == "test that holds it":
                continue
            assert file.is_file(), word
            assert not test or f"def {test}(" in file.read_text(), word
            named += 1
    assert named > 150


def test_each_promise_about_untrusted_input_has_a_test_that_exists():
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", (HERE.parents[1] / "SECURITY.md").read_text())
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (HERE.parent / file).read_text(), f"{file}::{test}"


def test_contributing_names_what_is_there():
    text, code = (ROOT / "CONTRIBUTING.md").read_text(), [*(ROOT / "g4i_hf").rglob("*.py"), *HERE.parent.rglob("*.py")]
    words = set(re.findall(r"\w+", " ".join(path.read_text() for path in code)))
    named = re.findall(r"`(?:\w+\.)?(\w*[A-Z_]\w*)`", text)
    files = re.findall(r"`(\w+/[\w/]+\.(?:py|html\.j2|md))`", text)
    assert len(named) > 30 and [name for name in named if name not in words] == []
    places = [(ROOT / file, ROOT / "g4i_hf" / file) for file in files]
    assert len(files) > 30 and [place for place, other in places if not place.exists() and not other.exists()] == []
