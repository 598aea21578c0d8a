"""Runs a command of g4i as many tasks, and one more that puts together what they left; for the scripts beside it."""

import argparse
import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.executor.jobs import JobsPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from g4i_hf.cli import Parser, with_underscores
from g4i_hf.options import OPTIONS_OF

EXECUTORS = {
    "local": LocalPipelineExecutor,
    "slurm": SlurmPipelineExecutor,
    "ray": RayPipelineExecutor,
    "jobs": JobsPipelineExecutor,
}


def run(text: str, command: str, folder: str, share: type[PipelineStep], whole: type[PipelineStep]) -> None:
    """
    Args:
        text: of `--help`.
        folder: the option of the command that names the folder of the result.
        share, whole: steps that take the options of the command.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", choices=EXECUTORS, default="local")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--executor_options", type=json.loads, default={}, help="JSON: arguments of the executor")
    parser.add_argument("--logging_dir", help=f"which tasks have ended, and what they said; <{folder}>.tasks")
    args, words = parser.parse_known_args()
    options = options_of(command, words)
    if folder not in options:
        sys.exit(f"error: {folder} is missing: give the folder of the result with --{folder}.")
    place = args.logging_dir or f"{options[folder].rstrip('/')}.tasks"
    executor, given = EXECUTORS[args.executor], args.executor_options
    given |= {"skip_completed": False}  # what is done is known from what is there, also after a run with limits
    tasks = executor(pipeline=[share(**options)], tasks=args.tasks, logging_dir=f"{place}/{args.tasks}", **given)
    executor(pipeline=[whole(**options)], tasks=1, logging_dir=f"{place}/write", depends=tasks, **given).run()


def options_of(command: str, words: list[str]) -> dict:
    """Options of a command of `g4i` from its command line."""
    parser = Parser(OPTIONS_OF[command])
    given = parser.command_line([with_underscores(word) for word in words])
    config = given.pop("config", None)
    return (parser.yaml_file(Path(config)) if config else {}) | given
