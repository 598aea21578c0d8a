"""timm's optimizers, parameter groups, class weights."""

import ast
import inspect
import re
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
from ..modeling.student import classifier_layers

TIMM = "timm:"


def timm_optimizer(args: TrainingArguments) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """
    The class that `optim: timm:NAME` names and its arguments, for Trainer's `optimizer_cls_and_kwargs`: timm's
    defaults and `optim_args`. None for an optimizer of Trainer's own; a ValueError for what timm does not have.
    """
    if not args.optim.startswith(TIMM):
        return None
    name = args.optim.removeprefix(TIMM)
    # Trainer has no second derivatives
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
        options |= {each.arg: ast.literal_eval(each.value) for each in call.keywords}
        inspect.signature(optimizer).bind([], **options)
    except (SyntaxError, ValueError, TypeError) as error:
        what = f"optim_args is {args.optim_args!r}, which {args.optim} does not take: {error}"
        raise ValueError(f"{what}. Write name=value,name=value, as in Python.") from error
    return optimizer, options


# --- Parameter groups ------------------------------------------------------------------------------------------------


# Learned temperature and bias of the objective, at the top of the aligned model
NEVER_DECAYED = ("logit_scale", "logit_bias")
# What timm's models exempt by `no_weight_decay()`, under the names that transformers has for it
EXEMPT_IN_TRANSFORMERS = (
    *("*cls_token*", "*distillation_token*", "*mask_token*", "*register_tokens*", "*position_embedding*"),
    *("*relative_position_bias*", "*continuous_position_bias*", "*attention_biases*", "*logit_scale*", "*.grn.*"),
)
# Blocks of transformers' students, in one list or in one of each stage: `vit.layers.3.`, `encoder.stages.1.layers.0.`
_BLOCK = re.compile(
    r"(?:^|\.)(?:stages|layers|layer|blocks|block|patch_embeddings(?!\.0\.))\.(?P<stage>\d+)\."
    r"(?:(?:layers|layer|blocks|block)\.(?P<block>\d+)\.)?"
)


def decayed_names(model: nn.Module, rule: str, stock: list[str]) -> list[str]:
    """
    Names of the parameters of the aligned model that weight decay is applied to, by the `rule` of `weight_decay_on`
    or, for `trainer`, the `stock` ones. Temperature and bias of the objective never are.
    """
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


def layer_factors(model: AlignedImageClassification, layer_decay: float) -> dict[nn.Parameter, float]:
    """
    Factor of the learning rate of every trainable parameter: `layer_decay` to the power of its layer's depth below the
    classifier. Classifier and projector have 1, stem and embeddings the smallest. timm's students have timm's layers.
    In those of transformers a layer is a block; what comes before the first block is the stem, and what follows the
    last (such as the final norm) belongs to it. A ValueError when the blocks are not found.
    """
    timm_model = getattr(model.student, "timm_model", None)
    factors = {parameter: 1.0 for parameter in model.parameters() if parameter.requires_grad}
    if timm_model is not None:
        groups = param_groups_layer_decay(timm_model, layer_decay=layer_decay)
        found = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    else:
        layers = _layers(model.student)
        top = max(layers.values())
        found = {parameter: layer_decay ** (top - layer) for parameter, layer in layers.items()}
    return factors | {parameter: factor for parameter, factor in found.items() if parameter.requires_grad}


def _layers(student: nn.Module) -> dict[nn.Parameter, int]:
    """Layer of every parameter of a transformers student: 0 is the stem, the highest number the classifier."""
    places: dict[nn.Parameter, tuple[int, int] | None] = {}
    place = None  # (stage, block); None is the stem
    for name, parameter in student.named_parameters():
        match = _BLOCK.search(name)
        if match:
            stage, block = int(match["stage"]), match["block"]
            if block is not None:
                place = (stage, int(block))
            elif place is None or place[0] != stage:
                place = (stage, 0)
        places[parameter] = place
    order = sorted({place for place in places.values() if place is not None})
    if not order:
        what = f"no numbered blocks were found in {type(student).__name__}"
        raise ValueError(f"layer_decay is set, but {what}. Leave it out, or choose a student of timm's.")
    numbers = {None: 0} | {place: number for number, place in enumerate(order, start=1)}
    layers = {parameter: numbers[place] for parameter, place in places.items()}
    for head in classifier_layers(student):
        layers.update(dict.fromkeys(head.parameters(), len(order) + 1))
    return layers


def scale_learning_rates(optimizer: torch.optim.Optimizer, factors: dict[nn.Parameter, float]) -> None:
    """
    Splits the groups of a new optimizer by factor, the largest first, whose rate is logged.
    """
    groups = []
    for group in optimizer.param_groups:
        for factor in {factors[parameter] for parameter in group["params"]}:
            params = [parameter for parameter in group["params"] if factors[parameter] == factor]
            groups.append(group | {"params": params, "lr": group["lr"] * factor})
    optimizer.param_groups[:] = sorted(groups, key=lambda group: -group["lr"])


# --- Weights of classes ----------------------------------------------------------------------------------------------


def class_weights_of(option: list[float] | str | None, num_labels: int, train_dataset: Any) -> torch.Tensor | None:
    """
    (num_labels,) float64 by the option `class_weights`, or None. `balanced` weights are inversely proportional to the
    number of images of a class in `train_dataset.labels`, with a mean of 1 over the labelled images.
    """
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
    if not counts.any():  # all learn from soft labels, which are weighted
        return None
    shares = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(np.where(counts > 0, shares, 1.0))
