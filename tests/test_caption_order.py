"""`recipes/imagenet_resnet50/check_order.py`: a list in the order of its images passes, and a shifted one does not."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from transformers import AutoModel, AutoProcessor

from g4i_hf.captioning.existing import existing_captions
from g4i_hf.data.loading import open_images
from g4i_hf.options import ExistingCaptionsArguments

SCRIPT = Path(__file__).parent.parent / "recipes" / "imagenet_resnet50" / "check_order.py"
COLOURS = np.random.default_rng(0).integers(0, 256, size=(40, 3))


class Clip:
    """Processor and model: the nearer the colour that a text names to that of the image, the better."""

    def eval(self) -> "Clip":
        return self

    def __call__(self, text=None, images=None, named=None, seen=None, **_):
        if text is not None:  # as the processor
            return {"named": [[int(part) for part in one.split()] for one in text], "seen": images.getpixel((0, 0))}
        self.logits_per_image = -torch.tensor(named).sub(torch.tensor(seen)).abs().float().mean(1)[None]
        return self


@pytest.mark.parametrize("shift", [0, 1])
def test_a_list_is_in_the_order_of_its_images_or_is_refused(tmp_path, monkeypatch, capsys, shift):
    for number, colour in enumerate(COLOURS):
        folder = tmp_path / "train" / f"class{number // 10}"
        folder.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (8, 8), tuple(map(int, colour))).save(folder / f"{number:02}.png")
    captions = [" ".join(map(str, colour)) for colour in np.roll(COLOURS, shift, axis=0)]
    torch.save(captions, tmp_path / "captions.pth")
    for loader in (AutoModel, AutoProcessor):
        monkeypatch.setattr(loader, "from_pretrained", lambda *_, **__: Clip())
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path / "train"), str(tmp_path / "captions.pth"), "clip"])
    if shift:
        with pytest.raises(SystemExit, match="of other images or in another order"):
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "32 images fit their own captions best" in capsys.readouterr().out
    data = open_images(str(tmp_path))
    found = existing_captions(data, ExistingCaptionsArguments(captions_file=str(tmp_path / "captions.jsonl")))
    numbers = [int(Path(name).stem) for name in data["train"]["image_id"]]
    assert found["train"] == [[captions[number]] for number in numbers]
