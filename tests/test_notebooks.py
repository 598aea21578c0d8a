"""The notebooks: stored without outputs, and each runs from its first cell to its last in an empty folder."""

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
    "caption_your_images": (
        "captions name the class of their image",
        ["captions.dry_run/index.html", "captions/train.parquet", "captions/caption_report.html", "captions.png"],
    ),
    "few_labels": (
        "95% interval for",
        ["runs/baseline/student/model.safetensors", "runs/with_captions/student/config.json", "few_labels.png"],
    ),
    "search_by_text": ("images right; about", ["runs/aligned/model.safetensors", "hits.png", "colours.png"]),
}


def cells_of(notebook: Path, kind: str) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def script_of(notebook: Path) -> str:
    """Its code; a line `!command` runs in a shell, with the values of `{names}`, as in IPython."""
    code = "\n\n".join(cells_of(notebook, "code"))
    return SHELL + re.sub(r"(?m)^( *)!((?:.*\\\n)*.*)$", r"\1shell(f'''\2''')", code)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_stored_without_outputs_and_uses_public_names(notebook):
    stored = json.loads(notebook.read_text(encoding="utf-8"))
    assert stored["nbformat"] == 4 and 8 <= len(stored["cells"]) <= 16
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
    for cell in stored["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)
    assert f"]({BADGE}{notebook.name})" in cells_of(notebook, "markdown")[0]
    assert 'find_spec("g4i_hf") is None' in cells_of(notebook, "code")[0]
    code = script_of(notebook)
    compile(code, notebook.name, "exec")
    assert not re.findall(r"g4i_hf\.\w+\.|from g4i_hf\.|import g4i_hf\.|\b_\w+\(", code.replace("g4i_hf.__file__", ""))
    assert not re.findall(r"[\"' (]/(?:home|root|tmp|work|usr|content)\b|[A-Z]:\\", notebook.read_text())


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
