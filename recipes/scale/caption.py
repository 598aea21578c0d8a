"""Caption a dataset by many tasks: on this machine, on a Slurm cluster, on Ray, or as jobs at Hugging Face.

    python recipes/scale/caption.py --executor local --tasks 4 --config recipes/shapes/caption.yaml
    python recipes/scale/caption.py --executor slurm --tasks 64 --config my_captions.yaml \\
        --executor_options '{"partition": "gpu", "time": "12:00:00", "gpus_per_task": 1}'

All other options are those of `g4i caption`. The same command resumes: tasks ask only for
what is missing.
"""

import argparse
import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.executor.jobs import JobsPipelineExecutor

from g4i_hf.captioning.scale import AskForCaptions, WriteCaptions
from g4i_hf.cli import Parser, with_underscores
from g4i_hf.options import OPTIONS_OF

EXECUTORS = {
    "local": LocalPipelineExecutor,
    "slurm": SlurmPipelineExecutor,
    "ray": RayPipelineExecutor,
    "jobs": JobsPipelineExecutor,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", choices=EXECUTORS, default="local")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--executor_options", type=json.loads, default={}, help="JSON: arguments of the executor")
    parser.add_argument("--logging_dir", help="which tasks have ended, and what they said; <captions_dir>.tasks")
    args, words = parser.parse_known_args()
    options = options_of(words)
    folder = args.logging_dir or f"{options['captions_dir'].rstrip('/')}.tasks"
    executor, given = EXECUTORS[args.executor], args.executor_options
    given |= {"skip_completed": False}  # what was asked is known from the answers, also after a run with limits
    asking = executor(
        pipeline=[AskForCaptions(**options)], tasks=args.tasks, logging_dir=f"{folder}/{args.tasks}", **given
    )
    executor(
        pipeline=[WriteCaptions(**options)], tasks=1, logging_dir=f"{folder}/write", depends=asking, **given
    ).run()


def options_of(words: list[str]) -> dict:
    """Options of `g4i caption` from its command line."""
    parser = Parser(OPTIONS_OF["caption"])
    given = parser.command_line([with_underscores(word) for word in words])
    config = given.pop("config", None)
    options = (parser.yaml_file(Path(config)) if config else {}) | given
    if "captions_dir" not in options:
        sys.exit("error: captions_dir is missing: give a folder for the captions with --captions_dir.")
    return options


if __name__ == "__main__":
    main()
