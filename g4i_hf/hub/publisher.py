"""Pushing while a student trains: the plain student of every checkpoint, and at the end the whole release."""

import logging
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData
from transformers.trainer_utils import HubStrategy

from .. import __version__
from ..extras import require
from ..options import ReleaseArguments
from ..training.arguments import AlignmentArguments
from ..training.run_folder import resolved_options
from .card import TEMPLATES
from .privacy import SECRETS, private_places
from .push import PushError, check_repository, clear_errors, create_repository, push_folder
from .release import options_of, release_with_card, releasing

logger = logging.getLogger(__name__)


class StudentPublisher:
    """
    What `AlignmentTrainer` pushes with `push_to_hub`: never its run folder, but what a release holds.

    The repository is made before training, so that a token that may not write is noticed then. A push of a checkpoint
    runs beside training; one that fails is logged, and the next one tries again. `args` are `hub_model_id`,
    `hub_token`, `hub_private_repo`, `hub_revision`, `hub_always_push` and `hub_strategy`: `every_save` or `end`, else
    a ValueError.
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
        """Makes the repository; returns its whole id. ImportError without detect-secrets; PushError as any push."""
        require("detect_secrets", "hub", SECRETS)
        api = HfApi(token=self.args.hub_token)
        check_repository(api, self.repo_id, revision=self.args.hub_revision)
        with clear_errors(self.repo_id):
            self.repo_id = create_repository(api, self.repo_id, private=self.args.hub_private_repo is not False)
        return self.repo_id

    def push_checkpoint(self, checkpoint: str | Path, step: int, max_steps: int) -> None:
        """Pushes the student of a checkpoint, unless an earlier push goes on. Raises nothing: another will come."""
        if self.args.hub_strategy == HubStrategy.END:
            return
        if self._under_way and not self._under_way.done() and not self.args.hub_always_push:
            logger.info("Step %d is not pushed: an earlier push is still under way.", step)
            return
        message, folder = f"Step {step} of {max_steps}", None
        try:
            # Written now, as the checkpoint may be gone later; only the upload is left to the thread
            folder = tempfile.TemporaryDirectory(prefix="g4i_hf-push-", ignore_cleanup_errors=True)
            student = Path(folder.name) / "student"
            with releasing(ReleaseArguments(run=str(checkpoint), student_dir=str(student), aligned=False)) as place:
                in_progress_card(step, max_steps).save(place / "README.md")
            self._under_way = self._thread.submit(self._push_student, folder, student, message)
        except Exception as error:
            logger.warning("%s was not pushed: %s", message, _said(error))
            if folder is not None:
                folder.cleanup()

    def push_run(self, run: str | Path, message: str = "End of training") -> str:
        """
        Pushes the release of a finished run, with its card; returns the address of the commit. Without a `train.yaml`,
        as in a run from Python, the options are those of the arguments. ValueError for a release that cannot be made
        or may not be published, OSError where it was not written, [`~g4i_hf.hub.push.PushError`] for whatever else
        failed.
        """
        self.wait()
        if "/" not in self.repo_id:  # not started; the card holds the whole id
            with clear_errors(self.repo_id):
                self.repo_id = HfApi(token=self.args.hub_token).get_full_repo_name(self.repo_id)
        args = ReleaseArguments(run=str(run), repo_id=self.repo_id, aligned=self.args.aligns)
        try:
            student, _ = release_with_card(args, options_of(run) or resolved_options((self.args,), run))
            return self._push(student, message)
        except (OSError, ValueError):
            raise
        except Exception as error:
            raise PushError(f"{self.repo_id}: {_said(error)}. Nothing was pushed.") from error

    def wait(self) -> None:
        """Until what is being pushed is there."""
        if self._under_way is not None:
            self._under_way.result()

    def _push_student(self, folder: tempfile.TemporaryDirectory, student: Path, message: str) -> None:
        try:
            self._push(student, message)
        except Exception as error:
            logger.warning("%s was not pushed: %s", message, _said(error))
        finally:
            folder.cleanup()

    def _push(self, student: Path, message: str) -> str:
        return push_folder(
            student,
            self.repo_id,
            private=self.args.hub_private_repo is not False,
            revision=self.args.hub_revision,
            message=message,
            token=self.args.hub_token,
            folders=private_places(self.args.output_dir),
        )


def _said(error: Exception) -> str:
    """Its message, with its kind where that is not one for people to read."""
    return str(error) if isinstance(error, (PushError, ValueError)) else f"{type(error).__name__}: {error}"


def in_progress_card(step: int, max_steps: int) -> ModelCard:
    """The card of a student that is still being trained."""
    data = ModelCardData(tags=["g4i_hf", "image-classification"], pipeline_tag="image-classification", license="other")
    return ModelCard.from_template(
        data, template_path=str(TEMPLATES / "in_progress.md.j2"), step=step, max_steps=max_steps, version=__version__
    )
