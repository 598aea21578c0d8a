"""
The alignment of TextTeacher (arXiv 2605.22098) as an objective of your own: symmetric InfoNCE over dot products of
projected features and text embeddings, neither of unit norm; the mean training text is subtracted from each text.

    g4i train --config recipes/text_teacher/train.yaml
"""

from dataclasses import replace

import torch

from g4i_hf import register_objective
from g4i_hf.losses.objectives import LogitSettings, clip_loss
from g4i_hf.losses.pairs import Pairs


class TextTeacher:
    """
    With s_ij = z_i (t_j - m) / temperature, the feature z_i of image i after the projector, and the mean m of the
    training texts, the loss is that of `clip`.
    """

    def prepare(self, model, train_dataset) -> None:
        model.projector.normalizes = False  # in training; evaluation compares cosines
        self.mean = torch.from_numpy(train_dataset.texts.mean())

    def __call__(self, pairs: Pairs, settings: LogitSettings) -> torch.Tensor:
        texts = pairs.all_text_embeds - self.mean.to(pairs.all_text_embeds)
        return clip_loss(replace(pairs, all_text_embeds=texts), settings)


register_objective("text_teacher", TextTeacher())
