"""timm's optimizers and schedules, by name, under Trainer."""

import ast
import difflib
import inspect
import re
from typing import Any

import timm.optim
import torch
from timm.scheduler import create_scheduler_v2
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainingArguments

TIMM = "timm:"  # marks optimizers and schedules of timm
# Those that timm can step every update; its plateau waits for a metric, for which Trainer has reduce_lr_on_plateau
SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant")
# Set from the run, not by the user
_FROM_RUN = {"optimizer", "sched", "step_on_epochs", "updates_per_epoch", "plateau_mode", "patience_epochs"}
SCHEDULE_OPTIONS = tuple(name for name in inspect.signature(create_scheduler_v2).parameters if name not in _FROM_RUN)


def timm_name(value: Any) -> str | None:
    """`lamb` of `timm:lamb`, None for a name of Trainer's own."""
    return str(value).removeprefix(TIMM) if str(value).startswith(TIMM) else None


def check_timm_options(args: TrainingArguments) -> None:
    """
    Raises:
        ValueError: for an optimizer, a schedule or an option of one that timm does not have, naming the nearest.
    """
    optimizer, schedule = timm_name(args.optim), timm_name(args.lr_scheduler_type)
    if optimizer is not None:
        lookahead, name = re.fullmatch(r"(lookahead_)?(.*)", optimizer.lower()).groups()
        _check_known("optim", optimizer, name, timm.optim.list_optimizers(), prefix=lookahead or "")
        if timm.optim.get_optimizer_info(name).second_order:
            raise ValueError(f"optim is timm:{optimizer}, which needs second derivatives; Trainer has none.")
        parse_optim_args(args.optim_args)
    if schedule is None:
        return
    if schedule == "plateau":
        raise ValueError("lr_scheduler_type is timm:plateau, which waits for a metric: take reduce_lr_on_plateau.")
    _check_known("lr_scheduler_type", schedule, schedule, SCHEDULES)
    for name in args.lr_scheduler_kwargs or {}:
        if name not in SCHEDULE_OPTIONS:
            near = difflib.get_close_matches(name, SCHEDULE_OPTIONS, n=1, cutoff=0)[0]
            raise ValueError(f"lr_scheduler_kwargs names {name!r}, which timm does not know; the nearest is {near!r}.")
    if args.warmup_steps:
        raise ValueError(
            f"warmup_steps is {args.warmup_steps}, which timm:{schedule} does not read. Give it warmup_epochs in "
            "lr_scheduler_kwargs."
        )


def _check_known(option: str, given: str, name: str, known: list[str] | tuple[str, ...], prefix: str = "") -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise ValueError(f"{option} is timm:{given}, which timm does not have; the nearest is timm:{prefix}{near}.")


def parse_optim_args(optim_args: str | None) -> dict[str, Any]:
    """
    `"eps=1e-6,betas=(0.9,0.95),caution=true"` -> numbers, tuples and booleans; what is none of them stays a string.

    Raises:
        ValueError: for an entry without `=`.
    """
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

    Args:
        args: the options.
        groups: of parameters, each with its `weight_decay`.

    Raises:
        ValueError: when the optimizer does not take `optim_args`.
    """
    name = timm_name(args.optim)
    info = timm.optim.get_optimizer_info(name.lower().split("_")[-1])
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


class TimmSchedule(LRScheduler):
    """
    A timm schedule, stepped once an optimizer step, as one of torch's: a function of the number of steps alone, so
    that this number is all that a checkpoint has to keep.

    Args:
        optimizer: whose groups may have an `lr_scale`, which timm multiplies the whole course with.
        name: one of [`SCHEDULES`].
        learning_rate: the peak; that of groups without `lr_scale` is their own.
        num_steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps an epoch.
        options: of `timm.scheduler.create_scheduler_v2`. `num_epochs` is by default what makes the schedule end with
            the run, warm-up and cool-down included.

    Raises:
        ValueError: for cycles without `num_epochs`, the length of the first; when nothing is left between warm-up and
            cool-down.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        name: str,
        learning_rate: float,
        num_steps: int,
        steps_per_epoch: int,
        options: dict[str, Any] | None = None,
    ):
        options = dict(options or {})
        if "num_epochs" not in options:
            if options.get("cycle_limit", 1) > 1:
                raise ValueError(
                    "lr_scheduler_kwargs has a cycle_limit but no num_epochs: give the epochs of the first cycle."
                )
            outside = options.get("cooldown_epochs", 0)
            outside += options.get("warmup_epochs", 0) if options.get("warmup_prefix") else 0
            options["num_epochs"] = num_steps / steps_per_epoch - outside
            if options["num_epochs"] <= 0:
                raise ValueError(
                    f"lr_scheduler_kwargs has {outside:g} epochs of cool-down and of warm-up before the schedule, and "
                    f"training has {num_steps / steps_per_epoch:.3g}: give fewer, or train for longer."
                )
        for group in optimizer.param_groups:
            group["initial_lr"] = learning_rate if "lr_scale" in group else group.get("initial_lr", group["lr"])
        self.schedule, _ = create_scheduler_v2(
            optimizer, sched=name, step_on_epochs=False, updates_per_epoch=steps_per_epoch, **options
        )
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        self.schedule.step_update(self.last_epoch)
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "schedule"}
