"""The alignment loss of a batch, which `AlignmentTrainer` adds to the classification loss."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..losses.gather import gather_counts, reduce_sum, world_size
from ..losses.objectives import (
    LEARNED_LOGITS,
    OBJECTIVES,
    OFFICIALLY_DIVIDED,
    LogitSettings,
    alignment_diagnostics,
)
from ..losses.pairs import Pairs, make_pairs
from ..modeling import AlignedImageClassification, AlignedImageClassifierOutput
from ..options.training import OWN_OBJECTIVES
from .arguments import AlignmentArguments

Terms = dict[str, tuple[torch.Tensor, torch.Tensor]]  # name -> sum over local rows, number of rows


class TermSums:
    """Sums of the loss terms and their rows since the last log, on the device to avoid synchronisation."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}  # name -> (2,) float32

    def add(self, name: str, value: torch.Tensor, count: torch.Tensor) -> None:
        entry = torch.stack([value.detach().to(torch.float32), count.to(torch.float32)])
        self.sums[name] = self.sums[name] + entry if name in self.sums else entry

    def means(self) -> dict[str, float]:
        """Means over the rows of all processes, each of which must call it; resets the sums."""
        sums, self.sums = self.sums, {}
        if not sums:
            return {}
        totals = reduce_sum(torch.stack(list(sums.values()))).tolist()
        return {name: total / max(count, 1.0) for name, (total, count) in zip(sums, totals, strict=True)}


def global_mean(local_mean: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    """Scale a mean over local rows so that DDP's average over processes is the mean over all rows."""
    if world_size() == 1:
        return local_mean
    total = gather_counts(divisor.reshape(1)).sum()
    # In this order: a quotient of two integers would be rounded to float32
    return local_mean * divisor * world_size() / torch.where(total > 0, total, 1)


class AlignmentTerm:
    """
    The alignment loss. A learned temperature is a parameter of the model.
    """

    def __init__(self, args: AlignmentArguments, model: AlignedImageClassification, train_dataset: Any):
        self.args, self.model = args, model
        self.objective = (OBJECTIVES | OWN_OBJECTIVES)[args.align_loss]
        self.learns_logits = self._prepare_logits()
        if args.aligns and train_dataset is not None and hasattr(self.objective, "prepare"):
            self.objective.prepare(model, train_dataset)

    def _prepare_logits(self) -> bool:
        """Whether temperature and bias are learned, as parameters of the model; otherwise existing ones are frozen."""
        args, model = self.args, self.model
        learns = args.aligns and args.align_loss in LEARNED_LOGITS
        if learns:
            model.learn_logits(args.align_temperature)
        for name in ("logit_scale", "logit_bias"):
            if hasattr(model, name):  # DDP waits for the gradient of each parameter that requires one
                getattr(model, name).requires_grad_(learns)
        return learns

    def add_to(
        self, loss: torch.Tensor, outputs: AlignedImageClassifierOutput, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, Terms]:
        """The 0-d `loss` plus the alignment loss, and the terms to log."""
        args, weight = self.args, self.args.align_weight
        # Cosines and their exponentials need more than the 8 bits of bfloat16
        with torch.autocast(outputs.logits.device.type, enabled=False):
            pairs = self._pairs(outputs.image_embeds, inputs)
            settings, terms = self._logit_settings(outputs)
            local_sum = self.objective(pairs, settings)
        if not isinstance(local_sum, torch.Tensor) or local_sum.ndim:
            shape = f" of shape {tuple(local_sum.shape)}" if isinstance(local_sum, torch.Tensor) else ""
            what = f"The objective {args.align_loss!r} returned a {type(local_sum).__name__}{shape}"
            raise TypeError(f"{what}: return a tensor without dimensions, the sum over the local rows.")
        terms["loss_align"] = local_sum, (inputs["caption_weight"] > 0).any(1).sum()
        terms["align_weight"] = local_sum.new_tensor(weight), local_sum.new_tensor(1.0)
        compared = pairs
        if not self.model.projector.normalizes:  # the diagnostics are cosines
            compared = replace(pairs, image_embeds=nn.functional.normalize(pairs.image_embeds, dim=-1))
        local_pairs = (pairs.weights > 0).any(1).sum()  # a mixed image may only have the text of its partner
        terms |= {name: (value, local_pairs) for name, value in alignment_diagnostics(compared).items()}
        if args.align_gradient == "invariant" or args.align_loss not in OFFICIALLY_DIVIDED:
            local_sum = local_sum * world_size()  # DDP averages over processes, and this is a sum
        return loss + weight * local_sum / pairs.num_captioned_rows.clamp(min=1), terms

    def _pairs(self, image_embeds: torch.Tensor, inputs: dict[str, torch.Tensor]) -> Pairs:
        mixed = self.args.align_mix_captions
        return make_pairs(
            image_embeds,
            inputs["text_embeds"],
            inputs["caption_weight"],
            self._keys(inputs),
            mix_partner=inputs.get("mix_partner") if mixed else None,
            mix_share=inputs.get("mix_share") if mixed else None,
        )

    def _keys(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Keys; rows that share one are not negatives of each other."""
        if self.args.align_mask == "none":
            return []
        by_class = [inputs["labels"].unsqueeze(1)] if self.args.align_mask == "class" else []
        return [inputs["image_keys"], inputs["caption_keys"], *by_class]

    def _logit_settings(self, outputs: AlignedImageClassifierOutput) -> tuple[LogitSettings, Terms]:
        settings = LogitSettings(self.args.align_temperature)
        if not self.learns_logits:
            return settings, {}
        terms = {name: (outputs[name], torch.ones_like(outputs[name])) for name in ("logit_scale", "logit_bias")}
        return replace(settings, temperature=1 / outputs.logit_scale, bias=outputs.logit_bias), terms
