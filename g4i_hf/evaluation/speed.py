"""Size and speed of a student: parameters, multiply-adds, and milliseconds an image on this CPU."""

from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

SECONDS = 1.0  # duration of the timing


def size_metrics(student: PreTrainedModel, image_size: int) -> dict[str, float]:
    """
    `parameters`, and `macs`: multiply-adds of an image in convolutions and matrix products, half of the FLOPs that
    PyTorch counts.
    """
    macs = multiply_adds(student, image_size)
    return {"parameters": sum(p.numel() for p in student.parameters()), "macs": sum(macs.values())}


@torch.no_grad()
def multiply_adds(student: PreTrainedModel, image_size: int) -> dict[str, int]:
    """Multiply-adds by the names of PyTorch's operators."""
    # The counter does not support the fused attention of a CPU, but its matrix products
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        student(pixel_values=torch.zeros(1, 3, image_size, image_size))
    return {str(operator): flops // 2 for operator, flops in counter.get_flop_counts().get("Global", {}).items()}


@torch.inference_mode()
def speed_metrics(student: PreTrainedModel, image_size: int) -> dict[str, float]:
    """`latency_ms`, the median milliseconds of one image in float32, and `cpu_threads`, used for the timing."""
    threads, pixels = torch.get_num_threads(), torch.randn(1, 3, image_size, image_size)
    call = {"student": student.eval(), "pixels": pixels}
    timer = Timer("student(pixel_values=pixels)", globals=call, num_threads=threads)
    return {"cpu_threads": threads, "latency_ms": 1000 * timer.blocked_autorange(min_run_time=SECONDS).median}


def speed_text(results: dict[str, Any]) -> str:
    """A sentence from the `all_results.json` of a run; empty if speed was not measured."""
    if "latency_ms" not in results:
        return ""
    parameters, macs = (f"{results[name] / 1e6:,.2f} million" for name in ("parameters", "macs"))
    threads = f"{results['cpu_threads']} thread{'s' * (results['cpu_threads'] > 1)}"
    return (
        f"{parameters} parameters, {macs} multiply-adds and {results['latency_ms']:.2f} ms an image, in PyTorch on a "
        f"CPU with {threads}."
    )
