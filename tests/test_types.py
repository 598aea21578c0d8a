"""Types of the public names, as a checker of a user's script sees them: `g4i_hf` imports them lazily."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import g4i_hf

RIGHT = f"""
import numpy as np

from g4i_hf import {", ".join(g4i_hf.__all__)}

result = fit("pictures", image="photo", student="resnet18")
print(result.classifier.name, result.verdict, result.difference)
model = LabelModel(3).fit(dict(caption=View(np.zeros((2, 3)))), np.zeros(2, np.int64))
print(model.probabilities_.shape)
args = AlignmentArguments("runs/one", learning_rate=1e-4)
trainer = AlignmentTrainer("resnet18", args, load_images("pictures")["train"], pretrained=True)
trainer.train()
trainer.save_student("student")
"""
WRONG = """
import numpy as np

import g4i_hf

g4i_hf.fit("pictures", image=3)
g4i_hf.View(np.zeros((2, 3)), sourc="captions")
g4i_hf.LabelModel(3).fitt
g4i_hf.ImageSerach
"""
# Nothing of torch and transformers is analysed: seconds in place of minutes. The path is for an editable
# installation, which mypy does not find where it goes by hooks of the import
CONFIG = f"""
[mypy]
mypy_path = {Path(g4i_hf.__file__).parents[1]}
follow_imports = skip
ignore_missing_imports = True
[mypy-g4i_hf.*]
follow_imports = silent
"""


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_a_checker_finds_the_mistakes_of_a_script_and_no_others(checker, tmp_path):
    """basedpyright, which is pyright with its Node.js, is no extra, as it takes 300 MB."""
    if checker == "mypy":
        pytest.importorskip("mypy")
        command = [sys.executable, "-m", "mypy", "--config-file", "config", "right.py", "wrong.py"]
    else:
        if shutil.which(checker) is None:
            pytest.skip("basedpyright is not installed")
        command = [checker, "--pythonpath", sys.executable, "--level", "error", "right.py", "wrong.py"]
    for name, text in {"right.py": RIGHT, "wrong.py": WRONG, "config": CONFIG}.items():
        (tmp_path / name).write_text(text)
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    assert re.findall(r"(\w+\.py):(\d+)\S* .*error", printed) == [("wrong.py", line) for line in "6789"], printed
