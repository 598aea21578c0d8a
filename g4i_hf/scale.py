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
from .cli import build_options, quiet_libraries
from .data.loading import load_reviewed, source_of
from .options import DEFAULT_TEXT_ENCODER, OPTIONS_OF
from .views.making import embed_share, embed_view
from .workflows.caption import Captioning


class AskForCaptions(PipelineStep):
    """Captions every `world_size`-th image, by options of `g4i caption`; all tasks share `captions_dir`."""

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


class EmbedShare(PipelineStep):
    """Computes the features of every `world_size`-th image into `embeddings_dir`, on a disk that all tasks see."""

    name, type = "Embed a share", "Views"

    def __init__(self, **options: Any):
        super().__init__()
        self.options = options

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator:
        quiet_libraries(rank == 0)
        view, of_data, encoder = build_options(OPTIONS_OF["embed"], self.options)
        images = load_reviewed(of_data, encoder.embeddings_dir)
        share = slice(rank, None, world_size)
        embed_share(images, view.view, encoder.embeddings_dir, share, student=view.student)
        yield from data or ()


class WriteView(EmbedShare):
    """Writes the stage from the features of all tasks, as one task; computes those of tasks that were lost."""

    name = "Write a view"

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator:
        if rank == 0:
            view, of_data, encoder = build_options(OPTIONS_OF["embed"], self.options)
            images, text_encoder = load_reviewed(of_data, encoder.embeddings_dir), encoder.text_encoder
            where = {"source": source_of(of_data), "student": view.student}
            where |= {"text_encoder": text_encoder or DEFAULT_TEXT_ENCODER}
            logger.info(f"View {view.view}: {embed_view(images, view.view, encoder.embeddings_dir, **where)}")
        yield from data or ()
