"""What `Trainer` pushes: releases in place of its run folder."""

import logging
from pathlib import Path
from typing import Protocol

from transformers import TimmWrapperConfig

from ..modeling.processing import ImageSettings, default_processor
from .optimizing_trainer import OptimizingTrainer

logger = logging.getLogger(__name__)


class Publisher(Protocol):
    """What the trainer wants of whatever pushes; publishing comes after training and is not known here."""

    def start(self) -> str: ...

    def push_checkpoint(self, checkpoint: Path, step: int, max_steps: int) -> None: ...

    def push_run(self, run: str, message: str) -> str: ...

    def wait(self) -> None: ...


class PublishingTrainer(OptimizingTrainer):
    """
    Args:
        publisher: what pushes with `push_to_hub`, a [`~g4i_hf.hub.StudentPublisher`].
        kwargs: everything that `Trainer` takes.

    Raises:
        ValueError: when `push_to_hub` is set without a publisher, or without a `processing_class` for a student whose
            configuration does not say how large its images are.
    """

    def __init__(self, *args, publisher: Publisher | None = None, **kwargs):
        self.publisher = publisher
        super().__init__(*args, **kwargs)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Called before training, so that a token that may not write is noticed then."""
        if self.publisher is None:
            raise ValueError(
                "push_to_hub is set, but a run folder is not what is pushed: give the trainer a "
                "publisher=g4i_hf.hub.StudentPublisher(args), which pushes the plain student with a card."
            )
        if self.processing_class is None:
            self.processing_class = self._processor_of_student()
        if self.is_world_process_zero():
            self.hub_model_id = self.publisher.start()

    def _processor_of_student(self):
        """Nobody can use a student without one, so it is saved with every checkpoint."""
        config = self.model.config.student_config
        processor = default_processor(config)
        if not isinstance(config, TimmWrapperConfig) and self.is_world_process_zero():
            logger.warning(
                "There is no processing_class: the students that are pushed will say that their images have %d pixels "
                "and ImageNet's normalisation. Give the trainer the image processor of its data where that is wrong.",
                ImageSettings.from_processor(processor).size,
            )
        return processor

    def push_to_hub(self, commit_message: str | None = "End of training", **kwargs) -> str | None:
        """Saves the run and pushes its release. Returns the address of the commit, on the first process."""
        if self.hub_model_id is None:
            self.init_hf_repo()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        return self.publisher.push_run(self.args.output_dir, commit_message)

    def publish_checkpoint(self, checkpoint: Path) -> None:
        """The student of a checkpoint that is whole, where pushing was asked for."""
        if self.args.push_to_hub and self.is_world_process_zero():
            self.publisher.push_checkpoint(checkpoint, self.state.global_step, self.state.max_steps)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Called while the checkpoint still lies in its temporary folder: `publish_checkpoint` comes later."""

    def _finish_current_push(self) -> None:
        if self.publisher is not None:
            self.publisher.wait()
