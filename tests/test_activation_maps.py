"""What a student looks at: the layer is found whatever the architecture, and the map is that of the literature."""

import sys

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from students import ID2LABEL, STUDENTS, TINY_VIT, aligned_model
from transformers import PoolFormerConfig, ViTConfig

from g4i_hf import AlignedImageClassification
from g4i_hf.evaluation.activation_maps import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    TOKENS,
    SpatialLayer,
    activation_maps,
    find_spatial_layer,
)

# Of images of 48 pixels: (layer, layout of its output, cells a side)
FAST = {
    "resnet": ("resnet.encoder.stages.1", CHANNELS_FIRST, 6),
    "vit": ("vit.layers.0", TOKENS, 3),  # behind the second and last layer only the class token counts
    "deit-two-heads": ("deit.layers.0", TOKENS, 3),
    "dinov2": ("dinov2.layernorm", TOKENS, 3),  # its classifier takes the patches as well
    "swin": ("swin.layernorm", TOKENS, 6),
    "timm-resnet": ("timm_model.layer2", CHANNELS_FIRST, 6),
    "timm-vit": ("timm_model.blocks.0", TOKENS, 3),
    "timm-swin": ("timm_model.norm", CHANNELS_LAST, 6),
}


def trained(name: str, **kwargs) -> AlignedImageClassification:
    """With weights that are not zero anywhere, as those of fresh heads and branches may be."""
    torch.manual_seed(0)
    return shaken(aligned_model(name, **kwargs))


def shaken(model: AlignedImageClassification) -> AlignedImageClassification:
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return model.eval()


def check(model: AlignedImageClassification) -> SpatialLayer:
    """The layer found, after maps of two images and two classes were taken from it."""
    images = torch.randn(2, 3, 48, 48)
    layer = find_spatial_layer(model, images[:1])
    maps = activation_maps(model, layer, images, [0, 1])
    assert maps.shape == (2, *layer.grid)
    assert maps.min() >= 0 and maps.max() == 1
    assert not np.allclose(*activation_maps(model, layer, images[[0, 0]], [0, 1]))  # each class has its own
    assert not any(module._forward_hooks for name, module in model.student.named_modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    return layer


@pytest.mark.parametrize("name", FAST)
def test_the_layer_is_found_by_what_it_gives(name):
    layer = check(trained(name))
    assert (layer.name, layer.layout, layer.grid) == (*FAST[name][:2], (FAST[name][2],) * 2)


def test_a_block_may_give_a_tuple_of_one_map():
    config = PoolFormerConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4)
    model = AlignedImageClassification.from_student(config, id2label=ID2LABEL, text_embed_dim=12, image_size=48)
    assert check(shaken(model)).name == "poolformer.encoder.block.1.0"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STUDENTS if name not in FAST])
def test_every_other_student_has_a_layer_too(name):
    assert check(trained(name)).grid in ((6, 6), (3, 3))


def test_the_map_is_grad_cam_where_only_pooling_and_a_classifier_follow():
    """At 192 pixels the last stage has 6 x 6 cells."""
    model = trained("timm-resnet")
    images = torch.randn(2, 3, 192, 192)
    layer = find_spatial_layer(model, images[:1])
    assert layer.name == "timm_model.layer4"
    cam = LayerGradCam(lambda pixels: model(pixels).logits, layer.module)
    expected = cam.attribute(images.requires_grad_(), target=torch.tensor([2, 0]))[:, 0].detach().relu()
    limits = torch.quantile(expected.flatten(1), 0.95, dim=1).view(2, 1, 1)
    assert activation_maps(model, layer, images, [2, 0]) == pytest.approx((expected / limits).clamp(max=1), abs=1e-5)


def test_tokens_become_cells_row_by_row_without_the_extra_ones():
    values = torch.arange(8.0).view(1, 8, 1)  # two extra tokens, then 2 x 3 cells
    layer = SpatialLayer("", torch.nn.Identity(), TOKENS, (2, 3))
    assert layer.on_grid(values)[0, ..., 0].tolist() == [[2, 3, 4], [5, 6, 7]]
    first = SpatialLayer("", torch.nn.Identity(), CHANNELS_FIRST, (2, 3))
    assert first.on_grid(torch.zeros(1, 5, 2, 3)).shape == (1, 2, 3, 5)


def test_one_cell_is_no_map():
    config = ViTConfig(**TINY_VIT | {"patch_size": 48}, intermediate_size=64)
    model = AlignedImageClassification.from_student(config, id2label=ID2LABEL, text_embed_dim=12, image_size=48).eval()
    assert find_spatial_layer(model, torch.randn(1, 3, 48, 48)) is None


def test_without_captum_it_says_what_to_install(monkeypatch):
    model = trained("timm-vit")
    layer = find_spatial_layer(model, torch.randn(1, 3, 48, 48))
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"captum is missing: pip install -e '\.\[report\]' in a clone"):
        activation_maps(model, layer, torch.randn(1, 3, 48, 48), [0])
