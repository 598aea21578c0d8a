"""Exchange of rows between processes. The only file that uses torch.distributed."""

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
    Rows of all processes in rank order, (n, ...) -> (sum of n, ...); no gradient. `num_rows` has the n of every
    process, see [`gather_counts`]; they may differ and be 0.
    """
    if world_size() == 1:
        return local
    longest = max(num_rows)
    padded = local.new_zeros(longest, *local.shape[1:])  # collective operations need equal shapes
    padded[: local.shape[0]] = local
    parts = [torch.empty_like(padded) for _ in num_rows]
    dist.all_gather(parts, padded)
    return torch.cat([part[:n] for part, n in zip(parts, num_rows, strict=True)])


def global_logsumexp(local: torch.Tensor) -> torch.Tensor:
    """
    log sum_r exp(local of process r), elementwise and on every process. The backward pass sums the gradients of all
    processes, so that a softmax over rows of several processes has the gradient of the global loss. Processes exchange
    three tensors of the size of `local`, not the rows.

    Args:
        local: (M,) log sum exp over the local rows; finite.
    """
    return local if world_size() == 1 else _GlobalLogsumexp.apply(local)


def reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, on every process; no gradient."""
    values = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(values)
    return values


class _GlobalLogsumexp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: torch.Tensor) -> torch.Tensor:
        peak = local.clone()
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
        total = (local - peak).exp()
        dist.all_reduce(total)
        result = peak + total.log()
        ctx.save_for_backward(local, result)
        return result

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        local, result = ctx.saved_tensors
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad * (local - result).exp()
