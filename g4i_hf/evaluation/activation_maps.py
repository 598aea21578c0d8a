"""Activation maps: which places of an image raise the score of a class (HiResCAM, with captum)."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..extras import require
from ..modeling import AlignedImageClassification

CHANNELS_FIRST, CHANNELS_LAST, TOKENS = "(B, C, h, w)", "(B, h, w, C)", "(B, tokens, C)"
COPIES = 5  # images in the pass that looks for layers: an output of another first dimension is of no image
MOST_EXTRA_TOKENS = 8  # class tokens, distillation tokens, registers
FINE = 6  # cells a side: hiding what a map of so many marks costs a class more of its score


@dataclass
class SpatialLayer:
    """A layer whose output is laid out over the image."""

    name: str  # of the module within the student
    module: nn.Module  # its output is one tensor, or a tuple of one
    layout: str  # of the output, one of the three above
    grid: tuple[int, int]  # (h, w) cells

    def on_grid(self, values: torch.Tensor) -> torch.Tensor:
        """Values like the layer's output -> (B, h, w, C); extra tokens, which come first, are dropped."""
        if self.layout == CHANNELS_FIRST:
            return values.permute(0, 2, 3, 1)
        if self.layout == TOKENS:
            height, width = self.grid
            return values[:, values.shape[1] - height * width :].unflatten(1, self.grid)
        return values


def find_spatial_layer(model: AlignedImageClassification, pixel_values: torch.Tensor) -> SpatialLayer | None:
    """
    The deepest block with a map of at least [`FINE`] cells a side, else the deepest with more than one cell. It is
    found by what the modules give in one pass over (1, 3, H, W) pixel values, whatever they are called. The prediction
    has to depend on its cells: behind the last attention only the class token counts. What lies within a block is no
    block. None for a student without such a layer.
    """
    images = pixel_values.repeat(COPIES, 1, 1, 1).requires_grad_()
    calls: Counter[str] = Counter()
    outputs: list[tuple[str, nn.Module, torch.Tensor, bool]] = []  # in the order in which modules finish

    def watch(name: str, module: nn.Module):
        def note(_, __, output):
            calls[name] += 1
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, torch.Tensor) and first.requires_grad and len(first) == COPIES:
                outputs.append((name, module, first, first is output or len(output) == 1))

        return module.register_forward_hook(note)

    handles = [watch(name, module) for name, module in model.student.named_modules() if name]
    try:
        with torch.enable_grad():
            logits = _logits(model, images)
            gradients = torch.autograd.grad(logits.max(), [output for _, _, output, _ in outputs], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    grid, layers = None, []
    for (name, module, output, is_alone), gradient in zip(outputs, gradients, strict=True):
        layout, cells = _layout_of(output.shape, pixel_values.shape[2:], grid)
        if layout is not None:
            grid = grid if layout == TOKENS else cells
            # Where a module is called twice or gives several tensors, captum cannot tell which is meant
            usable = gradient is not None and is_alone and calls[name] == 1
            layers.append((SpatialLayer(name, module, layout, cells), gradient if usable else None))
    blocks = tuple(f"{layer.name}." for layer, _ in layers if not isinstance(layer.module, nn.Sequential))
    found = [
        layer
        for layer, gradient in layers
        if gradient is not None and not layer.name.startswith(blocks) and layer.on_grid(gradient).any()
    ]
    fine = [layer for layer in found if min(layer.grid) >= FINE]
    return (fine or found or [None])[-1]


def _layout_of(
    shape: torch.Size, size: tuple[int, int], grid: tuple[int, int] | None
) -> tuple[str | None, tuple[int, int]]:
    """
    How an output for images of `size` is laid out over them, if it is. Tokens are the cells of `grid`, that of the
    last feature map, perhaps behind some extra ones, or of that map halved.
    """
    if len(shape) == 4:
        for layout, (height, width) in ((CHANNELS_FIRST, shape[2:]), (CHANNELS_LAST, shape[1:3])):
            if height * width > 1 and abs(height * size[1] - width * size[0]) < max(size):
                return layout, (height, width)
    elif len(shape) == 3 and shape[2] > 1 and grid is not None:
        for halvings in range(5):
            height, width = (-(-side // 2**halvings) for side in grid)
            if height * width > 1 and 0 <= shape[1] - height * width <= (0 if halvings else MOST_EXTRA_TOKENS):
                return TOKENS, (height, width)
    return None, (0, 0)


def activation_maps(
    model: AlignedImageClassification, layer: SpatialLayer, pixel_values: torch.Tensor, classes: list[int]
) -> np.ndarray:
    """
    Gradient times activation of each cell, summed over the channels: HiResCAM (arXiv 2011.08891), which is Grad-CAM
    where nothing but pooling and a linear classifier follows. Negative values are set to zero. Needs captum.

    Args:
        pixel_values: (B, 3, H, W).
        classes: B indices.

    Returns:
        (B, h, w) in [0, 1], each over its own 95th percentile, so that no single cell hides the others.
    """
    attr = require("captum.attr", "report", "A map of where a student looks")
    method = attr.LayerGradientXActivation(lambda pixels: _logits(model, pixels), layer.module)
    values = method.attribute(pixel_values.clone().requires_grad_(), target=torch.as_tensor(classes))
    maps = layer.on_grid(values.detach().float()).sum(-1).relu()
    limits = torch.quantile(maps.flatten(1), 0.95, dim=1)
    limits = torch.where(limits > 0, limits, maps.amax((1, 2)).clamp(min=torch.finfo(torch.float32).tiny))
    return (maps / limits.view(-1, 1, 1)).clamp(max=1).numpy()


def _logits(model: AlignedImageClassification, pixel_values: torch.Tensor) -> torch.Tensor:
    return model(pixel_values, output_image_embeds=False).logits
