"""
Emoji Styles with several captions an image, for the ablations: the name of an emoji and its keywords, which are one
caption there, as two.

    python benchmarks/captions_in_parts.py
"""

import argparse
from pathlib import Path

from datasets import Features, List, Value, load_dataset
from provenance import ROOT

from g4i_hf import columns

FOLDER = "runs/emoji_in_parts"


def in_parts(row: dict) -> dict:
    """`"owl: animal, bird"` as `["owl", "animal, bird"]`; some emoji have a name alone."""
    return {columns.CAPTION: row[columns.CAPTION].split(": ", 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=FOLDER)
    args = parser.parse_args()
    emoji = load_dataset(str(ROOT / "recipes" / "emoji_styles"))
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, split in emoji.items():
        features = Features(dict(split.features) | {columns.CAPTION: List(Value("string"))})
        parts = split.map(in_parts, features=features)
        parts.to_parquet(str(args.output_dir / f"{name}.parquet"))
        print(f"{name}: {sum(map(len, parts[columns.CAPTION])):,} captions of {len(parts):,} images")


if __name__ == "__main__":
    main()
