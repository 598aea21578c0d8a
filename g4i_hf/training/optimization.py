"""timm's optimizers, parameter groups, class weights."""

import ast
import re
from typing import Any

import numpy as np
import timm.optim
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from transformers import TrainingArguments

from ..files import did_you_mean
from ..modeling import AlignedImageClassification
from ..modeling.student import classifier_layers

TIMM, LOOKAHEAD = "timm:", "lookahead_"  # prefixes


def timm_name(value: Any) -> str | None:
    """`lamb` of `timm:lamb`, None for a name of Trainer's own."""
    return str(value).removeprefix(TIMM) if str(value).startswith(TIMM) else None


def check_timm_options(args: TrainingArguments) -> None:
    """A ValueError for an optimizer that timm does not have, naming the nearest."""
    optimizer = timm_name(args.optim)
    if optimizer is not None:
        base = optimizer.lower().removeprefix(LOOKAHEAD)
        if base not in timm.optim.list_optimizers():
            prefix = TIMM + LOOKAHEAD * optimizer.lower().startswith(LOOKAHEAD)
            near = did_you_mean(base, timm.optim.list_optimizers(), prefix)
            raise ValueError(f"optim is timm:{optimizer}, which timm does not have.{near}")
        if timm.optim.get_optimizer_info(base).second_order:
            raise ValueError(f"optim is timm:{optimizer}, which needs second derivatives; Trainer has none.")
        parse_optim_args(args.optim_args)


def parse_optim_args(optim_args: str | None) -> dict[str, Any]:
    """`"eps=1e-6,betas=(0.9,0.95),caution=true"` -> numbers, tuples, booleans; what is none of them stays a string."""
    parsed = {}
    for entry in re.split(r",(?![^(]*\))", optim_args or ""):
        if not entry.strip():
            continue
        name, equals, value = entry.partition("=")
        if not equals:
            raise ValueError(f"optim_args is {optim_args!r}; write name=value,name=value.")
        value = value.strip()
        value = value.title() if value.lower() in ("true", "false", "none") else value
        try:
            parsed[name.strip()] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            parsed[name.strip()] = value
    return parsed


def timm_optimizer(args: TrainingArguments, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """
    The optimizer that `args.optim` names. `adam_beta1`, `adam_beta2` and `adam_epsilon` are passed on where they were
    changed and the optimizer has them: timm's defaults differ from one to the next (`lamb` has an epsilon of 1e-6).
    """
    name = timm_name(args.optim)
    info = timm.optim.get_optimizer_info(name.lower().removeprefix(LOOKAHEAD))
    defaults = TrainingArguments.__dataclass_fields__
    changed = {n for n in ("adam_beta1", "adam_beta2", "adam_epsilon") if getattr(args, n) != defaults[n].default}
    options = {}
    if info.has_betas and info.num_betas == 2 and changed & {"adam_beta1", "adam_beta2"}:
        options["betas"] = (args.adam_beta1, args.adam_beta2)
    if info.has_eps and "adam_epsilon" in changed:
        options["eps"] = args.adam_epsilon
    options |= parse_optim_args(args.optim_args)
    groups = [group for group in groups if group["params"]]
    try:
        return timm.optim.create_optimizer_v2(groups, opt=name, lr=args.learning_rate, **options)
    except TypeError as error:
        raise ValueError(
            f"optim is {args.optim}, which does not take optim_args {args.optim_args!r}: {error}"
        ) from error


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


def decay_groups(model: nn.Module, decayed: set[str], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: the parameters with a name in `decayed`, and the others."""
    trained = [(name in decayed, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for decays, parameter in trained if decays], "weight_decay": weight_decay},
        {"params": [parameter for decays, parameter in trained if not decays], "weight_decay": 0.0},
    ]


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
