"""`OptimizingTrainer`: stock Trainer with timm's optimizers and schedules, layer decay and early stopping."""

from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer

from .optimization import TimmSchedule, timm_name, timm_optimizer
from .parameter_groups import decayed_names, layer_factors, scale_learning_rates


class OptimizingTrainer(Trainer):
    """
    Stock Trainer where the options of optimisation in [`AlignmentArguments`] have their defaults.

    Raises:
        ValueError: when `metric_for_best_model` is nothing that is computed.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        metric = self.args.metric_for_best_model
        if self.args.load_best_model_at_end and self.compute_metrics is None and not metric.endswith("loss"):
            raise ValueError(
                f"metric_for_best_model is {metric}, but nothing computes it: pass compute_metrics, such as "
                "g4i_hf.training.build.accuracy_of_logits, or set metric_for_best_model to loss."
            )
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return decayed_names(model, self.args.weight_decay_on, super().get_decay_parameter_names(model))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's optimizer or timm's, over the groups of `weight_decay_on` and `layer_decay`."""
        if self.optimizer is not None:
            return self.optimizer
        if timm_name(self.args.optim) is None:
            super().create_optimizer(model)
        else:
            self.optimizer = timm_optimizer(self.args, self._decay_groups())
        if self.args.layer_decay is not None:
            scale_learning_rates(self.optimizer, layer_factors(self.model, self.args.layer_decay))
        return self.optimizer

    def _decay_groups(self) -> list[dict[str, Any]]:
        decayed = set(self.get_decay_parameter_names(self.model))
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups[name in decayed].append(parameter)
        rates = {True: self.args.weight_decay, False: 0.0}
        return [{"params": params, "weight_decay": rates[decays]} for decays, params in groups.items()]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Trainer's schedule or timm's, which counts optimizer steps too."""
        args, name = self.args, timm_name(self.args.lr_scheduler_type)
        if self.lr_scheduler is not None or name is None:
            return super().create_scheduler(num_training_steps, optimizer)
        num_batches = len(self.get_train_dataloader())
        self.lr_scheduler = TimmSchedule(
            self.optimizer if optimizer is None else optimizer,
            name,
            args.learning_rate,
            num_training_steps,
            max(1, -(-num_batches // args.gradient_accumulation_steps)),
            args.lr_scheduler_kwargs,
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler
