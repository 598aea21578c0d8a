"""FEATURES.md names tests that exist."""

import re
from pathlib import Path

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
