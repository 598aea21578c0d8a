"""
Captioning on many machines: steps of a datatrove pipeline, for any of its executors, as in `recipes/scale`. Tasks only
share the folder of answers, in which each writes a separate file. A failed task is run again and requests only missing
answers; the number of tasks may change.
"""

from collections.abc import Iterator
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from ..cli import build_options, quiet_libraries
from ..options import OPTIONS_OF
from ..workflows.caption import Captioning
from .runner import Share


class AskForCaptions(PipelineStep):
    """
    Captions every `world_size`-th image, with the options of `g4i caption`. `captions_dir` must be on a disk that all
    tasks share.
    """

    name, type = "Ask for captions", "Captions"

    def __init__(self, **options: Any):
        super().__init__()
        self.options = options

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator:
        self.captioning(rank).ask(Share(rank, world_size))
        yield from data or ()

    def captioning(self, rank: int) -> Captioning:
        quiet_libraries(rank == 0)
        return Captioning(*build_options(OPTIONS_OF["caption"], self.options), say=logger.info)


class WriteCaptions(AskForCaptions):
    """Writes the stage from the answers of all tasks, as one task; requests missing answers unless limits were set."""

    name = "Write captions"

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator:
        if rank == 0:
            if {"max_requests", "max_cost"} & set(self.options):
                self.options = self.options | {"max_requests": 0}  # the tasks used them up
            self.captioning(rank).run()
        yield from data or ()
