"""
`g4i fit`: from images with captions to a classifier, the gain from its captions, and a report.

Features of a frozen pretrained student are computed once. What captions, features and labels say together becomes
class probabilities, on which the last layer is fitted; the same layer on the given labels alone stands beside it.
Several processes share the features and the training of layers; the rest is done by the first.
"""

import contextlib
import json
import logging
import math
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import Dataset, DatasetDict

from .. import columns
from ..cli import build_options, say
from ..data.checks import labels_in_words, labels_of
from ..data.dataset import CaptionedImages
from ..data.labels import GOLD, reviews_of
from ..data.loading import class_names, standardise
from ..data.record import Record, order_of
from ..evaluation.metrics import read_results, split_metrics, update_results
from ..evaluation.predict import Predictions
from ..evaluation.report import suspicious_cards, suspicious_rows, write_fit_report
from ..files import check_replaceable, portable, replace_text
from ..hub.push import OF_STUDENT
from ..hub.release import baseline_of_fit, release_with_card
from ..label_model import LabelModel, View
from ..label_model.plan import doubtful_labels
from ..modeling.processing import EvalTransform
from ..names import CLASSIFIER, IN_MEMORY, RESULTS_FILE, WITH_VIEWS, digests_of_fit, note_files_of_fit
from ..options import (
    OPTIONS_OF,
    DataArguments,
    FitArguments,
    ReleaseArguments,
    RunArguments,
    about_of,
    marked,
    names_of,
)
from ..options.caller import called_from_python
from ..training.arguments import AlignmentArguments
from ..training.head import Head
from ..training.judged_heads import (
    BELIEVED,
    IN_TURN,
    Judge,
    Known,
    judge_in_training,
    judged_heads,
    one_hot,
    rows_to_keep,
)
from ..training.run_folder import clear_run, lineage_of, locked, resolved_options, write_lineage, write_options
from ..training.trainer import AlignmentTrainer
from ..views.kinds import CAPTION, taught_by
from ..views.making import named_views
from .fit_all_layers import minutes_for_all_layers, train_all_layers, trainer_of_all_layers
from .fit_images import FitImages
from .fit_result import (
    ALTERED,
    CONFIG,
    FINETUNED,
    FINISHED,
    OTHER,
    REPORT,
    UNFINISHED,
    FitFolder,
    FitResult,
    by_first,
    in_words,
    judgement_in_results,
    options_of_label,
    ships,
)

logger = logging.getLogger(__name__)

PROJECTOR_EPOCHS, PROJECTOR_STEPS, PROJECTOR_BATCH, ALIGN_WEIGHT = 30, 600, 256, 0.3  # so many steps at most
OF_RUNS = "What g4i evaluate and g4i release read of this run. To repeat g4i fit, see the first line of ../fit.yaml."
FOLDER = "runs/fit"  # output_dir of a dataset without a name
ONE_AT_A_TIME = threading.Lock()  # accelerate has one state a process


class Fit:
    """The command; `say` takes a line for the user. `images` are splits in memory, in place of those of `data`."""

    def __init__(
        self,
        args: FitArguments,
        data: DataArguments,
        say: Callable[[str], object] = say,
        images: DatasetDict | None = None,
        views: Mapping[str, View] | None = None,
    ):
        self.args, self.say, self.images = args, say, FitImages(args, data, say, images, views)
        self.data = data  # as given; `images.data` may be its captions
        self.name = data.dataset_name
        self.folder, self.accelerator = self.images.folder, self.images.accelerator
        self.finetuned: list[str] = []
        self.judge: Judge | None = None  # of the first process
        self.before: FitResult | None = None  # the result that this one replaces

    def run(self) -> FitResult | None:
        """None after a dry run. A ValueError for data that cannot be trained on."""
        images = self.images
        check_replaceable(self.folder / CLASSIFIER, *OF_STUDENT)
        images.open()
        self.place = FitFolder(self.folder, self._recorded_options(), self.say)
        holds = UNFINISHED if self.args.overwrite else by_first(lambda: self.place.holds(images.record))
        if holds in (FINISHED, ALTERED):
            return self._say_result(self._same_again(holds == ALTERED))
        images.check()
        images.check_classes_are_known()
        images.prepare()
        if self.args.dry_run:
            self.say(f"Would write {self.folder}: classifier, report and both runs. Nothing was written.")
            return None
        with locked(self.folder) if self.accelerator.is_main_process else contextlib.nullcontext():
            by_first(lambda: self._begin(holds))
            result = self._fitted()
            by_first(lambda: self.place.note(result=digests_of_fit(self.folder), chosen=self._chosen()))
        return self._say_result(result)

    def _same_again(self, is_altered: bool) -> FitResult:
        """The finished result, with `classifier/` by the present `--release`; made again where it `is_altered`."""
        before = FitResult.read(self.folder)
        if not is_altered:
            self.say(f"{self.folder} holds this very result: nothing has changed since.")
        if self.args.dry_run:
            return before
        result = by_first(lambda: self._release(is_altered))
        if before.released not in (None, result.released):
            words = (each.words(each.released) for each in (result, before))
            self.say("{}/ now holds the classifier {} in place of the one {}.".format(CLASSIFIER, *words))
        return result

    def _recorded_options(self) -> dict[str, Any]:
        """The options that the result depends on, beside the data, which are compared by content."""
        given, of = vars(self.args) | vars(self.images.data), about_of(OPTIONS_OF["fit"])
        given["views"] = [view.removeprefix(f"{self.folder}/") for view in self.images.names_of_views]
        return {name: portable(given[name]) for name in of if of[name] in ("training", "captions")}

    def _begin(self, holds: str) -> None:
        """Makes room for the result in a folder that holds another one, or a part of this."""
        if self.args.overwrite:
            self.place.clear()
        elif holds == OTHER:
            of = Record.read(self.folder)
            has_same_classes = of is not None and of.class_names == self.images.record.class_names
            if has_same_classes and (self.folder / RESULTS_FILE).is_file():
                self.before = FitResult.read(self.folder)
            self.place.set_aside()
        self.place.note(result={})
        self.images.record.write(self.folder)

    def _fitted(self) -> FitResult:
        images = self.images
        images.look()
        believed = self._judge()
        heads, of_others = by_first(lambda: self._judged_heads(believed))
        judge = self.judge or of_others
        self.align_weight = by_first(self._align_weight)
        self.judging = (images.splits[judge.name] if believed else images.training).select(judge.rows)
        shown = np.setdiff1d(np.arange(len(images.training)), judge.kept)
        for name, head in heads.items():
            self._save(name, head, images.training.select(shown), images.features[shown])
        minutes = minutes_for_all_layers(self.args)
        if minutes and judge.name != IN_TURN and judge.is_checked:
            self._finetune(minutes, judge)
        elif minutes == math.inf:
            raise ValueError(
                "All layers are kept only where they judge better, and nothing can judge them: give labelled images "
                "in `validation`; or at least 100 unlabelled ones, and captions or two labels of some classes."
            )
        return by_first(lambda: self._finished(list(heads), judge))

    # --- What is known of each image ---------------------------------------------------------------------------------

    def _judge(self) -> Judge | None:
        """The gold images, else the labelled ones of `validation`; None without any."""
        images = self.images
        for name in [name for name in BELIEVED if name in images.splits]:
            labels = labels_of(images.splits[name])
            if len(rows := np.flatnonzero(labels >= 0)):
                truth = one_hot(labels[rows], len(images.id2label))
                return Judge(name, rows, images.features_of(images.splits[name].select(rows)), truth)
        return None

    def _judged_heads(self, judge: Judge | None) -> tuple[dict[str, Head], Judge]:
        """The last layers and their judge, `judge` or some training images; all processes get its rows alone."""
        features, labels = self.images.features, labels_of(self.images.training)
        digests, order = order_of(self.images.training, by_pixels=self.images.in_memory is not None)
        kept = np.arange(0) if judge else rows_to_keep(labels, order)
        self.known = self._known(labels, digests, order, np.isin(np.arange(len(labels)), kept))
        self.judge = judge or judge_in_training(self.known, features, kept)
        return judged_heads(self.known, features, self.judge), self.judge.rows_alone()

    def _known(self, labels: np.ndarray, digests: Sequence[str], order: np.ndarray, is_kept: np.ndarray) -> Known:
        """By all views together; by image features alone where no image has a caption."""
        views, reviews = self.images.known_views(), reviews_of(self.images.training)
        model = LabelModel(len(self.images.id2label), self.args.seed).fit(
            views, labels, ids=digests, groups=order, reviewed=reviews != "", kept=is_kept
        )
        return Known.of(model, views, labels, order, reviews)

    # --- The end -----------------------------------------------------------------------------------------------------

    def _finished(self, names: list[str], judge: Judge) -> FitResult:
        known, images = self.known, self.images
        suspicious = len(suspicious_rows(known.labels, known.model.posterior_))
        results = judgement_in_results(judge.judgement()) | {
            "judged_on": judge.name,
            "judged_images": len(judge.rows),
            "gold_of_no_class": len(images.splits[GOLD]) - len(judge.rows) if judge.name == GOLD else 0,
            "unjudged_classes": self._unjudged_classes(judge),
            "released": None,
            "finetuned": False,
            "finetuned_runs": self.finetuned,
            "images": len(known.labels),
            "labels": int((known.labels >= 0).sum()),
            "num_labels": known.number,
            "suspicious_labels": suspicious,
            "doubtful_labels": max(doubtful_labels(known.model, known.views, known.unreviewed) - suspicious, 0),
        }
        replace_text(self.folder / RESULTS_FILE, json.dumps(results | known.facts, indent=2) + "\n")
        result = FitResult.read(self.folder)
        of_labels = labels_in_words(result.images, result.labels)
        for name in names:
            of_name: dict[str, Any] = {"judgement": result.of_card(name), "labels_said": of_labels}
            of_name |= {"taught_by": taught_by(known.facts["views"])} if name == WITH_VIEWS else {}
            if judge.name in BELIEVED:
                of_images = self.judging[columns.IMAGE_ID][:], labels_of(self.judging)
                predictions = Predictions(*of_images, judge.logits[name], None)
                of_name |= split_metrics(predictions, self.judging, judge.name)
            update_results(self.folder / name, of_name)
        again = f"g4i fit --config {self.folder / CONFIG} --overwrite true"
        again = again if self.images.in_memory is None else "call fit with the same dataset and overwrite=True"
        head = f"# What g4i fit chose; to repeat it: {again}\n"
        replace_text(self.folder / CONFIG, head + yaml.safe_dump(self._chosen(), sort_keys=False))
        result = self._release()
        self._report(result, judge)
        return result

    def _unjudged_classes(self, judge: Judge) -> list[str]:
        judged = {*labels_of(self.judging)} if judge.name in BELIEVED else {*self.images.id2label}
        return [name for label, name in self.images.id2label.items() if label not in judged]

    def _chosen(self) -> dict[str, Any]:
        """The options, as they were resolved."""
        chosen = vars(self.images.data) | vars(self.args) | {"image_size": self.images.augmentation.image_size}
        chosen |= {"views": self.images.names_of_views} if self.images.given else {}  # else the same again lacks them
        return {name: portable(value) for name, value in chosen.items() if value is not None}

    def _release(self, is_altered: bool = False) -> FitResult:
        """Makes `classifier/` by `--release` or the verdict, unless it is there; an altered one is kept aside."""
        results = read_results(self.folder)
        released = ships(results["verdict"]) if self.args.release == "auto" else self.args.release
        if is_altered or results.get("released") != released:
            with locked(self.folder):
                if is_altered:
                    self.place.set_classifier_aside()
                self._make_classifier(results, released)
        return FitResult.read(self.folder)

    def _make_classifier(self, results: dict[str, Any], released: str) -> None:
        """Until it is in its place, with its digests, `released` is null."""
        finetuned, run, student = results["finetuned_runs"], str(self.folder / released), str(self.folder / CLASSIFIER)
        baseline = baseline_of_fit(self.folder, released, finetuned)
        file, config = self.folder / RESULTS_FILE, self.folder / CONFIG
        replace_text(file, json.dumps(results | {"released": None}, indent=2) + "\n")
        release_with_card(ReleaseArguments(run=run, baseline=baseline, output_dir=student))
        note_files_of_fit(self.folder)
        text = config.read_text(encoding="utf-8")
        replace_text(config, re.sub("^release: .*$", f"release: {self.args.release}", text, flags=re.M))
        results |= {"released": released, "finetuned": released in finetuned}
        replace_text(file, json.dumps(results, indent=2) + "\n")

    def _report(self, result: FitResult, judge: Judge) -> None:
        """The page, with the images that judged and those with suspicious labels."""
        known, images = self.known, self.images
        cards = suspicious_cards(images.training, known.unreviewed, known.model.probabilities_, images.id2label)
        names = {name: result.words(name) for name in judge.logits}
        title = f"{Path(self.name).name}: what g4i fit found"
        chosen = yaml.safe_load((self.folder / CONFIG).read_text(encoding="utf-8"))
        in_card = marked("in_card", "fit")
        settings = {name: value for name, value in chosen.items() if name in in_card}
        shown = vars(result), names, judge, self.judging, cards, images.id2label, settings
        write_fit_report(self.folder / REPORT, title, result.judgement_lines(), *shown)

    def _say_result(self, result: FitResult) -> FitResult:
        self.say("\n" + "\n".join(result.lines()))
        if self.before is not None and self.before.with_views_accuracy is not None:
            self.say(result.since(self.before))
        self.say(f"Classifier: {result.classifier}, the folder to ship: a plain checkpoint with a card")
        if (self.folder / REPORT).is_file():
            self.say(f"Report:     {self.folder / REPORT}")
        self.say(f"Choices:    {result.config}, to edit; its first line says how to repeat all with it")
        is_on_disk = self.images.in_memory is None
        of_label = options_of_label(self.args, self.data) if is_on_disk else None
        self.say(result.next_command(of_label, is_on_disk and self.images.has_test))
        return result

    # --- What is written ---------------------------------------------------------------------------------------------

    def _save(self, name: str, head: Head, training: Dataset, features: np.ndarray) -> None:
        """A run folder with this last layer and, with captions, a projector that learns them."""
        folder, built = self.folder / name, self.images.built
        images = CaptionedImages(training, EvalTransform(built.processor))
        images.use_features(features)
        by_first(lambda: clear_run(folder))
        batch = min(PROJECTOR_BATCH, len(training))
        args = AlignmentArguments(
            output_dir=str(folder),
            align_weight=self.align_weight if name == WITH_VIEWS else 0.0,
            freeze_backbone=True,
            max_steps=min(PROJECTOR_STEPS, PROJECTOR_EPOCHS * -(-len(training) // batch)),
            per_device_train_batch_size=batch,
            logging_strategy="no",
            save_strategy="no",
            seed=self.args.seed,
        )
        layer = head.put_into(built.model)
        trainer = AlignmentTrainer(built.model, args, images, **built.trainer_options())
        layer.requires_grad_(False)  # it is fitted
        if args.aligns:
            trainer.train()
        self._save_run(trainer)

    def _align_weight(self) -> float:
        """Of the classifier with views."""
        left_out = self.known.facts["views"].get(CAPTION, {}).get("left_out", False)
        return 0.0 if self.images.text_embed_dim is None or left_out else ALIGN_WEIGHT

    def _save_run(self, trainer: AlignmentTrainer) -> None:
        trainer.save_run()
        if not trainer.args.should_save:
            return
        folder, run, images = trainer.args.output_dir, RunArguments(unlabelled="keep"), self.images
        options = (run, images.data, images.encoder, images.student, images.augmentation, trainer.args)
        write_options(folder, resolved_options(options, folder), OF_RUNS)
        self.images.record.write(folder)
        write_lineage(folder, lineage_of(images.splits, None if images.in_memory else images.data, images.student))

    # --- All layers --------------------------------------------------------------------------------------------------

    def _finetune(self, minutes: float, judge: Judge) -> None:
        """Trains all layers of both classifiers from the judged heads; each is kept where that judges better."""
        images, training, trainers = self.images, self.images.training, {}
        with_views = by_first(lambda: self.known.targets())
        for name, head in judge.heads.items():
            targets = with_views if name == WITH_VIEWS else one_hot(labels_of(training), len(images.id2label))
            targets[judge.kept] = 0
            folder, built = self.folder / f"{FINETUNED}{name}", images.build()
            align_weight = self.align_weight if name == WITH_VIEWS else 0.0
            head.put_into(built.model)
            rows = training, targets
            trainers[name] = trainer_of_all_layers(self.args, built, *rows, images.augmentation, folder, align_weight)
        words = by_first(lambda: {name: in_words(name, self.known.facts["views"]) for name in judge.heads})
        rest = self.judging, images.built.processor, self.accelerator, self.place, words
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


def fit(
    data: str | Path | Dataset | DatasetDict,
    *,
    views: Sequence[str | Path | View] | None = None,
    image: str | None = None,
    label: str | None = None,
    caption: str | None = None,
    image_id: str | None = None,
    **options: Any,
) -> FitResult | None:
    """
    Trains a classifier with captions and on labels alone, as `g4i fit` does. Of several threads, one fits at a time,
    and the others wait.

    Args:
        data: folder or Hub id, see [`~g4i_hf.load_images`]; or a dataset in memory, one split or several by name.
        views: names as in `g4i fit --views`, folders of `g4i embed`, and `View(values)` with a row for each training
            image. None: captions, answers, features of the student, and views in `output_dir`.
        image, label, caption, image_id: names of these columns, if they differ.
        options: others of the command, such as `output_dir`, `student` and `finetune`. A dataset in memory takes none
            about files or captioners.

    Returns:
        Its fields are `classifier`, the folder to ship, `released`, which of both classifiers it holds, `verdict`, and
        `labels_only_accuracy`, `with_views_accuracy` and `difference`, each with an `..._interval`; `judged_on` and
        `judged_images`; `views`, `suspicious_labels`, `doubtful_labels` and `label_noise_estimate`. `lines()` has them
        in words. None after a dry run.

    Raises:
        ValueError: for data that cannot be trained on.
    """
    names, given_views = named_views(views or [])
    options |= {"views": names} if names else {}
    columns_given = {"image": image, "label": label, "caption": caption, "image_id": image_id}
    named = {ours: theirs for ours, theirs in columns_given.items() if theirs}
    with ONE_AT_A_TIME, called_from_python(named, "{}='...'"):
        if isinstance(data, (str, Path)):
            of_columns = {f"{ours}_column": theirs for ours, theirs in named.items()}
            args, of_data = build_options(OPTIONS_OF["fit"], {"dataset_name": str(data)} | of_columns | options)
            return Fit(args, of_data, views=given_views).run()
        return _fit_in_memory(data, named, given_views, options)


def _fit_in_memory(
    data: Any, named: dict[str, str], views: Mapping[str, View], options: dict[str, Any]
) -> FitResult | None:
    if of_files := sorted({"captioner", *names_of(DataArguments)} & set(options)):
        raise TypeError(
            f"{of_files[0]} is an option for images on disk or the Hub, and these are in memory. Name their columns "
            "by image, label, caption and image_id. For anything else, use save_to_disk, and pass the folder."
        )
    splits = data if isinstance(data, Mapping) else {"train": data}
    for split in splits.values():
        if not isinstance(split, Dataset):
            what = f"data is of type {type(split).__name__}; make a dataset of it"
            raise TypeError(f"{what}, by Dataset.from_generator, from_list or from_pandas.")
    images = DatasetDict({name: standardise(split, name, named) for name, split in splits.items()})
    class_names(images)
    given = {"dataset_name": IN_MEMORY, "output_dir": FOLDER} | options
    args, of_data = build_options(OPTIONS_OF["fit"], given)
    return Fit(args, of_data, images=images, views=views).run()
