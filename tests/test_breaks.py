"""The breaks of breaks.py: what they name is there, and each makes its guard fail."""

import subprocess

import pytest
from breaks import BREAKS, TESTS
from loaded import PYTHON


def test_what_a_break_names_is_there():
    for change in BREAKS:
        owner, name = change.find()
        assert hasattr(owner, name) and change.test(), change


@pytest.mark.slow
def test_each_break_makes_its_guard_fail():
    done = subprocess.run([PYTHON, TESTS / "breaks.py"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
