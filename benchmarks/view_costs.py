"""
What a view costs on a CPU: seconds of one core an image, from the encoded JPEG of 500 x 375 pixels to its vector, and
for captions from the text. Weights of image encoders other than the student are random: they cost what real ones do.

    python benchmarks/view_costs.py

Writes results/view_costs.json.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from captioner_under_faults import photographs, rows
from result_files import RESULTS, write_result
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from g4i_hf.embedding.encoders import load_encoder
from g4i_hf.modeling.processing import EvalTransform
from g4i_hf.options import DEFAULT_TEXT_ENCODER
from g4i_hf.training.features import ImageEncoder, image_features
from g4i_hf.views.encoders import encoder_by_student

SQUARE = {"shortest_edge": 256}
SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14, "image_size": 518}
# Those of 224 pixels that the guide names
TOWERS: dict[str, Callable] = {
    "facebook/dinov2-small": lambda: (Dinov2Model(Dinov2Config(**SMALL)), BitImageProcessor(size=SQUARE)),
    "openai/clip-vit-base-patch32": lambda: (
        CLIPVisionModelWithProjection(CLIPVisionConfig()),
        CLIPImageProcessor(),
    ),
    "google/siglip2-base-patch16-224": lambda: (SiglipVisionModel(SiglipVisionConfig()), SiglipImageProcessor()),
}


def encoder_of(name: str) -> ImageEncoder:
    if name == "student":
        return encoder_by_student(None)
    model, processor = TOWERS[name]()

    def features(pixels: torch.Tensor) -> torch.Tensor:
        found = model(pixels)
        return getattr(found, "image_embeds", found.last_hidden_state[:, 0])

    return ImageEncoder(model, EvalTransform(processor), features, "0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--output", type=Path, default=RESULTS / "view_costs.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, accelerator, measured = rows(photographs(), args.images), Accelerator(cpu=True), {}
    for name in ("student", *TOWERS):
        encoder = encoder_of(name)
        for number in (2, args.images):  # the first call warms up
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                image_features(encoder, images.select(range(number)), folder, accelerator)
                measured[f"image:{name}"] = (time.process_time() - start) / number
        print(name, measured[f"image:{name}"], flush=True)
    text = "A brown dog lies on a grey sofa beside a red cushion, its head on its paws, number {}."
    encoder = load_encoder(DEFAULT_TEXT_ENCODER)
    for number in (2, 4 * args.images):
        texts = [text.format(each) for each in range(number)]
        start = time.process_time()
        encoder.encode(texts)
        measured["caption"] = (time.process_time() - start) / number
    print("caption", measured["caption"])
    write_result(args.output, images=args.images, cpu_seconds_an_image=measured)


if __name__ == "__main__":
    main()
