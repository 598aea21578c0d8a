"""From images, views and labels to what is known of the class of each image, for `g4i fit` and `g4i label`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict

from .. import columns, priors
from ..data.checks import check_split, labels_of, readable_rows
from ..data.classes import ClassNames
from ..data.groups import with_groups
from ..data.labels import GOLD, OF_NO_CLASS, PICKED, certain_reviews_of, reviews_of, votes_of
from ..data.loading import check_has_split, class_names, class_words, default_folder, load_reviewed, source_of
from ..data.record import Record, content_digest, describe_equal_images, order_of
from ..data.texts import num_captioned
from ..embedding.embed import with_text_embeds
from ..embedding.encoders import check_encoder
from ..label_model import LabelModel, View
from ..label_model.annotators import Annotators, judge_annotators
from ..label_model.views import ALONE, check_shapes, with_rows
from ..linear import one_hot
from ..modeling.packaged import DEFAULT_STUDENT
from ..names import LABELS_ONLY
from ..options import AugmentationArguments, DataArguments, EncoderArguments, FitArguments
from ..options.data import NO_GROUPS
from ..processes import on_main_process
from ..training.features import FEATURES, images_with_features, student_features
from ..training.prepare import BuiltStudent, build_student, inputs_of
from ..training.supervision import estimates_of
from ..views.encoders import image_size_for, student_named
from ..views.kinds import ANSWER, CAPTION, IMAGE, OWN_VIEWS, STUDENT_VIEW
from ..views.making import answers_of, checked_view, default_views, digests_of, other_views, views_of
from ..words import few_labels_in_words
from .captioner import answered_before, ask_about
from .scenes import Scenes, has_groups

VALIDATION = "validation"
JUDGING_SPLITS = (GOLD, VALIDATION)  # splits whose labels judge, the first available one
TURNS = 5  # in which unlabelled rows judge
# Rows x features x classes; 5 seconds of one core for judging in turn. Of larger data some folds are enough
MAX_FULL_CROSS_VALIDATION = 2e7


class FitImages:
    """
    `say` takes a line for the user; `in_memory` are splits in place of those of `data`, `given` views in memory.

    Attributes:
        folder: of the fit, where features and embeddings are kept.
        splits: `train`, and perhaps those that can judge; with embedded captions after `compute_views`.
        of_no_class: training images that a person took out, as they show no class.
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
        tracker = None if args.report_to == "none" else args.report_to
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available(), log_with=tracker)

    @property
    def names_of_views(self) -> list[str]:
        return [*self.views, *self.given]

    @property
    def training(self) -> Dataset:
        return self.splits["train"]

    # --- Before anything is computed ---------------------------------------------------------------------------------

    def open(self, names: tuple[str, ...] = ("train", *JUDGING_SPLITS)) -> None:
        """
        Reads these splits and the class names. Training images without captions are described first, or have those
        that an earlier `--captioner` wrote to the folder.
        """
        with self.accelerator.main_process_first():
            splits = self.in_memory or load_reviewed(self.data, self.folder, True)
        if self.in_memory is None and "train" in splits:
            if self.args.captioner:
                data = ask_about(splits["train"], self.args, self.data, self.folder, self.say)
            else:
                data = answered_before(splits["train"], self.views, self.data, self.folder, self.say)
            if data is not self.data:
                self.data = data
                splits = load_reviewed(data, self.folder, True)
        check_has_split(splits, "train")
        self.has_test = "test" in splits
        splits, self.id2label = class_names(splits)
        if self.in_memory is not None:
            splits = with_groups(splits, self.data.group_by)
        self.id2label = ClassNames(self.id2label, class_words(self.data, self.folder))
        self.splits = DatasetDict({name: splits[name] for name in names if name in splits})
        self.of_no_class = splits.get(OF_NO_CLASS, splits["train"].select([]))
        self.student = student_named(self.args.student, self.args.pretrained)
        if self.accelerator.is_main_process:
            self.record = self._record()

    def _record(self) -> Record:
        answers = self.training[columns.ANSWER][:] if columns.ANSWER in self.training.column_names else []
        inputs = inputs_of(self.encoder, self.student.student, self.id2label) | digests_of(self.views, self.training)
        inputs |= {f"the view {name}": view.digest() for name, view in self.given.items()}
        inputs["the answers"] = content_digest(json.dumps(answers).encode())
        gold = {*self.splits[GOLD][columns.IMAGE_ID]} if GOLD in self.splits else set()  # with those of no class
        rows = [row for row, name in enumerate(self.of_no_class[columns.IMAGE_ID]) if name not in gold]
        splits = self.splits | ({OF_NO_CLASS: self.of_no_class.select(rows)} if rows else {})
        return Record.of(splits, self.id2label.values(), inputs=inputs, earlier=Record.read(self.folder))

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
            before, splits[name] = splits[name], readable_rows(splits[name], name, self.args.on_bad_images, decoded)
            if name == "train" and self.given:
                is_kept = np.isin(before[columns.IMAGE_ID], splits[name][columns.IMAGE_ID])
                self.given = with_rows(self.given, is_kept, len(before))
        self.of_no_class = readable_rows(self.of_no_class, OF_NO_CLASS, self.args.on_bad_images, decoded)
        labels, captioned = labels_of(self.training), num_captioned(self.training)
        others = "".join(f"; {len(splits[name]):,} {name} images" for name in JUDGING_SPLITS if name in splits)
        self.say(
            f"Data: {len(labels):,} training images of {number:,} classes, {(labels >= 0).sum():,} with a label, "
            f"{captioned:,} with a caption{others}."
        )
        if few := few_labels_in_words(labels, list(self.id2label.values())):
            self.say(few)
        for line in on_main_process(lambda: describe_equal_images(self.record.of_splits(self.splits).rows)):
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

    def compute_views(self, trains: bool = True) -> None:
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
        if trains or STUDENT_VIEW in self.views:
            self.features = self.features_of(self.training)
        self._find_scenes()
        self.others = other_views(self.views, self.training, *where, self.given)

    def _find_scenes(self) -> None:
        """Those of all splits, by the features that there are. Images of scenes with gold ones are not trained on."""
        splits = {name: self.splits[name] for name in ("train", *JUDGING_SPLITS) if name in self.splits}
        group_by, by_pixels, features = self.data.group_by, self.in_memory is not None, {}
        if group_by != NO_GROUPS and not has_groups(splits) and hasattr(self, "features"):
            features = {name: self.features_of(split) for name, split in splits.items()}
        self.scenes = Scenes.of(splits, features, group_by, self.folder / FEATURES, self.accelerator, by_pixels)
        if self.accelerator.is_main_process:
            for line in self.scenes.lines(self.id2label):
                self.say(line)
        if GOLD in splits and len(rows := self._keep_gold(self.scenes.are_kept())):
            self.scenes = self.scenes.without("train", rows)
            self.splits["train"] = self.scenes.splits["train"]
            if hasattr(self, "features"):
                self.features = np.delete(self.features, rows, axis=0)
            number = len(rows) + len(self.training)
            self.given = with_rows(self.given, np.delete(np.arange(number), rows), number)
            self.say(f"Groups: {len(rows):,} images of scenes with gold images are kept out of training.")

    def _keep_gold(self, are_kept: np.ndarray) -> np.ndarray:
        """Training rows of scenes of gold images that are kept. The others teach, as reviewed ones."""
        gold = self.splits[GOLD]
        rows = np.flatnonzero(np.isin(self.scenes.numbers["train"], self.scenes.numbers[GOLD][are_kept]))
        if are_kept.all():
            return rows
        learned = np.flatnonzero(~are_kept & (labels_of(gold) >= 0))
        self.scenes = self.scenes.with_gold(learned, are_kept)
        del self.splits[GOLD]
        self.splits.update(self.scenes.splits)
        if self.accelerator.is_main_process:
            self.record = self.record.with_learned(GOLD, gold.select(learned)[columns.IMAGE_ID])
        for name, view in self.given.items():
            unknown = np.full((len(learned), view.values.shape[1]), np.nan, dtype=np.float32)
            self.given[name] = replace(view, values=np.concatenate([view.values, unknown]))
        if hasattr(self, "features"):
            self.features = np.concatenate([self.features, self.features_of(gold.select(learned))])
        judge = f"{are_kept.sum():,} of {len(gold):,} gold images judge" if are_kept.any() else "Training images judge"
        why = f"gold images show more than a fifth of the scenes, so {len(learned):,} are learned"
        self.say(f"Groups: {why}. {judge}, whole scenes left out.")
        return rows

    def known_views(self) -> dict[str, View]:
        """By name, after `compute_views`."""
        features = self.features if STUDENT_VIEW in self.views else None
        return self.own_views(self.training, features, None if self.is_embedded else self.encoder) | self.others

    def own_views(
        self, split: Dataset, features: np.ndarray | None, encoder: EncoderArguments | None = None
    ) -> dict[str, View]:
        """Captions, answers and features of the images of a split, without names of classes if there is no encoder."""
        of_image = {} if features is None else {IMAGE: features}
        return views_of(split, of_image, self.id2label, encoder, self.accelerator.device)

    def _embed_captions(self) -> None:
        self.is_embedded = columns.TEXT_EMBEDS in self.training.column_names and self.in_memory is not None
        if CAPTION not in self.views:
            self.splits = DatasetDict(
                {name: without_column(split, columns.TEXT_EMBEDS) for name, split in self.splits.items()}
            )
        elif num_captioned(self.training):
            source, folder = "images" if self.in_memory else source_of(self.data), self.folder / "embeddings"
            captioned = DatasetDict({name: self.splits[name] for name in ("train", GOLD) if name in self.splits})
            self.splits |= with_text_embeds(captioned, self.encoder, folder, source=source, shared=True)

    def evidence(self, has_judge: bool, trains_all_layers: bool) -> "Evidence":
        """
        What labels and views tell, after `compute_views`. Without a judge some unlabelled rows are held out, unless
        all of them can judge in turn.
        """
        labels, reviews = labels_of(self.training), reviews_of(self.training)
        certain, (annotators, votes) = certain_reviews_of(self.training), votes_of(self.training, self.id2label)
        digests, _ = order_of(self.training, by_pixels=self.in_memory is not None)
        groups, images = self.scenes.numbers["train"], self.scenes.contents["train"]
        holds_out = trains_all_layers or takes_long(len(labels) * len(self.id2label), self.features)
        holdout = rows_to_hold_out(labels, groups) if holds_out and not has_judge else np.arange(0)
        views, is_holdout = self.known_views(), np.isin(np.arange(len(labels)), holdout)
        model = LabelModel(len(self.id2label), self.args.seed).fit(
            views, labels, ids=digests, groups=groups, reviewed=certain != "", kept=is_holdout
        )
        by = {"annotators": annotators, "votes": votes, "is_certain": certain != ""}
        return Evidence(labels, views, model, groups, reviews, holdout, images, **by)

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


# --- What is known of each image -------------------------------------------------------------------------------------


@dataclass
class Evidence:
    """What is known of N training rows."""

    labels: np.ndarray  # (N,) class indices; negative without a label
    views: Mapping[str, View]  # of all rows; `model` was fitted on them and the labels
    model: LabelModel
    groups: np.ndarray  # (N,) numbers from the content of the images, the same for images of one scene
    reviews: np.ndarray | None = None  # (N,) how an image with a reviewed label was selected, "" for others
    holdout: np.ndarray | None = None  # unlabelled rows, of these classes, that judge what is learned from the others
    images: np.ndarray | None = None  # (N,) numbers, the same for equal images; None: as `groups`
    annotators: Sequence[str] = ()  # A names, where there are several
    votes: np.ndarray | None = None  # (N, A) class indices, negative without one; `labels` are the majority
    is_certain: np.ndarray | None = None  # (N,) whether a label counts as right; None: where a person reviewed it

    def __post_init__(self):
        if self.reviews is None:
            self.reviews = np.full(len(self.labels), "")
        if self.is_certain is None:
            self.is_certain = self.reviews != ""
        if self.images is None:
            self.images = self.groups
        self.holdout = np.arange(0) if self.holdout is None else self._of_these_classes(self.holdout)
        self.judged_annotators = self._judge_annotators() if self.annotators else None

    def _judge_annotators(self) -> Annotators:
        """A row with votes teaches what these and the views say of it, in place of the majority and the views."""
        assert self.votes is not None
        rows = np.flatnonzero((self.votes >= 0).any(1) & (self.reviews != GOLD))
        known = self.model.probabilities_[rows].astype(np.float64)
        known[self.model.folds_[rows] == ALONE] = 1 / self.num_labels  # which are the label itself
        judged = judge_annotators(self.votes[rows], known)
        self.model.posterior_[rows] = judged.posterior
        return judged

    def _of_these_classes(self, rows: np.ndarray) -> np.ndarray:
        """Those of groups that mostly are. A group stays whole, as its other rows would be trained on."""
        _, places, counts = np.unique(self.groups[rows], return_inverse=True, return_counts=True)
        none = np.bincount(places, self.model.none_[rows]) / counts
        return rows[none[places] < 0.5]

    @property
    def num_labels(self) -> int:
        """C."""
        return self.model.num_labels

    @property
    def student_has_learned(self) -> bool:
        """Whether the features of the student show that it was trained on these labels: then these judge no layer."""
        return self.model.report_.get(IMAGE, {}).get("knows_labels", False)

    @property
    def unreviewed(self) -> np.ndarray:
        """(N,) labels that no person has reviewed, -1 for others."""
        return np.where(self.is_certain, -1, self.labels)

    def names_classes(self, view: str) -> bool:
        """Whether it shows the mix of the classes of unlabelled rows: it has names of all, and a weight."""
        return self.model.report_[view]["weight"] > 0 and self.views[view].names_classes_of(self.labels < 0)

    @property
    def estimates(self) -> dict[str, Any]:
        """Of the label model, for `all_results.json`."""
        estimates = estimates_of(self.model)
        if (judged := self.judged_annotators) is not None:
            estimates |= {"annotators": judged.by_name(self.annotators), "annotator_agreement": judged.agreement}
        named = {name: {"class_names": self.names_classes(name)} for name in self.views}
        return estimates | {"views": {name: line | named[name] for name, line in estimates["views"].items()}}

    def pool_shares(self, classes: Sequence[str]) -> dict[str, dict[str, Any]] | None:
        """By name of the class its `share` of the unlabelled rows, with its `interval`, and of the labels."""
        if self.model.class_shares_ is None:
            return None
        of_labels = one_hot(self.labels[self.labels >= 0], self.num_labels).mean(0)
        lines = zip(classes, *self.model.class_shares_, of_labels, strict=True)
        return {
            name: {"share": float(share), "interval": interval.tolist(), "of_labels": float(given)}
            for name, share, interval, given in lines
        }

    def turns(self) -> list["Evidence"]:
        """
        Unlabelled rows of these classes judge in turn: each a fifth of them as the holdout, from which nothing was
        learned. Empty if there are too few.
        """
        rows, group_of = rows_that_can_judge(self.labels, self.groups)
        return [self._without(rows[group_of % TURNS == turn]) for turn in range(TURNS if len(rows) else 0)]

    def _without(self, rows: np.ndarray) -> "Evidence":
        kept = np.isin(np.arange(len(self.labels)), rows)
        return replace(self, model=self.model.without(self.views, kept), holdout=rows)

    def by_image(self) -> "Evidence":
        """With folds that divide groups: a row that is held out leaves other images of its scene to learn from."""
        model = LabelModel(self.num_labels, self.model.seed)
        model.fit(self.views, self.labels, ids=self.images, groups=self.images, reviewed=self.is_certain)
        return replace(self, model=model, groups=self.images, holdout=None)

    def by_fold(self, rows: np.ndarray, fold: int) -> np.ndarray:
        """
        (rows, C) probabilities by models that have not learned the labels of this fold; for others, the labels that
        count as right. Other labels are learned, so that they cannot be weighed once more.
        """
        probabilities = self.model.predict({name: view.values[rows] for name, view in self.views.items()}, fold)
        is_right = (self.labels[rows] >= 0) & (self.is_certain[rows] | (self.model.calibration_.share == 0))
        probabilities[is_right] = one_hot(self.labels[rows[is_right]], self.num_labels)
        return probabilities

    def rows_for_cross_validation(self) -> np.ndarray:
        """
        Labelled rows that can be held out, as another image has a label of their class; but none that the label
        model's predictions selected, as they are not a random sample.
        """
        rows = np.flatnonzero(self.model.folds_ >= 0)
        rows = rows[self.labels[rows] >= 0]
        _, first = np.unique(np.stack([self.labels[rows], self.groups[rows]]), axis=1, return_index=True)
        images = np.bincount(self.labels[rows[first]], minlength=self.num_labels)
        return rows[(images[self.labels[rows]] > 1) & ~np.isin(self.reviews[rows], PICKED)]


def takes_long(size: int, features: np.ndarray) -> bool:
    """Whether a last layer is not fitted again for all folds: on targets of this size, by features (N, F)."""
    return size * features.shape[1] > MAX_FULL_CROSS_VALIDATION


def rows_to_hold_out(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """A part of the unlabelled rows, whole groups, to judge both classifiers; empty if there are too few."""
    rows, group_of = rows_that_can_judge(labels, groups)
    number = group_of.max(initial=-1) + 1
    kept = np.clip(priors.HOLDOUT_SHARE * number, priors.MIN_HOLDOUT, priors.MAX_HOLDOUT)
    return rows[group_of < min(int(kept), number // 2)]


def rows_that_can_judge(labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    (n,) rows of groups without a label, and numbers of these groups from 0 on, as each judges together. Empty if there
    are fewer than `MIN_HOLDOUT` groups.
    """
    rows = np.flatnonzero((labels < 0) & ~np.isin(groups, groups[labels >= 0]))
    each, group_of = np.unique(groups[rows], return_inverse=True)
    return (rows, group_of) if len(each) >= priors.MIN_HOLDOUT else (rows[:0], group_of[:0])
