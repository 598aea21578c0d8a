"""What `g4i fit --captioner` asks about training images first: for captions, and for the class."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate import PartialState
from datasets import Dataset

from .. import columns
from ..captioning.answers import Captioner
from ..captioning.runner import MILLION
from ..cli import build_options
from ..data.texts import num_captioned
from ..options import OPTIONS_OF, DataArguments, FitArguments, is_address
from .caption import Captioning
from .fit_folder import by_first

QUESTIONS = {"describe": ("captions", "plain"), "choose": ("answers", "choose")}  # folder of the stage, and prompt
MOST_UNASKED = 1000  # requests that are sent to a server without a yes

Say = Callable[[str], object]


def ask_about(training: Dataset, args: FitArguments, data: DataArguments, folder: Path, say: Say) -> DataArguments:
    """
    Asks the captioner what is not known of training images, or takes what it has answered: a stage for each question.
    Returns the data with them; after a dry run, which says what it would ask, the data as they are. A ValueError for
    many requests that nobody agrees to.
    """
    has = {"describe": num_captioned(training) > 0, "choose": columns.ANSWER in training.column_names}
    asking = [_asking(question, args, data, folder, say) for question in args.questions if not has[question]]
    if args.dry_run and asking:
        prompts = ", ".join(each.args.prompt[0] for each in asking)
        say(f"Would ask {args.captioner} about {len(training):,} training images: {prompts}.")
    if args.dry_run or not asking:
        return data
    for each in asking:
        each.captioner = asking[0].captioner  # one model for both
    by_first(lambda: _agree({each.args.prompt[0]: each.ahead() for each in asking}, asking[0].captioner, args, say))
    stage = asking[0].data
    for each in asking:
        each.data = stage
        each.run()
        PartialState().wait_for_everyone()
        stage = DataArguments(each.args.captions_dir, class_names_file=data.class_names_file)
    return replace(stage, validation_fraction=data.validation_fraction, labels_file=data.labels_file)


def _asking(question: str, args: FitArguments, data: DataArguments, folder: Path, say: Say) -> Captioning:
    place, prompt = QUESTIONS[question]
    given = vars(data) | {"captions_dir": str(folder / place), "prompt": [prompt], "caption_splits": ["train"]}
    given |= {"captioner_model": args.captioner, "validation_fraction": None}
    if is_address(args.captioner):
        of_server = {"captioner_model": args.captioner_model, "api_key_env": args.api_key_env}
        given |= {"base_url": args.captioner} | of_server
    return Captioning(*build_options(OPTIONS_OF["caption"], given), say=say)


def _agree(ahead: dict[str, np.ndarray], captioner: Captioner, args: FitArguments, say: Say) -> None:
    """Says what the questions take. A ValueError for many to a server, unless the user wants them sent."""
    requests, read, written = sum(ahead.values())
    if not requests:
        return
    where, cost = ", ".join(captioner.hosts), ""
    if args.price_input is not None and args.price_output is not None:
        cost = f", a cost of {(read * args.price_input + written * args.price_output) / MILLION:,.2f}"
    each = ", ".join(f"{prompt} {found[0]:,.0f}" for prompt, found in ahead.items())
    tokens = f"{read / MILLION:,.1f} million tokens read and {written / MILLION:,.1f} written"
    say(f"Questions to {where or args.captioner}: {requests:,.0f} ({each}), at most about {tokens}{cost}.")
    if not where or requests <= MOST_UNASKED or args.yes:
        return
    if not (sys.stdin.isatty() and input("Send them? [y/N] ").strip().lower() in ("y", "yes")):
        raise ValueError(
            f"{requests:,.0f} requests with images would go to {where}. Send them with --yes, or try a few first: "
            "g4i caption --prompt plain choose --dry_run 64."
        )
