"""
The alignment loss of one global batch on W processes: what crosses processes, how many operations a process
computes, and the gradient. test_alignment_scale.py compares.

    python tests/workers/alignment_cost.py RESULT.pt
"""

import faulthandler
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from g4i_hf.losses.objectives import OBJECTIVES, LogitSettings
from g4i_hf.losses.pairs import make_pairs

WORLD, ROWS, DIM = 4, 8, 64  # processes, rows of each, size of the embeddings
HANGS_AFTER = 100  # seconds


class CountedBytes:
    """What a process receives from the others in collectives, by type of number, as the tensors say."""

    def __init__(self):
        self.received: Counter[str] = Counter()

    def __enter__(self) -> "CountedBytes":
        self._all_gather, self._all_reduce = dist.all_gather, dist.all_reduce
        dist.all_gather, dist.all_reduce = self.all_gather, self.all_reduce
        return self

    def __exit__(self, *error) -> None:
        dist.all_gather, dist.all_reduce = self._all_gather, self._all_reduce

    def all_gather(self, parts, local, **options):
        self.received[str(local.dtype)] += local.nbytes * (WORLD - 1)
        return self._all_gather(parts, local, **options)

    def all_reduce(self, values, **options):
        """A ring passes every number round twice, in W parts."""
        self.received[str(values.dtype)] += 2 * values.nbytes * (WORLD - 1) // WORLD
        return self._all_reduce(values, **options)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, WORLD * ROWS, DIM, generator=generator)
    images, texts = torch.nn.functional.normalize(vectors, dim=2)
    return images, texts.half()


def measured(objective: str, rows: slice):
    images, texts = batch()
    image_embeds = images[rows].requires_grad_()
    numbers = torch.arange(len(images))[rows, None]
    weights = torch.ones(len(image_embeds), 1)
    pairs = make_pairs(image_embeds, texts[rows], weights, [numbers])
    loss = OBJECTIVES[objective](pairs, LogitSettings()) / pairs.num_captions
    loss.backward()
    return image_embeds.grad, list(pairs.allowed.shape)


def counted(objective: str, rows: slice) -> dict:
    with CountedBytes() as traffic, FlopCounterMode(display=False) as flops:
        grad, logits = measured(objective, rows)
    return {"bytes": dict(traffic.received), "flops": flops.get_total_flops(), "logits": logits, "grad": grad}


def process(rank: int, folder: str) -> None:
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    rows = slice(rank * ROWS, (rank + 1) * ROWS)
    found = {objective: counted(objective, rows) for objective in OBJECTIVES}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(WORLD):  # forked: torch is loaded once
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    process(rank, folder)
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        if any(os.waitpid(child, 0)[1] for child in children):
            sys.exit("a process failed")
        ranks = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(WORLD)]
    whole = {objective: measured(objective, slice(None))[0] for objective in OBJECTIVES}
    torch.save({"ranks": ranks, "whole": whole}, sys.argv[1])


if __name__ == "__main__":
    main()
