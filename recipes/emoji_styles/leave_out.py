"""
A data set for choices: a training style is left out and takes the place of the style that is never seen.

    python recipes/emoji_styles/leave_out.py runs/emoji_styles/without_fluent

Reads `train` and `validation` of this folder, no test split. Writes `train` (the other styles) and `validation` (the
images of the left out style in both), so that settings can be judged on an unseen style before `test` is opened.
"""

import argparse
from pathlib import Path

from datasets import concatenate_datasets, load_dataset

STYLE = "fluent-emoji-flat"


def leave_out(folder: str | Path, style: str) -> dict[str, int]:
    """Writes the Parquet files; returns the number of images in each."""
    data = Path(__file__).parent / "data"
    files = {split: str(data / f"{split}.parquet") for split in ("train", "validation")}
    splits = load_dataset("parquet", data_files=files)
    found = sorted({name for split in splits.values() for name in split["style"]})
    if style not in found:
        raise SystemExit(f"There is no style {style!r} to leave out, but {', '.join(found)}.")
    images = concatenate_datasets([splits["train"], splits["validation"]])
    styles, trained = images["style"][:], splits["train"]["style"][:]
    made = {
        "train": splits["train"].select([row for row, name in enumerate(trained) if name != style]),
        "validation": images.select([row for row, name in enumerate(styles) if name == style]),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    for split, rows in made.items():
        rows.to_parquet(Path(folder) / f"{split}.parquet")
    return {split: len(rows) for split, rows in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the Parquet files go")
    parser.add_argument("--style", default=STYLE, help="the style that is left out")
    args = parser.parse_args()
    print(", ".join(f"{split}: {number} images" for split, number in leave_out(args.folder, args.style).items()))


if __name__ == "__main__":
    main()
