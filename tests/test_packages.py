"""Wheel, sdist and editable install: each, in an environment of its own, brings recipes and the templates of cards."""

import json
import os
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from g4i_hf.running import COMMANDS

ROOT = Path(__file__).parent.parent
KINDS = ("wheel", "sdist", "editable")
FOUND = """
import json, sys
from pathlib import Path
import g4i_hf

root = Path(g4i_hf.__file__).parent
inside = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
for folder in ("hub_cards", "recipes"):  # links, in an editable install
    inside += sorted(f"{folder}/{path.relative_to(root / folder).as_posix()}" for path in (root / folder).rglob("*"))
print(json.dumps([str(root), sorted(set(inside))]))
"""


def run(*command, cwd, **env) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=clean | env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of what git tracks, and the archives made from it."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    archive = subprocess.run(["tar", "-c", "--null", "-T", "-"], cwd=ROOT, input=files.encode(), capture_output=True)
    subprocess.run(["tar", "-x"], cwd=source, input=archive.stdout, check=True)
    run(sys.executable, "-m", "build", "--outdir", folder, source, cwd=folder)
    return source, next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module", params=KINDS)
def installed(request, built, tmp_path_factory):
    """The interpreter of a new environment with the package; only what it depends on is taken from the present one."""
    source, wheel, sdist = built
    folder = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    target = {"wheel": [wheel], "sdist": [sdist], "editable": ["-e", source]}[request.param]
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", *target, cwd=folder)
    # A .pth file that it holds is not read, so the package itself is not seen through it
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=folder).strip()
    others = {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], *site.getsitepackages()}
    (Path(purelib) / "dependencies.pth").write_text("\n".join(sorted(others)))
    return python, folder


def tracked(folder: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(listed.split())


@pytest.mark.slow
def test_every_recipe_and_template_is_there_and_the_scripts_run_in_an_empty_folder(installed, tmp_path):

    python, folder = installed
    place, inside = json.loads(run(python, "-c", FOUND, cwd=tmp_path))
    assert str(ROOT) not in place
    scripts = {f"recipes/{command}.py" for command in COMMANDS}  # for a clone: here is `g4i`
    assert (tracked("hub_cards") | tracked("recipes")) - scripts <= set(inside)
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "home")}
    g4i = Path(python).with_name("g4i")
    for command in COMMANDS:
        assert "--" in run(g4i, command, "--help", cwd=tmp_path, **offline)
    run(g4i, "embed", cwd=tmp_path, **offline)
    stage = next(tmp_path.glob("runs/**/stage.json")).parent
    shown = run(
        *(python, "-m", "g4i_hf", "release", "--stage", stage, "--dataset_dir", "made", "--dry_run", "true"),
        cwd=tmp_path,
        **offline,
    )
    assert "README.md" in shown and (tmp_path / "made" / "README.md").is_file()
