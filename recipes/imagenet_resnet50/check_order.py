"""
Checks by a CLIP model whether the published list of captions, in which nothing says which image a caption is of, is in
the order of torchvision's `ImageFolder`. On 256 images, each must fit its own caption better than the previous, the
next and a random one (paired t-tests). Finds a shifted list and a list of other images, but not a few wrong entries.
Then writes captions.jsonl beside the list, in which each caption has the name of its image, for `g4i caption`.

    python recipes/imagenet_resnet50/check_order.py imagenet/train captions.pth openai/clip-vit-base-patch32
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import ttest_rel
from torchvision.datasets import ImageFolder
from transformers import AutoModel, AutoProcessor

SAMPLE, SIGNIFICANT = 256, 0.025  # one-sided


def main(images: str, captions_file: str, clip: str) -> None:
    files, captions = ImageFolder(images).samples, torch.load(captions_file, weights_only=True)
    if len(files) != len(captions):
        sys.exit(f"{captions_file} has {len(captions):,} captions for {len(files):,} images.")
    model = AutoModel.from_pretrained(clip, trust_remote_code=False).eval()
    processor = AutoProcessor.from_pretrained(clip, trust_remote_code=False)
    # Between two images of the same class, as across classes a list that is shuffled within them would fit too
    labels, rng = np.array([label for _, label in files]), np.random.default_rng(0)
    places = rng.permutation(1 + np.flatnonzero(labels[:-2] == labels[2:]))[:SAMPLE]
    scores = []
    for place, anywhere in zip(places, rng.integers(len(files), size=len(places)), strict=True):
        texts = [captions[other] for other in (place, place - 1, place + 1, anywhere)]
        image = Image.open(files[place][0]).convert("RGB")
        inputs = processor(text=texts, images=image, return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            scores.append(model(**inputs).logits_per_image[0].numpy())
    own, *others = np.array(scores, dtype=np.float64).T
    fits = True
    for name, other in zip(("previous", "next", "random"), others, strict=True):
        p = ttest_rel(own, other, alternative="greater").pvalue
        print(f"own caption against the {name} one: {(own - other).mean():+.4f} (p {p:.2g})")
        fits &= bool(p < SIGNIFICANT)
    if not fits:
        sys.exit("The list is of other images or in another order, or the CLIP model is too weak to tell.")
    print(f"{len(scores)} images fit their own captions best: the list is in the order of the images.")
    with Path(captions_file).with_suffix(".jsonl").open("w", encoding="utf-8") as named:
        for (file, _), caption in zip(files, captions, strict=True):
            named.write(json.dumps({"file_name": "/".join(Path(file).parts[-2:]), "caption": caption}) + "\n")
    print(f"Next: g4i caption --dataset_name ... --captions_file {named.name} --caption_splits train")


if __name__ == "__main__":
    main(*sys.argv[1:])
