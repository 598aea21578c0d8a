"""The command `g4i`, what it answers before anything heavy is imported, and mistakes on several processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from doors import COMMANDS, HEAVY, ROOT, ended, python, run, spelled
from drawings import ENCODER, STUDENT
from loaded import BIN

import g4i_hf


def test_it_is_the_script_of_the_same_name(pictures, tmp_path):
    words = ("caption", {"dataset_name": pictures, "captions_dir": tmp_path / "captions"}, "--print_config")
    starts = [str(Path(sys.executable).parent / "g4i")], [sys.executable, "-m", "g4i_hf"]
    printed = {ended([*start, *spelled(words)], None, tmp_path).out for start in starts}
    assert printed == {run(*words, cwd=tmp_path).out} != {""}


MISTAKES = {
    "train --learning_rat 1": ("learning_rat'", "learning_rate"),
    "train --dataset_name ./nowhere --output_dir run": ("./nowhere",),
    "train --dataset_name pictur --output_dir run": ("pictur'", "'pictures'"),
}
ANSWERS = f"""
import sys, g4i_hf
from g4i_hf.running import main
for words in sys.argv[1:]:
    try:
        main(words.split())
    except SystemExit as end:
        assert end.code == 2 * ("--help" not in words), words
assert not {HEAVY} & set(sys.modules), [*sys.modules]
"""


def test_every_name_of_the_package_is_documented():
    assert len(g4i_hf.__all__) > 10 and not [name for name in g4i_hf.__all__ if not getattr(g4i_hf, name).__doc__]


def test_help_and_mistakes_import_nothing_heavy(tmp_path):
    """A wrong option, folder or dataset is one line, before the seconds that torch takes, and without a connection."""
    (tmp_path / "pictures").mkdir()
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # where nobody listens
    helps = [f"{command} --help" for command in COMMANDS]
    done = ended([sys.executable, "-c", ANSWERS, *helps, *MISTAKES], offline, tmp_path)
    assert done.code == 0 and done.out.count("recipes/") >= len(COMMANDS), done.err
    assert len(done.err.splitlines()) == len(MISTAKES)
    for line, says in zip(done.errors(), MISTAKES.values(), strict=True):
        assert all(part in line for part in says), line
    assert (ROOT / "g4i_hf" / "py.typed").is_file()


@pytest.mark.slow
def test_g4i_says_it_once_for_all_its_processes(pictures, tmp_path):
    """Two, as an option of the launcher says; the command ends as they did. The mistake is in the data."""
    words = {"dataset_name": pictures, "output_dir": "run", "train_split": "trian", "num_processes": 2}
    env = {"TORCH_SHOW_CPP_STACKTRACES": "0"}
    done = ended([str(BIN / "g4i"), "train", *spelled((words, STUDENT, ENCODER))], env, tmp_path)
    assert done.code == 2 and "Traceback" not in done.said, done.err[-3000:]
    assert len(done.errors()) == 1 and "'trian'" in done.errors()[0]
    left = subprocess.run(["pgrep", "-f", str(pictures)], capture_output=True, text=True).stdout
    assert left == "", "a process was left behind"


@pytest.mark.slow
def test_captions_from_python(pictures, tmp_path):
    code = "import sys, g4i_hf\nimages = g4i_hf.caption_images(sys.argv[1], 'new', caption_column='caption')\n"
    code += "print(images['train']['caption'][0])"
    assert "on paper" in python(code, pictures, cwd=tmp_path)
    assert (tmp_path / "new" / "stage.json").is_file()
