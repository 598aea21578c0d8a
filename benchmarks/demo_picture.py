"""
Draws docs/images/demo.png: what `make demo` gives on the test photographs, and some that captions set right.

    make demo
    python benchmarks/demo_picture.py runs/photos_demo

Reads the folder of `g4i fit` after `g4i evaluate --splits test`. Writes the figures to results/photos_demo.json. The
photographs are drawn at random among those that only the classifier with captions gets right, one a class.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import pandas as pd
from photo_figures import BASELINE, CAPTIONS, IMAGES
from PIL import Image
from result_files import RESULTS, ROOT, write_result

matplotlib.use("Agg")
from matplotlib import pyplot

TEST = ROOT / "recipes" / "photos_demo" / "pictures" / "test"
SHOWN = 6
SIDE = 128  # pixels of a shown photograph, a square from its middle


def measured(folder: Path) -> dict:
    said = json.loads((folder / "all_results.json").read_text())
    found = json.loads((folder / "test_results.json").read_text())
    return found | {name: said[name] for name in ("images", "labels")} | {"test_images": found["images"]}


def predictions(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / name / "predictions" / "test.parquet").set_index("image_id")


def draw(found: dict, shown: pd.DataFrame) -> None:
    figure = pyplot.figure(figsize=(9.6, 3.5), layout="constrained", facecolor="white")
    bars, pictures = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    axes = bars.subplots()
    rows = {
        "labels only": (found["labels_only_accuracy"], BASELINE),
        "with captions": (found["with_views_accuracy"], CAPTIONS),
    }
    for place, (name, (share, color)) in enumerate(reversed(rows.items())):
        axes.barh(place, 100 * share, 0.8, color=color)
        axes.text(2, place, name, color="white", va="center", fontsize=11, weight="bold")
        axes.text(100 * share - 1, place, f"{100 * share:.1f}%", color="white", va="center", ha="right", fontsize=12)
    axes.set(xlim=(0, 100), ylim=(-0.9, 1.9), yticks=[], xlabel=f"right on {found['test_images']} test photographs, %")
    axes.set_title(f"{found['labels']} classes, one labelled photograph each", fontsize=11, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    pictures.suptitle("Right only with captions; in grey, what labels only predicts", fontsize=11)
    pictures.supxlabel("Caltech 101, CC BY 4.0", fontsize=7, color=BASELINE, x=0.99, ha="right")
    for axes, line in zip(pictures.subplots(2, SHOWN // 2).flat, shown.itertuples(), strict=True):
        axes.imshow(square(TEST / line.Index))
        axes.set_title(line.label, fontsize=9, color=CAPTIONS, weight="bold", pad=2)
        axes.set_xlabel(line.by_labels, fontsize=9, color=BASELINE, labelpad=2)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.savefig(IMAGES / "demo.png", dpi=110)


def square(path: Path) -> Image.Image:
    with Image.open(path) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.convert("RGB").crop((left, top, left + side, top + side)).resize((SIDE, SIDE))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    found = measured(folder)
    both = predictions(folder, "with_views").assign(by_labels=predictions(folder, "labels_only")["prediction"])
    mended = both[(both["prediction"] == both["label"]) & (both["by_labels"] != both["label"])]
    shown = mended.sample(frac=1, random_state=0).drop_duplicates("label").head(SHOWN)
    write_result(RESULTS / "photos_demo.json", **found)
    draw(found, shown)
