"""From images to a student: what the commands leave, ways of training, and a student of one's own."""

import json
import math
import re
import shlex

import pyarrow.parquet as pq
import pytest
import yaml
from doors import ROOT, files_in, refused_by_windows, run, spelled, succeed
from drawings import ENCODER, STUDENT, TRAINING
from fitting import few_labels

from g4i_hf.running import main

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle")
RUN = {"model.safetensors", "config.json", "preprocessor_config.json", "all_results.json", "trainer_state.json"}
RUN |= {"train.yaml", "predictions/validation.parquet"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aligned", "baseline"])
def test_a_run_folder_is_whole(loop, name):
    files = files_in(loop / name)
    assert files >= RUN and not [name for name in files if name.endswith(PICKLES)]
    results = json.loads((loop / name / "all_results.json").read_text())
    assert results["validation_samples"] == 9 and 0 <= results["validation_accuracy"] <= 1
    assert {"train_loss", "train_samples_per_second", "validation_ece", "validation_nll"} <= set(results)
    state = json.loads((loop / name / "trainer_state.json").read_text())
    assert state["global_step"] == TRAINING["max_steps"]
    options = yaml.safe_load((loop / name / "train.yaml").read_text())
    assert options["align_weight"] == (0.3 if name == "aligned" else 0) and options["dataset_name"] == "../embeddings"
    rows = pq.read_table(loop / name / "predictions" / "validation.parquet").to_pylist()
    assert len(rows) == 9 and {"image_id", "label", "prediction", "score"} <= set(rows[0])
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
    data |= {"dataset_name": loop / "embeddings", "supervision": "auto"}
    assert "Estimates: Captions tell the class of" in succeed("train", data, STUDENT, TRAINING, cwd=tmp_path).out
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
    pictures = few_labels(tmp_path, labels_a_class, train=18, validation=9)
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


@pytest.mark.slow
def test_a_student_of_ones_own(loop, tmp_path):
    """docs/guides/training.md: its code, and its commands, with which a comparison's processes know it too."""
    page = (ROOT / "docs" / "guides" / "training.md").read_text(encoding="utf-8")
    module, lines = (
        re.search(rf"^<!-- test: {name} -->\n```\w+\n(.*?)^```$", page, flags=re.M | re.S)[1]
        for name in ("my_student with timm", "my_student")
    )
    (tmp_path / "my_student.py").write_text(module)
    (tmp_path / "pictures").symlink_to(loop / "pictures")
    for line in lines.replace("\\\n", " ").splitlines():
        start, command, *words = shlex.split(line)
        assert start == "g4i"
        done = succeed(command, *words, *([ONE_EPOCH] if command == "train" else []), cwd=tmp_path)
        assert command != "train" or "g4i evaluate --run runs/mine --module my_student.py" in done.out
    student = tmp_path / "runs" / "mine" / "student"
    assert {"model.safetensors", "config.json", "README.md"} <= files_in(student)
    assert "my_student" in (student / "README.md").read_text()
    small = {"student": "tiny_net", "image_size": 32} | ONE_EPOCH | {"max_steps": 1}
    words = {"dataset_name": loop / "embeddings", "output_dir": tmp_path / "another"}
    done = run("train", words | small)
    assert done.code == 2 and "tiny_net" in done.err, "without its module nobody knows it"
