"""Size and speed of a student."""

import json

import numpy as np
import pytest
import timm
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from released_runs import a_run
from students import ID2LABEL
from transformers import AutoModelForImageClassification, TimmWrapperConfig

from g4i_hf.evaluation.predict import load_run
from g4i_hf.evaluation.speed import ENGINES, size_metrics
from g4i_hf.running import main
from g4i_hf.training.run_folder import read_options, write_options
from g4i_hf.workflows import evaluate

BROKEN = {"bytes": b"no image", "path": None}


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [  # of the table of timm, https://github.com/huggingface/pytorch-image-models/blob/main/results/model_benchmark*
        ("resnet18", 11.69e6, 1.82e9),
        ("deit_tiny_patch16_224", 5.72e6, 1.26e9),
    ],
)
def test_size_is_that_of_the_literature(name, parameters, macs):
    student = AutoModelForImageClassification.from_config(TimmWrapperConfig(architecture=name, num_labels=1000)).eval()
    found = size_metrics(student, 224)
    assert found["parameters"] == sum(each.numel() for each in timm.create_model(name).parameters())
    assert found == pytest.approx({"parameters": parameters, "macs": macs}, rel=0.01)


@pytest.fixture
def run(tmp_path):
    """A run and data whose labels are what it predicts, so that its accuracy is 1, but for one row."""
    rng = np.random.default_rng(0)
    pictures = [PILImage.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(40)]
    features = Features(
        {"image": Image(), "label": ClassLabel(names=list(ID2LABEL.values())), "image_id": Value("string")}
    )
    rows = {"image": pictures, "label": [0] * 40, "image_id": [f"{number}.png" for number in range(40)]}
    run = a_run(tmp_path / "run", results=None, lineage=None)
    model, processor = load_run(run)
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        rows["label"] = model(pixels).logits.argmax(-1).tolist()
    rows["label"][-1] = (rows["label"][-1] + 1) % len(ID2LABEL)
    data = Dataset.from_dict(rows, features=features)
    DatasetDict(train=data.select(range(20)), validation=data.select(range(20, 40))).save_to_disk(tmp_path / "data")
    write_options(run, read_options(run) | {"dataset_name": str(tmp_path / "data")})
    return run


def evaluated(run, *options: str) -> dict:
    main(["evaluate", "--run", str(run), "--measures", "speed", *options])
    return json.loads((run / "all_results.json").read_text())


@pytest.mark.slow
def test_speed_is_in_results_terminal_and_report(run, capsys):
    found = evaluated(run, "--report", str(run / "report.html"))
    printed, page = capsys.readouterr().out, (run / "report.html").read_text()
    for engine, title in ENGINES.items():
        assert 0 < found[f"{engine}_latency_ms"] < 1000 and found[f"{engine}_images_per_second"] > 1
        assert title in printed and title in page
    assert found["cpu_threads"] == torch.get_num_threads()
    assert found["onnx_megabytes"] > found["int8_megabytes"] > 0
    assert found["validation_accuracy"] == 0.95 and 0.7 <= found["validation_int8_accuracy"] <= 1
    assert f"{found['parameters'] / 1e6:.2f} million parameters" in printed
    main(["release", "--run", str(run), "--card_pictures", "false"])
    card = (run / "student" / "README.md").read_text()
    assert "## Size and speed" in card and f"| {found['int8_latency_ms']:.2f} |" in card


def test_a_training_image_that_cannot_be_read_and_a_graph_that_cannot_be_quantized_lose_no_figure(
    run, monkeypatch, caplog, tmp_path
):
    data = DatasetDict.load_from_disk(tmp_path / "data").cast_column("image", Image(decode=False))
    rows = data["train"].to_list()
    data["train"] = Dataset.from_list([rows[0] | {"image": BROKEN}, *rows[1:]], features=data["train"].features)
    data.save_to_disk(tmp_path / "broken")
    write_options(run, read_options(run) | {"dataset_name": str(tmp_path / "broken")})

    def fails(_student, _onnx, _int8, pixels) -> None:
        assert len(pixels) == 19
        raise RuntimeError("no such operator")

    monkeypatch.setattr(evaluate, "export_onnx", lambda *_: None)
    monkeypatch.setattr(evaluate, "quantize", fails)
    monkeypatch.setattr(evaluate, "speed_metrics", lambda *_: {"cpu_threads": 1})
    found = evaluated(run)
    assert found["validation_accuracy"] == 0.95 and found["cpu_threads"] == 1
    assert "no speed in int8: RuntimeError: no such operator" in caplog.text


def test_without_onnx_runtime_it_is_that_of_pytorch(run, monkeypatch, caplog):
    def missing(*_):
        raise ImportError("ONNX needs onnxruntime: pip install it.")

    monkeypatch.setattr(evaluate, "export_onnx", missing)
    (run / "all_results.json").write_text('{"onnx_latency_ms": 1.0, "validation_int8_accuracy": 1.0}')
    found = evaluated(run)
    assert not {"onnx_latency_ms", "validation_int8_accuracy"} & set(found)  # of an earlier evaluation
    assert found["pytorch_latency_ms"] > 0 and "onnx_latency_ms" not in found
    assert "ONNX needs onnxruntime" in caplog.text
