"""
`g4i fit`: from images with captions to a classifier, what its captions are worth, and a report.

Features of a frozen pretrained student are computed once. What captions, features and labels say together becomes
class probabilities, on which the last layer is fitted; the same layer on the given labels alone stands beside it.
Several processes share the features and the training of layers; the rest is done by the first.
"""

import contextlib
import hashlib
import json
import logging
import math
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from datasets import Dataset, DatasetDict

from .. import columns
from ..cli import build_options, say
from ..data.checks import check_split, few_labels_in_words, labels_of
from ..data.dataset import CaptionedImages
from ..data.equal_images import describe_equal_images
from ..data.images import rows_to_use
from ..data.labels import reviews_of
from ..data.loading import check_has_split, class_names, load_reviewed, source_of, standardise
from ..data.record import Record
from ..data.texts import num_captioned
from ..embedding import with_text_embeds
from ..embedding.encoders import check_encoder
from ..evaluation.evaluate import split_metrics, update_results
from ..evaluation.fit_report import Judged, suspicious_cards, suspicious_rows, write_fit_report
from ..evaluation.predict import Predictions
from ..files import portable, replace_text
from ..hub.push import check_replaceable
from ..label_model import LabelModel, View
from ..label_model.plan import Estimates, choose
from ..label_model.supervise import ANSWER, CAPTION, IMAGE
from ..modeling.packaged import DEFAULT_STUDENT
from ..modeling.processing import EvalTransform
from ..names import LABELS_ONLY, WITH_VIEWS
from ..options import (
    OPTIONS_OF,
    AugmentationArguments,
    DataArguments,
    EncoderArguments,
    FitArguments,
    ReleaseArguments,
    RunArguments,
)
from ..training.arguments import AlignmentArguments
from ..training.build import BuiltStudent, build_student, inputs_of
from ..training.features import FEATURES, student_features
from ..training.head import Head
from ..training.judged_heads import (
    BELIEVED,
    IN_TURN,
    KEPT,
    Judge,
    Known,
    judge_in_training,
    judged_heads,
    one_hot,
    rows_to_keep,
)
from ..training.lineage import lineage_of, write_lineage
from ..training.run_folder import clear_run, locked, resolved_options, write_options
from ..training.trainer import AlignmentTrainer
from .fit_all_layers import minutes_for_all_layers, train_all_layers, trainer_of_all_layers
from .fit_folder import (
    CLASSIFIER,
    CONFIG,
    FINETUNED,
    FINISHED,
    OTHER,
    REPORT,
    RESULTS,
    UNFINISHED,
    FitFolder,
    by_first,
    default_folder,
)
from .fit_questions import ask_about
from .fit_result import FitResult, in_words, judgement_in_results
from .known_views import (
    OWN_VIEWS,
    STUDENT_VIEW,
    answers_of,
    image_size_for,
    order_of,
    student_named,
    views_of,
)
from .release import Release
from .view_stages import checked_view, default_views, digests_of, other_views

logger = logging.getLogger(__name__)

PROJECTOR_EPOCHS, PROJECTOR_STEPS, PROJECTOR_BATCH, ALIGN_WEIGHT = 30, 600, 256, 0.3  # so many steps at most
MEASURES = ("calibration",)
# Options that a result does not depend on
UNRECORDED = (
    *("dataset_name", "output_dir", "labels_file", "dry_run", "overwrite", "release"),
    *("yes", "price_input", "price_output"),
)
SETTINGS = ("student", "image_size", "text_encoder", "finetune", "seed")  # that the page shows
OF_RUNS = "What g4i evaluate and g4i release read of this run. To repeat g4i fit, see the first line of ../fit.yaml."
IN_MEMORY = "runs/fit"  # output_dir of a dataset without a name


class Fit:
    """The command; `say` takes a line for the user. `images` are splits in memory, in place of those of `data`."""

    def __init__(
        self,
        args: FitArguments,
        data: DataArguments,
        say: Callable[[str], object] = say,
        images: DatasetDict | None = None,
    ):
        self.args, self.data, self.say, self.images = args, data, say, images
        self.folder = Path(args.output_dir or default_folder(data.dataset_name))
        self.views = [*(args.views or default_views(self.folder))]
        self.encoder = EncoderArguments(args.text_encoder)
        self.finetuned: list[str] = []
        self.judge: Judge | None = None  # of the first process
        self.before: FitResult | None = None  # the result that this one replaces
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available())

    def run(self) -> FitResult | None:
        """None after a dry run. A ValueError for data that cannot be trained on."""
        check_replaceable(self.folder / CLASSIFIER, "model")
        self.splits = self._opened()
        self.student = student_named(self.args.student, self.args.pretrained)
        self.place = FitFolder(self.folder, self._asked(), self.say)
        if self.accelerator.is_main_process:
            self.record = self._record()
        holds = UNFINISHED if self.args.overwrite else by_first(lambda: self.place.holds(self.record))
        if holds == FINISHED:
            self.say(f"{self.folder} holds this very result: nothing has changed since.")
            before = FitResult.read(self.folder)
            result = by_first(self._release)
            if result.released != before.released:
                words = (each.words(each.released) for each in (result, before))
                self.say("{}/ now holds the classifier {} in place of the one {}.".format(CLASSIFIER, *words))
            return self._told(result)
        self._check()
        self._check_told()
        self._prepare()
        if self.args.dry_run:
            self.say(f"Would write {self.folder}: classifier, report and both runs. Nothing was written.")
            return None
        with locked(self.folder) if self.accelerator.is_main_process else contextlib.nullcontext():
            by_first(lambda: self._begin(holds))
            result = self._fitted()
            by_first(lambda: self.place.note(self.place.result_files()))
        return self._told(result)

    def look(self) -> tuple[Dataset, dict[str, View]]:
        """The training images, and what is known of their classes, for `g4i label`."""
        self.splits = DatasetDict(train=self._opened()["train"])
        self.student = student_named(self.args.student, self.args.pretrained)
        self.record = Record.of(self.splits, self.id2label.values())
        self._check()
        self._prepare()
        training, features = self._seen()
        return training["train"], self._views(training["train"], features)

    def _prepare(self) -> None:
        check_encoder(self.args.text_encoder)
        if not self.args.student:
            origin = "the Hub" if self.student.student == DEFAULT_STUDENT else "a package"
            self.say(f"Student: EfficientNet-Lite0, pretrained on ImageNet, from {origin}; another with --student.")
        self.augmentation = AugmentationArguments(image_size=self._image_size(), train_crop="none")

    def _asked(self) -> dict[str, Any]:
        """The options that the result depends on."""
        given = vars(self.args) | vars(self.data)
        given["views"] = [view.removeprefix(f"{self.folder}/") for view in self.views]
        given |= dict.fromkeys(UNRECORDED)
        return {name: portable(value) for name, value in given.items()}

    def _record(self) -> Record:
        """What the result is made from."""
        names, inputs = list(self.id2label.values()), inputs_of(self.encoder, self.student.student)
        inputs |= digests_of(self.views, self.splits["train"])
        training = self.splits["train"]
        answers = json.dumps(training[columns.ANSWER][:] if columns.ANSWER in training.column_names else [])
        inputs["the answers"] = hashlib.blake2b(answers.encode(), digest_size=16).hexdigest()
        return Record.of(self.splits, names, inputs=inputs, earlier=Record.read(self.folder))

    def _begin(self, holds: str) -> None:
        """Makes room for the result in a folder that holds another one, or a part of this."""
        if self.args.overwrite:
            self.place.clear()
        elif holds == OTHER:
            self.before = FitResult.read(self.folder) if (self.folder / RESULTS).is_file() else None
            self.place.set_aside()
        self.place.note(result={})
        self.record.write(self.folder)

    def _fitted(self) -> FitResult:
        splits, features = self._seen()
        training = splits["train"]
        believed = self._judge(splits)
        heads, of_others = by_first(lambda: self._judged_heads(training, features, believed))
        judge = self.judge or of_others
        self.judging = (splits[judge.name] if believed else training).select(judge.rows)
        shown = np.setdiff1d(np.arange(len(training)), judge.kept)
        for name, head in heads.items():
            self._save(name, head, training.select(shown), features[shown])
        minutes = minutes_for_all_layers(self.args)
        if minutes and judge.name != IN_TURN:
            self._finetune(minutes, heads, training, judge)
        elif minutes == math.inf:
            raise ValueError(
                "All layers are kept only where they judge better, and there are no images to judge by: give labelled "
                "images in `validation`, or at least 100 unlabelled ones."
            )
        return by_first(lambda: self._finished(list(heads), judge))

    def _seen(self) -> tuple[DatasetDict, np.ndarray]:
        """The splits with embedded captions, and the features of the training images."""
        splits = self._embedded()
        training = splits["train"]
        self.text_embed_dim = columns.text_embed_dim_of(training.features.get(columns.TEXT_EMBEDS))
        self.built = self._build()
        if not self.built.model.takes_features:
            raise ValueError(
                f"The student {self.student.student} has more than one linear layer behind its feature, so its last "
                "layer cannot be fitted alone. Choose another, or train it with g4i train."
            )
        self.others = other_views(self.views, training, self.id2label, self.folder, self.accelerator)
        return splits, self._features(training)

    # --- Data and student --------------------------------------------------------------------------------------------

    def _opened(self) -> DatasetDict:
        """The splits `train` and perhaps `validation`; training images without captions are described first."""
        with self.accelerator.main_process_first():
            splits = self.images or load_reviewed(self.data, self.folder)
        if self.args.captioner and self.images is None and "train" in splits:
            data = ask_about(splits["train"], self.args, self.data, self.folder, self.say)
            if data is not self.data:
                self.data, splits = data, load_reviewed(data, self.folder)
        check_has_split(splits, "train")
        splits, self.id2label = class_names(splits)
        return DatasetDict({name: splits[name] for name in ("train", *BELIEVED) if name in splits})

    def _check(self) -> None:
        """Checks the splits, and says what is in them. With `on_bad_images: skip` unreadable images are left out."""
        splits, bad = self.splits, self.args.on_bad_images
        self.with_names = [view for view in self.views if view not in OWN_VIEWS and checked_view(view)]
        if ANSWER not in self.views:
            splits["train"] = without_column(splits["train"], columns.ANSWER)
        for name in splits:
            splits[name] = rows_to_use(splits[name], name, bad)
            check_split(splits[name], name, num_labels=len(self.id2label), training=False, require_labels=False)
        labels, captioned = labels_of(splits["train"]), num_captioned(splits["train"])
        beside = "".join(f"; {len(splits[name]):,} {name} images" for name in BELIEVED if name in splits)
        self.say(
            f"Data: {len(labels):,} training images of {len(self.id2label):,} classes, {(labels >= 0).sum():,} with a "
            f"label, {captioned:,} with a caption{beside}."
        )
        if few := few_labels_in_words(labels, list(self.id2label.values())):
            self.say(few)
        for line in by_first(lambda: describe_equal_images(self.record.rows)):
            self.say(line)
        if len(self.id2label) < 2:
            raise ValueError("The data has fewer than two classes: make a folder for each, or name their column.")
        if self.args.release == LABELS_ONLY and len(np.unique(labels[labels >= 0])) < 2:
            raise ValueError("release is labels_only, but fewer than two classes have a label.")

    def _check_told(self) -> None:
        """Whether anything tells a class, which is what a classifier learns."""
        training = self.splits["train"]
        labels, captioned = labels_of(training), num_captioned(training)
        answers = answers_of(training, self.id2label)
        if answers is not None:
            self.say(
                f"Answers: {(answers >= 0).sum():,} of {len(labels):,} training images have one that names a class."
            )
        is_told = captioned or answers is not None or self.args.captioner or self.with_names
        if not is_told and not (labels >= 0).any():
            raise ValueError(
                "No training image has a label or a caption. Label some, or write captions: --captioner MODEL or the "
                "address of a server, metadata.jsonl beside the images, or --caption_column; or add a view that has "
                "class names, such as --views image:openai/clip-vit-base-patch32 image:student."
            )
        if not is_told:
            self.say("Captions: none, so image features and labels alone say what the unlabelled images show.")

    def _embedded(self) -> DatasetDict:
        """With `text_embeds` of the training captions, where there are any."""
        training = DatasetDict(train=self.splits["train"])
        self.is_embedded = columns.TEXT_EMBEDS in training["train"].column_names and self.images is not None
        if CAPTION not in self.views:
            return DatasetDict(
                {name: without_column(split, columns.TEXT_EMBEDS) for name, split in self.splits.items()}
            )
        if not num_captioned(training["train"]):
            return self.splits
        source, folder = "images" if self.images else source_of(self.data), self.folder / "embeddings"
        return self.splits | with_text_embeds(training, self.encoder, folder, source=source, shared=True)

    def _build(self) -> BuiltStudent:
        return build_student(self.student, self.augmentation, self.args.seed, self.id2label, self.text_embed_dim)

    def _image_size(self) -> int | None:
        if self.args.image_size:
            return self.args.image_size
        size, line = image_size_for(self.student.student, self.splits["train"])
        if line:
            self.say(line)
        return size

    def _features(self, split: Dataset) -> np.ndarray:
        """(N, F), computed once for each image."""
        images = split.select_columns([columns.IMAGE, columns.IMAGE_ID])
        model, processor = self.built.model, self.built.processor
        return student_features(model, processor, images, self.folder / FEATURES, self.accelerator)

    # --- What is known of each image ---------------------------------------------------------------------------------

    def _judged_heads(
        self, training: Dataset, features: np.ndarray, judge: Judge | None
    ) -> tuple[dict[str, Head], Judge]:
        """
        The last layers, and the rows that judge them: those of `judge`, or training images. What is known of them, and
        what they say, stays in this process.
        """
        digests, order = order_of(training)
        kept = np.arange(0) if judge else rows_to_keep(labels_of(training), order)
        self.known = self._known(training, features, digests, order, kept)
        self.judge = judge or judge_in_training(self.known, features, kept)
        return judged_heads(self.known, features, self.judge), self.judge.rows_alone()

    def _known(
        self, training: Dataset, features: np.ndarray, digests: Sequence[str], order: np.ndarray, kept: np.ndarray
    ) -> Known:
        """By all views together; by image features alone where no image has a caption."""
        labels, number, views = labels_of(training), len(self.id2label), self._views(training, features)
        is_kept = np.isin(np.arange(len(labels)), kept)
        reviews = reviews_of(training)
        model = LabelModel(number, self.args.seed).fit(
            views, labels, ids=digests, groups=order, reviewed=reviews != "", kept=is_kept
        )
        estimates = Estimates.of(model, labels)
        weight = choose(estimates).unlabelled_weight
        return Known(labels, views, model, order, weight, estimates.facts(), reviews)

    def _views(self, training: Dataset, features: np.ndarray) -> dict[str, View]:
        encoder = None if self.is_embedded else self.encoder
        by_name = {IMAGE: features} if STUDENT_VIEW in self.views else {}
        return views_of(training, by_name, self.id2label, encoder, self.accelerator.device) | self.others

    def _judge(self, splits: DatasetDict) -> Judge | None:
        """The gold images, else the labelled ones of `validation`; None without any."""
        for name in [name for name in BELIEVED if name in splits]:
            labels = labels_of(splits[name])
            if len(rows := np.flatnonzero(labels >= 0)):
                truth = one_hot(labels[rows], len(self.id2label))
                return Judge(name, rows, self._features(splits[name].select(rows)), truth)
        return None

    # --- The end -----------------------------------------------------------------------------------------------------

    def _finished(self, names: list[str], judge: Judge) -> FitResult:
        """Releases the better classifier, and writes the results."""
        known = self.known
        results = judgement_in_results(judge.judgement()) | {
            "judged_on": judge.name,
            "judged_images": len(judge.rows),
            "released": None,
            "finetuned": False,
            "finetuned_runs": self.finetuned,
            "images": len(known.labels),
            "labels": int((known.labels >= 0).sum()),
            "num_labels": known.number,
            "suspicious_labels": len(suspicious_rows(known.labels, known.model.posterior_)),
        }
        replace_text(self.folder / RESULTS, json.dumps(results | known.facts, indent=2) + "\n")
        for name in names:
            of_name = {"judgement": FitResult.read(self.folder).of_card(name)}
            if judge.name in BELIEVED:
                of_images = self.judging[columns.IMAGE_ID][:], labels_of(self.judging)
                predictions = Predictions(*of_images, judge.logits[name], None)
                of_name |= split_metrics(predictions, self.judging, judge.name, MEASURES)
            update_results(self.folder / name, of_name)
        head = f"# What g4i fit chose; to repeat it: g4i fit --config {self.folder / CONFIG} --overwrite true\n"
        chosen = vars(self.data) | vars(self.args) | {"image_size": self.augmentation.image_size}
        kept = {name: portable(value) for name, value in chosen.items() if value is not None}
        replace_text(self.folder / CONFIG, head + yaml.safe_dump(kept, sort_keys=False))
        result = self._release()
        self._report(result, judge)
        return result

    def _release(self) -> FitResult:
        """Makes `classifier/` of the run that `--release` names, or the better one, unless it is there."""
        results = json.loads((self.folder / RESULTS).read_text(encoding="utf-8"))
        better = LABELS_ONLY if (results["difference"] or 0) < 0 else WITH_VIEWS
        released = better if self.args.release == "auto" else self.args.release
        if results.get("released") != released:
            finetuned = results["finetuned_runs"]
            # A card compares trainings that differ in captions alone
            alike = (self.folder / LABELS_ONLY).is_dir() and (LABELS_ONLY in finetuned) == (WITH_VIEWS in finetuned)
            baseline = str(self.folder / LABELS_ONLY) if released == WITH_VIEWS and alike else None
            run, student = str(self.folder / released), str(self.folder / CLASSIFIER)
            Release(ReleaseArguments(run=run, baseline=baseline, student_dir=student)).build()
            results |= {"released": released, "finetuned": released in finetuned}
            replace_text(self.folder / RESULTS, json.dumps(results, indent=2) + "\n")
            text = (self.folder / CONFIG).read_text(encoding="utf-8")
            replace_text(
                self.folder / CONFIG, re.sub("^release: .*$", f"release: {self.args.release}", text, flags=re.M)
            )
            self.place.note(self.place.result_files())
        return FitResult.read(self.folder)

    def _report(self, result: FitResult, judge: Judge) -> None:
        """The page, with pictures of the images that judged and of suspicious labels."""
        known, training = self.known, self.splits["train"]
        judged = Judged(self.judging, judge.logits[result.released], judge.probabilities, judge.name != KEPT)
        cards = suspicious_cards(
            training, np.where(known.reviews == "", known.labels, -1), known.model.probabilities_, self.id2label
        )
        names = {name: result.words(name) for name in judge.logits}
        of_page = f"{Path(self.data.dataset_name).name}: what g4i fit found", result.said(), vars(result), names
        chosen = yaml.safe_load((self.folder / CONFIG).read_text(encoding="utf-8"))
        settings = {name: value for name, value in chosen.items() if name in SETTINGS}
        write_fit_report(self.folder / REPORT, *of_page, judged, cards, self.id2label, settings)

    def _told(self, result: FitResult) -> FitResult:
        self.say("\n" + "\n".join(result.lines()))
        if self.before is not None:
            self.say(result.since(self.before))
        self.say(f"Classifier: {result.classifier}, the folder to ship: a plain checkpoint with a card")
        if (self.folder / REPORT).is_file():
            self.say(f"Report:     {self.folder / REPORT}")
        self.say(f"Choices:    {result.config}, to edit; its first line says how to repeat all with it")
        there = [self.data.dataset_name, *(["-o", self.args.output_dir] if self.args.output_dir else [])]
        if self.images is None and (following := result.next_command(shlex.join(there))):
            self.say(following)
        return result

    # --- What is written ---------------------------------------------------------------------------------------------

    def _save(self, name: str, head: Head, training: Dataset, features: np.ndarray) -> None:
        """A run folder with this last layer and, with captions, a projector that learns them."""
        folder, images = self.folder / name, CaptionedImages(training, EvalTransform(self.built.processor))
        images.use_features(features)
        by_first(lambda: clear_run(folder))
        batch = min(PROJECTOR_BATCH, len(training))
        args = AlignmentArguments(
            output_dir=str(folder),
            align_weight=self._align_weight(name),
            freeze_backbone=True,
            max_steps=min(PROJECTOR_STEPS, PROJECTOR_EPOCHS * -(-len(training) // batch)),
            per_device_train_batch_size=batch,
            logging_strategy="no",
            save_strategy="no",
            seed=self.args.seed,
        )
        layer = head.put_into(self.built.model)
        trainer = AlignmentTrainer(self.built.model, args, images, **self.built.trainer_options())
        layer.requires_grad_(False)  # it is fitted
        if args.aligns:
            trainer.train()
        self._save_run(trainer)

    def _align_weight(self, name: str) -> float:
        return ALIGN_WEIGHT if name == WITH_VIEWS and self.text_embed_dim is not None else 0.0

    def _save_run(self, trainer: AlignmentTrainer) -> None:
        trainer.save_run()
        if not trainer.args.should_save:
            return
        folder, run = trainer.args.output_dir, RunArguments(require_labels=False)
        options = (run, self.data, self.encoder, self.student, self.augmentation, trainer.args)
        write_options(folder, resolved_options(options, folder), OF_RUNS)
        self.record.write(folder)
        write_lineage(folder, lineage_of(self.splits, self.data if self.images is None else None, self.student))

    # --- All layers --------------------------------------------------------------------------------------------------

    def _finetune(self, minutes: float, heads: dict[str, Head], training: Dataset, judge: Judge) -> None:
        """Trains all layers of both classifiers from their heads; each is kept where that judges better."""
        trainers = {}
        with_views = by_first(lambda: self.known.targets())
        for name, head in heads.items():
            targets = with_views if name == WITH_VIEWS else one_hot(labels_of(training), len(self.id2label))
            targets[judge.kept] = 0
            folder, align_weight, built = self.folder / f"{FINETUNED}{name}", self._align_weight(name), self._build()
            head.put_into(built.model)
            rows = training, targets
            trainers[name] = trainer_of_all_layers(self.args, built, *rows, self.augmentation, folder, align_weight)
        texts = {CAPTION: self.text_embed_dim is not None, ANSWER: columns.ANSWER in training.column_names}
        words = {name: in_words(name, [view for view, there in texts.items() if there]) for name in heads}
        rest = self.judging, self.built.processor, self.accelerator, self.place, words
        better = train_all_layers(trainers, minutes, judge, *rest)
        for name in better:
            self._save_run(trainers[name])
        by_first(lambda: self._put_in_place(better))
        self.finetuned = better
        if better and len(judge.kept):
            self.say(f"A classifier with all layers trained has not learned from the {len(judge.kept):,} kept images.")

    def _put_in_place(self, better: list[str]) -> None:
        """Runs of all layers take the place of those of the last layer, or go where they are no better."""
        for folder in self.folder.glob(f"{FINETUNED}*"):
            if (name := folder.name.removeprefix(FINETUNED)) in better:
                shutil.rmtree(self.folder / name)
                folder.rename(self.folder / name)
            else:
                shutil.rmtree(folder)


def without_column(split: Dataset, name: str) -> Dataset:
    return split.remove_columns(name) if name in split.column_names else split


def fit(
    data: str | Path | Dataset | DatasetDict,
    *,
    image: str | None = None,
    label: str | None = None,
    caption: str | None = None,
    image_id: str | None = None,
    **options: Any,
) -> FitResult | None:
    """
    Trains a classifier with captions and on labels alone, as `g4i fit` does.

    Args:
        data: folder or Hub id, see [`~g4i_hf.load_images`]; or a dataset in memory, one split or several by name.
        image, label, caption, image_id: names of these columns, where they are others.
        options: others of the command, such as `output_dir`, `student` and `finetune`.

    Returns:
        Folder of the classifier and accuracies; None after a dry run.

    Raises:
        ValueError: for data that cannot be trained on.
    """
    columns_given = {"image": image, "label": label, "caption": caption, "image_id": image_id}
    named = {ours: theirs for ours, theirs in columns_given.items() if theirs}
    if isinstance(data, (str, Path)):
        given = {"dataset_name": str(data)} | {f"{ours}_column": theirs for ours, theirs in named.items()} | options
        return Fit(*build_options(OPTIONS_OF["fit"], given)).run()
    splits = data if isinstance(data, Mapping) else {"train": data}
    for split in splits.values():
        if not isinstance(split, Dataset):
            raise TypeError(
                f"data is a {type(split).__name__}; make a dataset of it, by Dataset.from_list or from_pandas."
            )
    with columns.named_in_python("Name the right one with the argument `{name}`"):
        images = DatasetDict({name: standardise(split, name, named) for name, split in splits.items()})
        class_names(images)
    given = {"dataset_name": "in memory", "output_dir": IN_MEMORY} | options
    args, of_data = build_options(OPTIONS_OF["fit"], given)
    return Fit(args, of_data, images=images).run()
