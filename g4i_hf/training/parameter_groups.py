"""Which parameters are decayed, and how fast each layer of the student learns."""

import re

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from ..modeling import AlignedImageClassification
from ..modeling.student import classifier_layers

# Learned temperature and bias of the objective, at the top of the aligned model
NEVER_DECAYED = ("logit_scale", "logit_bias")
# What timm's models exempt by `no_weight_decay()`, under the names that transformers has for it
EXEMPT_IN_TRANSFORMERS = (
    "*cls_token*",
    "*distillation_token*",
    "*mask_token*",
    "*register_tokens*",
    "*position_embedding*",
    "*relative_position_bias*",
    "*continuous_position_bias*",
    "*attention_biases*",
    "*logit_scale*",
    "*.grn.*",
)
# Blocks of transformers' students, in one list or in one of each stage: `vit.layers.3.`, `encoder.stages.1.layers.0.`
_BLOCK = re.compile(
    r"(?:^|\.)(?:stages|layers|layer|blocks|block|patch_embeddings(?!\.0\.))\.(?P<stage>\d+)\."
    r"(?:(?:layers|layer|blocks|block)\.(?P<block>\d+)\.)?"
)


def decayed_names(model: nn.Module, rule: str, stock: list[str]) -> list[str]:
    """
    Names of the parameters that weight decay is applied to; temperature and bias of the objective never are.

    Args:
        model: the aligned model.
        rule: `"trainer"`, `"matrices"` or `"all"`, see `weight_decay_on`.
        stock: those that stock Trainer decays.
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
    """Patterns of names that the student wants spared."""
    timm_model = getattr(model.student, "timm_model", None)
    if timm_model is None:
        return [f"student.{pattern}" for pattern in EXEMPT_IN_TRANSFORMERS]
    spared = timm_model.no_weight_decay() if hasattr(timm_model, "no_weight_decay") else ()
    return [f"student.timm_model.{name}" for name in spared]


def layer_factors(model: AlignedImageClassification, layer_decay: float) -> dict[nn.Parameter, float]:
    """
    Factor of the learning rate of every trainable parameter: `layer_decay` to the power of its layer's depth below the
    classifier. Classifier and projector have 1, stem and embeddings the smallest. timm's students have timm's layers;
    those of transformers are blocks in the same sense: what stands before the first belongs to the stem, what follows
    the last (such as the final norm) to the last, and what joins two stages to the nearest block of its own.

    Raises:
        ValueError: when the student's blocks are not found.
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
        raise ValueError(
            f"layer_decay is set, but no numbered blocks were found in {type(student).__name__}. Leave it out, or "
            "choose a student of timm's."
        )
    numbers = {None: 0} | {place: number for number, place in enumerate(order, start=1)}
    layers = {parameter: numbers[place] for parameter, place in places.items()}
    for head in classifier_layers(student):
        layers.update(dict.fromkeys(head.parameters(), len(order) + 1))
    return layers


def scale_learning_rates(optimizer: torch.optim.Optimizer, factors: dict[nn.Parameter, float]) -> None:
    """
    Splits the groups of a new optimizer so that each has one factor, the largest first: its rate is what is logged.
    The factor stays in the group as `lr_scale`, where timm's schedulers look for it.
    """
    groups = []
    for group in optimizer.param_groups:
        for factor in {factors[parameter] for parameter in group["params"]}:
            params = [parameter for parameter in group["params"] if factors[parameter] == factor]
            groups.append(group | {"params": params, "lr": group["lr"] * factor, "lr_scale": factor})
    optimizer.param_groups[:] = sorted(groups, key=lambda group: -group["lr_scale"])
