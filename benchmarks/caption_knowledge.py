"""
What the captions of Emoji Styles tell of the classes before any training: of the images without a label when a share
of the labels is kept, how many have the class that the captions of labelled images name by their similarity, as
`teacher_weight` uses them, how many a logistic regression on the same embeddings gets right, and how many have a
caption equal to that of a labelled image.

    python benchmarks/caption_knowledge.py

Writes results/emoji_styles_caption_knowledge.json.
"""

import argparse
import json
import tempfile

import numpy as np
import torch
from provenance import RESULTS, ROOT, provenance
from sklearn.linear_model import LogisticRegression

from g4i_hf.cli import parse_options
from g4i_hf.data.labels import keep_label_fraction, labels_of
from g4i_hf.losses import UNLABELLED, LabelledTexts, caption_labels
from g4i_hf.recipes import train

SHARES = (0.05, 0.1, 0.2, 0.5)
TEMPERATURE = 0.05


def training_split():
    """With `label`, `image_id`, `caption` and `text_embeds`."""
    with tempfile.TemporaryDirectory() as folder:
        config = str(ROOT / "recipes" / "emoji_styles" / "baseline.yaml")
        run, data, encoder, _, _, args = parse_options(train.OPTIONS, ["--config", config, "--output_dir", folder])
        splits, id2label, *_ = train.load_data(run, data, encoder, args)
    return splits["train"], len(id2label)


def known_of(split, num_labels: int, share: float, seed: int) -> dict[str, float]:
    truth, labels = (torch.from_numpy(labels_of(each)) for each in (split, keep_label_fraction(split, share, seed)))
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
    regression = LogisticRegression(C=100, max_iter=1000).fit(embeds[kept].numpy(), labels[kept].numpy())
    by_regression = torch.from_numpy(regression.predict(embeds[~kept].numpy())) == truth[~kept]
    return {
        "share": share,
        "seed": seed,
        "unlabelled": int((~kept).sum()),
        "class_known": right[~kept].float().mean().item(),
        "class_known_by_logistic_regression": by_regression.float().mean().item(),
        "equal_caption": torch.isin(keys[~kept], keys[kept]).float().mean().item(),
        "labelled_without_another_caption": (weights[kept] == 0).float().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    split, num_labels = training_split()
    rows = [known_of(split, num_labels, share, seed) for share in SHARES for seed in args.seeds]
    found = provenance() | {"temperature": TEMPERATURE, "rows": rows}
    (RESULTS / "emoji_styles_caption_knowledge.json").write_text(json.dumps(found, indent=2) + "\n")
    for row in rows:
        print(", ".join(f"{name} {value:.3g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
