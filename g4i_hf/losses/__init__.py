"""Losses: pairs of images and texts, alignment objectives, classification losses, and exchange between processes."""

from collections.abc import Callable
from typing import Any

from ..options.training import ALIGN_LOSSES, OWN_OBJECTIVES


def register_objective(name: str, objective: Callable[..., Any]) -> None:
    """
    Make a custom alignment objective a value of `align_loss`, in a module that `--module` imports.

    Args:
        name: not one of the existing objectives.
        objective: `(pairs, settings) -> loss`, of [`~g4i_hf.losses.pairs.Pairs`] and
            [`~g4i_hf.losses.objectives.LogitSettings`]: the 0-d sum over the local pairs, to be divided by
            `pairs.num_captioned_rows`. Its method `prepare(model, train_dataset)`, if any, is called before training.
    """
    if name in ALIGN_LOSSES:
        raise ValueError(f"There is an objective {name!r} already: give yours another name.")
    OWN_OBJECTIVES[name] = objective
