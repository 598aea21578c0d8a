"""The ONNX graph of a student gives its logits, at any batch size, and holds nothing of the machine it was made on."""

import sys

import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from students import STUDENTS, aligned_model

from g4i_hf.hub import onnx as onnx_export
from g4i_hf.hub.onnx import export_onnx
from g4i_hf.hub.privacy import check_publishable

QUICK = ("vit",)


def trained(name: str):
    """A student whose logits depend on the picture: fresh heads of some architectures are zero."""
    model = aligned_model(name).student
    generator = torch.Generator().manual_seed(0)
    model.train()
    with torch.no_grad():
        model(pixel_values=torch.randn(4, 3, 48, 48, generator=generator))  # running statistics that are not initial
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.shape[0] == 5:
                parameter.normal_(0, 0.5, generator=generator)
    return model.eval()


def run(path, pixels):
    return torch.from_numpy(onnxruntime.InferenceSession(path).run(["logits"], {"pixel_values": pixels.numpy()})[0])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in STUDENTS]
)
def test_logits_are_those_of_the_student(name, tmp_path):
    student = trained(name)
    export_onnx(student, tmp_path / "onnx" / "model.onnx", 48)
    for batch in (1, 3, 5):
        pixels = torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = student(pixel_values=pixels).logits
        assert batch == 1 or expected.std(0).max() > 1e-3  # the picture matters
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(run(tmp_path / "onnx" / "model.onnx", pixels), expected, rtol=0, atol=1e-4 * scale)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(trained("timm-resnet"), path, 48)
    return path


@pytest.mark.slow
def test_the_graph_has_one_input_and_one_output_of_any_batch_size(exported):
    graph = onnx.load(exported).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {"pixel_values": ["batch", 3, 48, 48], "logits": ["batch", 5]}
    assert not {dim.dim_param for value in graph.value_info for dim in value.type.tensor_type.shape.dim} - {
        "batch",
        "",
    }


@pytest.mark.slow
def test_the_file_holds_nothing_of_this_machine(exported):
    data = exported.read_bytes()
    assert b"site-packages" not in data and b".py" not in data
    model = onnx.load(exported)
    assert not model.metadata_props and not any(node.metadata_props or node.doc_string for node in model.graph.node)
    check_publishable(exported.parent)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "said"),
    [("other weights", "resnet18: the ONNX graph gives other logits"), ("one batch size", "does not take 1 images")],
)
def test_a_graph_that_differs_is_refused_and_not_left(tmp_path, monkeypatch, broken, said):
    graph_of = onnx_export._graph

    def wrong(student, image_size):
        model = graph_of(student, image_size)
        if broken == "other weights":
            bias = model.graph.initializers[next(n for n in model.graph.initializers if n.endswith("fc.bias"))]
            bias.const_value = onnx_ir.tensor(bias.const_value.numpy() + 0.01)
        else:
            model.graph.inputs[0].shape[0] = 2
        return model

    monkeypatch.setattr(onnx_export, "_graph", wrong)
    with pytest.raises(ValueError, match=f"{said}.*without --onnx"):
        export_onnx(trained("timm-resnet"), tmp_path / "model.onnx", 48)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_weights_too_large_for_one_file_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 10)
    student = trained("timm-resnet")
    export_onnx(student, tmp_path / "model.onnx", 48)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(run(tmp_path / "model.onnx", pixels), student(pixel_values=pixels).logits)


def test_a_student_that_cannot_be_exported_is_named(tmp_path):
    student = trained("vit")
    forward = student.forward
    student.forward = lambda pixel_values: forward(pixel_values=pixel_values * float(pixel_values.mean() > 0))
    with pytest.raises(ValueError, match=r"ViTForImageClassification cannot be exported.*without --onnx"):
        export_onnx(student, tmp_path / "model.onnx", 48)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"onnxruntime: pip install -e '\.\[onnx\]' in a clone"):
        export_onnx(trained("timm-resnet"), tmp_path / "model.onnx", 48)


@pytest.mark.slow
def test_nothing_is_printed(tmp_path, capsys):
    export_onnx(trained("timm-resnet"), tmp_path / "model.onnx", 48)
    assert capsys.readouterr().out == ""
