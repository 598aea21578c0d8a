"""`g4i caption`: from images to a stage of captions. Local models are imported late, as endpoints need no torch."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, DatasetDict, Value

from .. import columns
from ..captioning.answers import OK, AnswerStore, Captioner
from ..captioning.existing import existing_captions
from ..captioning.questions import Questions, digest_of_words
from ..captioning.runner import Asking, Budget, Outcome, Share
from ..captioning.shards import ShardCaptions, prompts_about_images
from ..captioning.stage import (
    NAMED,
    Captioned,
    answered_columns,
    check_places,
    check_same,
    given_columns,
    needs_another_try,
    questions_of,
    write_captions,
    write_report,
)
from ..cli import build_options
from ..data.classes import ClassWords, class_names
from ..data.loading import check_has_split, class_words, load_data, load_images, read_classes, source_of
from ..data.shards import Shards
from ..data.stage import STAGE_FILE
from ..files import check_replaceable
from ..names import require
from ..options import (
    ASKING,
    OPTIONS_OF,
    CaptionArguments,
    DataArguments,
    EndpointArguments,
    ExistingCaptionsArguments,
    LocalCaptionerArguments,
    ShardOptions,
)
from ..options.caller import called_from_python
from .dry_run import PAGE, dry_run

PIXELS_A_TOKEN, LETTERS_A_TOKEN = 28 * 28, 4  # roughly; the former as Qwen2.5-VL (arXiv 2502.13923) reads an image


class Captioning:
    """Captions every image of a dataset, or imports existing captions. `say` gets messages, in the first process."""

    def __init__(
        self,
        args: CaptionArguments,
        data: DataArguments,
        local: LocalCaptionerArguments,
        endpoint: EndpointArguments,
        existing: ExistingCaptionsArguments,
        *,
        say: Callable[[str], object],
    ):
        self.args, self.data, self.local, self.endpoint = args, data, local, endpoint
        self.existing = existing
        self.kind = args.kind(endpoint.base_url, existing.captions_file, data.caption_column)
        self.asks = self.kind in ASKING
        if args.prompt and not self.asks:
            raise ValueError(
                f"prompt asks a model, but these captions exist ({self.kind}): name a model with --captioner_model, "
                "or leave --prompt out."
            )
        if self.kind == "endpoint":  # before the data is read
            require("openai", "server", "Captioning by a server")
        # A dry run asks a few questions itself
        self.by_files = bool(endpoint.export_requests or endpoint.import_answers) and not args.dry_run
        if self.by_files and self.kind != "endpoint":
            raise ValueError("export_requests and import_answers take the options of a server: give its --base_url.")
        self.share = Share.from_environment()
        self.say = say
        self.outcome: Outcome | None = None  # of asking a captioner

    def run(self) -> bool:
        """Whether a stage was written: not in a dry run, after a limit, or in other processes than the first."""
        check_places(self.args.captions_dir, self.args.journal, self.data.dataset_name)
        splits = self._splits()
        captioned = self._asked(splits) if self.asks else self._given(splits)
        if captioned is not None:
            self._finish(captioned, splits)
        return captioned is not None

    def _splits(self) -> DatasetDict:
        """The splits, with class names if the labels have any."""
        args = self.args
        check_replaceable(args.captions_dir, "stage", STAGE_FILE)
        if args.dry_run and not self.asks:
            raise ValueError("dry_run is for captions that are made now; these exist already.")
        splits = load_data(self.data)
        for name in args.caption_splits or []:
            check_has_split(splits, name, "caption_splits")
        if self.asks and not args.caption_splits:  # others need none, and each costs time or money
            args.caption_splits = [name for name in splits if name in (args.train_splits or ["train"])] or None
        labels = [split.features[columns.LABEL] for split in splits.values() if columns.LABEL in split.features]
        # Numbers and lists are no names for prompts and captions
        named = [isinstance(label, ClassLabel) or label == Value("string") for label in labels]
        return class_names(splits)[0] if named and all(named) else splits

    @cached_property
    def words(self) -> dict[str, ClassWords]:
        return class_words(self.data)

    # --- Captions that are made now ----------------------------------------------------------------------------------

    @cached_property
    def captioner(self) -> Captioner:
        args = self.args
        if not args.captioner_model:
            raise ValueError("captioner_model is missing: give its Hub id or folder, or a server's name for it.")
        model, revision = args.captioner_model, args.captioner_revision
        if self.kind == "endpoint":
            from ..captioning.batch import AnswerFiles, RequestFiles
            from ..captioning.endpoint import EndpointCaptioner

            server = (model, self.endpoint.base_url, args)
            if self.by_files:
                if self.share.processes > 1:
                    raise ValueError("export_requests and import_answers are for one process. Start one.")
                if args.max_cost is not None:
                    raise ValueError("The cost of exported requests is unknown: limit them by --max_requests.")
                kind = RequestFiles if self.endpoint.export_requests else AnswerFiles
                return kind(*server, revision=revision, endpoint=self.endpoint)
            return EndpointCaptioner(*server, revision=revision, endpoint=self.endpoint)
        from ..captioning.local import LocalCaptioner

        return LocalCaptioner(model, args, revision=revision, local=self.local, device=_device(self.share))

    def _asked(self, splits: DatasetDict) -> Captioned | None:
        """The answers of a captioner; None if a limit ended the run, or in other processes than the first."""
        args, captioner = self.args, self.captioner
        questions = questions_of(splits, args, captioner, self.words)
        first = next(iter(questions.values()))
        if not (args.overwrite or args.dry_run):
            check_same(args.captions_dir, captioner.provenance, first.prompts.templates, questions)
        if args.dry_run:
            if self.share.is_first:
                self._try(captioner, questions)
            return None
        reason = self._ask(captioner, questions)
        if self.share.processes > 1:
            reason = self._reason_of_any(reason)
        if not self.share.is_first:
            return None
        if reason and not args.partial:
            if not captioner.why_open:
                self.say(
                    f"The answers are kept in {args.journal}: the same command asks for as many more, and "
                    "--max_requests 0 --partial writes what there is."
                )
            return None
        with AnswerStore(args.journal) as store:  # now with the answers of all processes
            tables = {
                name: answered_columns(each, store, look_closer=reason is None) for name, each in questions.items()
            }
        digest = digest_of_words(self.words) if any(first.prompts.asks_class) else None
        return Captioned(tables, captioner.provenance, first.prompts.templates, digest)

    def over_shards(self, given: ShardOptions) -> None:
        """Captions the images of shards in place of those of the data."""
        args = self.args
        if not self.asks:
            raise ValueError("captioner_model is missing: shards are captioned by a model.")
        classes = read_classes(self.data) if self.data.class_names_file or self.data.classes else None
        words = {} if classes is None else classes.words()
        names = [] if classes is None else classes.present(classes.entries)
        prompts = prompts_about_images(args.prompt or ["plain"], names, words)
        shards = Shards(given, self.data.image_column)
        work = ShardCaptions(self.captioner, prompts, self._budget())
        made_of = {"captioner": self.captioner.provenance, "prompts": prompts.templates}
        made_of |= {"class names": prompts.class_names, "words": digest_of_words(words)}
        shards.run(made_of, work.table, self.say, args.overwrite)

    def ahead(self) -> np.ndarray:
        """(3,) requests still to be sent; at most so many tokens, about, that they read, and that they write."""
        total, image = np.zeros(3), self.args.image_max_side**2 / PIXELS_A_TOKEN
        questions = questions_of(self._splits(), self.args, self.captioner, self.words).values()
        unasked = not Path(self.args.journal).exists()  # a dry run writes no journal
        with nullcontext() if unasked else AnswerStore(self.args.journal) as store:
            for each in questions:
                for row, answers in each.answers(store):
                    for prompt, choices, answer in zip(row.prompts, each.prompts.choices, answers, strict=True):
                        tokens = image + len(prompt) / LETTERS_A_TOKEN, self.args.tokens_for(choices)
                        total += np.array([1, *tokens]) * (answer is None)
        return total

    def _ask(self, captioner: Captioner, questions: dict[str, Questions]) -> str | None:
        """Asks about the rows of this process. Returns why it stopped early, or None."""
        args, share, budget, imported = self.args, self.share, self._budget(), {}
        if self.by_files and self.endpoint.import_answers:
            from ..captioning.batch import answers_in_files

            imported = answers_in_files(self.endpoint.import_answers)  # a mistake there leaves no journal
        with AnswerStore(args.journal, share.rank) as store:
            if imported:
                store.put_by_key(imported.items())
                self.say(f"{len(imported):,} answers were read.")
            ask_again = needs_another_try if args.retry_failed else None
            asking = Asking(captioner, questions.values(), store, share=share, budget=budget, ask_again=ask_again)
            self.outcome = asking.run()
        reason = captioner.why_open or budget.reason
        if share.is_first:
            self.say("\n".join(filter(None, [self.outcome.as_text(), reason])))
        return reason

    def _budget(self) -> Budget:
        """Of this process."""
        args, share = self.args, self.share
        requests = None if args.max_requests is None else share.part_of(args.max_requests)
        cost = None if args.max_cost is None else args.max_cost / share.processes
        return Budget(requests, cost, args.price_input, args.price_output)

    def _reason_of_any(self, reason: str | None) -> str | None:
        """Why some process stopped early; None when all have asked everything. Waits for all."""
        from accelerate import PartialState
        from accelerate.utils import gather_object

        PartialState(cpu=_device(self.share) == "cpu", timeout=timedelta(days=30))
        return next(filter(None, gather_object([reason])), None)

    def _try(self, captioner: Captioner, questions: dict) -> None:
        """A dry run: a few captions, and the projected time and cost of all."""
        if captioner.hosts:
            hosts = ", ".join(captioner.hosts)
            self.say(f"Images are sent to {hosts}, at most {self.args.image_max_side} px, without metadata.")
        with AnswerStore(self.args.journal) as store:
            folder, text = dry_run(captioner, questions, store, self.args, self.share.processes)
        self.say(text)
        self.say(f"Look at {folder / PAGE}. Nothing else was written; the answers are kept.")

    # --- Captions that exist -----------------------------------------------------------------------------------------

    def _given(self, splits: DatasetDict) -> Captioned | None:
        if not self.share.is_first:
            return None
        args, existing = self.args, self.existing
        chosen = DatasetDict({name: splits[name] for name in splits if name in (args.caption_splits or splits)})
        captions_of = existing_captions(chosen, existing)
        origin = {"captioner": self.kind}
        if existing.captions_file:
            origin["file"] = Path(existing.captions_file).name
        if not args.overwrite:
            check_same(args.captions_dir, origin, [], chosen)
        tables = {name: given_columns(splits[name], captions) for name, captions in captions_of.items()}
        return Captioned(tables, origin)

    # --- The stage ---------------------------------------------------------------------------------------------------

    def _finish(self, captioned: Captioned, splits: DatasetDict) -> None:
        """Writes the stage, its report and its card."""
        from ..hub.card import captions_card

        args = self.args
        try:
            stage = write_captions(captioned, args.captions_dir, source=source_of(self.data), images=splits)
        except OSError as error:
            kept = f" The answers are kept in {args.journal}." if self.asks else ""
            why = f"{args.captions_dir} cannot be written: {error.strerror or error}."
            raise OSError(f"{why}{kept} Make room, and start the same command again.") from error
        card = captions_card(stage, date=datetime.now(UTC).date().isoformat())
        card.save(Path(args.captions_dir) / "README.md")
        if captioned.describes:
            about = [f"{name}: {value}" for name, value in stage["captioner"].items() if value is not None]
            about += [f"prompt: {prompt}" for prompt in stage["prompts"]]
            self.say(f"report: {write_report(args.captions_dir, captioned, splits, about)}")
        statuses = captioned.status_counts()
        count = sum(sum(statuses.get(status, {}).values()) for status in (OK, NAMED))
        speed = f", {self.outcome.per_second:.1f} requests per second" if self.asks and not self.by_files else ""
        self.say("\n".join([*captioned.lines(), f"They are in {args.captions_dir}", f"captioned {count}{speed}"]))


def _device(share: Share) -> str:
    """Device of a model in this process: processes take the accelerators in turn, or as the launcher says."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return "cpu"
    return f"{accelerator.type}:{int(os.environ.get('LOCAL_RANK', share.rank)) % torch.accelerator.device_count()}"


@called_from_python()
def caption_images(dataset_name: str | Path, captions_dir: str | Path, **options: Any) -> DatasetDict:
    """
    Captions every image, as `g4i caption` does, and opens the result. Answers are saved as they arrive: after an
    interruption the same call resumes.

    Args:
        dataset_name: folder or Hub id of the images.
        captions_dir: folder for the captions.
        options: others of the command, such as `captioner_model`, `base_url`, `prompt` and `max_cost`.

    Returns:
        The splits with `image`, `image_id`, and `caption` or, by `prompt=["choose"]`, `answer`.

    Raises:
        ValueError: when no captions were written, as after `dry_run` or at a limit; says why.
    """
    given = {"dataset_name": str(dataset_name), "captions_dir": str(captions_dir)} | options
    messages: list[str] = []
    if not Captioning(*build_options(OPTIONS_OF["caption"], given), say=messages.append).run():
        raise ValueError("\n".join(messages))
    return load_images(str(captions_dir))
