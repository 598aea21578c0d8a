"""
What a view of images costs: CPU time of its features, one thread, from the files to the vectors in a Parquet file. The
encoders have their sizes and preprocessing, and random weights, which cost the same.

    python benchmarks/view_cost.py

Writes results/view_cost.json.
"""

import json
import tempfile
import time
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator
from provenance import RESULTS, ROOT, provenance
from transformers import BitImageProcessor, CLIPImageProcessor, SiglipImageProcessor

from g4i_hf import load_images
from g4i_hf.modeling.packaged import packaged_student
from g4i_hf.training.features import image_features
from g4i_hf.workflows.known_views import encoder_by_student
from g4i_hf.workflows.view_stages import new_view

IMAGES = 96
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12, "patch_size": 14, "image_size": 224}
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
TEXT = {"num_hidden_layers": 1}  # not run
ENCODERS = {
    "openai/clip-vit-base-patch32": (
        lambda: transformers.CLIPModel(
            transformers.CLIPConfig(vision_config=BASE | {"patch_size": 32}, text_config=TEXT)
        ),
        lambda: CLIPImageProcessor(),
    ),
    "google/siglip2-base-patch16-224": (
        lambda: transformers.SiglipModel(
            transformers.SiglipConfig(vision_config=BASE | {"patch_size": 16}, text_config=TEXT)
        ),
        lambda: SiglipImageProcessor(),
    ),
    "facebook/dinov2-small": (
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)),
        lambda: BitImageProcessor(size={"shortest_edge": 256}, crop_size=224),
    ),
}


def main() -> None:
    torch.set_num_threads(1)
    images = load_images(ROOT / "recipes" / "photos_demo" / "pictures")["train"].select(range(IMAGES))
    accelerator, seconds = Accelerator(cpu=True), {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (model, processor) in ENCODERS.items():
            folder = Path(scratch) / name.split("/")[1]
            model().save_pretrained(folder)
            processor().save_pretrained(folder)
            view = new_view(f"image:{folder}", images, {}, scratch, accelerator)
            seconds[name] = timed(view.values)
        encoder = encoder_by_student(str(packaged_student()))
        rows = images.select_columns(["image", "image_id"])
        seconds["image:student"] = timed(lambda: image_features(encoder, rows, Path(scratch), accelerator))
    per_10k = {name: each / IMAGES * 10_000 for name, each in seconds.items()}
    made = {**provenance(), "images": IMAGES, "threads": 1}
    (RESULTS / "view_cost.json").write_text(json.dumps({**made, "cpu_seconds_for_10000": per_10k}, indent=2) + "\n")


def timed(run) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
