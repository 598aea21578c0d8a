"""Folders that version 0.1 wrote open in this one, with the same predictions, rows and columns."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from doors import ROOT, caption_server, files_in, server_stats
from drawings import ENCODER, STUDENT, TRAINING

FIXTURES = Path(__file__).parent / "fixtures_0_1"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
PRIVATE = re.compile(rb"/(home|root|tmp|work|Users)/|localhost|127\.0\.0\.1|hf_[A-Za-z]{30}")


@pytest.fixture
def older(tmp_path) -> Path:
    """A copy, which commands may write into."""
    return shutil.copytree(FIXTURES, tmp_path / "older")


def same_predictions(run: Path, name: str) -> None:
    rows = pq.read_table(run / "predictions" / "validation.parquet").to_pylist()
    found = {row["image_id"]: row for row in rows}
    expected = {row["image_id"]: row for row in EXPECTED[name]["predictions"]}
    assert set(found) == set(expected)
    for image_id, row in expected.items():
        assert found[image_id]["prediction"] == row["prediction"] and found[image_id]["label"] == row["label"]
        assert found[image_id]["score"] == pytest.approx(row["score"], abs=1e-4)


def test_nothing_private_is_in_them():
    for name in sorted(files_in(FIXTURES)):
        assert not PRIVATE.search((FIXTURES / name).read_bytes()), name


def test_a_run_and_its_baseline_are_evaluated_with_the_same_predictions(quick, older):
    for run in ("aligned", "baseline"):
        shutil.rmtree(older / run / "predictions")
        results = json.loads((older / run / "all_results.json").read_text())
        kept = {name: value for name, value in results.items() if not name.startswith("validation")}
        (older / run / "all_results.json").write_text(json.dumps(kept))
    done = quick.succeed("evaluate", {"run": older / "aligned", "baseline": older / "baseline"})
    assert "accuracy" in done.out
    for run in ("aligned", "baseline"):
        same_predictions(older / run, run)
        results = json.loads((older / run / "all_results.json").read_text())
        for name, value in EXPECTED[run]["results"].items():
            assert results[name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-3)), name
        assert results["train_loss"] > 0, "figures that were there stay"


def test_answers_that_were_paid_for_are_not_asked_again(quick, older):
    with caption_server("--always", "500") as server:
        options = {"dataset_name": "./pictures", "captions_dir": "again", "journal_dir": "captions.journal"}
        quick.succeed("caption", options, {"base_url": f"{server}/v1", "captioner_model": "tiny"}, cwd=older)
        assert server_stats(server)["requests"] == 0
    for split in ("train", "validation"):
        again, before = (pq.read_table(older / name / f"{split}.parquet") for name in ("again", "captions"))
        assert again["caption"].to_pylist() == before["caption"].to_pylist()


def test_a_run_that_learned_otherwise_in_that_version_opens(quick, older):
    """Options that have another name now stand in its train.yaml; a release says what it learned from."""
    options = older / "aligned" / "train.yaml"
    text = options.read_text().replace("teacher_weight: 0.0", "teacher_weight: 0.5")
    options.write_text(text.replace("unlabelled: keep", "unlabelled: pseudo_label"))
    assert "teacher_weight: 0.5" in options.read_text() and "unlabelled: pseudo_label" in options.read_text()
    shutil.rmtree(older / "aligned" / "predictions")
    done = quick.succeed("evaluate", {"run": older / "aligned", "measures": "none"})
    assert "deprecated" not in done.said
    same_predictions(older / "aligned", "aligned")
    done = quick.succeed("release", {"run": older / "aligned"})
    assert "deprecated" not in done.said
    card = " ".join((older / "aligned" / "student" / "README.md").read_text().split())
    assert "it learned soft labels" in card


def test_a_run_that_named_a_prompt_says_what_to_write(quick, older):
    options = older / "aligned" / "train.yaml"
    text = options.read_text()
    options.write_text(text.replace("text_encoder_prompt_name: null", "text_encoder_prompt_name: photo"))
    assert "text_encoder_prompt_name: photo" in options.read_text()
    for command, of_run in (("evaluate", {"run": older / "aligned"}), ("train", {"config": options})):
        done = quick.run(command, of_run)
        assert done.code == 2 and len(done.errors()) == 1
        assert "text_encoder_prompt_name ('photo') was removed: write text_encoder_prompt with" in done.errors()[0]
    options.write_text(options.read_text().replace("text_encoder_prompt: null", "text_encoder_prompt: 'a photo of '"))
    quick.succeed("evaluate", {"run": older / "aligned", "measures": "none"})


@pytest.mark.slow
def test_the_moving_average_of_a_run_is_evaluated(quick, older):
    quick.succeed("evaluate", {"run": older / "aligned", "weights": "ema", "measures": "none"})
    results = json.loads((older / "aligned" / "all_results.json").read_text())
    assert results["validation_weights"] == "ema" and results["validation_samples"] == 9


def test_a_run_is_released_and_loads_without_this_package(quick, older):
    quick.succeed("release", {"run": older / "aligned", "baseline": older / "baseline"})
    student = older / "aligned" / "student"
    assert {"README.md", "config.json", "model.safetensors"} <= files_in(student)
    code = (
        "import json, sys; sys.modules['g4i_hf'] = None\n"
        "from pathlib import Path; from transformers import pipeline\n"
        "ask = pipeline('image-classification', model=sys.argv[1], device='cpu')\n"
        "paths = sorted(Path(sys.argv[2]).glob('*/*.png'))\n"
        "print(json.dumps({'/'.join(path.parts[-2:]): ask(str(path), top_k=1)[0] for path in paths}))\n"
    )
    found = json.loads(quick.python(code, student, older / "pictures" / "validation").splitlines()[-1])
    for row in EXPECTED["aligned"]["predictions"]:
        assert found[row["image_id"]]["label"] == row["prediction"]
        assert found[row["image_id"]]["score"] == pytest.approx(row["score"], abs=1e-4)


def test_the_aligned_model_of_a_run_loads_by_its_public_name(quick, older):
    code = """
import sys
import torch
from g4i_hf import AlignedImageClassification
from transformers import AutoModelForImageClassification

for cls in (AlignedImageClassification, AutoModelForImageClassification):
    model = cls.from_pretrained(sys.argv[1]).eval()
    assert type(model) is AlignedImageClassification
    found = model(torch.zeros(2, 3, 32, 32), output_image_embeds=True)
    print(tuple(found.logits.shape), tuple(found.image_embeds.shape), model.config.id2label)
"""
    printed = quick.python(code, older / "aligned").splitlines()
    assert printed[-2:] == ["(2, 3) (2, 384) {0: 'circle', 1: 'cross', 2: 'square'}"] * 2


def test_the_same_command_finds_a_run_of_earlier_finished(quick, older):
    before = (older / "aligned" / "model.safetensors").read_bytes()
    done = quick.succeed("train", {"config": older / "aligned" / "train.yaml"})
    assert "finished" in done.out
    assert (older / "aligned" / "model.safetensors").read_bytes() == before


def test_a_run_keeps_the_defaults_of_its_version(quick, older):
    """Version 0.1 had those of Trainer, and did not write them into the file of a run."""
    path, named = (
        older / "aligned" / "train.yaml",
        ("learning_rate", "lr_scheduler_type", "per_device_train_batch_size"),
    )
    lines = [line for line in path.read_text().splitlines() if not line.startswith(named)]
    path.write_text("\n".join(lines))
    printed = quick.succeed("train", {"config": path}, "--print_config").out
    for line in ("learning_rate: 5.0e-05", "lr_scheduler_type: linear", "per_device_train_batch_size: 8"):
        assert line in printed.splitlines()
    assert "num_train_epochs: 3.0" in printed and "warmup_steps: 0" in printed
    path.write_text(printed)
    assert quick.succeed("train", {"config": path}, "--print_config").out == printed
    path.write_text("\n".join(line for line in lines if not line.startswith("#")))
    assert "learning_rate: 0.001" in quick.succeed("train", {"config": path}, "--print_config").out


def test_a_stage_of_embeddings_is_trained_on(quick, older):
    quick.succeed("train", {"dataset_name": older / "embeddings", "output_dir": older / "new"}, STUDENT, TRAINING)
    state = json.loads((older / "new" / "trainer_state.json").read_text())
    assert state["global_step"] == TRAINING["max_steps"]
    assert any("loss_align" in entry or "train_loss" in entry for entry in state["log_history"])
    lineage = (older / "new" / "train.yaml").read_text()
    assert "embeddings" in lineage and str(ROOT) not in lineage


@pytest.mark.slow
def test_a_stage_of_captions_is_embedded_with_the_same_rows(quick, older):
    quick.succeed("embed", {"dataset_name": older / "captions", "embeddings_dir": older / "again"}, ENCODER)
    again = pq.read_table(older / "again" / "train.parquet")
    assert again.column_names == EXPECTED["embeddings"]["columns"]
    assert again["image_id"].to_pylist() == EXPECTED["embeddings"]["image_id"]
    before = pq.read_table(older / "embeddings" / "train.parquet")
    for one, other in zip(again["text_embeds"].to_pylist(), before["text_embeds"].to_pylist(), strict=True):
        assert one == pytest.approx(other, abs=2e-3)


@pytest.mark.slow
def test_a_stage_is_released_as_a_data_set(quick, older):
    made = older / "made"
    quick.succeed("release", {"stage": older / "captions", "dataset_dir": made})
    assert {"README.md", "stage.json"} <= files_in(made)
    rows = pq.read_table(next((made / "data").glob("train-*.parquet")))
    assert set(EXPECTED["captions"]["columns"]) <= set(rows.column_names)
    assert rows["image_id"].to_pylist() == EXPECTED["captions"]["image_id"]
