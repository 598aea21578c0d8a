"""What must not be published is found in every kind of file, and what may be is let through."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from safetensors.torch import save_file

from g4i_hf.hub.publishable import check_publishable

HOST = "gpu-box-17.corp"
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"
SECRET = "correct horse battery"
HOME = "/home/ann"
CANARIES = {
    f"{HOME}/data/pictures": "path of this machine",
    HOST: "name of this machine",
    TOKEN: "looks like a token",
    SECRET: "token or password of this environment",
}


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", HOME)
    monkeypatch.setenv("CAPTIONS_API_KEY", SECRET)
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    (tmp_path / "released").mkdir()
    return tmp_path / "released"


def write_text(folder: Path, text: str) -> None:
    (folder / "README.md").write_text(f'see "{text}" for more')


def write_json(folder: Path, text: str) -> None:
    (folder / "aligned").mkdir()
    (folder / "aligned" / "config.json").write_text(f'{{"_name_or_path": "{text}"}}')


def write_hidden(folder: Path, text: str) -> None:
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "shapes.yaml").write_text(f"source: {text}")


def write_safetensors(folder: Path, text: str) -> None:
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "pt", "from": text})


def write_parquet_strings(folder: Path, text: str) -> None:
    # Compressed, so that it cannot be read from the file's bytes
    captions = [f"a cat of {i * 7919 % 1000} colours on a stone" for i in range(2000)] + [
        f"{i} {text}" for i in range(9)
    ]
    pq.write_table(
        pa.table({"caption": captions}), folder / "train.parquet", compression="gzip", write_statistics=False
    )


def write_parquet_lists(folder: Path, text: str) -> None:
    features = Features({"caption": List(Value("string"))})
    Dataset.from_dict({"caption": [["a cat", text], None]}, features=features).to_parquet(folder / "train.parquet")


def write_parquet_image_path(folder: Path, text: str) -> None:
    picture = io.BytesIO()
    PILImage.new("RGB", (2, 2)).save(picture, "PNG")
    rows = {"image": [{"bytes": picture.getvalue(), "path": text}]}
    Dataset.from_dict(rows, features=Features({"image": Image(decode=False)})).to_parquet(folder / "train.parquet")


def write_png_text(folder: Path, text: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", text)
    PILImage.new("RGB", (2, 2)).save(folder / "curves.png", pnginfo=info)


def write_onnx_like(folder: Path, text: str) -> None:
    (folder / "model.onnx").write_bytes(bytes(range(256)) * 70_000 + b"\x12" + text.encode() + b"\x00" * 10)


WRITERS = [value for name, value in sorted(globals().items()) if name.startswith("write_")]


@pytest.mark.parametrize("text", CANARIES, ids=CANARIES.values())
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_canaries_are_found_and_not_repeated(machine, write, text):
    write(machine, text)
    with pytest.raises(ValueError, match=CANARIES[text]) as error:
        check_publishable(machine)
    assert text not in str(error.value)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_ordinary_words_pass(machine, write):
    write(machine, "https://example.org/home/annual/report, a hf_ prefix, C:/x, gpu-box")
    check_publishable(machine)


def test_a_finding_across_two_blocks(machine, monkeypatch):
    monkeypatch.setattr("g4i_hf.hub.publishable.BLOCK", 64)
    monkeypatch.setattr("g4i_hf.hub.publishable.OVERLAP", 48)
    (machine / "notes.txt").write_text(" " * 60 + f"{HOME}/data" + " " * 100)
    with pytest.raises(ValueError, match=r"notes\.txt holds a path"):
        check_publishable(machine)


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "a.pkl"])
def test_pickles_are_refused(machine, name):
    torch.save({}, machine / name)
    with pytest.raises(ValueError, match="pickle"):
        check_publishable(machine)
