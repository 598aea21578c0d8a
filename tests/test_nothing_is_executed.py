"""No file of somebody else is run: what the sources call, models with code of their own, images that are programs."""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import make
import pytest
from datasets import Dataset, Features, Image
from PIL import EpsImagePlugin, UnidentifiedImageError
from students import STUDENTS, aligned_model
from tiny_encoders import images_with
from transformers import ResNetForImageClassification

from g4i_hf import ImageSearch, ZeroShotImageClassifier, load_images
from g4i_hf.data.dataset import CaptionedImages
from g4i_hf.data.image_metadata import without_metadata
from g4i_hf.data.images import why_bad
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.pages import thumbnail
from g4i_hf.running import main

ROOT = Path(__file__).parent.parent
SOURCES = [
    path
    for top in ("g4i_hf", "recipes", "benchmarks")
    for path in sorted((ROOT / top).rglob("*.py"))
    if not any(parent.is_symlink() for parent in path.parents)
]
# Pickles, eval, exec and shells; and what ruff has no rule for
RULES = "S102,S301,S302,S307,S403,S506,S602,S604,S605"
OTHERS = re.compile(
    r"\b(import|from) (cloudpickle|joblib|marshal)\b|\byaml\.(unsafe_|full_)?load(_all)?\b|\btorch\.(jit|hub)\.load"
    r"|(?<![\w.])(compile|__import__)\(|\btorch\.load\((?!.*weights_only=True)|weights_only=False|allow_pickle=True"
)


def test_no_source_unpickles_evaluates_or_calls_a_shell():
    command = [Path(sys.executable).with_name("ruff"), "check", "--isolated", "--preview", "--select", RULES]
    done = subprocess.run([*command, *SOURCES], capture_output=True, text=True)
    assert done.returncode == 0 and len(SOURCES) > 100, done.stdout[-3000:]
    assert not [path for path in SOURCES if OTHERS.search(path.read_text(encoding="utf-8"))]


def test_no_source_lets_pillow_guess_the_format_of_an_image():
    package = [path for path in SOURCES if path.is_relative_to(ROOT / "g4i_hf")]
    guessing = re.compile(r"Image\.open\((?!.*formats=)|\bload_image\(|Image\(decode=True")
    assert not [path for path in package if guessing.search(path.read_text(encoding="utf-8"))]


LOADERS = {"from_pretrained", "from_config", "SentenceTransformer", "pipeline"}
SAYING = {"trust_remote_code=False", "trust_remote_code=self.local.trust_remote_code"}


def loads_without_saying(tree: ast.Module) -> list[str]:
    """
    Calls that load a model, a configuration or a processor and leave `trust_remote_code` out: transformers then asks
    at the terminal, and runs the code of a repository after a `y`.
    """
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    loading = [call for call in calls if ast.unparse(call.func).split(".")[-1] in LOADERS]
    return [ast.unparse(call) for call in loading if not SAYING & {*map(ast.unparse, call.keywords)}]


def test_every_call_that_loads_a_model_forbids_its_code():
    """But for the captioner's, which do as the option says."""
    found = {path: loads_without_saying(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {str(path.relative_to(ROOT)): calls for path, calls in found.items() if calls} == {}
    said = [ast.parse(f"AutoModel.from_pretrained(name{words})") for words in ("", ", **options", ", 0")]
    assert all(map(loads_without_saying, said)), "others would be seen"


# --- A model that comes with code of its own, or with a pickle that runs some ----------------------------------------

AUTO_CLASSES = ["AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoModelForImageTextToText"]
AUTO_CLASSES += ["AutoImageProcessor", "AutoProcessor", "AutoTokenizer"]


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
        told = json.loads(path.read_text()) | kinds | {"auto_map": dict.fromkeys(AUTO_CLASSES, "evil.Evil")}
        path.write_text(json.dumps(told))
    (model / "evil.py").write_text(f"import os\nos.mkdir({str(ran)!r})\nEvil = None\n")
    line = last_line(command(kind, model, data), monkeypatch, capsys)
    assert str(model) in line and "it needs code of its own" in line and not ran.exists()
    assert ("--trust_remote_code" in line) == (kind == "captioner"), "only what can be passed is advised"


@pytest.mark.parametrize("kind", ["text encoder", "pretrained student"])
def test_weights_that_are_a_pickle_with_code_are_one_line(model, data, tmp_path, monkeypatch, capsys, kind):
    ran = tmp_path / "ran"
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(f"cos\nmkdir\n(V{ran}\ntR.".encode())  # os.mkdir(ran)
    line = last_line(command(kind, model, data), monkeypatch, capsys)
    assert str(model) in line and "use one with model.safetensors" in line and not ran.exists()


# --- An image that is a program: Pillow starts Ghostscript for PostScript --------------------------------------------

EVIL = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
STORED = {"bytes": EVIL, "path": "evil.png"}


@pytest.fixture
def started(tmp_path, monkeypatch) -> Path:
    """Where a Ghostscript of ours says that it ran."""
    ghostscript, ran = tmp_path / "bin" / "gs", tmp_path / "ran"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\necho $* >> {ran}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # which Pillow looks for once
    return ran


def with_evil(folder: Path, form: str) -> Path:
    """Images in files or in a table, one of which is PostScript, as is what lies beside them in the table."""
    if form == "folder":
        make.folder(folder, [f"train/{name}/{number}.png" for name in "ab" for number in range(4)])
        (folder / "train" / "a" / "evil.png").write_bytes(EVIL)
        return folder
    rows = make.rows(9)
    features = Features({name: Image() for name in ("image", "mask")} | {"label": rows.features["label"]})
    columns = {"image": [*rows["image"][:8], STORED], "mask": [STORED] * 9, "label": rows["label"][:]}
    folder.mkdir()
    Dataset.from_dict(columns, features=features).to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.parametrize("form", ["folder", "table"])
def test_postscript_is_no_image_whatever_its_name_and_ghostscript_is_not_started(tmp_path, started, capsys, form):
    data = with_evil(tmp_path / "data", form)
    with pytest.raises(SystemExit):
        main(["check", str(data)])
    assert re.search(r"evil\.png.*: no known image format", capsys.readouterr().out)
    rows = load_images(str(data))["train"]
    assert [row for row, image in enumerate(rows["image"]) if why_bad(image)] == [8 if form == "table" else 4]
    list(rows)  # the columns beside the image too
    assert not started.exists()


def test_nothing_that_opens_an_image_starts_ghostscript(tmp_path, started):
    file = tmp_path / "evil.png"
    file.write_bytes(EVIL)
    assert thumbnail([{"image": STORED}], 0) is None  # pages, the label server and captioners
    with pytest.raises(ValueError, match="no known image format"):
        without_metadata(STORED)
    with pytest.raises(ValueError, match="no known image format"):
        CaptionedImages(make.rows(1, image=[STORED]), None)[0]
    classifier = ZeroShotImageClassifier(aligned_model("timm-resnet", 12), device="cpu")
    with pytest.raises(UnidentifiedImageError):
        classifier.embed_images(str(file))
    rows = Dataset.from_dict({"image": [make.stored(make.noise()), STORED]}, features=Features({"image": Image()}))
    for images in (rows, [str(file)]):
        assert len(ImageSearch(classifier, images, cache=tmp_path / "kept").image_embeds) == len(images)
    assert not started.exists()
