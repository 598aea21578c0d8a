"""Questions of `g4i fit --captioner` about training images, for captions and for the class."""

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
MOST_UNASKED = 1000  # requests to a server without confirmation

Say = Callable[[str], object]


def ask_about(training: Dataset, args: FitArguments, data: DataArguments, folder: Path, say: Say) -> DataArguments:
    """
    Send the open questions about training images to the captioner, or read its stored answers: a stage for each
    question. Returns the data with them; after a dry run, which only prints the questions, the data unchanged. Raises
    ValueError for many requests without confirmation.
    """
    has = {"describe": num_captioned(training) > 0, "choose": columns.ANSWER in training.column_names}
    runs = [_asking(question, args, data, folder, say) for question in args.questions if not has[question]]
    if args.dry_run and runs:
        prompts = ", ".join(run.args.prompt[0] for run in runs)
        say(f"Would ask {args.captioner} about {len(training):,} training images: {prompts}.")
    if args.dry_run or not runs:
        return data
    for run in runs:
        run.captioner = runs[0].captioner  # one model for both
    by_first(lambda: _agree({run.args.prompt[0]: run.ahead() for run in runs}, runs[0].captioner, args, say))
    stage = runs[0].data
    for run in runs:
        run.data = stage
        run.run()
        PartialState().wait_for_everyone()
        stage = DataArguments(run.args.captions_dir, class_names_file=data.class_names_file)
    return replace(stage, validation_fraction=data.validation_fraction, labels_file=data.labels_file)


def _asking(question: str, args: FitArguments, data: DataArguments, folder: Path, say: Say) -> Captioning:
    place, prompt = QUESTIONS[question]
    options = vars(data) | {"captions_dir": str(folder / place), "prompt": [prompt], "caption_splits": ["train"]}
    options |= {"captioner_model": args.captioner, "validation_fraction": None}
    if is_address(args.captioner):
        of_server = {"captioner_model": args.captioner_model, "api_key_env": args.api_key_env}
        options |= {"base_url": args.captioner} | of_server
    return Captioning(*build_options(OPTIONS_OF["caption"], options), say=say)


def _agree(ahead: dict[str, np.ndarray], captioner: Captioner, args: FitArguments, say: Say) -> None:
    """
    Print the cost of the questions. Raises ValueError for many requests to a server, unless the user confirms them.
    """
    requests, read, written = sum(ahead.values())
    if not requests:
        return
    where, cost = ", ".join(captioner.hosts), ""
    if args.price_input is not None and args.price_output is not None:
        cost = f", a cost of {(read * args.price_input + written * args.price_output) / MILLION:,.2f}"
    by_prompt = ", ".join(f"{prompt} {counts[0]:,.0f}" for prompt, counts in ahead.items())
    tokens = f"{read / MILLION:,.1f} million tokens read and {written / MILLION:,.1f} written"
    say(f"Questions to {where or args.captioner}: {requests:,.0f} ({by_prompt}), at most about {tokens}{cost}.")
    if not where or requests <= MOST_UNASKED or args.yes:
        return
    if not (sys.stdin.isatty() and input("Send them? [y/N] ").strip().lower() in ("y", "yes")):
        raise ValueError(
            f"{requests:,.0f} requests with images would go to {where}. Send them with --yes, or try a few first: "
            "g4i caption --prompt plain choose --dry_run 64."
        )
