"""`compare` with real trainings: cells see the same batches, a kill loses one at most, test stays closed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from g4i_hf.cli import parse_options
from g4i_hf.commands import train
from g4i_hf.comparison.grid import Cell
from g4i_hf.comparison.results import digest_of_rows, read_results
from g4i_hf.data.dataset import finish_batch
from g4i_hf.options import CompareArguments
from g4i_hf.workflows.compare import Study, run_of
from g4i_hf.workflows.train import TrainingRun

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


def batches_of(folder, tmp_path, weight: str) -> tuple[list[str], str]:
    """Hashes of what every step of a training saw, and of the weights that the student began with."""
    argv = ["--config", str(folder / "train.yaml"), "--output_dir", str(tmp_path / weight), "--align_weight", weight]
    argv += ["--student", "resnet18", "--student_args", json.dumps(STUDENT["student_args"]), "--report_to", "none"]
    argv += ["--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "true", "--seed", "3"]
    run = TrainingRun(*parse_options(train.OPTIONS, argv))
    run.load()
    trainer = run.build_trainer()
    seen = []

    def digest(tensors) -> str:
        return hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()

    def compute_loss(model, inputs, **kwargs):
        batch = finish_batch(inputs)
        state = torch.default_generator.get_state()  # what dropout would draw from
        seen.append(digest([torch.as_tensor(batch[name]) for name in sorted(batch)] + [state]))
        return original(model, inputs, **kwargs)

    original, trainer.compute_loss = trainer.compute_loss, compute_loss
    began = digest(trainer.model.student.state_dict().values())
    trainer.train()
    return seen, began


def test_a_baseline_and_an_aligned_run_see_the_same_batches_and_begin_with_the_same_weights(folder, tmp_path):
    (baseline, began), (aligned, also) = (batches_of(folder, tmp_path, weight) for weight in ("0", "1e-12"))
    assert len(baseline) == 8 and len(set(baseline)) == 8
    assert aligned == baseline and also == began


def cell_of(folder, **options):
    grid = json.loads((folder / "compare.yaml").read_text())
    args = CompareArguments(**{name: value for name, value in grid.items() if name not in ("processes", "plot")})
    return args, Cell("tiny", "clip", 0, STUDENT | options, "")


def test_cells_with_data_or_an_encoder_of_their_own_have_a_folder_of_embeddings_of_their_own(folder, tmp_path):
    """Two cells at a time would replace each other's."""
    config = tmp_path / "train.yaml"

    def place(given: str, **options) -> str:
        config.write_text((folder / "train.yaml").read_text().replace("./data", str(folder / "data")) + given)
        _, cell = cell_of(folder, **options)
        return run_of(cell, str(config), str(tmp_path / "run")).encoder.embeddings_dir

    kept = "embeddings_dir: runs/kept\ntext_encoder: one\n"
    assert place(kept, align_weight=1) == "runs/kept"  # as recipes/embed.py may have left it
    others = [{"text_encoder": "two"}, {"dataset_name": "x"}, {"dataset_name": "x", "text_encoder": "two"}]
    found = [place(kept, **other) for other in others] + [place("", text_encoder=name) for name in ("one", "two")]
    assert len({*found, "runs/kept"}) == 6 and found[0] == place(kept, **others[0])


def open_labels(args, cell):
    study = Study(args)
    study.cells = [cell]
    return study._open_labels()


def test_labels_are_opened_with_the_rows_they_belong_to(folder, tmp_path, monkeypatch):
    args, cell = cell_of(folder)
    labels, bars = open_labels(args, cell)
    assert set(labels) == set(bars) == {"validation"} and not (folder / "LOG.md").exists()
    assert labels["validation"].classes.tolist() == [0, 1] * 16
    ids = [f"validation-{number}" for number in range(32)]
    assert labels["validation"].digest == digest_of_rows(ids, ["dark", "light"])
    assert bars["validation"] > 0.9
    monkeypatch.setattr("g4i_hf.workflows.compare.MOST", 63)
    assert open_labels(args, cell)[1] == {}
    args.splits, args.final, args.openings = ["unknown"], True, str(tmp_path / "LOG.md")
    split = Dataset.from_parquet(str(folder / "data" / "validation.parquet"))
    unlabelled = split.remove_columns("label").add_column("label", [None] * 32, feature=split.features["label"])
    for name, each in (("train", split), ("unknown", unlabelled), ("test", split)):
        each.to_parquet(tmp_path / "data" / f"{name}.parquet")
    cell.options["dataset_name"] = str(tmp_path / "data")
    with pytest.raises(ValueError, match="unknown has no labelled image"):
        open_labels(args, cell)
    assert not (tmp_path / "LOG.md").exists()  # nothing was opened


def compare(folder, *options, expected: int | None = 0, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "recipes" / "compare.py"), "--config", str(folder / "compare.yaml")]
    environment = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, **kwargs)
    assert done.returncode == expected, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def is_running(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_dry_run_shows_the_plan_and_trains_nothing(folder):
    done = compare(folder, "--dry_run", "true")
    assert "4 cells, 0 of them" in done.stdout and "baseline 0/2  clip 0/2" in done.stdout
    assert not (folder / "cells.jsonl").exists()


@pytest.mark.slow
def test_a_grid_is_killed_resumed_checked_and_opened(folder):
    path = folder / "cells.jsonl"
    command = [sys.executable, str(ROOT / "recipes" / "compare.py"), "--config", str(folder / "compare.yaml")]
    environment = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
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

    done = compare(folder)
    results = read_results(path)
    assert f"4 cells, {before} of them" in done.stdout and len(results) == 4
    assert {(r.variant, r.seed) for r in results} == {(v, s) for v in ("baseline", "clip") for s in (0, 1)}
    assert all(set(result.predicted) == {"validation", "test"} for result in results)
    assert "| validation | tiny | clip |" in done.stdout and "| test |" not in done.stdout
    assert not (folder / "LOG.md").exists()
    assert results[0].training["thread_seconds"] > 0 and results[0].made["versions"]["torch"]
    assert str(folder) not in path.read_text() and str(ROOT) not in path.read_text()

    assert "the same to the bit" in compare(folder, "--check_cell", "tiny/clip/1").stdout
    lines = path.read_text().splitlines()
    changed = json.loads(lines[-1])
    changed["training"]["train_loss"] += 1e-6
    path.write_text("\n".join([*lines[:-1], json.dumps(changed)]) + "\n")
    name = f"tiny/{changed['variant']}/{changed['seed']}"
    assert f"{name}: train_loss " in compare(folder, "--check_cell", name, expected=1).stdout

    done = compare(folder, "--final", "true")
    assert "| test | tiny | clip |" in done.stdout and "test opened for" in (folder / "LOG.md").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert {row["split"] for row in summary["findings"]} == {"validation", "test"} and (folder / "plot.png").is_file()
    assert {split for result in results for split in result.images} == {"validation", "test"}
    assert summary["made"]["commits_of_cells"] == sorted({result.made["commit"] for result in results})
    assert summary["made"]["command"].endswith("recipes/compare.py --config compare.yaml --final true")

    kept = [(folder / name).read_bytes() for name in ("summary.json", "plot.png")]
    done = compare(folder)
    assert "has figures of test, which were not scored now: it and the pictures are left as they are" in done.stdout
    assert kept == [(folder / name).read_bytes() for name in ("summary.json", "plot.png")]


@pytest.mark.slow
def test_a_final_table_of_half_a_grid_and_unknown_cells_are_refused(folder):
    done = compare(folder, "--seeds", "7", "--final", "true", expected=2)
    assert "scores a grid that is whole" in done.stderr
    assert "no finished cell" in compare(folder, "--check_cell", "tiny/clip/9", expected=2).stderr
    done = compare(folder, "--only_variants", "clip", "--seeds", "8", "--splits", "valid", expected=2)
    assert "cell tiny/clip/8: The data has no split 'valid'" in done.stderr
