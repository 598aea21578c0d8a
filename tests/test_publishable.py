"""What must not be published is found in every kind of file, and what may be is let through."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save

from g4i_hf.hub.push import check_publishable

HOST = "gpu-box-17.corp"
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"
SECRET = "correct horse battery"
HOME = "/home/ann"
CANARIES = {
    "correct.horse.9": "token or password of this environment \\(DB_PASS\\)",
    f"{HOME}/data/pictures": "path of this machine",
    HOST: "name of this machine",
    TOKEN: "looks like a token",
    SECRET: "token or password of this environment",
    "sk-ant-api03-" + "aB3_" * 12: "what looks like a token",
    "postgres://ann:hunter2@db.example.org/x": "what looks like a secret",
}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A folder that is to be released, on a machine of known names."""
    monkeypatch.setenv("HOME", HOME)
    monkeypatch.setenv("CAPTIONS_API_KEY", SECRET)
    monkeypatch.setenv("DB_PASS", "correct.horse.9")
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    (tmp_path / "released").mkdir()
    return tmp_path / "released"


def refused(folder: Path, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_publishable(folder)


def parquet(array: pa.Array) -> bytes:
    """Compressed, so that nothing can be read from the bytes of the file."""
    file = io.BytesIO()
    pq.write_table(pa.table({"x": array}), file, compression="gzip", write_statistics=False)
    return file.getvalue()


CONTENTS = {
    "text": lambda text: f'see "{text}" for more'.encode(),
    "bytes": lambda text: bytes(range(192, 256)) * 9000 + b"\x12" + text.encode() + bytes(10),
    "safetensors": lambda text: save({"weight": torch.zeros(2)}, metadata={"format": "pt", "from": text}),
    "strings": lambda text: parquet(pa.array([f"a cat of {i * 7919 % 1000} colours" for i in range(2000)] + [text])),
    "dictionary": lambda text: parquet(pa.array(["a cat", text, None]).dictionary_encode()),
    "key of a map": lambda text: parquet(pa.array([[(text, 1)], [], None], pa.map_(pa.string(), pa.int64()))),
    "view": lambda text: parquet(pa.array(["a cat", text, None], pa.string_view())),
    "binary of one size": lambda text: parquet(pa.array([text.encode()], pa.binary(len(text)))),
    "lists in structs": lambda text: parquet(pa.array([{"lines": [text]}, {"lines": []}, None])),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_canaries_are_found_in_every_kind_of_file_and_not_repeated(folder, kind):
    file = folder / ".hidden" / "notes.data"
    file.parent.mkdir()
    for text, words in CANARIES.items():
        file.write_bytes(CONTENTS[kind](text))
        with pytest.raises(ValueError, match=rf"\.hidden/notes\.data holds .*{words}") as error:
            check_publishable(folder)
        assert text not in str(error.value)
    file.write_bytes(CONTENTS[kind]("https://example.org/home/annual/report, a hf_ prefix, C:/x, gpu-box"))
    check_publishable(folder)


def test_pickles_are_refused_by_name(folder):
    for name in ("training_args.bin", "optimizer.pt", "A.PKL", "b.Pth", "c.joblib", "d.npy", "e.npz", "f.CKPT"):
        (folder / name).write_bytes(b"x")
        refused(folder, f"{name} may be a pickle")
        (folder / name).unlink()


def test_other_variables_and_names_of_machines_are_words(folder, monkeypatch):
    words = {"CAPTIONER": "Qwen/Qwen2.5-VL-7B-Instruct", "LANG": "C.UTF-8", "SHORT_KEY": "abc"}
    words |= {"COMPASS_CITY": "a photograph of Graz", "REVISION": "5e1b0c8c3e6f4ad0b4a7a33f3f37a7d5d3dbb7a1"}
    words |= {"IMAGE": "hf_flowers102_captioned_by_qwen25_vl_7b sk_building_photo_from_the_old_town_2019"}
    (folder / "README.md").write_text(" ".join([*words.values(), "the laptop of localhost.localdomain, ann-laptop"]))
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    for host, is_told in (("laptop", False), ("localhost.localdomain", False), ("ann-laptop", True)):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        refused(folder, "the name of this machine") if is_told else check_publishable(folder)


WRITTEN = ["file://{}/data", "{}", "in {}.\nThe next line", "[{}]", "`{}`", "PATH=/bin:{}:/sbin", "{}?x"]
OTHERS = ["https://example.org{}/data", "https://example.org/~me{}", "{}bel/data", "{}-2/data", "{}_old", "{}.old/x"]
OTHERS += ["../..{}/data", "/backup{}/data", "train{}/x"]


@pytest.mark.parametrize("is_home", [True, False], ids=["home", "working folder"])
def test_every_way_to_write_a_path_and_what_only_looks_like_one(folder, monkeypatch, is_home):
    monkeypatch.chdir(folder)
    place = HOME if is_home else str(folder)
    file = folder / "notes.txt"
    for text in WRITTEN:
        for content in (text, f"see {text} there"):
            file.write_text(content.format(place))
            refused(folder, r"notes\.txt holds a path")
    file.write_text("\n".join(f"see {text} there".format(place) for text in OTHERS))
    check_publishable(folder)
    monkeypatch.chdir("/")  # which every machine has
    file.write_text("#!/usr/bin/env python\n/usr/local/bin\n/bin")
    check_publishable(folder)
