"""The notebooks: stored as they ran, and each runs from its first cell to its last in an empty folder."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from loaded import BIN, PYTHON

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
BADGE = "https://colab.research.google.com/github/REPOSITORY_URL/blob/main/notebooks/"
SHELL = """
import subprocess

def shell(command):
    subprocess.run(command, shell=True, check=True)
"""
# What each prints, and the files that it leaves
LEFT = {
    "first_classifier": (
        "With captions the classifier is right for about",
        ["runs/pictures/classifier/model.safetensors", "runs/pictures/report.html", "predictions.png"],
    ),
    "wrong_labels": (
        "of the 12 wrong labels are among them",
        ["label_check/suspicious_labels.csv", "pictures/labels.jsonl", "runs/pictures/earlier-1/all_results.json"],
    ),
    "views": ("together", ["runs/pictures/views/caption/classes.parquet", "views.png"]),
}


def cells_of(notebook: Path, kind: str) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def script_of(notebook: Path) -> str:
    """Its code; a line `!command` runs in a shell, with the values of `{names}`, as in IPython."""
    code = "\n\n".join(cells_of(notebook, "code"))
    return SHELL + re.sub(r"(?m)^( *)!((?:.*\\\n)*.*)$", r"\1shell(f'''\2''')", code)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_stored_as_it_ran_and_uses_public_names(notebook):
    stored = json.loads(notebook.read_text(encoding="utf-8"))
    assert len(stored["cells"]) <= 16 and notebook.stat().st_size < 300_000
    code_cells = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code_cells] == list(range(1, len(code_cells) + 1))
    outputs = [output for cell in code_cells for output in cell["outputs"]]
    assert outputs and all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    assert f"]({BADGE}{notebook.name})" in cells_of(notebook, "markdown")[0]
    code = script_of(notebook).replace("g4i_hf.__file__", "")
    assert not re.findall(r"g4i_hf\.\w+\.|from g4i_hf\.|import g4i_hf\.|\b_\w+\(", code)
    assert not re.findall(r"[\"' (]/(?:home|root|tmp|work|usr|content)\b|[A-Z]:\\\\", notebook.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_start_to_end(notebook, tmp_path):
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [PYTHON, "-"],
        cwd=tmp_path, input=script_of(notebook), env=os.environ | {"MPLBACKEND": "Agg", "PATH": path},
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    printed, files = LEFT[notebook.stem]
    assert printed in done.stdout
    assert not [file for file in files if not (tmp_path / file).is_file()]
