"""What tests the tests: the breaks of breaks.py make their guards fail, and mutants change what a function does."""

import ast
import subprocess
import sys

import pytest
from breaks import BREAKS, TESTS
from loaded import PYTHON

sys.path.insert(0, str(TESTS.parent / "benchmarks"))
from mutants import changes_of


def test_what_a_break_names_is_there():
    for change in BREAKS:
        owner, name = change.find()
        assert hasattr(owner, name) and change.test(), change


@pytest.mark.slow
def test_each_break_makes_its_guard_fail():
    done = subprocess.run([PYTHON, TESTS / "breaks.py"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"


CODE = '''
LIMIT = 3 + 4

def f(x, y=1 + 1):
    """Text."""
    if x < y and not x:
        raise ValueError(f"{x + y}")
    z = min(x, y) - 1
    z = -z
    x[1:] += z
'''
CHANGES = {"x < y -> x <= y", "x < y -> x >= y", "x < y and (not x) -> x < y or not x", "not x -> not not x"}
CHANGES |= {"if x < y and (not x): -> if not (x < y and (not x)):", "min(x, y) - 1 -> min(x, y) + 1", "min -> max"}
CHANGES |= {"z = -z -> nothing", "-z -> --z", "x[1:] += z -> nothing", "x[1:] += z -> x[1:] -= z", "1: -> :"}


def test_mutants_change_no_constants_defaults_and_messages():
    number = len(changes_of(ast.parse(CODE)))
    assert {changes_of(ast.parse(CODE))[index].apply() for index in range(number)} == CHANGES
