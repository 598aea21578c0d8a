"""From images to a student: what the commands leave, and ways of training."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from doors import ROOT, files_in, refused_by_windows, spelled, succeed
from drawings import ENCODER, STUDENT, TRAINING, draw_folder

from g4i_hf.running import main

RUN = {"model.safetensors", "config.json", "preprocessor_config.json", "all_results.json", "trainer_state.json"}
RUN |= {"train.yaml", "predictions/validation.parquet"}


@pytest.fixture(scope="module")
def loop(tmp_path_factory) -> Path:
    """The full pipeline in one folder: pictures, stages, two runs, a report, a released student and dataset."""
    folder = tmp_path_factory.mktemp("loop")
    draw_folder(folder / "pictures", train=18, validation=9)
    captions = {"dataset_name": "./pictures", "captions_dir": "captions", "caption_column": "caption"}
    succeed("caption", captions, cwd=folder)
    succeed("embed", {"dataset_name": "./captions", "embeddings_dir": "embeddings"}, ENCODER, cwd=folder)
    for run, weight in (("aligned", 0.3), ("baseline", 0)):
        data = {"dataset_name": "./embeddings", "output_dir": run, "align_weight": weight}
        succeed("train", data, STUDENT, TRAINING, cwd=folder)
    runs = {"run": "aligned", "baseline": "baseline"}
    succeed("evaluate", runs, {"report": "report.html"}, cwd=folder)
    succeed("release", runs, {"license": "apache-2.0"}, cwd=folder)
    succeed("release", {"stage": "captions"}, cwd=folder)
    return folder


@pytest.mark.slow
def test_a_run_folder_is_whole(loop):
    files, run = files_in(loop / "aligned"), loop / "aligned"
    assert files >= RUN and not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle"))]
    results = json.loads((run / "all_results.json").read_text())
    assert {"train_loss", "train_samples_per_second", "validation_ece", "validation_nll"} <= set(results)
    assert yaml.safe_load((run / "train.yaml").read_text())["dataset_name"] == "../embeddings"
    rows = pq.read_table(run / "predictions" / "validation.parquet").to_pylist()
    assert len(rows) == results["validation_samples"] == 9 and {"image_id", "score"} <= set(rows[0])
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert results["validation_accuracy"] == pytest.approx(right / 9)


@pytest.mark.slow
def test_no_path_of_this_machine_is_in_what_was_made_and_windows_takes_every_name(loop):
    assert len(files_in(loop)) > 50 and not refused_by_windows(loop)
    for name in files_in(loop):
        if name.endswith((".json", ".md", ".yaml", ".html", ".parquet")) and not name.startswith("pictures"):
            content = (loop / name).read_bytes()
            assert str(loop).encode() not in content and str(ROOT).encode() not in content, name


@pytest.mark.slow
def test_a_dry_run_of_training_writes_nothing(loop, tmp_path):
    before = files_in(loop)
    data = {"dataset_name": loop / "pictures", "output_dir": "run", "dry_run": "true"}
    done = succeed("train", data, STUDENT, TRAINING, ENCODER, cwd=tmp_path)
    assert "resnet18" in done.out and "18 images" in done.out and "27" in done.out, "what, on what, what to embed"
    assert list(tmp_path.iterdir()) == [] and files_in(loop) == before


ONE_EPOCH = TRAINING | {"max_steps": 3, "logging_steps": 1, "learning_rate": "1e-2"}
WAYS = {
    # labels a class, options beside those of a short run, and what is printed
    "unlabelled": (3, {"unlabelled": "keep"}, ("9 of 18", "--supervision auto")),
    "dropped": (3, {"unlabelled": "drop"}, ("9 of 18",)),
    "unreadable image": (6, {"on_bad_images": "skip"}, ("cross/1.png",)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_way_of_training(tmp_path, capfd, caplog, way):
    caplog.set_level("INFO", logger="g4i_hf")
    labels_a_class, options, says = WAYS[way]
    pictures = draw_folder(tmp_path / "pictures", labels_a_class=labels_a_class, train=18, validation=9)
    if way == "unreadable image":
        (pictures / "train" / "cross" / "1.png").write_bytes(b"no image")
    given = options | {"dataset_name": pictures, "output_dir": tmp_path / "run"}
    main(["train", *spelled((STUDENT, ONE_EPOCH, ENCODER, given))])
    said = "".join(capfd.readouterr()) + caplog.text
    assert all(part in said for part in says) and "Traceback" not in said
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "loss_align" in entry]
    assert len(steps) == 3 and all(math.isfinite(value) for entry in history for value in entry.values())
    for entry in steps:
        total = entry["loss_ce"] + entry["align_weight"] * entry["loss_align"]
        assert entry["loss"] == pytest.approx(total, rel=1e-3)
