"""The images of `g4i fit` and `g4i label`: opened, checked, embedded, and what is known of the class of each."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset, DatasetDict

from .. import columns
from ..captioning.runner import MILLION
from ..cli import build_options
from ..data.checks import check_split, few_labels_in_words, labels_of, readable_rows
from ..data.loading import check_has_split, class_names, default_folder, load_reviewed, source_of
from ..data.record import Record, content_digest, describe_equal_images
from ..data.stage import STAGE_FILE, images_of
from ..data.texts import num_captioned
from ..embedding.embed import with_text_embeds
from ..embedding.encoders import check_encoder
from ..label_model import View
from ..label_model.views import check_shapes
from ..modeling.packaged import DEFAULT_STUDENT
from ..names import LABELS_ONLY
from ..options import OPTIONS_OF, AugmentationArguments, DataArguments, EncoderArguments, FitArguments, is_address
from ..training.features import FEATURES, images_with_features, student_features
from ..training.judged_heads import BELIEVED
from ..training.prepare import BuiltStudent, build_student, inputs_of
from ..views.encoders import image_size_for, student_named
from ..views.kinds import ANSWER, CAPTION, IMAGE, OWN_VIEWS, STUDENT_VIEW
from ..views.making import answers_of, checked_view, default_views, digests_of, other_views, views_of
from .caption import Captioning
from .fit_result import by_first


class FitImages:
    """
    `say` takes a line for the user; `in_memory` are splits in place of those of `data`, `given` views in memory.

    Attributes:
        folder: of the fit, where features and embeddings are kept.
        splits: `train`, and perhaps those that can judge; with embedded captions after `look`.
        id2label: the class names.
        views: names of those that are wanted.
        record: of what a result is made from, in the first process.
        student, augmentation, built: the network whose features are computed once, and how it sees images.
        features: (N, F) of the training images.
        text_embed_dim: D of the captions; None without any.
    """

    def __init__(
        self,
        args: FitArguments,
        data: DataArguments,
        say: Callable[[str], object],
        in_memory: DatasetDict | None = None,
        given: Mapping[str, View] | None = None,
    ):
        self.args, self.data, self.say, self.in_memory = args, data, say, in_memory
        self.folder = Path(args.output_dir or default_folder(data.dataset_name))
        self.given = dict(given or {})
        self.views = [*(args.views or ([] if given else default_views(self.folder)))]
        self.encoder = EncoderArguments(args.text_encoder)
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available())

    @property
    def names_of_views(self) -> list[str]:
        return [*self.views, *self.given]

    @property
    def training(self) -> Dataset:
        return self.splits["train"]

    # --- Before anything is computed ---------------------------------------------------------------------------------

    def open(self, names: tuple[str, ...] = ("train", *BELIEVED)) -> None:
        """
        Reads these splits and the class names. Training images without captions are described first, or have those
        that an earlier `--captioner` wrote to the folder.
        """
        with self.accelerator.main_process_first():
            splits = self.in_memory or load_reviewed(self.data, self.folder)
        if self.in_memory is None and "train" in splits:
            if self.args.captioner:
                data = ask_about(splits["train"], self.args, self.data, self.folder, self.say)
            else:
                data = answered_before(splits["train"], self.views, self.data, self.folder, self.say)
            if data is not self.data:
                self.data = data
                splits = load_reviewed(data, self.folder)
        check_has_split(splits, "train")
        self.has_test = "test" in splits
        splits, self.id2label = class_names(splits)
        self.splits = DatasetDict({name: splits[name] for name in names if name in splits})
        self.student = student_named(self.args.student, self.args.pretrained)
        if self.accelerator.is_main_process:
            self.record = self._record()

    def _record(self) -> Record:
        answers = self.training[columns.ANSWER][:] if columns.ANSWER in self.training.column_names else []
        inputs = inputs_of(self.encoder, self.student.student) | digests_of(self.views, self.training)
        inputs |= {f"the view {name}": view.digest() for name, view in self.given.items()}
        inputs["the answers"] = content_digest(json.dumps(answers).encode())
        return Record.of(self.splits, self.id2label.values(), inputs=inputs, earlier=Record.read(self.folder))

    def check(self) -> None:
        """Checks the splits, and says what is in them. With `on_bad_images: skip` unreadable images are left out."""
        splits, number = self.splits, len(self.id2label)
        self.with_names = [view for view in self.views if view not in OWN_VIEWS and checked_view(view)]
        self.with_names += [name for name, view in self.given.items() if view.class_values is not None]
        if ANSWER not in self.views:
            splits["train"] = without_column(self.training, columns.ANSWER)
        decoded = images_with_features(self.folder / FEATURES)
        for name in splits:
            check_split(splits[name], name, num_labels=number, training=False, require_labels=False)
            splits[name] = readable_rows(splits[name], name, self.args.on_bad_images, decoded)
        labels, captioned = labels_of(self.training), num_captioned(self.training)
        others = "".join(f"; {len(splits[name]):,} {name} images" for name in BELIEVED if name in splits)
        self.say(
            f"Data: {len(labels):,} training images of {number:,} classes, {(labels >= 0).sum():,} with a label, "
            f"{captioned:,} with a caption{others}."
        )
        if few := few_labels_in_words(labels, list(self.id2label.values())):
            self.say(few)
        for line in by_first(lambda: describe_equal_images(self.record.rows)):
            self.say(line)
        if number < 2:
            raise ValueError("The data has fewer than two classes: make a folder for each, or name their column.")
        if self.given:
            check_shapes(self.given, labels, number, {})
        if self.args.release == LABELS_ONLY and len(np.unique(labels[labels >= 0])) < 2:
            raise ValueError("release is labels_only, but fewer than two classes have a label.")

    def check_classes_are_known(self) -> None:
        """A ValueError where neither labels nor a view tell a class."""
        labels, answers = labels_of(self.training), answers_of(self.training, self.id2label)
        if answers is not None:
            self.say(
                f"Answers: {(answers >= 0).sum():,} of {len(labels):,} training images have one that names a class."
            )
        if num_captioned(self.training) or answers is not None or self.args.captioner or self.with_names:
            return
        if not (labels >= 0).any():
            raise ValueError(
                "No training image has a label or a caption. Label some, or write captions: --captioner MODEL or the "
                "address of a server, metadata.jsonl beside the images, or --caption_column; or add a view that has "
                "class names, such as --views image:openai/clip-vit-base-patch32 image:student."
            )
        self.say("Captions: none, so image features and labels alone classify the unlabelled images.")

    def prepare(self) -> None:
        """Chooses the size of the images, and looks whether the encoder of captions is there."""
        check_encoder(self.args.text_encoder)
        if not self.args.student:
            origin = "the Hub" if self.student.student == DEFAULT_STUDENT else "a package"
            self.say(f"Student: EfficientNet-Lite0, pretrained on ImageNet, from {origin}; another with --student.")
        size = self.args.image_size
        if not size:
            size, line = image_size_for(self.student.student, self.training)
            if line:
                self.say(line)
        self.augmentation = AugmentationArguments(image_size=size, train_crop="none")

    # --- What is known of each image ---------------------------------------------------------------------------------

    def look(self, trains: bool = True) -> None:
        """Embeds captions and computes views; the student's features only to train, or where they are a view."""
        self._embed_captions()
        self.text_embed_dim = columns.text_embed_dim_of(self.training.features.get(columns.TEXT_EMBEDS))
        self.built = self.build()
        if not self.built.model.takes_features:
            raise ValueError(
                f"The student {self.student.student} has more than one linear layer behind its feature, so its last "
                "layer cannot be fitted alone. Choose another, or train it with g4i train."
            )
        where = self.id2label, self.folder, self.accelerator
        self.others = other_views(self.views, self.training, *where, self.given)
        if trains or STUDENT_VIEW in self.views:
            self.features = self.features_of(self.training)

    def known_views(self) -> dict[str, View]:
        """By name, after `look`."""
        features = {IMAGE: self.features} if STUDENT_VIEW in self.views else {}
        encoder = None if self.is_embedded else self.encoder
        return views_of(self.training, features, self.id2label, encoder, self.accelerator.device) | self.others

    def _embed_captions(self) -> None:
        self.is_embedded = columns.TEXT_EMBEDS in self.training.column_names and self.in_memory is not None
        if CAPTION not in self.views:
            self.splits = DatasetDict(
                {name: without_column(split, columns.TEXT_EMBEDS) for name, split in self.splits.items()}
            )
        elif num_captioned(self.training):
            source, folder = "images" if self.in_memory else source_of(self.data), self.folder / "embeddings"
            training = DatasetDict(train=self.training)
            self.splits |= with_text_embeds(training, self.encoder, folder, source=source, shared=True)

    def build(self) -> BuiltStudent:
        """A new student, with the weights that it started from."""
        return build_student(self.student, self.augmentation, self.args.seed, self.id2label, self.text_embed_dim)

    def features_of(self, split: Dataset) -> np.ndarray:
        """(N, F), computed once for each image."""
        images = split.select_columns([columns.IMAGE, columns.IMAGE_ID])
        model, processor = self.built.model, self.built.processor
        return student_features(model, processor, images, self.folder / FEATURES, self.accelerator)


def without_column(split: Dataset, name: str) -> Dataset:
    return split.remove_columns(name) if name in split.column_names else split


# --- Questions to a captioner ----------------------------------------------------------------------------------------


QUESTIONS = {"describe": ("captions", "plain"), "choose": ("answers", "choose")}  # folder of the stage, and prompt
MOST_UNASKED = 1000  # requests to a server without confirmation

Say = Callable[[str], object]


def ask_about(training: Dataset, args: FitArguments, data: DataArguments, folder: Path, say: Say) -> DataArguments:
    """
    Send the open questions about training images to the captioner, or read its stored answers: a stage for each
    question. Returns the data with them; after a dry run, which only prints the questions, the data unchanged. Raises
    ValueError for many requests without confirmation.
    """
    has = {"describe": num_captioned(training) > 0, "choose": columns.ANSWER in training.column_names}
    open_questions = [question for question in args.questions if not has[question]]
    if not has["describe"] and "describe" not in open_questions:  # perhaps an earlier command has asked it
        data = _stage_in(folder, "captions", data) or data
    runs = [_asking(question, args, data, folder, say) for question in open_questions]
    if not runs:
        return data
    if args.dry_run:
        prompts = ", ".join(run.args.prompt[0] for run in runs)
        say(f"Would ask {args.captioner} about {len(training):,} training images: {prompts}.")
        if is_address(args.captioner):
            say(_ahead(runs, args)[1])
        return data
    by_first(lambda: _agree(runs, args, say))
    stage = runs[0].data
    for run in runs:
        run.data = stage
        run.run()
        PartialState().wait_for_everyone()
        stage = _of_stage(run.args.captions_dir, data)
    return stage


def answered_before(
    training: Dataset, views: Sequence[str], data: DataArguments, folder: Path, say: Say
) -> DataArguments:
    """The data with the captions and answers in the folder of the fit about these images, where it has none."""
    if columns.ANSWER in training.column_names or not {CAPTION, ANSWER} & set(views):
        return data
    answers, captions = (_stage_in(folder, name, data) for name in ("answers", "captions"))
    stage = answers or captions  # answers have the captions too
    if stage is None or (captions and num_captioned(training)):  # those would replace the data's own
        return data
    say(f"Captions and answers: those of {stage.dataset_name}.")
    return stage


def _stage_in(folder: Path, name: str, data: DataArguments) -> DataArguments | None:
    """The data with the stage of this name in the folder of the fit, if it is about the same images."""
    stage = _of_stage(str(folder / name), data)
    is_there = (folder / name / STAGE_FILE).is_file() and images_of(source_of(stage)) == images_of(source_of(data))
    return stage if is_there else None


def _of_stage(folder: str, data: DataArguments) -> DataArguments:
    return replace(data, dataset_name=folder, dataset_revision=None, captions_name=None, captions_revision=None)


def _asking(question: str, args: FitArguments, data: DataArguments, folder: Path, say: Say) -> Captioning:
    place, prompt = QUESTIONS[question]
    options = vars(data) | {"captions_dir": str(folder / place), "prompt": [prompt], "caption_splits": ["train"]}
    options |= {"captioner_model": args.captioner, "validation_fraction": None}
    if is_address(args.captioner):
        of_server = {"captioner_model": args.captioner_model, "api_key_env": args.api_key_env}
        options |= {"base_url": args.captioner} | of_server
    return Captioning(*build_options(OPTIONS_OF["caption"], options), say=say)


def _ahead(runs: list[Captioning], args: FitArguments) -> tuple[float, str]:
    """The number of questions without an answer, and a line with their cost."""
    for run in runs:
        run.captioner = runs[0].captioner  # one model for both
    ahead = {run.args.prompt[0]: run.ahead() for run in runs}
    requests, read, written = sum(ahead.values())
    cost = ""
    if args.price_input is not None and args.price_output is not None:
        cost = f", a cost of {(read * args.price_input + written * args.price_output) / MILLION:,.2f}"
    by_prompt = ", ".join(f"{prompt} {counts[0]:,.0f}" for prompt, counts in ahead.items())
    tokens = f"{read:,.0f} tokens read and {written:,.0f} written"
    where = ", ".join(runs[0].captioner.hosts) or args.captioner
    return requests, f"Questions to {where}: {requests:,.0f} ({by_prompt}), at most about {tokens}{cost}."


def _agree(runs: list[Captioning], args: FitArguments, say: Say) -> None:
    """Print the cost of the questions. Raises ValueError for many requests to a server without consent."""
    requests, line = _ahead(runs, args)
    if requests:
        say(line)
    if not is_address(args.captioner) or requests <= MOST_UNASKED or args.yes:
        return
    if not (sys.stdin.isatty() and input("Send them? [y/N] ").strip().lower() in ("y", "yes")):
        raise ValueError(
            f"{requests:,.0f} requests with images would go to {', '.join(runs[0].captioner.hosts)}. Send them with "
            "--yes, or try a few first: g4i caption --prompt plain choose --dry_run 64."
        )
