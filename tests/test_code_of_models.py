"""A model that comes with code of its own, or with a pickle that runs some: neither runs, whatever is answered."""

import io
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from students import STUDENTS
from tiny_encoders import images_with
from transformers import ResNetForImageClassification

from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.running import main

NAMES = ["AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoModelForImageTextToText"]
NAMES += ["AutoImageProcessor", "AutoProcessor", "AutoTokenizer"]


class RunsCode:
    def __init__(self, ran: Path):
        self.ran = ran

    def __reduce__(self):
        return os.mkdir, (str(self.ran),)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "data"
    images_with(["a red car", "a blue owl"] * 4, folder)
    return folder


def command(kind: str, folder: Path, data: Path) -> list[str]:
    """The command that loads the folder as a text encoder, a student or a captioner."""
    out = str(folder.parent / "out")
    train = ["train", "--output_dir", out, "--align_weight", "0", "--use_cpu", "true"]
    words = {
        "text encoder": ["embed", "--embeddings_dir", out, "--text_encoder"],
        "student": [*train, "--student"],
        "pretrained student": [*train, "--pretrained", "true", "--student"],
        "captioner": ["caption", "--captions_dir", out, "--captioner_model"],
    }
    return [*words[kind], str(folder), "--dataset_name", str(data)]


@pytest.fixture
def model(tmp_path, clip_folder, kind) -> Path:
    folder = tmp_path / "model"
    if "student" in kind:
        ResNetForImageClassification(STUDENTS["resnet"][0]).save_pretrained(folder)
        generic_processor(ImageSettings(48)).save_pretrained(folder)
    else:
        shutil.copytree(clip_folder, folder)
    return folder


def last_line(words: list[str], monkeypatch, capsys) -> str:
    """What a command prints about a mistake, with a user who answers `y`."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(SystemExit) as end:
        main(words)
    printed, said = capsys.readouterr()
    assert end.value.code == 2 and "[y/N]" not in printed + said
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert said.rstrip().endswith(line), "nothing follows it"
    return line


@pytest.mark.parametrize("kind", ["text encoder", "student", "pretrained student", "captioner"])
def test_code_of_a_model_does_not_run_whatever_is_answered(model, data, tmp_path, monkeypatch, capsys, kind):
    ran = tmp_path / "ran"
    for path in model.glob("*config.json"):
        kinds = {"model_type": "evil", "image_processor_type": "Evil", "tokenizer_class": "Evil"}
        told = json.loads(path.read_text()) | kinds | {"auto_map": dict.fromkeys(NAMES, "evil.Evil")}
        path.write_text(json.dumps(told))
    (model / "evil.py").write_text(f"import os\nos.mkdir({str(ran)!r})\nEvil = None\n")
    line = last_line(command(kind, model, data), monkeypatch, capsys)
    assert str(model) in line and "it needs code of its own" in line and not ran.exists()
    assert ("--trust_remote_code" in line) == (kind == "captioner"), "only what can be passed is advised"


@pytest.mark.parametrize("kind", ["text encoder", "pretrained student"])
def test_weights_that_are_a_pickle_with_code_are_one_line(model, data, tmp_path, monkeypatch, capsys, kind):
    ran = tmp_path / "ran"
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(RunsCode(ran), protocol=2))
    line = last_line(command(kind, model, data), monkeypatch, capsys)
    assert str(model) in line and "use one with model.safetensors" in line and not ran.exists()
