"""timm's optimizers, parameter groups, class weights."""

import ast
import inspect
from typing import Any

import numpy as np
import torch
from timm.optim import (
    get_optimizer_class,
    get_optimizer_info,
    list_optimizers,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from torch import nn
from transformers import TrainingArguments

from ..files import did_you_mean
from ..modeling import AlignedImageClassification

TIMM = "timm:"


def timm_optimizer(args: TrainingArguments) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """Class and arguments of `optim: timm:NAME`, for Trainer; None for one of Trainer's. ValueError for another."""
    if not args.optim.startswith(TIMM):
        return None
    name = args.optim.removeprefix(TIMM)
    # Trainer computes no second derivatives
    names = [known for known in list_optimizers() if not get_optimizer_info(known).second_order]
    if name not in names:
        raise ValueError(f"optim is {args.optim}, which timm does not have.{did_you_mean(name, names, TIMM)}")
    for option in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        if getattr(args, option) != TrainingArguments.__dataclass_fields__[option].default:
            raise ValueError(f"{option} is set, but {args.optim} does not read it: give betas and eps in optim_args.")
    info, optimizer = get_optimizer_info(name), get_optimizer_class(name, bind_defaults=False)
    options = {"lr": args.learning_rate} | ({"momentum": args.sgd_momentum} if info.has_momentum else {})
    options |= info.defaults or {}
    try:
        call = ast.parse(f"dict({args.optim_args or ''})", mode="eval").body
        options |= {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        inspect.signature(optimizer).bind([], **options)
    except (SyntaxError, ValueError, TypeError) as error:
        what = f"optim_args is {args.optim_args!r}, which {args.optim} does not take: {error}"
        raise ValueError(f"{what}. Write name=value,name=value, as in Python.") from error
    return optimizer, options


# --- Parameter groups ------------------------------------------------------------------------------------------------


# Learned temperature and bias of the objective, parameters of the aligned model
NEVER_DECAYED = ("logit_scale", "logit_bias")
# Names in transformers of what timm's models exempt by `no_weight_decay()`
EXEMPT_IN_TRANSFORMERS = (
    *("*cls_token*", "*distillation_token*", "*mask_token*", "*register_tokens*", "*position_embedding*"),
    *("*relative_position_bias*", "*continuous_position_bias*", "*attention_biases*", "*logit_scale*", "*.grn.*"),
)


def decayed_names(model: nn.Module, rule: str, stock: list[str]) -> list[str]:
    """Names of the parameters with weight decay, by `weight_decay_on`; of `trainer` those of Trainer (`stock`)."""
    if rule == "trainer":
        names = stock
    elif rule == "all":
        names = [name for name, _ in model.named_parameters()]
    else:
        groups = param_groups_weight_decay(model, weight_decay=1.0, no_weight_decay_list=_exempt(model))
        decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        names = [name for name, parameter in model.named_parameters() if id(parameter) in decayed]
    return [name for name in names if name not in NEVER_DECAYED]


def _exempt(model: AlignedImageClassification) -> list[str]:
    """Patterns of the student's parameters that are exempt from weight decay."""
    timm_model = getattr(model.student, "timm_model", None)
    if timm_model is None:
        return [f"student.{pattern}" for pattern in EXEMPT_IN_TRANSFORMERS]
    spared = timm_model.no_weight_decay() if hasattr(timm_model, "no_weight_decay") else ()
    return [f"student.timm_model.{name}" for name in spared]


def scale_learning_rates(
    optimizer: torch.optim.Optimizer, model: AlignedImageClassification, layer_decay: float
) -> None:
    """
    Split the groups of a new optimizer by layer: from the top, the learning rate is multiplied by `layer_decay` each
    layer, as in timm's `param_groups_layer_decay`. Classifier and projector keep theirs and come first, so that it is
    logged. The student is a timm model.
    """
    layers = param_groups_layer_decay(model.student.timm_model, layer_decay=layer_decay)
    scales = {parameter: layer["lr_scale"] for layer in layers for parameter in layer["params"]}
    groups = []
    for group in optimizer.param_groups:
        for scale in {scales.get(parameter, 1.0) for parameter in group["params"]}:
            params = [parameter for parameter in group["params"] if scales.get(parameter, 1.0) == scale]
            groups.append(group | {"params": params, "lr": group["lr"] * scale})
    optimizer.param_groups[:] = sorted(groups, key=lambda group: -group["lr"])


# --- Weights of classes ----------------------------------------------------------------------------------------------


def class_weights_of(option: list[float] | str | None, num_labels: int, train_dataset: Any) -> torch.Tensor | None:
    """(num_labels,) float64 by the option `class_weights`, or None; `balanced`: with a mean of 1 over the images."""
    if option is None or train_dataset is None:
        return None
    if option != "balanced":
        if len(option) != num_labels or not all(weight > 0 for weight in option):
            what = f"class_weights has {len(option)} weights for {num_labels} classes"
            raise ValueError(f"{what}; give one positive weight a class, in the order of their names.")
        return torch.tensor(option, dtype=torch.float64)
    labels = getattr(train_dataset, "labels", None)
    if labels is None:
        raise ValueError("class_weights is 'balanced', but the training data has no `labels` to count: give a list.")
    counts = np.bincount(np.asarray(labels)[np.asarray(labels) >= 0], minlength=num_labels)
    if not counts.any():  # all rows have soft labels, which carry the weights
        return None
    shares = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(np.where(counts > 0, shares, 1.0))
