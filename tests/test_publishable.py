"""What must not be published is found in every kind of file, and what may be is let through."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from safetensors.torch import save_file

from g4i_hf.hub.privacy import check_publishable, list_files, private_places

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
    (folder / "model.onnx").write_bytes(bytes(range(192, 256)) * 280_000 + b"\x12" + text.encode() + b"\x00" * 10)


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
    monkeypatch.setattr("g4i_hf.hub.privacy.BLOCK", 64)
    monkeypatch.setattr("g4i_hf.hub.privacy.OVERLAP", 48)
    (machine / "notes.txt").write_text(" " * 60 + f"{HOME}/data" + " " * 100)
    with pytest.raises(ValueError, match=r"notes\.txt holds a path"):
        check_publishable(machine)


COLUMNS = {
    "dictionary": lambda text: pa.array(["a cat", text, None]).dictionary_encode(),
    "map": lambda text: pa.array([[("caption", text)], [], None], pa.map_(pa.string(), pa.string())),
    "key of a map": lambda text: pa.array([[(text, 1)], [], None], pa.map_(pa.string(), pa.int64())),
    "view": lambda text: pa.array(["a cat", text, None], pa.string_view()),
    "large": lambda text: pa.array(["a cat", text, None], pa.large_string()),
    "bytes": lambda text: pa.array([b"a cat", text.encode(), None]),
    "bytes of one size": lambda text: pa.array([text.encode()], pa.binary(len(text))),
    "lists in structs": lambda text: pa.array([{"lines": [text]}, {"lines": []}, None]),
    "lists of one size": lambda text: pa.array([["a", text]], pa.list_(pa.string(), 2)),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("text", [f"{HOME}/data/pictures", TOKEN], ids=["path", "token"])
def test_columns_of_every_type(machine, kind, text):
    pq.write_table(pa.table({"x": COLUMNS[kind]("just a caption")}), machine / "train.parquet", compression="gzip")
    check_publishable(machine)
    pq.write_table(pa.table({"x": COLUMNS[kind](text)}), machine / "train.parquet", compression="gzip")
    with pytest.raises(ValueError, match=r"train\.parquet holds"):
        check_publishable(machine)


def zipped(text: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside/notes.txt", text)
    return file.getvalue()


PACKED = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zip": zipped}
PACKED["zip in gzip"] = lambda text: gzip.compress(zipped(text))


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("text", CANARIES, ids=CANARIES.values())
def test_compressed_files_are_opened(machine, kind, text):
    (machine / "notes.data").write_bytes(PACKED[kind](f"see {text} there".encode()))
    with pytest.raises(ValueError, match=rf"notes\.data holds .*{CANARIES[text]}"):
        check_publishable(machine)
    (machine / "notes.data").write_bytes(PACKED[kind](b"nothing of interest"))
    check_publishable(machine)


@pytest.mark.parametrize(
    "content", [b"\x28\xb5\x2f\xfd" + bytes(20), gzip.compress(b"a" * 99)[:20], b"PK\x03\x04" + bytes(9)]
)
def test_what_cannot_be_looked_through_is_not_published(machine, content):
    (machine / "notes.data").write_bytes(content)
    with pytest.raises(ValueError, match=r"notes\.data cannot be looked through"):
        check_publishable(machine)


SECRETS = {
    "hf": TOKEN,
    "openai": "sk-proj-" + "aB3" * 12,
    "openrouter": "sk-or-v1-" + "ab12" * 16,
    "anthropic": "sk-ant-api03-" + "aB3_" * 12,
    "google": "AIza" + "aB3_-" * 7,
    "aws": "AKIA" + "ABCDEFGH23456789",
    "github": "gho_" + "aB3" * 12,
    "gitlab": "glpat-" + "aB3_" * 5,
    "slack": "xoxb-123456789012-abcdefghijklmnop",
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "RSA key": "-----BEGIN RSA PRIVATE KEY-----",
    "password in an address": "postgres://ann:hunter2@db.example.org/x",
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize(
    "write", [write_text, write_parquet_strings, write_onnx_like], ids=["text", "parquet", "bytes"]
)
def test_secrets_by_their_form(machine, kind, write):
    write(machine, SECRETS[kind])
    with pytest.raises(ValueError, match="what looks like a (token|secret)") as error:
        check_publishable(machine)
    assert SECRETS[kind] not in str(error.value)


VARIABLES = {
    "MY_PROVIDER_KEY": "correct-horse-9",
    "DB_PASS": "correct.horse.9",
    "CAPTIONER": "Zx81kQ0pLm27vBt5Wq3R",  # as api_key_env may be called
}


@pytest.mark.parametrize("name", VARIABLES)
def test_values_of_variables_that_hold_a_secret(machine, monkeypatch, name):
    (machine / "README.md").write_text(f"asked with {VARIABLES[name]}")
    check_publishable(machine)
    monkeypatch.setenv(name, VARIABLES[name])
    with pytest.raises(ValueError, match=r"README\.md holds a token or password of this environment"):
        check_publishable(machine)


def test_other_variables_hold_words(machine, monkeypatch):
    words = {"CAPTIONER": "Qwen/Qwen2.5-VL-7B-Instruct", "LANG": "C.UTF-8", "EDITOR": "vim", "SHORT_KEY": "abc"}
    words |= {"TOKENIZER": "sentence-transformers/all-MiniLM-L6-v2", "COMPASS_CITY": "a photograph of Graz"}
    words |= {"HF_REPO": "me/EmojiStyles58ClassesStudent", "REVISION": "5e1b0c8c3e6f4ad0b4a7a33f3f37a7d5d3dbb7a1"}
    words |= {"IMAGE": "hf_flowers102_captioned_by_qwen25_vl_7b sk_building_photo_from_the_old_town_2019"}
    (machine / "README.md").write_text(" ".join(words.values()))
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    check_publishable(machine)


def test_a_damaged_archive_is_one_clear_error(machine):
    whole = gzip.compress(b"captions" * 1000)
    (machine / "captions.json.gz").write_bytes(whole[:20] + bytes([whole[20] ^ 255]) + whole[21:])
    with pytest.raises(ValueError, match=r"captions\.json\.gz cannot be looked through"):
        check_publishable(machine)


PICKLES = ["training_args.bin", "optimizer.pt", "a.pkl", "A.PKL", "b.Pth", "c.joblib", "d.npy", "e.npz", "f.CKPT"]


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_are_refused(machine, name):
    torch.save({}, machine / name)
    with pytest.raises(ValueError, match="pickle"):
        check_publishable(machine)


PICKLED = {f"protocol {version}": pickle.dumps(Path("x"), version) for version in range(6)}
PICKLED |= {"in gzip": gzip.compress(PICKLED["protocol 4"]), "in zip": zipped(PICKLED["protocol 2"])}


@pytest.mark.parametrize("kind", PICKLED)
def test_pickles_are_known_by_what_is_in_them(machine, kind):
    (machine / "data.dat").write_bytes(PICKLED[kind])
    with pytest.raises(ValueError, match=r"data\.dat is or may be a pickle"):
        check_publishable(machine)


# --- Ways to write a path --------------------------------------------------------------------------------------------

WRITTEN = [
    "file://{}/data",
    "file://localhost{}/data",
    "file:{}",
    "-I{}/include -O2",
    "(-L{})",
    "-isystem{}/include",
    "/{}",
    "{}",
    "{}, and more",
    "in {}.",
    "in {}.\nThe next line",
    "({})",
    "[{}]",
    "{};",
    "`{}`",
    "{}: a folder",
    "PATH=/bin:{}:/sbin",
    "{}?x",
    "<{}>",
    "{}\\n",
    "{}\0",
]


@pytest.mark.parametrize("text", WRITTEN)
@pytest.mark.parametrize("place", [HOME, "/mnt/photos", "/data"])
def test_every_way_to_write_a_path(machine, text, place):
    text = text.format(place)
    if place == "/data" and text.endswith("\0"):
        return  # a short one within bytes may be chance
    for content in (text, f"see {text}", f"see {text} there"):
        (machine / "notes.txt").write_text(content)
        with pytest.raises(ValueError, match=r"notes\.txt holds a path"):
            check_publishable(machine, ["/mnt/photos", Path("/data")])


OTHERS = [
    "https://example.org{}/data",
    "https://example.org/~me{}",
    "{}bel/data",
    "{}-2/data",
    "{}_old",
    "{}.old/data",
    "../..{}/data",
    "/backup{}/data",
    "train{}/x",
    "ftp:/{}",
]


@pytest.mark.parametrize("text", OTHERS)
@pytest.mark.parametrize("place", [HOME, "/mnt/photos", "/data"])
def test_what_only_looks_like_it_passes(machine, text, place):
    (machine / "notes.txt").write_text(f"see {text.format(place)} there")
    check_publishable(machine, ["/mnt/photos", "/data"])


@pytest.mark.parametrize("place", ["/mnt/Bjørn Å/pictures"])
@pytest.mark.parametrize("write", [str, json.dumps, lambda text: "file:///mnt/Bj%C3%B8rn%20%C3%85/pictures"])
def test_letters_that_files_write_otherwise(machine, place, write):
    (machine / "config.json").write_text(f'{{"path": {write(place)}}}')
    with pytest.raises(ValueError, match=r"config\.json holds a path"):
        check_publishable(machine, [place])


def test_bytes_of_a_graph_are_no_short_path_by_chance(machine):
    (machine / "model.onnx").write_bytes(b"\x00/data\xff\x80\x01" * 20)
    check_publishable(machine, ["/data"])


def test_folders_that_every_machine_has_pass(machine, monkeypatch):
    monkeypatch.setattr("sys.prefix", "/usr")
    (machine / "run.sh").write_text("#!/usr/bin/env python\n/usr/local/bin\n/bin")
    check_publishable(machine, ["/", "/usr/local"])


@pytest.mark.parametrize("host", ["laptop", "student", "python", "localhost.localdomain"])
def test_a_machine_that_is_called_like_a_word(machine, monkeypatch, host):
    monkeypatch.setattr("socket.gethostname", lambda: host)
    (machine / "README.md").write_text(f"the {host} is here")
    check_publishable(machine)


@pytest.mark.parametrize("host", ["ann-laptop", "laptop2", "laptop.lan"])
def test_a_machine_of_a_name_of_its_own(machine, monkeypatch, host):
    monkeypatch.setattr("socket.gethostname", lambda: host)
    (machine / "README.md").write_text(f"made on {host}.")
    with pytest.raises(ValueError, match="the name of this machine"):
        check_publishable(machine)


def test_what_is_pushed_and_what_is_looked_at_are_the_same(machine):
    names = ["a.pyc", "code/b.PYC", "__pycache__/c.py", ".git/config", ".cache/x.json", ".gradio/y"]
    for name in names:
        (machine / name).parent.mkdir(exist_ok=True)
        (machine / name).write_text(f"{HOME}/data")
    check_publishable(machine)
    assert list_files(machine) == []
    for name in (".hidden", "code/pyc", "cache/z"):
        (machine / name).parent.mkdir(exist_ok=True)
        (machine / name).write_text(f"{HOME}/data")
        assert [found for found, _ in list_files(machine)] == [name]
        with pytest.raises(ValueError, match="holds a path"):
            check_publishable(machine)
        (machine / name).unlink()


# --- Folders that a run and a stage name -----------------------------------------------------------------------------


def test_places_of_a_run_and_of_its_stages(tmp_path):
    run, stage, captions = (tmp_path / name for name in ("disk/run", "stages/embeddings", "stages/captions"))
    for folder in (run / "checkpoint-7", stage, captions, tmp_path / "photos"):
        folder.mkdir(parents=True)
    (tmp_path / "words.csv").write_text("")
    options = {
        "output_dir": ".",
        "dataset_name": "../../stages/embeddings",
        "embeddings_dir": "/mnt/gone/embeddings",
        "student": "timm/resnet18.a1_in1k",
        "text_encoder_prompt": "/no_think Describe it: ",
        "captions_name": str(tmp_path / "words.csv"),
        "seed": 7,
        "prompt": "/short",
        "long": "/" + "x" * 9000,
    }
    (run / "train.yaml").write_text(json.dumps(options))
    (stage / "stage.json").write_text(json.dumps({"source": "../captions", "prompts": ["/a/b"]}))
    (captions / "stage.json").write_text(json.dumps({"source": os.path.relpath(tmp_path / "photos", captions)}))
    named = {stage, captions, tmp_path / "photos", tmp_path, Path("/mnt/gone/embeddings")}
    assert private_places(run) == {run} | named
    assert private_places(None, run / "checkpoint-7") == {run / "checkpoint-7"} | named
    assert private_places(stage) == {stage, captions, tmp_path / "photos"}
    assert private_places() == private_places(None) == set()


def test_stages_that_go_round_in_a_circle_end(tmp_path):
    (tmp_path / "stage.json").write_text('{"source": "./"}')
    assert private_places(tmp_path) == {tmp_path}
