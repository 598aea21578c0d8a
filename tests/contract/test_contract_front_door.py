"""The command `g4i`, mistakes under the real launcher, and the names of `from g4i_hf import ...`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doors import HEAVY, ROOT, Done, ended, imports_of, python, run, spelled
from drawings import ENCODER, STUDENT, TRAINING
from loaded import BIN

G4I, LOADED = (str(Path(sys.executable).parent / "g4i"),), (str(BIN / "g4i"),)
PUBLIC = ["AlignedImageClassification", "AlignedImageClassificationConfig", "AlignmentArguments", "AlignmentTrainer"]
PUBLIC += ["ImageSearch", "LabelModel", "View", "ZeroShotImageClassifier", "__version__", "caption_images"]
PUBLIC += ["embed_captions", "embed_view", "evaluate_run", "fit", "load_images", "register_objective"]
PUBLIC += ["release_student"]
OFFLINE = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # where nobody listens


def g4i(*words, cwd: Path = ROOT, env: dict | None = None, start: tuple = G4I) -> Done:
    return ended([*start, *spelled(words)], env, cwd)


def one_line(done: Done, *says: str) -> None:
    assert done.code != 0 and len(done.errors()) == 1 and "Traceback" not in done.said, done.err[-3000:]
    assert all(part in done.errors()[0] for part in says), done.errors()


def test_it_is_the_script_of_the_same_name(pictures, tmp_path):
    words = ("train", {"dataset_name": pictures, "output_dir": tmp_path / "run"}, STUDENT, "--print_config")
    printed = {g4i(*words, cwd=tmp_path).out, g4i(*words, cwd=tmp_path, start=(sys.executable, "-m", "g4i_hf")).out}
    assert printed == {run(*words, cwd=tmp_path).out} != {""}


@pytest.mark.slow
def test_it_starts_as_many_processes_as_it_is_told(loop, tmp_path):
    """Two processes share the batch, so that an epoch of 18 images in batches of 3 has 3 steps and not 6."""
    words = {"num_processes": 2, "num_cpu_threads_per_process": 1} | STUDENT | TRAINING
    words |= {"dataset_name": loop / "embeddings", "output_dir": tmp_path / "run", "num_train_epochs": 1}
    done = g4i("train", words | {"max_steps": -1, "per_device_train_batch_size": 3}, cwd=tmp_path, start=LOADED)
    assert done.code == 0 and "were not passed to `accelerate launch`" not in done.said, done.err[-3000:]
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 3


MISTAKES = {
    "option": ({"learning_rat": 1}, "learning_rat'", "learning_rate"),
    "folder": ({"dataset_name": "./nowhere", "output_dir": "run"}, "./nowhere"),
    "dataset": ({"dataset_name": "pictur", "output_dir": "run"}, "pictur'", "'pictures'"),
}
# Which is only seen when the data is open; of two processes, one may wait for the other
IN_THE_DATA = {"output_dir": "run", "train_split": "trian"} | STUDENT | ENCODER


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_before_anything_heavy_is_imported(tmp_path, name):
    (tmp_path / "pictures").mkdir()
    words, *says = MISTAKES[name]
    done = g4i("train", words, cwd=tmp_path, env=OFFLINE | {"PYTHONPROFILEIMPORTTIME": "1"})
    imported, said = imports_of(done)
    assert "g4i_hf.cli" in imported and not imported & HEAVY
    one_line(done, *says)
    assert done.code == 2 and done.out == "" and len(said) == 1


@pytest.mark.slow
def test_g4i_says_it_once_for_all_its_processes(pictures, tmp_path):
    """Two, by a configuration of accelerate; the command ends as they did."""
    (tmp_path / "accelerate").mkdir()
    config = (ROOT / "recipes" / "accelerate_configs" / "ddp.yaml").read_text()
    config = re.sub(r"num_processes: \d+", "num_processes: 2", config)
    (tmp_path / "accelerate" / "default_config.yaml").write_text(config)
    env = {"HF_HOME": str(tmp_path), "TORCH_SHOW_CPP_STACKTRACES": "0"}
    done = g4i("train", {"dataset_name": pictures}, IN_THE_DATA, cwd=tmp_path, env=env, start=LOADED)
    one_line(done, "'trian'")
    left = subprocess.run(["pgrep", "-f", str(pictures)], capture_output=True, text=True).stdout
    assert done.code == 2 and left == "", "a process was left behind"


def test_the_public_names_import_nothing_heavy():
    code = "import g4i_hf, sys; print(sorted(g4i_hf.__all__), [m for m in ('torch', 'datasets') if m in sys.modules])"
    assert python(code, start=sys.executable) == f"{PUBLIC} []\n"
    python("import g4i_hf\nfor name in g4i_hf.__all__:\n    assert getattr(g4i_hf, name).__doc__, name\n")
    assert (ROOT / "g4i_hf" / "py.typed").is_file()


@pytest.mark.parametrize(("given", "found"), [(None, "passive"), ("active", "active")])
def test_threads_wait_without_spinning_unless_the_user_says_otherwise(given, found):
    code = "import os, g4i_hf.running; print(os.environ['OMP_WAIT_POLICY'])"
    assert python(code, env={"OMP_WAIT_POLICY": given}) == f"{found}\n"


@pytest.mark.slow
def test_captions_from_python(loop, tmp_path):
    code = "import sys, g4i_hf\nimages = g4i_hf.caption_images(sys.argv[1], 'new', caption_column='caption')\n"
    code += "print(images['train']['caption'][0])"
    assert "on paper" in python(code, loop / "pictures", cwd=tmp_path)
    assert (tmp_path / "new" / "stage.json").is_file()
