"""The ONNX graph of a student gives its logits, at any batch size, and holds nothing of the machine it was made on."""

from importlib.util import find_spec

import pytest
import torch
from students import aligned_model

from g4i_hf.hub.onnx import export_onnx
from g4i_hf.hub.push import check_publishable

if not (find_spec("onnxruntime") and find_spec("onnxscript")):  # which take seconds to import
    pytest.skip("needs the extra onnx", allow_module_level=True)
# Attention, windows, depthwise convolutions, two heads, of both libraries
STUDENTS = ["vit", "timm-resnet", "timm-deit-two-heads", "swin", "timm-convnext"]
pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("name", STUDENTS)
def test_the_graph_gives_the_logits_of_the_student(name, tmp_path, capsys):
    import onnxruntime

    student, path = trained(name), tmp_path / "onnx" / "model.onnx"
    export_onnx(student, path, 48)
    session = onnxruntime.InferenceSession(path)
    for batch in (1, 3, 5):
        pixels = torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = student(pixel_values=pixels).logits
        assert batch == 1 or expected.std(0).max() > 1e-3  # the picture matters
        scale = max(1.0, expected.abs().max().item())
        found = torch.from_numpy(session.run(["logits"], {"pixel_values": pixels.numpy()})[0])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * scale)
    (pixels,), (logits,) = session.get_inputs(), session.get_outputs()
    assert pixels.shape[1:] == [3, 48, 48] and logits.shape == [pixels.shape[0], 5]
    check_publishable(tmp_path / "onnx")
    assert b".py" not in path.read_bytes() and capsys.readouterr().out == ""


def test_a_graph_of_nan_is_refused(tmp_path):
    student = trained("vit")
    with torch.no_grad():
        student.classifier.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="ViTForImageClassification: .*other logits than PyTorch.*without --onnx"):
        export_onnx(student, tmp_path / "model.onnx", 48)
    assert not list(tmp_path.iterdir())
