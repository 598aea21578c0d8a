"""Batch norms under activation checkpointing: their running statistics move once a step, as without it."""

from typing import Protocol

import torch
from torch import nn


class _Forward(Protocol):
    active: bool  # whether the model's own forward pass is going on


class Recomputation:
    """
    Checkpointed layers run a second time in the backward pass. There the batch norms watched here use the statistics
    of the batch as before, but leave their running ones alone.

    Args:
        forward: knows whether the forward pass is going on; what runs outside it is recomputed.
    """

    def __init__(self, forward: _Forward):
        self.forward = forward
        self.kept: dict[nn.Module, dict[str, torch.Tensor]] = {}
        self.handles: list[torch.utils.hooks.RemovableHandle] = []

    def watch(self, student: nn.Module) -> None:
        self.unwatch()
        for module in student.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                self.handles.append(module.register_forward_pre_hook(self._before))
                # Always called: recomputation ends by an exception once all that was wanted is there
                self.handles.append(module.register_forward_hook(self._after, always_call=True))

    def unwatch(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def _before(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if module.training and not self.forward.active:
            # Copies to spoil: autograd wants as many tensors as the first time, so None would not do
            self.kept[module] = dict(module.named_buffers(recurse=False))
            for name, buffer in self.kept[module].items():
                setattr(module, name, buffer.clone())

    def _after(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor | None) -> None:
        for name, buffer in self.kept.pop(module, {}).items():
            setattr(module, name, buffer)
