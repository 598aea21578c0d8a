"""
What the captions of Emoji Styles tell of the classes before any training: of the images without a label when a share
of the labels is kept, how many have the class that the captions of labelled images name by their similarity, as
`teacher_weight` uses them, how many a logistic regression on the same embeddings gets right, as `unlabelled:
pseudo_label` uses them, how many it had been expected to, and how many have a caption equal to that of a labelled
image. With a tenth of the labels also for controls in the place of captions, and of the labels above a threshold.

    python benchmarks/caption_knowledge.py

Writes results/emoji_styles_caption_knowledge.json.
"""

import argparse
import json
import tempfile

import numpy as np
import torch
from provenance import RESULTS, ROOT, provenance

from g4i_hf.cli import parse_options
from g4i_hf.commands import train
from g4i_hf.data.labels import keep_label_fraction, labels_of
from g4i_hf.losses import UNLABELLED, LabelledTexts, caption_labels
from g4i_hf.training.controls import control_captions
from g4i_hf.training.pseudo_labels import expected_right, with_pseudo_labels
from g4i_hf.workflows.train import TrainingRun

SHARES = (0.05, 0.1, 0.2, 0.5)
CONTROLS = ("none", "random", "shuffle")  # none: the captions themselves
THRESHOLDS = (0.0, 0.2, 0.4)
CONTROLLED = 0.1  # share of the labels
TEMPERATURE = 0.05


def training_split():
    """With `label`, `image_id`, `caption` and `text_embeds`."""
    with tempfile.TemporaryDirectory() as folder:
        config = str(ROOT / "recipes" / "emoji_styles" / "baseline.yaml")
        run = TrainingRun(*parse_options(train.OPTIONS, ["--config", config, "--output_dir", folder]))
        run.load()
    return run.splits["train"], list(run.id2label.values()), run.encoder


def pseudo_labelled(split, few, seed: int, threshold: float = 0.0) -> dict[str, float]:
    """How many labels captions give; which share is right, was expected to be, and has a labelled image's caption."""
    truth, kept = labels_of(split), labels_of(few) >= 0
    embeds = np.asarray(few["text_embeds"][:], dtype=np.float32)[kept]
    labels = labels_of(with_pseudo_labels(few, seed, threshold))
    given = ~kept & (labels != UNLABELLED)
    captions = np.asarray(few["caption"][:]).astype(str)
    return {
        "given": int(given.sum()),
        "class_known_by_logistic_regression": (labels == truth)[given].mean().item(),
        "expected_by_cross_validation": expected_right(embeds, truth[kept], seed, threshold),
        "equal_caption_of_given": np.isin(captions[given], captions[kept]).mean().item(),
    }


def known_of(split, num_labels: int, share: float, seed: int) -> dict[str, float]:
    few = keep_label_fraction(split, share, seed)
    truth, labels = (torch.from_numpy(labels_of(each)) for each in (split, few))
    embeds = torch.nn.functional.normalize(torch.tensor(np.asarray(split["text_embeds"][:], dtype=np.float32)), dim=1)
    keys = torch.from_numpy(np.unique(split["caption"][:], return_inverse=True)[1])
    kept = labels != UNLABELLED
    soft, weights = caption_labels(
        embeds.unsqueeze(1),
        keys.unsqueeze(1),
        torch.ones(len(keys), 1),
        labels,
        LabelledTexts(embeds[kept], keys[kept], labels[kept]),
        num_labels=num_labels,
        temperature=TEMPERATURE,
    )
    right = soft.argmax(1) == truth
    return {
        "share": share,
        "seed": seed,
        "unlabelled": int((~kept).sum()),
        "class_known": right[~kept].float().mean().item(),
        **pseudo_labelled(split, few, seed),
        "equal_caption": torch.isin(keys[~kept], keys[kept]).float().mean().item(),
        "labelled_without_another_caption": (weights[kept] == 0).float().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    split, names, encoder = training_split()
    rows = [known_of(split, len(names), share, seed) for share in SHARES for seed in args.seeds]
    controls = []
    for control in CONTROLS:
        for seed in args.seeds:
            few = keep_label_fraction(split, CONTROLLED, seed)
            few = control_captions(few, control, seed=seed, class_names=names, encoder=encoder)
            for threshold in THRESHOLDS:
                row = {"control": control, "threshold": threshold, "seed": seed}
                controls.append(row | pseudo_labelled(split, few, seed, threshold))
    found = provenance() | {"temperature": TEMPERATURE, "rows": rows, "controlled": CONTROLLED, "controls": controls}
    (RESULTS / "emoji_styles_caption_knowledge.json").write_text(json.dumps(found, indent=2) + "\n")
    for row in [*rows, *controls]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
