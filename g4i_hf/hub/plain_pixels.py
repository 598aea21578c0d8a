"""What an image processor does to a picture, with numpy and Pillow alone: for a graph without transformers."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from transformers import BaseImageProcessor, TimmWrapperImageProcessor

from ..modeling.processing import INTERPOLATIONS, ImageSettings

TOLERANCE = 3  # of 255: torchvision resizes tensors with slightly other weights than Pillow resizes pictures
PROBES = ((67, 50), (301, 400))  # width and height of the pictures on which both are compared


@dataclass
class PlainPixels:
    """
    Args:
        resized: pixels that the shorter side is resized to, or both sides.
        squashes: whether it is both.
        side: of the square that is cropped from its middle.
        resample: name of Pillow's filter.
        mean, std: of each channel, of values from 0 to 1.
        rounds: whether the place of the crop is rounded, as timm does, or cut off, as transformers does.
    """

    resized: int
    squashes: bool
    side: int
    resample: str
    mean: list[float]
    std: list[float]
    rounds: bool

    @classmethod
    def of(cls, processor: BaseImageProcessor) -> "PlainPixels | None":
        """None for a processor that does something else, which is seen by the pixels that come of it."""
        try:
            plain = cls._read(processor)
            return plain if plain.is_like(processor) else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    @classmethod
    def _read(cls, processor: BaseImageProcessor) -> "PlainPixels":
        settings = ImageSettings.from_processor(processor)
        is_timm = isinstance(processor, TimmWrapperImageProcessor)
        resample = INTERPOLATIONS[settings.interpolation].name
        resized, squashes = settings.size, False
        if is_timm:
            resized = int(settings.size / settings.crop_pct)
        elif getattr(processor, "crop_pct", None):  # of ConvNeXt, which crops only what is below 384
            squashes = settings.size >= 384
            resized = settings.size if squashes else int(settings.size / processor.crop_pct)
        else:
            squashes = not processor.size.get("shortest_edge")
            resized = processor.size["height"] if squashes else processor.size["shortest_edge"]
        mean, std = ([float(value) for value in values] for values in (settings.mean, settings.std))
        return cls(resized, squashes, settings.size, resample, mean, std, is_timm)

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """(1, 3, side, side), float32, of an RGB picture: what the lines of `code` do."""
        side, size = self.side, (self.resized, self.resized)
        if not self.squashes:
            size = tuple(self.resized * each // min(picture.size) for each in picture.size)
        picture = picture.resize(size, Image.Resampling[self.resample])
        left, top = (round((each - side) / 2) if self.rounds else (each - side) // 2 for each in picture.size)
        picture = picture.crop((left, top, left + side, top + side))
        pixels = (np.asarray(picture) / 255 - self.mean) / self.std
        return pixels.transpose(2, 0, 1)[None].astype(np.float32)

    def is_like(self, processor: BaseImageProcessor) -> bool:
        """Whether both make the same of pictures of noise, to within `TOLERANCE`."""
        random = np.random.default_rng(0)
        for width, height in PROBES:
            picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
            ours = self(picture)
            theirs = np.asarray(processor(picture, return_tensors="pt")["pixel_values"])
            if ours.shape != theirs.shape:
                return False
            levels = abs(ours - theirs) * 255 * np.reshape(self.std, (3, 1, 1))
            if levels.max() > TOLERANCE:
                return False
        return True

    def code(self) -> str:
        """Lines of Python that make `pixels` of `picture`."""
        side, resized, resample = self.side, self.resized, f"Image.Resampling.{self.resample}"
        place = f"round((side - {side}) / 2)" if self.rounds else f"(side - {side}) // 2"
        if self.squashes:
            lines = [f"picture = picture.resize(({resized}, {resized}), {resample})"]
        else:
            lines = [
                f"size = [{resized} * side // min(picture.size) for side in picture.size]",
                f"picture = picture.resize(size, {resample})",
            ]
        if not self.squashes or side != resized:
            lines += [
                f"left, top = ({place} for side in picture.size)",
                f"picture = picture.crop((left, top, left + {side}, top + {side}))",
            ]
        lines += [
            f"pixels = (np.asarray(picture) / 255 - {self.mean}) / {self.std}",
            "pixels = pixels.transpose(2, 0, 1)[np.newaxis].astype(np.float32)",
        ]
        return "\n".join(lines)
