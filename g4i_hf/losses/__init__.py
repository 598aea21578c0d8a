"""Losses: pairs of images and texts, alignment objectives, classification losses, and what crosses processes."""

from collections.abc import Callable
from typing import Any

from ..options.training import ALIGN_LOSSES, OWN_OBJECTIVES


def register_objective(name: str, objective: Callable[..., Any]) -> None:
    """
    Makes an alignment objective of your own a value of `align_loss`, in a module that `--module` imports.

    Args:
        name: another than those of the objectives that exist.
        objective: `(pairs, settings) -> loss`, of [`~g4i_hf.losses.pairs.Pairs`] and
            [`~g4i_hf.losses.objectives.LogitSettings`]: the 0-d sum over the local pairs, to be divided by
            `pairs.num_captions`. If it has a method `prepare(model, train_dataset)`, that is called before training.
    """
    if name in ALIGN_LOSSES:
        raise ValueError(f"There is an objective {name!r} already: give yours another name.")
    OWN_OBJECTIVES[name] = objective
