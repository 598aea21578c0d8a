"""Pushing while a student trains: the plain student of every checkpoint, and at the end the whole release."""

import logging
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData
from transformers.trainer_utils import HubStrategy

from .. import __version__
from ..training.alignment_arguments import AlignmentArguments
from .arguments import ReleaseArguments
from .push import clear_errors, create_repository, push_folder
from .release import release_student
from .student_folder import write_card

logger = logging.getLogger(__name__)
TEMPLATE = Path(__file__).parent.parent / "hub_cards" / "in_progress.md.j2"


class StudentPublisher:
    """
    What `AlignmentTrainer` pushes with `push_to_hub`: never its run folder, but what a release holds.

    The repository is made before training, so that a token that may not write is noticed then. A push of a checkpoint
    runs beside training; one that fails is logged and the next one tries again. The last one is waited for.

    Args:
        args: `hub_model_id`, `hub_token`, `hub_private_repo`, `hub_revision`, `hub_always_push`, and `hub_strategy`:
            `every_save` or `end`.

    Raises:
        ValueError: for another `hub_strategy`: the state of an optimizer is a pickle, which is not published.
    """

    def __init__(self, args: AlignmentArguments):
        if args.hub_strategy not in (HubStrategy.END, HubStrategy.EVERY_SAVE):
            raise ValueError(
                f"hub_strategy is {args.hub_strategy.value}, which would push the optimizer's state, a pickle. Use "
                "every_save, which pushes the student of every checkpoint, or end."
            )
        self.args = args
        self.repo_id = args.hub_model_id or Path(args.output_dir).resolve().name
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self._under_way: Future | None = None

    def start(self) -> str:
        """
        Makes the repository.

        Returns:
            Its id, with the namespace.
        """
        with clear_errors(self.repo_id):
            api = HfApi(token=self.args.hub_token)
            self.repo_id = create_repository(api, self.repo_id, private=self.args.hub_private_repo is not False)
        return self.repo_id

    def push_checkpoint(self, checkpoint: str | Path, step: int, max_steps: int) -> None:
        """The student of a checkpoint, unless an earlier push still goes on and `hub_always_push` is off."""
        if self.args.hub_strategy == HubStrategy.END:
            return
        if self._is_busy() and not self.args.hub_always_push:
            logger.info("Step %d is not pushed: an earlier push is still under way.", step)
            return
        # Written now, as the checkpoint may be gone later; only the upload is left to the thread
        folder = tempfile.TemporaryDirectory(prefix="g4i_hf-push-")
        student = release_student(checkpoint, Path(folder.name) / "student", aligned=False)
        in_progress_card(step, max_steps).save(student / "README.md")
        self._under_way = self._thread.submit(self._push_student, folder, student, f"Step {step} of {max_steps}")

    def push_run(self, run: str | Path, message: str = "End of training") -> str:
        """
        The release of a finished run, with its card.

        Returns:
            Address of the commit.
        """
        student = release_student(run)
        write_card(student, ReleaseArguments(run=str(run), repo_id=self.repo_id))
        self.wait()
        return self._push(student, message)

    def wait(self) -> None:
        """Until what is being pushed is there."""
        if self._under_way is not None:
            self._under_way.result()

    def _is_busy(self) -> bool:
        return self._under_way is not None and not self._under_way.done()

    def _push_student(self, folder: tempfile.TemporaryDirectory, student: Path, message: str) -> None:
        try:
            self._push(student, message)
        except (OSError, ValueError) as error:  # training is worth more than a push, and there will be another
            logger.warning("%s was not pushed: %s", message, error)
        finally:
            folder.cleanup()

    def _push(self, student: Path, message: str) -> str:
        private = self.args.hub_private_repo is not False
        return push_folder(
            student,
            self.repo_id,
            private=private,
            revision=self.args.hub_revision,
            message=message,
            token=self.args.hub_token,
        )


def in_progress_card(step: int, max_steps: int) -> ModelCard:
    """The card of a student that is still being trained."""
    data = ModelCardData(tags=["g4i_hf", "image-classification"], pipeline_tag="image-classification", license="other")
    return ModelCard.from_template(
        data, template_path=str(TEMPLATE), step=step, max_steps=max_steps, version=__version__
    )
