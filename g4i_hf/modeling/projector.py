"""The projector: from the student's feature (B, F) to the space of the text embeddings (B, D)."""

from collections import OrderedDict

import torch
from torch import nn


class Projector(nn.Module):
    """
    MLP or linear map with an output of unit norm.

    Args:
        in_features (`int`): F, the size of the student's feature.
        text_embed_dim (`int`): D, the size of the text embeddings.
        projector_type (`str`): `"mlp"` or `"linear"`.
        hidden_size (`int`): width of the hidden layer of the MLP.
        norm (`str`): `"batch"`, `"layer"` or `"none"`, after the first layer of the MLP.

    The initial weights are drawn from a generator of their own, so that a student with a projector starts from the
    same weights, and sees the same random numbers, as one without.
    """

    def __init__(self, in_features: int, text_embed_dim: int, projector_type: str, hidden_size: int, norm: str):
        super().__init__()
        self.normalizes = True
        with torch.random.fork_rng(devices=[]):
            if projector_type == "linear":
                self.layers = nn.Linear(in_features, text_embed_dim)
                return
            norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}
            layers = OrderedDict(
                fc1=nn.Linear(in_features, hidden_size),
                norm=norms[norm](hidden_size),
                act=nn.ReLU(),
                fc2=nn.Linear(hidden_size, text_embed_dim),
            )
            self.layers = nn.Sequential(layers)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features (B, F) -> image_embeds (B, D), each row of unit norm; in training only where `normalizes`."""
        embeds = self.layers(features)
        if embeds.dtype in (torch.float16, torch.bfloat16):  # too coarse for a unit norm
            embeds = embeds.float()
        return embeds if self.training and not self.normalizes else nn.functional.normalize(embeds, dim=-1)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
