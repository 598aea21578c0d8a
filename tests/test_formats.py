"""A release for ONNX Runtime goes from pixels to a decision, answers as PyTorch does, and was judged on images."""

import json
import re
import subprocess
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import make
import numpy as np
import pytest
import torch
from drawings import drawing
from released_runs import a_run
from safetensors.torch import load_file, save_file
from students import ID2LABEL, aligned_model, on_hub
from transformers import AutoImageProcessor, AutoModelForImageClassification

from g4i_hf import predict
from g4i_hf.hub import formats, release_student
from g4i_hf.hub.push import check_publishable
from g4i_hf.inference.classifier import open_classifier
from g4i_hf.inference.images import images_of
from g4i_hf.modeling.none_of_these import NoneOfThese
from g4i_hf.modeling.student import classifier_layers

if not (find_spec("onnxruntime") and find_spec("onnxscript")):  # which take seconds to import
    pytest.skip("needs the extra onnx", allow_module_level=True)
# Attention, windows, depthwise convolutions, two heads, of both libraries
STUDENTS = ["vit", "timm-resnet", "timm-deit-two-heads", "swin", "timm-convnext", "timm-efficientnet"]
pytestmark = pytest.mark.slow
BOTH = ["onnx", "onnx-fp16"]
DECIDED = {"precision": 0.95, "threshold": 0.21, "share": 0.5, "interval": [0.4, 0.6], "certain": True}


def released(folder: Path, name: str, decisions=(), **options) -> Path:
    """A release of a student whose logits depend on the picture, in both formats."""
    run = a_run(folder / "run", checkpoint=Path(on_hub(name)), results={"decisions": [*decisions]}, **options)
    return release_student(run, folder / "student", aligned=False, formats=BOTH)


def sessions(release: Path) -> list:
    import onnxruntime

    return [onnxruntime.InferenceSession(release / "onnx" / name) for name in ("model.onnx", "model_fp16.onnx")]


@pytest.mark.parametrize("name", STUDENTS)
def test_from_pixels_to_a_decision_as_pytorch(name, tmp_path, capsys):
    release = released(tmp_path, name, [DECIDED])
    assert "torch.onnx" not in capsys.readouterr().out
    student = AutoModelForImageClassification.from_pretrained(release).eval()
    processor = AutoImageProcessor.from_pretrained(release)
    full, half = sessions(release)
    for batch in (1, 3, 5):
        images = np.stack([np.asarray(make.noise(seed, 48)) for seed in range(batch)])
        pixels = torch.stack(
            [processor(make.noise(seed, 48), return_tensors="pt").pixel_values[0] for seed in range(batch)]
        )
        with torch.no_grad():
            expected = student(pixels).logits
            last = classifier_layers(student)[0]
        scale = max(1.0, expected.abs().max().item())
        for session, tolerance in ((full, 1e-4), (half, 2e-2)):
            logits, probabilities, features, decision = session.run(None, {"images": images})
            np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance * scale)
            np.testing.assert_allclose(probabilities, torch.from_numpy(logits).softmax(-1), atol=1e-6)
            with torch.no_grad():
                by_features = last(torch.from_numpy(features))
            if name != "timm-deit-two-heads":  # whose logits are the mean of both
                np.testing.assert_allclose(by_features, expected, rtol=0, atol=tolerance * scale)
            assert decision.tolist() == [int(each.max() < np.float32(0.21)) for each in probabilities]
    given, logits, probabilities, features, decision = full.get_inputs() + full.get_outputs()
    assert (given.name, given.shape, given.type) == ("images", ["batch", 48, 48, 3], "tensor(uint8)")
    assert [each.shape for each in (logits, probabilities, decision)] == [["batch", 5], ["batch", 5], ["batch"]]
    assert features.shape == ["batch", last.in_features]
    known = {name: json.loads(text) for name, text in full.get_modelmeta().custom_metadata_map.items()}
    assert known["class_names"] == list(ID2LABEL.values()) and known["image_size"] == 48
    assert known["resize"] == {"shorter_side": 48} and known["resampling"] == "bicubic"
    assert known["decision_thresholds"] == {"0.95": 0.21} and known["decisions"] == ["answer", "ask"]
    check_publishable(release)
    assert b".py" not in (release / "onnx" / "model.onnx").read_bytes()
    if name == "timm-efficientnet":
        sizes = [(release / "onnx" / file).stat().st_size for file in ("model.onnx", "model_fp16.onnx")]
        assert sizes[1] < 0.55 * sizes[0]


def test_the_graph_decides_as_predict_which_images_show_none_of_the_classes(tmp_path):
    images = [make.noise(seed, 48) if seed % 2 else drawing(seed).resize((48, 48)) for seed in range(40)]
    run = a_run(tmp_path / "run", checkpoint=Path(on_hub("timm-resnet")))
    middle = float(np.median(predict(run, images)["probability"]))
    layer = AutoModelForImageClassification.from_pretrained(on_hub("timm-resnet")).timm_model.get_classifier()
    weight, bias = layer.weight.detach()[0].clone(), layer.bias.detach()[0].clone()
    NoneOfThese(weight, bias, torch.tensor(-np.inf)).save(run)
    assert {*predict(run, images)["decision"]} == {"none"}
    (run / "all_results.json").write_text(json.dumps({"decisions": [DECIDED | {"threshold": middle}]}))
    NoneOfThese(weight, bias, torch.tensor(0.0)).save(run)
    expected = predict(release_student(run, tmp_path / "plain", aligned=False), images)["decision"]
    assert {*expected} == {"answer", "ask", "none"}
    for session in sessions(release_student(run, tmp_path / "student", aligned=False, formats=BOTH)):
        (decision,) = session.run(["decision"], {"images": np.stack([np.asarray(image) for image in images])})
        names = json.loads(session.get_modelmeta().custom_metadata_map["decisions"])
        assert [names[number] for number in decision] == expected


def noise(folder: Path, number: int) -> list[str]:
    folder.mkdir()
    for seed in range(number):
        make.noise(seed, 70 + 2 * seed).resize((90, 60)).save(folder / f"{seed:02}.png")
    return [str(file) for file in sorted(folder.iterdir())]


def shifted(weights):
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy_helper.to_array(weights) + np.arange(5, dtype=np.float32), weights.name)


@contextmanager
def edited(file: Path):
    import onnx

    yield (model := onnx.load(file))
    onnx.save(model, file)


def test_predict_uses_the_graph_and_says_the_same(tmp_path, caplog):
    """After the first images, which the network predicts too."""
    run = a_run(tmp_path / "run", checkpoint=Path(on_hub("timm-resnet")), results={"decisions": [DECIDED]})
    expected, images = predict(run, files := noise(tmp_path / "new", 40), top=3), images_of(files)
    release = release_student(run, tmp_path / "student", aligned=False, formats=["onnx"])
    classifier, seen = open_classifier(release), []
    classifier.model.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    found = [*classifier.predict(images.rows(), 3, 0.21, batch_size=4)]
    assert seen == [4] and "predicts otherwise" not in caplog.text
    for name in ("label", "label_2", "label_3", "file_name"):
        assert [row[name] for row in found] == expected[name]
    for name in ("probability", "probability_2", "probability_3"):
        np.testing.assert_allclose([row[name] for row in found], expected[name], atol=1e-4)
    graph = release / "onnx" / "model.onnx"
    with edited(graph) as model:
        weights = next(each for each in model.graph.initializer if list(each.dims) == [5])
        weights.CopyFrom(shifted(weights))
    assert predict(release, files, top=3)["probability"] == expected["probability"]
    assert "model.onnx predicts otherwise than the weights beside it, so it is left out" in caplog.text
    with edited(graph) as model:
        next(each for each in model.metadata_props if each.key == "class_names").value = '["another"]'
    assert (
        predict(release, files, top=3)["probability"] == expected["probability"]
        and caplog.text.count("predicts otherwise") == 1
    )
    graph.write_bytes(b"no graph")
    with pytest.raises(
        OSError, match="model.onnx cannot be loaded: .*Release the classifier again, or remove the file"
    ):
        predict(release, files)


SERVE = (Path(__file__).parent.parent / "docs" / "guides" / "serve.md").read_text()


def of_page(name: str) -> str:
    return re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", SERVE, flags=re.S)[1]


def test_the_page_on_serving_decides_as_predict_and_its_triton_names_the_graph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = a_run(tmp_path / "run", checkpoint=Path(on_hub("timm-resnet")), results={"decisions": [DECIDED]})
    files = noise(tmp_path / "new", 6)
    expected = predict(release_student(run, tmp_path / "plain", aligned=False), files)
    release = release_student(run, tmp_path / "runs" / "pictures" / "classifier", aligned=False, formats=["onnx"])
    page: dict = {}
    exec(of_page("onnxruntime"), page)
    assert [page["classify"](file) for file in files] == [(row["label"], row["decision"]) for row in expected]
    if find_spec("openvino"):  # which no extra installs
        page["images"] = np.stack([np.asarray(make.noise(seed, 48)) for seed in range(4)])
        exec(of_page("openvino"), page)
        _, probabilities, _, decision = page["session"].run(None, {"images": page["images"]})
        np.testing.assert_allclose(page["answers"]["probabilities"], probabilities, atol=1e-4)
        assert page["answers"]["decision"].tolist() == decision.tolist()
    subprocess.run(["bash", "-euc", of_page("repository")], check=True)
    assert (tmp_path / "models" / "pictures" / "1" / "model.onnx").read_bytes() == (
        release / "onnx" / "model.onnx"
    ).read_bytes()
    session, kinds = page["session"], {"UINT8": "uint8", "FP32": "float", "INT64": "int64"}
    wanted = {
        name: (f"tensor({kinds[kind]})", [int(size) for size in dims.split(",")])
        for name, kind, dims in re.findall(r'name: "(\w+)", data_type: TYPE_(\w+), dims: \[(.*?)\]', of_page("triton"))
    }
    found = {each.name: (each.type, each.shape[1:]) for each in session.get_inputs() + session.get_outputs()[1:]}
    del found["features"]
    sizes = {224: 48, 10: len(ID2LABEL)}
    wanted = {name: (kind, [sizes.get(size, size) for size in dims]) for name, (kind, dims) in wanted.items()}
    assert wanted == found | {"decision": ("tensor(int64)", [1])} and found["decision"][1] == []  # which it reshapes


def test_files_are_judged_on_the_images_that_judge_the_run(tmp_path):
    names = [
        f"{split}/{label}/{each}.png"
        for split in ("train", "validation")
        for label in ID2LABEL.values()
        for each in "abcd"
    ]
    pictures = make.folder(tmp_path / "pictures", names)
    release = released(tmp_path, "timm-resnet", dataset_name=str(pictures), group_by="none")
    predicted = predict(tmp_path / "run", pictures, split="validation")
    right = np.mean([Path(row["file_name"]).parent.name == row["label"] for row in predicted])
    judged = json.loads((release / "formats.json").read_text())
    assert [each["format"] for each in judged] == ["pytorch", *BOTH]
    for each in judged:
        assert {each["judged_on"], each["images"], each["agreement"]} == {"validation", 20, 1.0}
        assert each["accuracy"] == pytest.approx(right)
        assert each["interval"][0] <= right <= each["interval"][1] and each["milliseconds"] > 0
        file = release / formats.FILES.get(each["format"], "model.safetensors")
        assert each["megabytes"] == pytest.approx(file.stat().st_size / 1e6, abs=0.01)
    card = (release / "README.md").read_text()
    assert "20 images of `validation` judged these files." in card and "no output `decision`" in card
    assert len(sessions(release)[0].get_outputs()) == 3


def with_pictures(folder: Path) -> dict:
    names = [f"train/{label}/{number}.png" for label in ID2LABEL.values() for number in "abcd"]
    return {"dataset_name": str(make.folder(folder / "pictures", names)), "group_by": "none"}


def test_int8_is_offered_where_it_answers_as_pytorch(tmp_path):
    run = a_run(tmp_path / "run", checkpoint=Path(on_hub("timm-resnet")), **with_pictures(tmp_path))
    release = release_student(run, tmp_path / "student", aligned=False, formats=["onnx-int8"])
    pytorch, int8 = json.loads((release / "formats.json").read_text())
    assert (int8["format"], int8["agreement"], int8["judged_on"]) == ("onnx-int8", 1.0, "train")
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(release / "onnx" / "model_int8.onnx")
    images = np.stack([np.asarray(make.noise(seed, 48)) for seed in range(3)])
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    np.testing.assert_allclose(probabilities, torch.from_numpy(logits).softmax(-1), atol=1e-6)
    assert len(np.unique(np.round(logits, 5))) == 15, "outputs are not rounded to 8 bits"
    assert logits.shape == (3, 5) and "class_names" in session.get_modelmeta().custom_metadata_map
    weights = onnx.load(release / "onnx" / "model_int8.onnx").graph.initializer
    assert onnx.TensorProto.INT8 in {each.data_type for each in weights}


def test_int8_is_refused_with_what_it_would_have(tmp_path):
    """A network of random weights sees little difference between its classes."""
    run = a_run(tmp_path / "run", checkpoint=Path(on_hub("timm-efficientnet")), **with_pictures(tmp_path))
    with pytest.raises(
        ValueError, match="would have PyTorch's class for [89].* of the images of 'train' .* takes 98%"
    ):
        release_student(run, tmp_path / "student", aligned=False, formats=["onnx", "onnx-int8"])
    assert not (tmp_path / "student").exists()


def test_int8_needs_images(tmp_path):
    run = a_run(tmp_path / "run", checkpoint=Path(on_hub("timm-resnet")))
    with pytest.raises(ValueError, match="onnx-int8 needs the images of the run. Leave it out"):
        release_student(run, tmp_path / "student", aligned=False, formats=["onnx-int8"])


def broken(model):
    """A graph that gives the logits of other classes."""
    import onnx_ir

    weights = next(value for value in model.graph.initializers.values() if value.shape == (5,))
    weights.const_value = onnx_ir.tensor(-10 * np.arange(5, dtype=np.float32), name=weights.name)
    return model


def test_a_file_that_differs_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "with_half_weights", broken)
    with pytest.raises(ValueError, match="resnet18: onnx/model_fp16.onnx gives other logits.*Leave onnx-fp16 out"):
        released(tmp_path, "timm-resnet")
    assert not (tmp_path / "student").exists()
    monkeypatch.setattr(formats, "TOLERANCE", dict.fromkeys(BOTH, 1e9))
    pictures = make.folder(
        tmp_path / "pictures", [f"train/{label}/{n}.png" for label in ID2LABEL.values() for n in "ab"]
    )
    with pytest.raises(ValueError, match="model_fp16.onnx predicts other classes than PyTorch for .* of 10 images"):
        released(tmp_path, "timm-resnet", dataset_name=str(pictures), group_by="none")
    assert not (tmp_path / "student").exists()


def test_a_graph_of_nan_is_refused(tmp_path):
    run = a_run(tmp_path / "run", "vit")
    weights = load_file(run / "model.safetensors")
    name = next(name for name in weights if name.endswith("classifier.bias"))
    save_file(weights | {name: torch.full((5,), float("nan"))}, run / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="ViTForImageClassification: .*other logits than PyTorch.*Leave onnx out"):
        release_student(run, tmp_path / "student", formats=["onnx"])
    assert not (tmp_path / "student").exists()


def test_an_operator_that_onnx_lacks_is_named(tmp_path, monkeypatch):
    """As in students of one's own code."""
    student = aligned_model("timm-resnet").student
    monkeypatch.setattr(student.timm_model, "forward", lambda pixels: torch.linalg.eigvals(pixels[:, 0]).real[:, :5])
    from g4i_hf.hub.onnx import Pixels, graph_of

    processor = AutoImageProcessor.from_pretrained(on_hub("timm-resnet"))
    with pytest.raises(ValueError, match="resnet18 cannot be exported to ONNX: .*Release it without --formats"):
        graph_of(student.eval(), Pixels.of(processor), {}, ["a"] * 5)
