"""`caption` as people start it: its own small model, captions that exist, a server that fails."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, load_dataset
from PIL import Image as PILImage
from served_captioner import Server, served_captioner  # noqa: F401
from test_recipes import ACCELERATE, ROOT, TWO_PROCESSES, launch

from g4i_hf.data import open_images
from g4i_hf.hub.dataset_card import captions_card
from g4i_hf.running import main

CAPTIONER = ROOT / "recipes" / "shapes" / "captioner"
CANARY = "hf_canary" + "x" * 20


def caption(folder: Path, *options: str, fails: bool = False) -> str:
    """What the script prints, run in this process: starting one takes longer than most of the work."""
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(["caption", *options])
            code = 0
        except SystemExit as end:
            code = end.code
    assert (code != 0) == fails, printed.getvalue()[-3000:]
    return printed.getvalue()


def shapes(folder: Path, count: int) -> Path:
    """Some of the Shapes as a folder of pictures, with a GPS position in each."""
    split = load_dataset(str(ROOT / "recipes" / "shapes"), split="train").select(range(count))
    names = split.features["label"].names
    exif = PILImage.Exif()
    exif[0x010E] = "canary-description"
    for row in split:
        place = folder / "pictures" / "train" / names[row["label"]]
        place.mkdir(parents=True, exist_ok=True)
        row["image"].save(place / f"{row['image_id']}.png", exif=exif)
    return folder / "pictures"


@pytest.fixture(scope="module")
def captioned(tmp_path_factory) -> Path:
    """40 pictures described by the small model on two processes."""
    folder = tmp_path_factory.mktemp("caption")
    shapes(folder, 40)
    options = ["--dataset_name", "pictures", "--captions_dir", "runs/captions", "--captioner_model", str(CAPTIONER)]
    options += ["--prompt", "class", "--max_new_tokens", "16"]
    launch(folder, ACCELERATE, "launch", *TWO_PROCESSES, "recipes/caption.py", *options)
    return folder


@pytest.mark.slow
def test_every_image_is_described_in_its_own_row(captioned):
    found = pq.read_table(captioned / "runs" / "captions" / "train.parquet").to_pylist()
    assert len(found) == 40 and {row["caption_status"] for row in found} == {"ok"}
    for row in found:  # the prompt names the class, and this model believes it
        assert f" {row['image_id'].split('/')[0]} on a " in row["caption"], row
    assert {row["caption_weight"] for row in found} == {1.0}
    stage = json.loads((captioned / "runs" / "captions" / "stage.json").read_text())
    assert stage["captioner"]["model"] == "captioner" and stage["captioner"]["revision"].startswith("blake2b:")
    assert stage["status"] == {"ok": {"train": 40}} and stage["source"] == "../../pictures"


@pytest.mark.slow
def test_the_folder_opens_as_images_with_captions(captioned):
    split = open_images(str(captioned / "runs" / "captions"))["train"]
    assert {"image", "label", "image_id", "caption", "caption_weight"} <= set(split.column_names)
    names = split.features["label"].names
    assert all(f" {names[row['label']]} " in row["caption"] for row in split)


@pytest.mark.slow
def test_a_second_run_asks_nothing_and_writes_the_same(captioned):
    folder = captioned / "runs" / "captions"
    before, size = pq.read_table(folder / "train.parquet"), journal_bytes(captioned)
    options = ["--dataset_name", "pictures", "--captions_dir", "runs/captions", "--captioner_model", str(CAPTIONER)]
    printed = caption(captioned, *options, "--prompt", "class", "--max_new_tokens", "16")
    assert "All 40 answers were there already." in printed
    assert pq.read_table(folder / "train.parquet") == before and journal_bytes(captioned) == size > 0


def journal_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "runs" / "captions.journal").glob("*.sqlite"))


@pytest.mark.slow
def test_no_path_of_this_machine_is_published(captioned):
    for path in (captioned / "runs" / "captions").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in (str(captioned), str(ROOT), "canary"):
                assert secret.encode() not in content, (path, secret)


@pytest.mark.slow
def test_card_says_what_must_be_said(captioned):
    card = (captioned / "runs" / "captions" / "README.md").read_text()
    for said in (
        "These captions are machine-made",
        "`captioner`",
        "blake2b:",
        "max_new_tokens 16",
        "{label}",
        "| ok | 40 |",
    ):
        assert said in card, said
    assert "bound by the terms of that model" in card and "names its class | 1.000" in card
    assert not re.search(r"\|\n\n+\|", card)  # its tables are tables
    dataset = load_dataset(str(captioned / "runs" / "captions"), split="train")  # by the card's own configuration
    assert dataset.num_rows == 40 and "caption" in dataset.column_names


def test_card_of_everything_and_of_nearly_nothing():
    least = {
        "num_rows": {"train": 1},
        "captioner": {"captioner": "file"},
        "source": "user/pictures",
        "columns": ["image_id", "caption"],
        "prompts": [],
        "status": {"missing": {"train": 1}},
        "cleaning": {},
    }
    card = str(captions_card(least, date="2026-01-01"))
    assert "machine-made" not in card and "`user/pictures`" in card and "| missing | 1 |" in card
    captioner = {"captioner": "endpoint", "model": "org/vlm", "revision": None, "temperature": 0.5, "adapter": None}
    most = least | {
        "captioner": captioner,
        "source": str(ROOT),
        "with_images": True,
        "prompts": ["What | is it?", "And?"],
    }
    most |= {
        "quality": {"train": {"mean_weight": 0.5}},
        "cleaning": {"openings": 3, "refusals": 0},
        "order": "unverified",
    }
    card = str(captions_card(most, date="2026-01-01", license="cc-by-4.0", repo_id="me/captions"))
    for said in (
        "org/vlm",
        "What \\| is it?",
        "temperature 0.5",
        "cc-by-4.0",
        "me/captions",
        "0.500",
        "| openings | 3 |",
        "Rows with their images",
    ):
        assert said in card, said
    assert str(ROOT) not in card and "| refusals |" not in card and "unverified" in card


@pytest.mark.slow
def test_report_shows_the_pictures(captioned):
    page = (captioned / "runs" / "captions" / "caption_report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 8 and " on a " in page
    assert (
        json.loads((captioned / "runs" / "captions" / "caption_report.json").read_text())["splits"]["train"][
            "captions"
        ]
        == 40
    )


def test_dry_run_shows_and_projects_and_its_answers_are_kept(tmp_path):
    shapes(tmp_path, 24)
    options = ["--dataset_name", "pictures", "--captions_dir", "captions", "--captioner_model", str(CAPTIONER)]
    options += ["--max_new_tokens", "16"]
    printed = caption(tmp_path, *options, "--dry_run", "6", "--price_input", "1", "--price_output", "2")
    assert "6 answers were measured; 18 are still to come." in printed and "Requests: 18" in printed
    assert "Cost: 0.00" in printed and not (tmp_path / "captions").exists()
    page = (tmp_path / "captions.dry_run" / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    printed = caption(tmp_path, *options, "--report", "false")
    assert "18 answers in" in printed
    assert re.fullmatch(r"captioned 24, \d+\.\d requests per second", printed.strip().splitlines()[-1])


def test_a_prompt_that_tells_the_class_is_refused_for_evaluation_splits(tmp_path):
    message = caption(tmp_path, "--dataset_name", str(ROOT / "recipes" / "shapes"), "--captions_dir", "captions",
                      "--captioner_model", str(CAPTIONER), "--prompt", "class", fails=True)  # fmt: skip
    assert "'validation' is for evaluation" in message and "a leak" in message and "Traceback" not in message


@pytest.mark.parametrize(
    "options, said",
    [
        ([], "Nothing says where captions come from"),
        (["--captioner_model", "no/such/folder"], "there is no such folder"),
        (["--base_url", "localhost:1", "--captioner_model", "m"], "base_url"),
        (["--base_url", "http://127.0.0.1:9/v1"], "captioner_model is missing"),
        (["--captioner_model", "m", "--caption_splits", "evening"], "no split 'evening'"),
        (["--captioner", "column"], "No column 'caption'"),
        (["--captioner_model", "m", "--max_cost", "5"], "max_cost needs the prices"),
        (["--captions_file", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--captioner_model", "m", "--captions_dir", "full"], "Choose a folder of its own"),
    ],
)
def test_mistakes_are_one_line_with_a_remedy(tmp_path, options, said):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    start = ["--dataset_name", str(ROOT / "recipes" / "shapes"), "--captions_dir", "captions"]
    message = caption(tmp_path, *start, *options, fails=True)
    assert said in message and "Traceback" not in message


def test_captions_of_a_file_are_joined_cleaned_and_judged(tmp_path):
    shapes(tmp_path, 12)
    paths = sorted((tmp_path / "pictures" / "train").rglob("*.png"))
    lines = [
        {"file_name": f"{p.parent.name}/{p.name}", "text": f"The image shows a {p.parent.name}."} for p in paths[1:]
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    printed = caption(tmp_path, "--dataset_name", "pictures", "--captions_dir", "captions",
                      "--captions_file", "captions.jsonl", "--report", "false")  # fmt: skip
    assert "Captions of train: 11 ok, 1 missing" in printed and "--retry_failed" not in printed
    found = {row["image_id"]: row for row in pq.read_table(tmp_path / "captions" / "train.parquet").to_pylist()}
    for path in paths[1:]:
        row = found[f"{path.parent.name}/{path.name}"]
        assert row["caption"] == f"A {path.parent.name}." and row["caption_raw"].startswith("The image shows")
    first = found[f"{paths[0].parent.name}/{paths[0].name}"]
    assert first["caption"] is None and first["caption_weight"] == 0
    stage = json.loads((tmp_path / "captions" / "stage.json").read_text())
    assert stage["cleaning"]["openings"] == 11 and stage["captioner"] == {
        "captioner": "file",
        "file": "captions.jsonl",
    }


def test_a_list_in_file_order_is_called_unverified(tmp_path):
    shapes(tmp_path, 8)
    paths = sorted((tmp_path / "pictures" / "train").rglob("*.png"))
    (tmp_path / "captions.txt").write_text("\n".join(f"a {path.parent.name} called {path.stem}" for path in paths))
    caption(tmp_path, "--dataset_name", "pictures", "--captions_dir", "captions",
            "--captions_file", "captions.txt", "--report", "false")  # fmt: skip
    rows = pq.read_table(tmp_path / "captions" / "train.parquet").to_pylist()
    assert all(Path(row["image_id"]).stem in row["caption"] for row in rows)
    stage = json.loads((tmp_path / "captions" / "stage.json").read_text())
    assert stage["order"] == "unverified" and stage["found"]["files_digest"]


def test_a_stream_is_described_row_by_row(tmp_path):
    """What has been read is a table of bytes without ids; the same images at hand have the same captions."""
    split = load_dataset(str(ROOT / "recipes" / "shapes"), split="train").select(range(10)).remove_columns("image_id")
    DatasetDict(train=split).save_to_disk(tmp_path / "data")
    options = ["--dataset_name", "./data", "--captioner_model", str(CAPTIONER), "--max_new_tokens", "16"]
    options += ["--report", "false", "--journal_dir", "journal"]
    caption(tmp_path, *options, "--captions_dir", "streamed", "--streaming")
    printed = caption(tmp_path, *options, "--captions_dir", "whole")
    assert "All 10 answers" in printed or "10 were there already" in printed
    streamed, whole = (pq.read_table(tmp_path / name / "train.parquet").to_pydict() for name in ("streamed", "whole"))
    assert streamed["caption"] == whole["caption"] and len(set(streamed["caption"])) > 1
    assert streamed["image_id"] == whole["image_id"]


def test_images_can_be_written_too(tmp_path):
    shapes(tmp_path, 4)
    caption(tmp_path, "--dataset_name", "pictures", "--captions_dir", "captions", "--captioner_model", str(CAPTIONER),
            "--max_new_tokens", "16", "--with_images", "--report", "false")  # fmt: skip
    shutil.rmtree(tmp_path / "pictures")
    split = open_images(str(tmp_path / "captions"))["train"]
    assert len(split) == 4 and {"image", "label", "caption"} <= set(split.column_names)
    assert split[0]["image"]["path"] == "train-0002.png"  # no path of this machine
    assert PILImage.open(io.BytesIO(split[0]["image"]["bytes"])).size == (32, 32)


# --- A real model behind a real server, and a bad connection ---------------------------------------------------------


@pytest.mark.slow
def test_faults_on_the_way_to_a_served_model_lose_and_repeat_nothing(served_captioner: Server, tmp_path):  # noqa: F811
    """500 images; a fifth of the requests meet a fault at a proxy before `transformers serve`."""
    shapes(tmp_path, 500)
    proxy = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "workers" / "fault_proxy.py"), "--seed", "3", "--fault_rate", "0.2",
         "--upstream", served_captioner.base_url.removesuffix("/v1"), "--forward_concurrency", "4",
         "--slow_seconds", "0.5"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{json.loads(proxy.stdout.readline())['port']}"
        (tmp_path / "recipes").symlink_to(ROOT / "recipes")
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        command = [sys.executable, "recipes/caption.py", "--dataset_name", "pictures",
                   "--captions_dir", "captions",
                   "--base_url", f"{address}/v1", "--captioner_model", served_captioner.model,
                   "--max_new_tokens", "16", "--max_concurrency", "8"]  # fmt: skip
        done = subprocess.run(
            command, cwd=tmp_path, env=environment | {"HF_TOKEN": CANARY}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        with urllib.request.urlopen(f"{address}/stats") as reply:
            stats = json.load(reply)
    finally:
        proxy.kill()
    assert stats["asked_again"] == 0 and stats["whole"] == stats["distinct"] == 500
    assert len(stats["faults"]) >= 6 and stats["requests"] > 560
    assert stats["authorization"] == []  # the token of Hugging Face is no business of this host
    assert CANARY not in done.stdout + done.stderr
    rows = pq.read_table(tmp_path / "captions" / "train.parquet").to_pylist()
    truth = load_dataset(str(ROOT / "recipes" / "shapes"), split="train").select(range(500))
    assert {row["caption_status"] for row in rows} == {"ok"}
    assert colours_right(rows, truth) >= 475


def colours_right(rows: list[dict], truth: Dataset) -> int:
    """Captions that name the colour that the picture has: its most saturated pixels are those of the shape."""
    hues = {"red": 0, "orange": 22, "yellow": 40, "green": 90, "blue": 160, "purple": 197}
    pictures = {row["image_id"]: row["image"] for row in truth}
    right = 0
    for row in rows:
        pixels = np.asarray(pictures[Path(row["image_id"]).stem].convert("HSV")).reshape(-1, 3).astype(int)
        hue = int(np.median(pixels[pixels[:, 1] * pixels[:, 2] > 0.8 * (pixels[:, 1] * pixels[:, 2]).max()][:, 0]))
        nearest = min(hues, key=lambda name: min(abs(hues[name] - hue), 255 - abs(hues[name] - hue)))
        right += f" {nearest} " in f" {row['caption']} "
    return right


@pytest.mark.slow
def test_a_student_aligned_with_machine_captions(tmp_path):
    """Captioned, embedded, trained, evaluated and released by the recipe's files."""
    for script in ("caption", "embed", "train", "evaluate", "release"):
        options = ["--config", f"recipes/shapes/{script}.yaml"]
        if script == "train":
            launch(tmp_path, sys.executable, "recipes/train.py", "--config", "recipes/shapes/baseline.yaml")
        launch(tmp_path, sys.executable, f"recipes/{script}.py", *options)
    results = json.loads((tmp_path / "runs" / "shapes" / "aligned" / "all_results.json").read_text())
    assert results["test_accuracy"] > 0.4  # eight shapes
    assert results["train_samples_per_second"] > 0
    assert (tmp_path / "runs" / "shapes" / "aligned" / "student" / "README.md").is_file()
