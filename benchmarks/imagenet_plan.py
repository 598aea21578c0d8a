"""
What captions of ImageNet would cost, calculated and not run: hours of GPUs and money. Writes
results/imagenet_plan.json, from which docs/guides/large_datasets.md has its table.

    python benchmarks/imagenet_plan.py
    python benchmarks/imagenet_plan.py --gpu_price 4 --utilisation 0.2 --answer_tokens 60 --output plan.json
"""

import argparse
from pathlib import Path

from result_files import RESULTS, write_result

IMAGES = 1_281_167  # training images of ILSVRC 2012
IMAGE_TOKENS = 18 * 14  # of 500 x 375 pixels, 28 x 28 a token (Qwen2.5-VL, arXiv 2502.13923)
PEAK = 312e12  # A100, bf16 without sparsity (NVIDIA's data sheet)
# Parameters of the language model without its embeddings (Qwen2.5, arXiv 2412.15115, table 1), and of the image tower
CAPTIONERS = {"Qwen2.5-VL-3B": 2.77e9, "Qwen2.5-VL-7B": 6.53e9, "Qwen2.5-VL-72B": 70.0e9}
IMAGE_TOWER = 0.675e9


def captioning(
    gpu_price: float, utilisation: float, prompt_tokens: int, answer_tokens: int
) -> list[dict[str, float | str]]:
    """An operation a parameter and token is a multiplication and an addition; attention is left out."""
    tokens, rows = IMAGE_TOKENS + prompt_tokens + answer_tokens, []
    for name, parameters in CAPTIONERS.items():
        operations = 2 * (parameters * tokens + IMAGE_TOWER * 4 * IMAGE_TOKENS)
        hours = IMAGES * operations / (PEAK * utilisation) / 3600
        rows.append({"captioner": name, "operations": operations, "tokens": tokens, "cost": hours * gpu_price})
        rows[-1] |= {f"hours_{count}": hours / count for count in (1, 8, 64)}
        rows[-1]["million_tokens_read"] = IMAGES * (tokens - answer_tokens) / 1e6
        rows[-1]["million_tokens_written"] = IMAGES * answer_tokens / 1e6
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu_price", type=float, default=2.5, help="of an hour of a GPU, in your currency")
    parser.add_argument("--utilisation", type=float, default=0.3, help="share of a GPU's peak that a server reaches")
    parser.add_argument("--prompt_tokens", type=int, default=30)
    parser.add_argument("--answer_tokens", type=int, default=100)
    parser.add_argument("--output", type=Path, default=RESULTS / "imagenet_plan.json")
    assumed = vars(parser.parse_args())
    output = assumed.pop("output")
    rows = captioning(**assumed)
    write_result(output, assumed=assumed, captioning=rows)
    for row in rows:
        print({name: round(value, 1) if isinstance(value, float) else value for name, value in row.items()})


if __name__ == "__main__":
    main()
