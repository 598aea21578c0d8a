"""The lines that a card gives for the pixels of a graph: those of the image processor, without it."""

import numpy as np
import pytest
from PIL import Image
from transformers import (
    ConvNextImageProcessor,
    DeiTImageProcessor,
    MobileNetV2ImageProcessor,
    MobileViTImageProcessor,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
)

from g4i_hf.hub.plain_pixels import PlainPixels
from g4i_hf.modeling.processing import ImageSettings, generic_processor


def timm_processor(**changes) -> TimmWrapperImageProcessor:
    cfg = {"input_size": [3, 48, 48], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25], "crop_pct": 0.875}
    return TimmWrapperImageProcessor(cfg | {"interpolation": "bicubic"} | changes, architecture="resnet18")


SMALL = {"size": {"height": 64, "width": 64}}
PROCESSORS = {
    "timm": timm_processor(),
    "timm, bilinear": timm_processor(interpolation="bilinear", crop_pct=0.95),
    "ours": generic_processor(ImageSettings(48, crop_pct=0.9)),
    "ours, no crop": generic_processor(ImageSettings(48, (0.5,) * 3, (0.2,) * 3, "lanczos")),
    "vit": ViTImageProcessor(**SMALL),
    "deit": DeiTImageProcessor(**SMALL, crop_size={"height": 48, "width": 48}),
    "convnext": ConvNextImageProcessor(size={"shortest_edge": 64}),
    "convnext, large": ConvNextImageProcessor(size={"shortest_edge": 384}),
    "mobilenet": MobileNetV2ImageProcessor(),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(61, 84), (85, 60), (400, 313)])
def test_the_lines_give_the_pixels_of_the_processor(name, size):
    processor, random = PROCESSORS[name], np.random.default_rng(1)
    picture = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    plain = PlainPixels.of(processor)
    found = {"picture": picture, "np": np, "Image": Image}
    exec(plain.code(), found)
    np.testing.assert_array_equal(found["pixels"], plain(picture))
    expected = np.asarray(processor(picture, return_tensors="pt")["pixel_values"])
    assert found["pixels"].dtype == np.float32 and found["pixels"].shape == expected.shape
    levels = 1e-4 if name.startswith("timm") else 2  # of 255; torchvision resizes tensors a little otherwise
    assert (abs(found["pixels"] - expected) * 255 * np.reshape(plain.std, (3, 1, 1))).max() <= levels + 1e-4


@pytest.mark.parametrize("processor", [MobileViTImageProcessor(), timm_processor(crop_mode="squash")])
def test_a_processor_that_does_something_else_has_no_lines(processor):
    """Channels in another order, another crop: seen by the pixels."""
    assert PlainPixels.of(processor) is None
