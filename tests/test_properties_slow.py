"""The properties again, with many more examples."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(str(path) for path in HERE.glob("test_properties_*.py") if path.name != Path(__file__).name)
FILES += [f"{HERE}/test_cli.py::test_any_file_is_read_and_printed_alike_or_refused_in_one_line"]


@pytest.mark.slow
def test_the_properties_hold_for_many_examples():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *FILES]
    profile = {"HYPOTHESIS_PROFILE": os.environ.get("HYPOTHESIS_PROFILE", "slow")}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | profile, cwd=HERE.parent)
    assert done.returncode == 0, done.stdout[-5000:]
