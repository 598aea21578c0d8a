"""
Captions and views on many machines: steps of a datatrove pipeline, for any of its executors, as in `recipes/scale`.
Tasks share only the folder of answers or of features, in which each writes separate files. A failed task is run again
and computes only what is missing; the number of tasks may change.
"""

from collections.abc import Iterator
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from .captioning.runner import Share
from .cli import build_options
from .commands import COMMANDS
from .data.loading import load_reviewed
from .options import OPTIONS_OF
from .output import quiet_libraries
from .views.making import embed_share
from .workflows.caption import Captioning


class Step(PipelineStep):
    """A step by options of a command."""

    def __init__(self, **options: Any):
        super().__init__()
        self.options = options

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator:
        quiet_libraries(rank == 0)
        self.work(rank, world_size)
        yield from data or ()

    def work(self, rank: int, world_size: int) -> None:
        raise NotImplementedError


class AskForCaptions(Step):
    """Captions every `world_size`-th image, by options of `g4i caption`; all tasks share `captions_dir`."""

    name, type = "Ask for captions", "Captions"

    def work(self, rank: int, world_size: int) -> None:
        Captioning(*build_options(OPTIONS_OF["caption"], self.options), say=logger.info).ask(Share(rank, world_size))


class WriteCaptions(Step):
    """Writes the stage from the answers of all tasks, as one task; requests missing answers unless limits were set."""

    name, type = "Write captions", "Captions"

    def work(self, rank: int, world_size: int) -> None:
        limited = {"max_requests", "max_cost"} & set(self.options)  # the tasks used them up
        options = self.options | ({"max_requests": 0} if limited else {})
        Captioning(*build_options(OPTIONS_OF["caption"], options), say=logger.info).run()


class EmbedShare(Step):
    """Computes the features of every `world_size`-th image into `embeddings_dir`, on a disk that all tasks see."""

    name, type = "Embed a share", "Views"

    def work(self, rank: int, world_size: int) -> None:
        view, of_data, encoder = build_options(OPTIONS_OF["embed"], self.options)
        images, share = load_reviewed(of_data, encoder.embeddings_dir), slice(rank, None, world_size)
        embed_share(images, view.view, encoder.embeddings_dir, share, student=view.student)


class WriteView(Step):
    """Writes the stage from the features of all tasks, as one task; computes those of tasks that were lost."""

    name, type = "Write a view", "Views"

    def work(self, rank: int, world_size: int) -> None:
        COMMANDS["embed"].run(*build_options(OPTIONS_OF["embed"], self.options))
