"""
What the ImageNet recipes would take, calculated and not run: hours of captioning, embedding and training, storage,
network and money. Writes results/imagenet_plan.json, from which docs/guides/large_datasets.md has its tables.

    python benchmarks/imagenet_plan.py
    python benchmarks/imagenet_plan.py --gpu_price 4 --utilisation 0.2 --answer_tokens 60 --output plan.json
"""

import argparse
import json
from pathlib import Path

from provenance import RESULTS, provenance, read_result

IMAGES = 1_281_167  # training images of ILSVRC 2012
IMAGE_SIDES = (500, 375)  # the usual size of them
TOKEN_SIDE = 28  # pixels: 14 a patch, 2 x 2 patches a token (Qwen2.5-VL, arXiv 2502.13923)
PEAK = 312e12  # A100, bf16 without sparsity (NVIDIA's data sheet)
# Parameters of the language model without its embeddings (Qwen2.5, arXiv 2412.15115, table 1), and of the image tower
CAPTIONERS = {"Qwen2.5-VL-3B": 2.77e9, "Qwen2.5-VL-7B": 6.53e9, "Qwen2.5-VL-72B": 70.0e9}
IMAGE_TOWER = 0.675e9
TEXT_TOWER, TEXT_DIM, WINDOW = 37.8e6, 512, 77  # CLIP ViT-B/32: 12 layers of width 512
STUDENTS = {"ResNet-50": 25.6e6, "DeiT-B": 86.6e6}
BATCH = {"ResNet-50": 256, "DeiT-B": 1024}  # global, of the recipes
# Images a second on 1 and 8 A100 (NVIDIA/DeepLearningExamples, ResNet50 v1.5 for PyTorch, NGC 21.03)
RESNET_SPEED = {"TF32": (938, 7248), "mixed precision": (2470, 16621)}
# 300 epochs on 8 and 16 V100 (DeiT, arXiv 2012.12877, section 5.6)
DEIT_HOURS = (53, 37)


def captioning(args) -> list[dict]:
    """An operation a parameter and token is a multiplication and an addition; attention is left out."""
    image_tokens = (-(-IMAGE_SIDES[0] // TOKEN_SIDE)) * (-(-IMAGE_SIDES[1] // TOKEN_SIDE))
    tokens = image_tokens + args.prompt_tokens + args.answer_tokens
    rows = []
    for name, parameters in CAPTIONERS.items():
        operations = 2 * (parameters * tokens + IMAGE_TOWER * 4 * image_tokens)
        hours = IMAGES * operations / (PEAK * args.utilisation) / 3600
        rows.append({"captioner": name, "operations": operations, "tokens": tokens, **spread(hours, args)})
        rows[-1]["million_tokens_read"] = IMAGES * (tokens - args.answer_tokens) / 1e6
        rows[-1]["million_tokens_written"] = IMAGES * args.answer_tokens / 1e6
    return rows


def embedding(args) -> dict:
    operations = 2 * TEXT_TOWER * min(args.answer_tokens, WINDOW)
    hours = IMAGES * operations / (PEAK * args.utilisation) / 3600
    return {"operations": operations, "gpu_minutes": 60 * hours}


def training(args) -> list[dict]:
    """On 64 GPUs, as on eight machines of eight that lose as much together as is said."""
    overhead = read_result("step_time.json")["measured"][0]["ratio"]
    rows = []
    for precision, (one, eight) in RESNET_SPEED.items():
        work = 120 * IMAGES * overhead / 3600
        rows.append({"student": f"ResNet-50, 120 epochs, {precision}", "gpu": "A100", "hours_1": work / one})
        rows[-1] |= {"hours_8": work / eight, "hours_64": work / eight / 8 / args.machines_efficiency}
    one_machine = DEIT_HOURS[0] * overhead
    rows.append({"student": "DeiT-B, 300 epochs, mixed precision", "gpu": "V100", "hours_1": 8 * one_machine})
    rows[-1] |= {"hours_8": one_machine, "hours_64": one_machine / 8 / args.machines_efficiency}
    return [row | {"cost": 8 * row["hours_8"] * args.gpu_price} for row in rows]


def storage() -> list[dict]:
    return [{"dim": dim, "gigabytes": IMAGES * dim * 2 / 1e9} for dim in (384, 512, 1024)]


def network(args) -> list[dict]:
    """
    What a process receives in a step where rings carry the collectives: W - 1 parts of W of what is gathered, twice
    that of what is added up. Gradients in float32; what alignment exchanges is counted in alignment_scale.py: texts
    are gathered in float16, images are not.
    """
    rows = []
    for student, parameters in STUDENTS.items():
        for processes in (8, 64):
            part = (processes - 1) / processes
            rows.append({"student": student, "processes": processes, "global_batch": BATCH[student]})
            rows[-1] |= {"gradients_mb": 2 * part * 4 * parameters / 1e6}
            rows[-1] |= {"alignment_mb": received_bytes(BATCH[student], processes) / 1e6}
    return rows


def received_bytes(batch: int, processes: int) -> int:
    """
    Of a process and step, for the alignment of a global batch: texts of the other processes in float16; integers of
    keys, captions and rows; three sums a text for the softmax over images.
    """
    others = batch - batch // processes
    integers = 8 * 3 * others + 8 * 2 * (processes - 1)
    return others * TEXT_DIM * 2 + integers + 3 * 2 * batch * 4 * (processes - 1) // processes


def spread(hours: float, args) -> dict:
    """`hours` of one GPU, on several, and what they cost."""
    return {f"hours_{count}": hours / count for count in (1, 8, 64)} | {"cost": hours * args.gpu_price}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu_price", type=float, default=2.5, help="of an hour of a GPU, in your currency")
    parser.add_argument("--utilisation", type=float, default=0.3, help="share of a GPU's peak that a server reaches")
    parser.add_argument("--prompt_tokens", type=int, default=30)
    parser.add_argument("--answer_tokens", type=int, default=100)
    parser.add_argument("--machines_efficiency", type=float, default=0.9, help="of eight machines of eight GPUs")
    parser.add_argument("--output", type=Path, default=RESULTS / "imagenet_plan.json")
    args = parser.parse_args()
    assumed = {name: value for name, value in vars(args).items() if name != "output"}
    found = {"assumed": assumed, "captioning": captioning(args), "embedding": embedding(args)}
    found |= {"training": training(args), "storage": storage(), "network": network(args)}
    args.output.write_text(json.dumps(provenance() | found, indent=2) + "\n")
    for part in ("captioning", "training", "network"):
        for row in found[part]:
            print({name: round(value, 1) if isinstance(value, float) else value for name, value in row.items()})


if __name__ == "__main__":
    main()
