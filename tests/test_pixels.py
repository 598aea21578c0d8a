"""Training and evaluation see of an image what a released student sees, by each way of its card; or it is an error."""

import ast
import contextlib
import io
import itertools
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import make
import numpy as np
import pytest
import torch
from PIL import ExifTags
from PIL import Image as PILImage
from released_runs import a_run
from students import ID2LABEL, on_hub
from test_card import snippets
from test_docs import block
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from g4i_hf import load_images
from g4i_hf.data import images as images_of
from g4i_hf.data.dataset import CaptionedImages
from g4i_hf.data.images import BadImageError
from g4i_hf.hub import release, release_student
from g4i_hf.hub.formats import Format
from g4i_hf.hub.onnx import Pixels
from g4i_hf.modeling.processing import EvalTransform

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
DEEP = ["I", "F"]  # which are an error
FORMATS = ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "PPM"]
OPTIONS = {"": [*MODES, "I;16", "I;16B", *DEEP], ", turned": ["L", "RGB"], ", transparent": ["L", "P"]}
PICTURE = make.noise(7, 9, 8).resize((76, 61), PILImage.Resampling.BICUBIC)


def in_mode(mode: str) -> PILImage.Image:
    """The picture in a mode, over all values that it can have; alpha, where there is any, is not constant."""
    alpha = PICTURE.convert("L").rotate(180)
    if mode in (*DEEP, "I;16", "I;16B"):
        values = np.asarray(PICTURE.convert("L"), dtype=np.float64) * (257 if mode != "F" else 1 / 255)
        kinds = {"I": np.int32, "F": np.float32, "I;16B": ">u2"}
        return PILImage.frombytes(mode, PICTURE.size, values.astype(kinds.get(mode, "<u2")).tobytes())
    if mode in ("LA", "PA", "RGBA", "RGBa"):
        first = PICTURE.convert("L").convert("LA") if mode[0] in "LP" else PICTURE.convert("RGBA")
        first.putalpha(alpha)
        return first.convert(mode)
    if mode == "LAB":
        return PILImage.merge("LAB", PICTURE.split())
    return PICTURE.quantize(40) if mode == "P" else PICTURE.convert(mode)


def written() -> dict[str, tuple[str, bytes]]:
    """Each mode in each format that holds it, as it is read again; also turned by EXIF, and with a colour left out."""
    exif = PILImage.Exif()
    exif[ExifTags.Base.Orientation] = 6
    # Compressed, as Pillow 12 garbles a turned TIFF of raw pixels if it is opened by its path
    options, files = {", turned": {"exif": exif, "compression": "tiff_lzw"}, ", transparent": {"transparency": 3}}, {}
    for kind, (what, modes) in itertools.product(FORMATS, OPTIONS.items()):
        for mode in modes:
            # Plugins raise almost anything for a mode that they do not hold, or warn
            with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
                content = make.content(in_mode(mode), kind, **options.get(what, {}))
                read = PILImage.open(io.BytesIO(content))
                read.load()  # Pillow writes some that it cannot read
                files[f"{mode}, {kind}{what}"] = read.mode, content
    return files


class Ways:
    """The code of a card: what precedes the image runs once, the rest for each image."""

    def __init__(self, card: str):
        self.parts = []
        for code in snippets(card):
            lines = ast.parse(code).body
            first = next(place for place, line in enumerate(lines) if "picture.png" in ast.unparse(line))
            space: dict = {}
            exec(compile(ast.Module(lines[:first], []), "card", "exec"), space)
            self.parts.append((space, compile(ast.Module(lines[first:], []), "card", "exec")))

    def logits(self) -> list[np.ndarray]:
        """Of picture.png, for each way but the pipeline."""
        found = []
        for space, code in self.parts:
            exec(code, space)
            if "logits" in space:
                found.append(np.asarray(space["logits"], dtype=np.float64)[0])
        return found


@pytest.fixture(params=["timm-resnet", pytest.param("vit", marks=pytest.mark.slow)])
def student(request, tmp_path, monkeypatch) -> Path:
    """A release with its card, in the working directory; the student plays its graph of ONNX."""
    monkeypatch.chdir(tmp_path)
    written = [Format("onnx", None, None, None, 1.0, 1.0, None, 0)]
    monkeypatch.setattr(release, "write_formats", lambda *_: written)
    monkeypatch.setattr(release, "require_onnx", lambda: None)
    run = a_run(tmp_path / "run", checkpoint=Path(on_hub(request.param)))
    folder = release_student(run, "path/to/student", aligned=False, formats=["onnx"])
    model = AutoModelForImageClassification.from_pretrained(folder)
    pixels = Pixels.of(AutoImageProcessor.from_pretrained(folder))

    class Session:
        def __init__(self, path: str):
            assert path == "path/to/student/onnx/model.onnx"

        def get_modelmeta(self) -> SimpleNamespace:
            return SimpleNamespace(custom_metadata_map={"class_names": json.dumps(list(ID2LABEL.values()))})

        def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            assert names == ["logits", "probabilities"]
            assert feeds["images"].dtype == np.uint8 and feeds["images"].shape == (1, 48, 48, 3)
            with torch.no_grad():
                logits = model(pixels.pixel_values(feeds["images"])).logits
            return [logits.numpy(), logits.softmax(-1).numpy()]

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    return folder


def test_training_sees_what_the_released_student_sees_or_says_how_to_convert(student, caplog):
    images_of._warn_of_clipping.cache_clear()
    card = (student / "README.md").read_text()
    ways, classifier = Ways(card), pipeline("image-classification", model=str(student))
    transform, model = EvalTransform(AutoImageProcessor.from_pretrained(student)), classifier.model
    assert len(ways.parts) == (4 if "timm alone" in card else 3)
    kinds = written()
    files = [{"bytes": content, "path": None} for _, content in kinds.values()]
    images, compared = CaptionedImages(make.rows(len(files), image=files), transform), set()
    for row, (name, (mode, content)) in enumerate(kinds.items()):
        Path("picture.png").write_bytes(content)  # Pillow goes by the content
        if mode == "F" or (mode == "I" and not name.endswith("PPM")):  # PPM holds 16 bits in mode I
            with pytest.raises(BadImageError, match="has 32 bits.*: scale the values .* in mode L"):
                images[row]
            continue
        pixels = images[row]["pixel_values"][None]
        np.testing.assert_allclose(
            classifier.preprocess("picture.png")["pixel_values"], pixels, atol=1e-5, err_msg=name
        )
        with torch.no_grad():
            expected = model(pixels).logits[0].numpy()
        for logits in ways.logits():
            np.testing.assert_allclose(logits, expected, atol=1e-5, err_msg=name)
        compared.add(mode)
    assert compared >= {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I;16B"}
    assert "Convert these images to 8 bits" in caplog.text
    assert {mode for mode, _ in kinds.values()} - compared == {"F"}


def test_the_page_says_how_to_convert_16_bits(tmp_path, monkeypatch):
    """Of either byte order, to their upper half; other images stay as they are."""
    monkeypatch.chdir(tmp_path)
    make.folder(tmp_path, ["pictures/a/colour.png"])
    for mode, file in (("I;16", "a/1.png"), ("I;16", "b/2.tif"), ("I;16B", "b/3.TIFF")):
        (tmp_path / "pictures" / file).parent.mkdir(exist_ok=True)
        in_mode(mode).save(tmp_path / "pictures" / file)
    exec(block("I;16", "docs/guides/troubleshooting.md"), {})
    images = CaptionedImages(load_images("pictures")["train"], np.asarray)
    *converted, colour = sorted((item["pixel_values"] for item in images), key=np.size, reverse=True)
    assert len(converted) == 3 and np.array_equal(colour, np.asarray(make.noise(0)))
    assert all(np.array_equal(pixels, np.asarray(PICTURE.convert("L").convert("RGB"))) for pixels in converted)
