"""Start a command over shards as many tasks: on this machine, on a Slurm cluster, on Ray, or as jobs at Hugging Face.

    python recipes/scale/tasks.py --executor local --tasks 4 \\
        predict me/my-student --shards 's3://bucket/photos/*.parquet' --out s3://bucket/predictions
    python recipes/scale/tasks.py --executor slurm --tasks 64 \\
        --executor_options '{"partition": "gpu", "time": "12:00:00", "cpus_per_task": 8, "gpus_per_task": 1}' \\
        embed --view image:facebook/dinov2-small --shards 's3://bucket/photos/*.parquet' --out s3://bucket/vectors

Each task runs `g4i COMMAND ... --rank R --world_size N`. The same command resumes: results that exist are done.
"""

import argparse
import json
import subprocess
import sys

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.executor.jobs import JobsPipelineExecutor

EXECUTORS = {
    "local": LocalPipelineExecutor,
    "slurm": SlurmPipelineExecutor,
    "ray": RayPipelineExecutor,
    "jobs": JobsPipelineExecutor,
}


class Task:
    """Pickled for other machines, so it holds words alone."""

    name = "g4i"

    def __init__(self, words: list[str]):
        self.words = words

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        of_task = ["--rank", str(rank), "--world_size", str(world_size)]
        subprocess.run([sys.executable, "-m", "g4i_hf", *self.words, *of_task], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", choices=EXECUTORS, default="local")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--executor_options", type=json.loads, default={}, help="JSON: arguments of the executor")
    parser.add_argument("--logging_dir", default="runs/tasks", help="what tasks said; for jobs, a folder in a bucket")
    parser.add_argument("command", choices=["predict", "embed", "caption"])
    parser.add_argument("words", nargs=argparse.REMAINDER, help="options of the command")
    args = parser.parse_args()
    given = {"skip_completed": False} | args.executor_options  # what is done is known from the results
    task, place = Task([args.command, *args.words]), f"{args.logging_dir.rstrip('/')}/{args.tasks}"
    EXECUTORS[args.executor](pipeline=[task], tasks=args.tasks, logging_dir=place, **given).run()
