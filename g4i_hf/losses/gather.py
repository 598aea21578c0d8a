"""Exchange of rows between processes. The only file that touches torch.distributed."""

import torch
import torch.distributed as dist


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def gather_counts(counts: torch.Tensor) -> torch.Tensor:
    """counts (K,) of each process -> (W, K), the same on every process."""
    if world_size() == 1:
        return counts.unsqueeze(0)
    rows = [torch.empty_like(counts) for _ in range(world_size())]
    dist.all_gather(rows, counts.contiguous())
    return torch.stack(rows)


def gather_rows(local: torch.Tensor, num_rows: list[int]) -> torch.Tensor:
    """
    Rows of all processes in rank order. The backward pass sums the gradient over all processes and hands each its own
    rows, so that a loss of local rows against global columns has the gradient of the global loss.

    Args:
        local: (n, ...), where n may differ between processes and may be 0.
        num_rows: n of every process, see [`gather_counts`].

    Returns:
        (sum of n, ...)
    """
    return local if world_size() == 1 else _GatherRows.apply(local, num_rows)


def reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, on every process; no gradient."""
    values = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(values)
    return values


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: torch.Tensor, num_rows: list[int]) -> torch.Tensor:
        ctx.num_rows = num_rows
        longest = max(num_rows)
        padded = local.new_zeros(longest, *local.shape[1:])  # collectives want equal shapes
        padded[: local.shape[0]] = local
        parts = [torch.empty_like(padded) for _ in num_rows]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, num_rows, strict=True)])

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        start = sum(ctx.num_rows[: dist.get_rank()])
        return grad[start : start + ctx.num_rows[dist.get_rank()]], None
