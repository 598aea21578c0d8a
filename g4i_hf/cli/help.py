"""`--help`: the options in groups, without importing torch."""

import re
import shutil
import sys
import textwrap
from pathlib import Path

from .errors import OptionError, did_you_mean
from .option_sources import Option, options_of

MAX_LEFT = 38  # columns of names; a longer one has a line of its own
# Of the options of Trainer, those that most runs have a use for
TRAINER_GROUPS = {
    "Length and batches": (
        "output_dir",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
    ),
    "Learning rate": ("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    "Optimizer and regularisation": (
        "optim",
        "optim_args",
        "weight_decay",
        "max_grad_norm",
        "label_smoothing_factor",
    ),
    "Precision, memory, speed": ("bf16", "fp16", "tf32", "activation_checkpointing", "torch_compile"),
    "Evaluation and saving": (
        "eval_strategy",
        "eval_steps",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "load_best_model_at_end",
        "metric_for_best_model",
    ),
    "Logging": ("logging_strategy", "logging_steps", "report_to", "run_name", "disable_tqdm"),
    "Hub": ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy"),
    "Machine and seed": ("seed", "use_cpu", "dataloader_num_workers", "dataloader_persistent_workers"),
}
SCRIPT_GROUP = (
    Option("config", "YAML", "unset", "File of options, one `name: value` a line.", "This script"),
    Option("print_config", "", "unset", "Print the resolved options as such a file, and stop.", "This script"),
    Option("help", "[all|WORD]", "unset", "This page; every option; or those with WORD in their name.", "This script"),
)


def asked_topic(argv: list[str]) -> str | None:
    """What `--help` is asked about: empty for the page itself; None when nobody asks."""
    for position, word in enumerate(argv):
        if word.startswith("--help="):
            return word.split("=", 1)[1]
        if word in ("-h", "--help"):
            following = argv[position + 1 : position + 2]
            return following[0] if following and not following[0].startswith("-") else ""
    return None


def help_text(classes: tuple[type | str, ...], topic: str, description: str) -> str:
    """
    Args:
        classes: the options, in their order.
        topic: empty for the page with the usual options of Trainer, `all`, or a part of a name.
        description: first lines of the page.

    Raises:
        OptionError: when the topic is in no name.
    """
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    options = [option for cls in classes for option in options_of(cls)]
    if topic not in ("", "all"):
        found = _matching(options, topic)
        return "\n".join(_page(found, width, _left_width(found, width))).lstrip("\n")
    own = _grouped([option for option in options if not option.is_foreign])
    foreign = {option.name: option for option in options if option.is_foreign}
    script = Path(sys.argv[0]).name
    lines = [f"usage: {script} [--config YAML] [--NAME VALUE ...]", "", description.strip(), ""]
    lines += textwrap.wrap(
        "Options come from defaults, then from the YAML file, then from the command line. Defaults are in brackets; "
        "one without brackets is unset. BOOL alone means true.",
        width,
    )
    own = {"This script": list(SCRIPT_GROUP)} | own
    chosen = _chosen(foreign) if topic == "" else _grouped(list(foreign.values()))
    left = _left_width(own | chosen, width)
    lines += _page(own, width, left)
    if foreign:
        count = len(foreign) if topic == "all" else sum(map(len, chosen.values()))
        some = "all" if topic == "all" else f"{count} of"
        more = "" if topic == "all" else ". `--help all` lists every one"
        title = f"Trainer of transformers, {some} {len(foreign)} options{more}"
        lines += ["", "", *textwrap.wrap(title, width), "=" * min(len(title), width)]
        lines += _page(chosen, width, left, brief=topic == "")
    return "\n".join(lines)


def _grouped(options: list[Option]) -> dict[str, list[Option]]:
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(option.group, []).append(option)
    return groups


def _chosen(foreign: dict[str, Option]) -> dict[str, list[Option]]:
    """The usual options of Trainer, as far as this version of transformers has them."""
    groups = {title: [foreign[name] for name in names if name in foreign] for title, names in TRAINER_GROUPS.items()}
    return {title: group for title, group in groups.items() if group}


def _matching(options: list[Option], topic: str) -> dict[str, list[Option]]:
    part = topic.lower().lstrip("-").replace("-", "_")
    found = [option for option in options if part in option.name.lower()]
    found = found or [option for option in options if part in option.group.lower()]
    if not found:
        near = did_you_mean(part, [option.name for option in options])
        raise OptionError(f"--help {topic}: no option has that in its name.{near} --help all lists every one.")
    return _grouped(found)


def _left_width(groups: dict[str, list[Option]], width: int) -> int:
    longest = max(len(_left(option)) for group in groups.values() for option in group)
    return min(longest, MAX_LEFT, width // 2) + 2


def _page(groups: dict[str, list[Option]], width: int, left: int, brief: bool = False) -> list[str]:
    lines = []
    for title, group in groups.items():
        about = group[0].about.rstrip(".")
        lines += ["", *textwrap.wrap(f"{title}: {about}" if about else title, width)]
        for option in group:
            wrapped = textwrap.wrap(_right(option, brief), width - left, break_on_hyphens=False) or [""]
            name = _left(option)
            if len(name) > left - 2:
                lines.append(name)
                name = ""
            lines.append(name.ljust(left) + wrapped[0])
            lines += [" " * left + line for line in wrapped[1:]]
    return [line.rstrip() for line in lines]


def _left(option: Option) -> str:
    return f"  --{option.name} {option.kind}".rstrip()


def _right(option: Option, brief: bool) -> str:
    text = option.help
    if brief:  # the first sentence
        text = re.split(r"(?<=[.])\s(?=[A-Z\"'`])", text, maxsplit=1)[0]
    if option.choices and not all(choice in text for choice in option.choices):
        text = f"{text} One of: {', '.join(option.choices)}."
    if option.default == "unset":
        return text
    return f"{text} [{'required' if option.default is None else option.default}]".lstrip()
