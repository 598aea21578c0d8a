"""From 8-bit pixels to the values that a student sees."""

import torch


class Normalization:
    """
    (pixels / 255 - mean) / std, in float32 and in this order: to the bit what torchvision's `ToTensor` and `Normalize`
    give, on any device.

    Args:
        mean, std: of the three channels, of pixels between 0 and 1.
    """

    def __init__(self, mean: tuple[float, ...] | torch.Tensor, std: tuple[float, ...] | torch.Tensor):
        self.mean = torch.as_tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.as_tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., 3, H, W) uint8 -> the same shape in float32, on the device of the pixels."""
        values = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
        mean, std = self.mean.to(pixels.device), self.std.to(pixels.device)
        # One image after the other stays in the processor's cache: half the time; a GPU would rather have all at once
        parts = zip(pixels, values, strict=True) if pixels.dim() == 4 and pixels.is_cpu else [(pixels, values)]
        for part, out in parts:
            torch.div(part, 255, out=out).sub_(mean).div_(std)
        return values
