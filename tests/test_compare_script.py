"""`g4i compare` on a small grid: cells see the same batches, a kill loses one at most, test stays closed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from g4i_hf.cli import parse_options
from g4i_hf.options import CompareArguments
from g4i_hf.running import main
from g4i_hf.study import Cell, Result, append_result, cells_of, read_results
from g4i_hf.workflows.compare import run_of, train_cell

ROOT = Path(__file__).parent.parent
STUDENT = {"student": "resnet18", "student_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with Parquet of 64, 32 and 32 images with embeddings, a file of training, and one of a comparison."""
    folder, rng = tmp_path_factory.mktemp("compare"), np.random.default_rng(0)
    features = Features(
        {
            "image": Image(),
            "label": ClassLabel(names=["dark", "light"]),
            "image_id": Value("string"),
            "caption": Value("string"),
            "text_embeds": List(Value("float16"), length=8),
        }
    )
    texts = rng.normal(size=(16, 8))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    (folder / "data").mkdir()
    for split, count in (("train", 64), ("validation", 32), ("test", 32)):
        rows = []
        for number in range(count):
            pixels = rng.integers(0, 128, (16, 16, 3)) + 100 * (number % 2)
            row = {"image": PILImage.fromarray(pixels.astype(np.uint8)), "label": number % 2}
            row |= {"caption": f"caption {number % 16}", "text_embeds": texts[number % 16]}
            rows.append(row | {"image_id": f"{split}-{number}"})
        Dataset.from_list(rows, features=features).to_parquet(folder / "data" / f"{split}.parquet")
    (folder / "train.yaml").write_text(
        "dataset_name: ./data\noutput_dir: runs/x\nimage_size: 16\ntrain_crop: pad\nnum_train_epochs: 2\n"
        "per_device_train_batch_size: 16\nlearning_rate: 1e-2\nmixup_alpha: 0.2\n"
    )
    grid = {"train_config": str(folder / "train.yaml"), "students": {"tiny": STUDENT}, "final_splits": ["test"]}
    grid |= {"variants": {"baseline": {"align_weight": 0}, "clip": {"align_weight": 1}}, "seeds": [0, 1]}
    grid |= {"results": str(folder / "cells.jsonl"), "openings": str(folder / "LOG.md"), "processes": 2}
    grid |= {"summary": str(folder / "summary.json"), "plot": str(folder / "plot.png")}
    (folder / "compare.yaml").write_text(json.dumps(grid))
    return folder


def test_a_baseline_and_an_aligned_run_see_the_same_batches_and_begin_with_the_same_weights(folder):
    """Mixed images and all: an alignment of no weight leaves every step what it was."""
    found = []
    for weight in (0, 1e-12):
        cell = Cell("tiny", str(weight), 3, STUDENT | {"align_weight": weight}, "")
        found.append(train_cell(cell, str(folder / "train.yaml"), ["validation"]))
    baseline, aligned = found
    assert aligned.training["train_loss"] == pytest.approx(baseline.training["train_loss"], rel=1e-6)
    assert np.array_equal(aligned.predicted["validation"], baseline.predicted["validation"])
    with pytest.raises(ValueError, match="The data has no split 'valid'. It has: .*train"):
        train_cell(cell, str(folder / "train.yaml"), ["valid"])


def test_cells_with_data_or_an_encoder_of_their_own_have_a_folder_of_embeddings_of_their_own(folder, tmp_path):
    """Two cells at a time would replace each other's."""
    config = tmp_path / "train.yaml"

    def place(given: str, **options) -> str:
        config.write_text((folder / "train.yaml").read_text().replace("./data", str(folder / "data")) + given)
        cell = Cell("tiny", "clip", 0, STUDENT | options, "")
        return run_of(cell, str(config), str(tmp_path / "run")).encoder.embeddings_dir

    kept = "embeddings_dir: runs/kept\ntext_encoder: one\n"
    assert place(kept, align_weight=1) == "runs/kept"  # as `g4i embed` may have left it
    others = [{"text_encoder": "two"}, {"dataset_name": "x"}, {"dataset_name": "x", "text_encoder": "two"}]
    found = [place(kept, **other) for other in others] + [place("", text_encoder=name) for name in ("one", "two")]
    assert len({*found, "runs/kept"}) == 6 and found[0] == place(kept, **others[0])


# --- A grid that was trained: its lines are made up -----------------------------------------------------------------


@pytest.fixture
def finished(folder, tmp_path):
    """Options of the command for a grid whose cells are all there; `clip` is right for more images."""
    options = ["--config", str(folder / "compare.yaml")]
    for name, file in (("results", "cells.jsonl"), ("openings", "LOG.md"), ("summary", "all.json"), ("plot", "a.png")):
        options += [f"--{name}", str(tmp_path / file)]
    (args,) = parse_options((CompareArguments,), options)
    for cell in cells_of(args):
        predicted = np.arange(32) % 2
        predicted[: 12 - 8 * (cell.variant == "clip") + cell.seed] ^= 1
        result = Result(cell.student, cell.variant, cell.seed, cell.digest, cell.options, {}, made={"commit": "ab"})
        result.predicted = {"validation": predicted, "test": predicted}
        append_result(tmp_path / "cells.jsonl", result)
    return options


def test_labels_of_final_splits_are_used_by_final_alone_and_that_is_noted(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["g4i", "compare", "--final", "true"])
    main(["compare", *finished])
    printed = capsys.readouterr().out
    assert "| validation | tiny | clip | 85.9 ± 2.2 | +25.0 |" in printed and "| test |" not in printed
    assert not (tmp_path / "LOG.md").exists()
    assert {row["split"] for row in json.loads((tmp_path / "all.json").read_text())["findings"]} == {"validation"}
    main(["compare", *finished, "--final", "true"])
    assert "| test | tiny | clip |" in capsys.readouterr().out
    (note,) = (tmp_path / "LOG.md").read_text().splitlines()
    assert "test opened for" in note and note.endswith("by `g4i compare --final true`")
    kept = [(tmp_path / name).read_bytes() for name in ("all.json", "a.png")]
    assert {row["split"] for row in json.loads(kept[0])["findings"]} == {"validation", "test"}
    main(["compare", *finished])
    assert "has figures of test, which were not scored now: it and the pictures are left as" in capsys.readouterr().out
    assert kept == [(tmp_path / name).read_bytes() for name in ("all.json", "a.png")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--results", "{on_a_gpu}"), "were trained on NVIDIA H100, this machine has"),
        (("--seeds", "7", "--final", "true"), "scores a grid that is whole"),
        (("--check_cell", "tiny/clip/9"), "no finished cell"),
        (("--cluster_column", "concept"), "validation has no column 'concept' (cluster_column)"),
        (("--final", "true", "--train_config", "{unlabelled}"), "test has no labelled image"),
    ],
)
def test_a_mistake_opens_no_labels(folder, finished, tmp_path, capsys, options, said):
    """Among them other data, and results of another machine, for the very same cells."""
    config, on_a_gpu, lines = tmp_path / "train.yaml", tmp_path / "gpu.jsonl", tmp_path / "cells.jsonl"
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        rows = Dataset.from_parquet(str(folder / "data" / f"{split}.parquet"))
        if split == "test":
            nothing = [None] * len(rows)
            rows = rows.remove_columns("label").add_column("label", nothing, feature=rows.features["label"])
        rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
    config.write_text((folder / "train.yaml").read_text())
    (args,) = parse_options((CompareArguments,), [*finished, "--train_config", str(config)])
    for cell, result in zip(cells_of(args), read_results(lines), strict=True):
        append_result(on_a_gpu, replace(result, device="NVIDIA H100"))
        append_result(lines, replace(result, digest=cell.digest))
    with pytest.raises(SystemExit):
        main(["compare", *finished, *(word.format(unlabelled=config, on_a_gpu=on_a_gpu) for word in options)])
    assert said in capsys.readouterr().err and not (tmp_path / "LOG.md").exists()


# --- Real processes -------------------------------------------------------------------------------------------------


def is_running(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_after_a_cell_that_failed_no_other_begins_and_those_that_had_begun_are_kept(folder, tmp_path, capsys):
    variants = {"broken": {"align_weight": 0, "per_device_train_batch_size": 1}, "baseline": {"align_weight": 0}}
    options = ["--config", folder / "compare.yaml", "--variants", json.dumps(variants), "--processes", 1]
    options += ["--seeds", *range(6), "--results", tmp_path / "cells.jsonl"]
    with pytest.raises(SystemExit):
        main(["compare", *map(str, options)])
    assert "cell tiny/broken/0: " in capsys.readouterr().err
    kept = read_results(tmp_path / "cells.jsonl")
    assert {result.variant for result in kept} == {"baseline"} and len(kept) <= 2


@pytest.mark.slow
def test_a_grid_is_killed_resumed_and_checked(folder):
    command = [sys.executable, str(ROOT / "recipes" / "compare.py"), "--config", str(folder / "compare.yaml")]
    environment = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    path = folder / "cells.jsonl"

    def compare(*options, expected: int = 0) -> str:
        done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
        assert done.returncode == expected, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    running = subprocess.Popen([*command, "--processes", "1"], env=environment, start_new_session=True)
    deadline = time.monotonic() + 300
    while not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)  # its workers are not killed, but end as well
    running.wait()
    while is_running(group=running.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(group=running.pid)
    before = len(read_results(path))
    assert 1 <= before < 4

    printed, results = compare(), read_results(path)
    assert f"4 cells, {before} of them" in printed and "| validation | tiny | clip |" in printed
    assert {(r.variant, r.seed) for r in results} == {(v, s) for v in ("baseline", "clip") for s in (0, 1)}
    assert all(set(result.predicted) == set(result.images) == {"validation", "test"} for result in results)
    assert results[0].training["thread_seconds"] > 0 and results[0].made["versions"]["torch"]
    assert str(folder) not in path.read_text() and str(ROOT) not in path.read_text()

    assert "the same to the bit" in compare("--check_cell", "tiny/clip/1")
