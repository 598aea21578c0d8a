"""The command `g4i`, mistakes under the real launcher, and the names of `from g4i_hf import ...`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doors import (
    ACCELERATE,
    COMMANDS,
    ONE_PROCESS,
    ROOT,
    Done,
    environment,
    python,
    run,
    spelled,
    succeeded,
    times_of_children,
)
from drawings import ENCODER, STUDENT, TRAINING

G4I = str(Path(sys.executable).parent / "g4i")
TWO_PROCESSES = ("--multi_gpu", "--num_processes", "2", *ONE_PROCESS[2:])
LIGHT = 3  # seconds of CPU time until a mistake is said; importing torch and transformers alone takes six
PUBLIC = {"AlignedImageClassification", "AlignedImageClassificationConfig", "AlignmentArguments", "AlignmentTrainer"}
PUBLIC |= {
    "CaptionClassifier",
    "ZeroShotImageClassifier",
    "caption_images",
    "embed_captions",
    "evaluate_run",
    "load_images",
}
PUBLIC |= {"release_student"}
OFFLINE = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # where nobody listens


def g4i(*words, cwd: Path = ROOT, env: dict | None = None) -> Done:
    command = [G4I, *spelled(words)]
    done = subprocess.run(command, cwd=cwd, env=environment(env), capture_output=True, text=True, timeout=300)
    return Done(done.returncode, done.stdout, done.stderr)


# --- The command -----------------------------------------------------------------------------------------------------


def test_it_lists_its_commands():
    done = g4i("--help")
    assert done.code == 0 and all(f"  {command} " in done.out for command in COMMANDS)
    assert g4i().code == 2
    wrong = g4i("trian")
    assert wrong.code == 2 and wrong.errors() and "'train'" in wrong.err and len(wrong.err.splitlines()) == 1


def test_it_is_the_script_of_the_same_name(pictures, tmp_path):
    words = {"dataset_name": pictures, "output_dir": tmp_path / "run"} | STUDENT
    by_command = g4i("train", words, "--print_config", cwd=tmp_path)
    by_module = subprocess.run(
        [sys.executable, "-m", "g4i_hf", *spelled(("train", words, "--print_config"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    by_script = run("train", words, "--print_config", cwd=tmp_path)
    assert by_command.out == by_script.out == by_module.stdout != ""


@pytest.mark.slow
def test_it_starts_as_many_processes_as_it_is_told(pictures, loop, tmp_path):
    """Two processes share the batch, so that an epoch of 18 images in batches of 3 has half as many steps."""
    words = {"dataset_name": loop / "embeddings", "num_train_epochs": 1} | STUDENT | TRAINING
    words |= {"max_steps": -1, "per_device_train_batch_size": 3, "save_strategy": "epoch"}
    steps = {}
    for number in ("1", "2"):
        launcher = {"num_processes": number, "num_cpu_threads_per_process": 1}
        folder = tmp_path / number
        done = g4i("train", launcher, words, {"output_dir": folder}, cwd=tmp_path)
        succeeded(done, "train", (launcher, words))
        assert "were not passed to `accelerate launch`" not in done.said
        steps[number] = json.loads((folder / "trainer_state.json").read_text())["global_step"]
    assert steps == {"1": 6, "2": 3}


@pytest.mark.slow
def test_a_configuration_of_accelerate_is_used_and_launches_once(pictures, tmp_path):
    (tmp_path / "accelerate").mkdir()
    config = (ROOT / "recipes" / "accelerate_configs" / "ddp.yaml").read_text()
    config = re.sub(r"num_processes: \d+", "num_processes: 2", config)
    (tmp_path / "accelerate" / "default_config.yaml").write_text(config)
    words = {"dataset_name": pictures, "output_dir": tmp_path / "run", "train_split": "trian"} | STUDENT | ENCODER
    done = g4i("train", words, cwd=tmp_path, env={"HF_HOME": str(tmp_path), "TORCH_SHOW_CPP_STACKTRACES": "0"})
    assert done.code == 2 and "'trian'" in done.errors()[-1], done.err[-3000:]
    assert "Traceback" not in done.err


# --- Mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "option": ({"learning_rat": 1}, ("learning_rat'", "learning_rate")),
    "option by another name": ({"lr": 1}, ("lr'", "learning_rate")),
    "value": ({"align_weight": "much"}, ("align_weight", "'much'")),
    "folder": ({"dataset_name": "./nowhere", "output_dir": "run"}, ("./nowhere",)),
    "dataset": ({"dataset_name": "pictur", "output_dir": "run"}, ("pictur'", "'pictures'")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_before_anything_heavy_is_imported(tmp_path, name):
    (tmp_path / "pictures").mkdir()
    words, says = MISTAKES[name]
    before = times_of_children()
    done = g4i("train", words, cwd=tmp_path, env=OFFLINE)
    assert times_of_children() - before < LIGHT
    one_line(done, says)
    assert done.code == 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [ONE_PROCESS, TWO_PROCESSES], ids=["one process", "two processes"])
@pytest.mark.parametrize("name", ["option", "folder"])
def test_no_traceback_of_the_launcher_follows(tmp_path, launcher, name):
    words, says = MISTAKES[name]
    done = run("train", words, cwd=tmp_path, env=OFFLINE, launcher=launcher)
    one_line(done, says)
    assert done.code != 0


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [ONE_PROCESS, TWO_PROCESSES], ids=["one process", "two processes"])
def test_nor_after_a_mistake_in_the_data(pictures, tmp_path, launcher):
    """Which is only seen when the data is open; of two processes, one may wait for the other."""
    words = {"dataset_name": pictures, "output_dir": tmp_path / "run", "train_split": "trian"} | STUDENT | ENCODER
    done = run("train", words, cwd=tmp_path, launcher=launcher)
    assert done.code != 0 and "Traceback" not in done.err and len(done.errors()) == 1, done.err[-3000:]
    assert "'trian'" in done.errors()[0]
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "run")], capture_output=True, text=True).stdout
    assert left == "", "a process was left behind"


@pytest.mark.slow
def test_g4i_says_it_once_for_all_its_processes(pictures, tmp_path):
    words = {"dataset_name": pictures, "output_dir": tmp_path / "run", "train_split": "trian"} | STUDENT | ENCODER
    done = g4i("train", {"num_processes": 2}, words, cwd=tmp_path)
    assert done.code == 2 and "Traceback" not in done.err and len(done.errors()) == 1, done.err[-3000:]


def one_line(done: Done, says: tuple[str, ...]) -> None:
    assert len(done.errors()) == 1 and "Traceback" not in done.said, done.err[-3000:]
    assert all(part in done.errors()[0] for part in says), done.errors()
    assert done.out == "" and done.err.splitlines()[-1] == done.errors()[0]


def test_the_launcher_is_the_real_one():
    assert "accelerate" in subprocess.run([ACCELERATE, "--help"], capture_output=True, text=True).stdout


# --- Python ----------------------------------------------------------------------------------------------------------


def test_the_public_names_import_nothing_heavy():
    code = "import g4i_hf, sys; print(sorted(g4i_hf.__all__), [m for m in ('torch', 'datasets') if m in sys.modules])"
    assert python(code) == f"{sorted([*PUBLIC, '__version__'])} []\n"
    assert (ROOT / "g4i_hf" / "py.typed").is_file()
    code = "import g4i_hf\nfor name in g4i_hf.__all__: assert getattr(g4i_hf, name).__doc__, name"
    python(code)


@pytest.mark.slow
def test_from_a_folder_to_a_released_student(quick, pictures, tmp_path):
    code = """
import json, sys
from g4i_hf import AlignmentArguments, AlignmentTrainer, embed_captions, load_images, release_student

images = embed_captions(load_images(sys.argv[1]), embeddings_dir="embeddings")
args = AlignmentArguments("run", max_steps=2, per_device_train_batch_size=6, report_to="none", use_cpu=True)
small = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
data = {"train_dataset": images["train"], "eval_dataset": images["validation"]}
trainer = AlignmentTrainer("resnet18", args, **data, student_args=small, image_size=32, train_crop="pad")
trainer.train()
trainer.save_run()
print(json.dumps(trainer.evaluate()))
print(release_student("run"))
"""
    printed = quick.python(code, pictures, cwd=tmp_path).splitlines()
    assert any('"eval_accuracy"' in line for line in printed) and printed[-1] == "run/student"
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "run" / "student").iterdir()}
    config = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert sorted(config["label_names"] if "label_names" in config else config["id2label"].values()) == [
        *("circle", "cross", "square")
    ]


def test_a_trainer_by_name_says_what_the_data_lacks(quick, pictures, tmp_path):
    code = """
import sys
from g4i_hf import AlignmentArguments, AlignmentTrainer, load_images

args = AlignmentArguments("run", max_steps=1, use_cpu=True)
try:
    AlignmentTrainer("resnet18", args, train_dataset=load_images(sys.argv[1])["train"], image_size=32)
except ValueError as error:
    print(error)
"""
    assert "embed_captions" in quick.python(code, pictures, cwd=tmp_path)


@pytest.mark.slow
def test_figures_of_a_run_from_python(quick, loop):
    code = """
import json
from g4i_hf import evaluate_run

found = evaluate_run("aligned", "baseline", splits=["validation"], measures="none", on_bad_images="skip")
print(json.dumps({name: figures["validation_accuracy"] for name, figures in found.items()}))
try:
    evaluate_run("aligned", mesures="none")
except TypeError as error:
    print(error)
"""
    *_, figures, error = quick.python(code, cwd=loop).splitlines()
    written = json.loads((loop / "aligned" / "all_results.json").read_text())["validation_accuracy"]
    assert json.loads(figures)["aligned"] == written and set(json.loads(figures)) == {"aligned", "baseline"}
    assert "'measures'" in error


@pytest.mark.slow
def test_captions_from_python(quick, pictures, tmp_path):
    code = """
import sys
from g4i_hf import caption_images

images = caption_images(sys.argv[1], "captions", captioner="column")
print(images["train"].column_names, images["train"]["caption"][0])
"""
    printed = quick.python(code, pictures, cwd=tmp_path).splitlines()[-1]
    assert "'caption'" in printed and "on paper" in printed and (tmp_path / "captions" / "stage.json").is_file()
