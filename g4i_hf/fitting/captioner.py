"""What `g4i fit` asks a captioner about the training images, and the answers that its folder holds."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset

from .. import columns
from ..captioning.questions import digest_of_words
from ..captioning.runner import MILLION
from ..cli import build_options
from ..data.loading import class_words, source_of
from ..data.stage import STAGE_FILE, images_of, read_stage
from ..data.texts import num_captioned
from ..options import OPTIONS_OF, DataArguments, FitArguments, is_address
from ..processes import on_main_process
from ..views.kinds import ANSWER, CAPTION
from ..workflows.caption import Captioning

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
    open_questions = [question for question in args.questions if not has[question]]
    if not has["describe"] and "describe" not in open_questions:  # perhaps an earlier command has asked it
        data = _stage_in(folder, "captions", data) or data
    runs = [_asking(question, args, data, folder, say) for question in open_questions]
    if not runs:
        return data
    if args.dry_run:
        prompts = ", ".join(run.args.prompt[0] for run in runs)
        say(f"Would ask {args.captioner} about {len(training):,} training images: {prompts}.")
        if is_address(args.captioner):
            say(_ahead(runs, args)[1])
        return data
    on_main_process(lambda: _agree(runs, args, say))
    stage = runs[0].data
    for run in runs:
        run.data = stage
        run.run()
        PartialState().wait_for_everyone()
        stage = _of_stage(run.args.captions_dir, data)
    return stage


def answered_before(
    training: Dataset, views: Sequence[str], data: DataArguments, folder: Path, say: Say
) -> DataArguments:
    """The data with the captions and answers in the folder of the fit about these images, where it has none."""
    if columns.ANSWER in training.column_names or not {CAPTION, ANSWER} & set(views):
        return data
    answers, captions = (_stage_in(folder, name, data) for name in ("answers", "captions"))
    classes_then = answers and (read_stage(folder / "answers") or {}).get("class_words")
    if answers and classes_then != digest_of_words(class_words(data, folder)):
        say(
            f"The answers in {answers.dataset_name} are not used: the classes had other names or descriptions then. "
            "Ask again: --captioner."
        )
        answers = None
    stage = answers or captions  # answers have the captions too
    if stage is None or (captions and num_captioned(training)):  # those would replace the data's own
        return data
    say(f"Captions and answers: those of {stage.dataset_name}.")
    return stage


def _stage_in(folder: Path, name: str, data: DataArguments) -> DataArguments | None:
    """The data with the stage of this name in the folder of the fit, if it is about the same images."""
    stage = _of_stage(str(folder / name), data)
    is_there = (folder / name / STAGE_FILE).is_file() and images_of(source_of(stage)) == images_of(source_of(data))
    return stage if is_there else None


def _of_stage(folder: str, data: DataArguments) -> DataArguments:
    return replace(data, dataset_name=folder, dataset_revision=None, captions_name=None, captions_revision=None)


def _asking(question: str, args: FitArguments, data: DataArguments, folder: Path, say: Say) -> Captioning:
    place, prompt = QUESTIONS[question]
    options = vars(data) | {"captions_dir": str(folder / place), "prompt": [prompt], "caption_splits": ["train"]}
    options |= {"captioner_model": args.captioner, "validation_fraction": None}
    if is_address(args.captioner):
        of_server = {"captioner_model": args.captioner_model, "api_key_env": args.api_key_env}
        options |= {"base_url": args.captioner} | of_server
    return Captioning(*build_options(OPTIONS_OF["caption"], options), say=say)


def _ahead(runs: list[Captioning], args: FitArguments) -> tuple[float, str]:
    """The number of questions without an answer, and a line with their cost."""
    for run in runs:
        run.captioner = runs[0].captioner  # one model for both
    ahead = {run.args.prompt[0]: run.ahead() for run in runs}
    requests, read, written = sum(ahead.values())
    cost = ""
    if args.price_input is not None and args.price_output is not None:
        cost = f", a cost of {(read * args.price_input + written * args.price_output) / MILLION:,.2f}"
    by_prompt = ", ".join(f"{prompt} {counts[0]:,.0f}" for prompt, counts in ahead.items())
    tokens = f"{read:,.0f} tokens read and {written:,.0f} written"
    where = ", ".join(runs[0].captioner.hosts) or args.captioner
    return requests, f"Questions to {where}: {requests:,.0f} ({by_prompt}), at most about {tokens}{cost}."


def _agree(runs: list[Captioning], args: FitArguments, say: Say) -> None:
    """Print the cost of the questions. Raises ValueError for many requests to a server without consent."""
    requests, line = _ahead(runs, args)
    if requests:
        say(line)
    if not is_address(args.captioner) or requests <= MOST_UNASKED or args.yes:
        return
    if not (sys.stdin.isatty() and input("Send them? [y/N] ").strip().lower() in ("y", "yes")):
        raise ValueError(
            f"{requests:,.0f} requests with images would go to {', '.join(runs[0].captioner.hosts)}. Send them with "
            "--yes, or try a few first: g4i caption --prompt plain choose --dry_run 64."
        )
