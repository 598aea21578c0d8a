"""
`g4i fit`: from images with captions to a classifier, the gain from its captions, and a report.

Features of a frozen pretrained student are computed once. What captions, features and labels say together becomes
class probabilities, on which the last layer is fitted; the same layer on the given labels alone stands beside it.
Several processes share the features and the training of layers; the rest is done by the first.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from .. import columns, priors
from ..cli import build_options
from ..data.checks import labels_of
from ..data.labels import GOLD
from ..data.loading import class_names, standardise
from ..data.record import Record
from ..evaluation.estimate import Judgement
from ..evaluation.metrics import read_results, split_metrics, update_results
from ..evaluation.predict import Predictions
from ..files import check_replaceable, portable
from ..hub.push import OF_STUDENT
from ..hub.release import release_with_card, runs_of_release
from ..label_model import View
from ..label_model.picks import doubtful_labels, suspicious_rows
from ..linear import one_hot
from ..names import ALL_LAYERS, CLASSIFIER, IN_MEMORY, WITH_VIEWS, digests_of_fit, note_files_of_fit, require
from ..options import OPTIONS_OF, DataArguments, FitArguments, ReleaseArguments, about_of, marked, names_of
from ..options.caller import called_from_python
from ..output import quietly, say
from ..processes import on_main_process
from ..training.run_folder import locked
from ..views.kinds import CAPTION, taught_by
from ..views.making import named_views
from ..words import annotators_in_words, labels_summary
from . import words
from .all_layers import AllLayers, Trained, clean_up, is_request, wants_all_layers
from .decide import decide
from .evidence import JUDGING_SPLITS, FitImages
from .fitted_on import save_fitted_on
from .folder import ALTERED, CONFIG, FINISHED, OTHER, REPORT, UNFINISHED, FitFolder, read_config
from .heads import Head
from .judge import CrossValidation, Gold, Judge, Validation, judge_in_training, judged_heads, on_these_images
from .none_of_these import save_none_of_these
from .report import suspicious_cards, write_fit_report
from .result import FitResult, estimates_in_results, judgement_in_results
from .rounds import start_tracker, track
from .runs import save_last_layer
from .sample import sample_size, take_sample
from .targets import Targets
from .thresholds import decisions_of, in_words

CANNOT_CHOOSE = (
    "All layers are kept only where they judge better, and nothing can judge them: give labelled images in "
    "`validation`, or take some of the labelled ones by --validation_fraction 0.2; or give unlabelled images of at "
    "least 100 scenes without a label, with captions or another view, and two labels of some classes."
)
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
        if args.report_to != "none":
            require(args.report_to, "trackers", f"report_to {args.report_to}")
        self.args, self.say, self.images = args, say, FitImages(args, data, say, images, views)
        self.data = data  # as given; `images.data` may be its captions
        self.folder = self.images.folder
        self.all_layers: Trained | None = None
        self.how_all_layers = ""  # could be trained here, and in what time
        self.targets: Targets | None = None  # in the main process
        self.on_these_images: Judgement | None = None  # there too; the judge tells of new scenes
        self.sampled_from: int | None = None  # so many training images, where there are more than a sample
        self.before: FitResult | None = None  # the result that this one replaces

    def run(self) -> FitResult | None:
        """None after a dry run. A ValueError for data that cannot be trained on."""
        images = self.images
        check_replaceable(self.folder / CLASSIFIER, *OF_STUDENT)
        images.open()
        self.place = FitFolder(self.folder, self._recorded_options(), self.say)
        holds = UNFINISHED if self.args.overwrite else on_main_process(lambda: self.place.holds(images.record))
        if holds in (FINISHED, ALTERED):
            return self._say_result(self._same_again(holds == ALTERED))
        self.sampled_from = take_sample(images)
        images.check()
        images.check_classes_are_known()
        images.prepare()
        if self.args.dry_run:
            self.say(f"Would write {self.folder}: classifier, report and both runs. Nothing was written.")
            return None
        with locked(self.folder) if images.accelerator.is_main_process else contextlib.nullcontext():
            start_tracker(images.accelerator, self.args.report_to, self.folder)
            result = self._fitted(holds)
            track(images.accelerator, self.folder)
            on_main_process(lambda: self.place.note(result=digests_of_fit(self.folder), chosen=self._chosen()))
            on_main_process(lambda: clean_up(self.folder / ALL_LAYERS, bool(self.all_layers and self.all_layers.kept)))
        return self._say_result(result)

    # --- The folder --------------------------------------------------------------------------------------------------

    def _recorded_options(self) -> dict[str, Any]:
        """The options that the result depends on, beside the data, which are compared by content."""
        given, of = vars(self.args) | vars(self.images.data), about_of(OPTIONS_OF["fit"])
        given["views"] = [view.removeprefix(f"{self.folder}/") for view in self.images.names_of_views]
        return {name: portable(given[name]) for name in of if of[name] in ("training", "captions")}

    def _chosen(self) -> dict[str, Any]:
        """All options, as they were resolved."""
        chosen = vars(self.images.data) | vars(self.args) | {"image_size": self.images.augmentation.image_size}
        chosen |= {"views": self.images.names_of_views} if self.images.given else {}  # else the same again lacks them
        chosen |= {"sample": sample_size(self.args)} if self.sampled_from else {}
        return {name: portable(value) for name, value in chosen.items() if value is not None}

    def _begin(self, holds: str) -> None:
        """Makes room for the result in a folder that holds another one, or a part of this."""
        if self.args.overwrite:
            self.place.clear()
        elif holds == OTHER:
            of = Record.read(self.folder)
            has_same_classes = of is not None and of.class_names == self.images.record.class_names
            if has_same_classes and "judged_on" in read_results(self.folder):  # `evaluate` adds to an unfinished one
                self.before = FitResult.read(self.folder)
            self.place.set_aside()
        self.place.note(result={})
        self.images.record.write(self.folder)

    def _same_again(self, is_altered: bool) -> FitResult:
        """The finished result, with `classifier/` by the present `--release`; made again where it `is_altered`."""
        before = FitResult.read(self.folder)
        if not is_altered:
            self.say(f"{self.folder} holds this very result: nothing has changed since.")
        if self.args.dry_run:
            return before
        result = on_main_process(lambda: self._release(is_altered))
        if before.released not in (None, result.released):
            named = (words.classifier_in_words(each.released, each.views) for each in (result, before))
            self.say("{}/ now holds the classifier {} in place of the one {}.".format(CLASSIFIER, *named))
        return result

    # --- From views to a classifier ----------------------------------------------------------------------------------

    def _fitted(self, holds: str) -> FitResult:
        """What the folder `holds` stays as it is until nothing can be refused."""
        images = self.images
        images.compute_views()
        of_split = self._judge_of_split()
        heads, judge, rows, aligned = on_main_process(lambda: self._judged_heads(of_split))
        self.judging = images.splits[judge.split].select(judge.rows)
        all_layers = self._planned(judge, aligned, on_main_process(lambda: self._resumable(holds)))
        on_main_process(lambda: self._begin(holds))
        for name, head in heads.items():
            save_last_layer(self.folder / name, head, images, rows, name in aligned)
        if all_layers is not None:
            self.all_layers = all_layers.train()
            if self.all_layers.kept and not judge.has_labels:
                number = f"{len(judge.rows):,} images that judge"
                self.say(f"A classifier with all layers trained has not learned from the {number}.")
        names = [*heads, *([ALL_LAYERS] if self.all_layers and self.all_layers.kept else [])]
        evidence = self.targets.evidence if self.targets else None
        self.finds_none = save_none_of_these(self.folder, images, evidence, names)
        trained = {name: self.all_layers if name == ALL_LAYERS else None for name in names}
        save_fitted_on(self.folder, images, judge, self.judging, self.targets, trained)
        return on_main_process(lambda: self._finished(list(heads), judge))

    def _judge_of_split(self) -> Judge | None:
        """
        The gold images, else the labelled ones of `validation`, but for those of scenes that are trained on; None
        without any.
        """
        images = self.images
        for kind in (Gold, Validation):
            if kind.split not in images.splits:
                continue
            split, scenes = images.splits[kind.split], images.scenes
            labels, are_new = labels_of(split), scenes.are_new(kind.split)
            labelled, rows = np.flatnonzero(labels >= 0), np.flatnonzero((labels >= 0) & are_new)
            if len(rows) < len(labelled) and images.accelerator.is_main_process:
                self.say(words.not_new_in_words(kind.split, len(labelled), len(rows)))
            if len(rows):
                features, groups = images.features_of(split.select(rows)), scenes.numbers[kind.split][rows]
                return kind(rows, features, one_hot(labels[rows], len(images.id2label)), groups=groups)
        return None

    def _judged_heads(self, of_split: Judge | None) -> tuple[dict[str, Head], Judge, np.ndarray, set[str]]:
        """The last layers and their judge; the rows of the runs, and the names of those with captions to align."""
        features, trains_all = self.images.features, wants_all_layers(self.args)
        evidence = self.images.evidence(of_split is not None, trains_all)
        self.targets = Targets.of(evidence)
        judge = of_split or judge_in_training(self.targets, features)
        gold = self.images.splits.get(judge.split)
        # Others may have as many images of no class, and a gold image is one of a scene, where they may be many
        is_alike = self.images.scenes.are_single()
        if isinstance(judge, Gold) and len(judge.rows) == len(gold) and is_alike:
            views = self.images.own_views(gold, judge.features)
            judge.compare_with(self.targets, features, {name: view.values for name, view in views.items()})
        heads = judged_heads(self.targets, features, judge)
        self.on_these_images = on_these_images(self.targets, features, heads, judge.judgement())
        has_captions = self.images.text_embed_dim is not None
        has_captions &= not evidence.estimates["views"].get(CAPTION, {}).get("left_out", False)
        return heads, judge, self.targets.rows, {WITH_VIEWS} if has_captions else set()

    def _resumable(self, holds: str) -> dict[str, Any]:
        """What an interrupted start has planned for all layers; empty otherwise."""
        is_new = self.args.overwrite or holds == OTHER
        return {} if is_new else self.place.noted().get("all_layers", {})

    def _planned(self, judge: Judge, aligned: set[str], planned: dict[str, Any]) -> AllLayers | None:
        """All layers of the classifier that ships, or None where they are not wanted; says how long these take."""
        args, wanted = self.args, wants_all_layers(self.args)
        can_choose = on_main_process(lambda: judge.can_choose_layers)
        if is_request(args) and not can_choose:
            raise ValueError(CANNOT_CHOOSE)
        if wanted and not can_choose:
            self.say(CANNOT_CHOOSE)
            return None
        labels_could = isinstance(judge, CrossValidation) and len(judge.rows) >= priors.MIN_HOLDOUT
        labels_could &= self.images.in_memory is None
        if not wanted and (args.finetune == "false" or not (can_choose or labels_could)):
            return None
        name = on_main_process(lambda: decide(judge.judgement().verdict, args.release).released)
        targets = on_main_process(lambda: self.targets.of_all_rows(name))
        all_layers = AllLayers(self.images, judge, self.judging, name, targets, name in aligned, self.place)
        if not wanted:
            minutes = all_layers.minutes_here()
            about = f"about {minutes:,} minute{'s' * (minutes > 1)}"
            options = f"--minutes {minutes + 1}{'' if can_choose else ' --validation_fraction 0.2'}"
            self.how_all_layers = f"All layers: training them too would take {about} here: {options}"
            return None
        if planned:
            all_layers.planned = planned
        else:
            all_layers.plan(args.minutes)
        return all_layers

    # --- The result --------------------------------------------------------------------------------------------------

    def _finished(self, names: list[str], judge: Judge) -> FitResult:
        evidence, images = self.targets.evidence, self.images
        suspicious = len(suspicious_rows(evidence.labels, evidence.model.posterior_))
        doubtful = doubtful_labels(evidence.model, evidence.views, evidence.unreviewed)
        has_split = judge.split != "train"
        judged = {*labels_of(self.judging)} if has_split else {*images.id2label}
        judgement = judge.judgement()
        results = judgement_in_results(judgement) | estimates_in_results(self.on_these_images, words.ON_THESE_IMAGES)
        results |= {
            "judged_on": judge.name,
            "judged_images": len(judge.rows),
            "judged_groups": judgement.judges,
            "gold_of_no_class": int((labels_of(images.splits[GOLD]) < 0).sum()) if judge.split == GOLD else 0,
            "unjudged_classes": [name for label, name in images.id2label.items() if label not in judged],
            "released": None,
            "finetuned": False,
            "all_layers": self.all_layers and self.all_layers.as_result(),
            "images": len(evidence.labels),
            "sampled_from": self.sampled_from,
            "groups": images.scenes.counts(),
            "labels": int((evidence.labels >= 0).sum()),
            "reviewed": int((evidence.reviews != "").sum()),
            "num_labels": evidence.num_labels,
            "suspicious_labels": suspicious,
            "doubtful_labels": max(doubtful - suspicious, 0),
            "pool_shares": evidence.pool_shares([*images.id2label.values()]),
            "finds_none_of_these": self.finds_none,
        }
        self.place.write_results(results | evidence.estimates)
        result = FitResult.read(self.folder)
        logits = {name: judge.logits[name] for name in names}
        if self.all_layers and self.all_layers.kept:
            logits[ALL_LAYERS] = self.all_layers.logits
        most_gold = len(images.splits.get(GOLD, ())) + images.scenes.most_gold()
        self.decisions = {name: decisions_of(judge, name, each, most_gold) for name, each in logits.items()}
        people = annotators_in_words(result.annotators, result.annotator_agreement, with_names=False)  # it is public
        for name in logits:
            of_name: dict[str, Any] = {
                "decisions": [decision.as_result() for decision in self.decisions[name][1]],
                "judgement": words.sentence_for_card(result, name),
                "labels_summary": " ".join([labels_summary(result.images, result.labels), *people]),
            }
            learned = self.all_layers.classifier if name == ALL_LAYERS else name
            of_name |= {"taught_by": taught_by(result.views)} if learned == WITH_VIEWS else {}
            if has_split:
                of_images = self.judging[columns.IMAGE_ID][:], labels_of(self.judging)
                predictions = Predictions(*of_images, logits[name], None)
                of_name |= split_metrics(predictions, self.judging, judge.split)
            update_results(self.folder / name, of_name)
        again = f"g4i fit --config {self.folder / CONFIG} --overwrite true"
        again = again if images.in_memory is None else "call fit with the same dataset and overwrite=True"
        self.place.write_config(self._chosen(), f"# What g4i fit chose; to repeat it: {again}")
        result = self._release()
        self._report(result, judge, logits, ALL_LAYERS if result.finetuned else result.released)
        return result

    def _release(self, is_altered: bool = False) -> FitResult:
        """Makes `classifier/` as decided, unless it is there; an altered one is kept aside."""
        results = read_results(self.folder)
        released = decide(results["verdict"], self.args.release).released
        if is_altered or results.get("released") != released:
            with locked(self.folder):
                if is_altered:
                    self.place.set_classifier_aside()
                self._make_classifier(results, released)
        return FitResult.read(self.folder)

    def _make_classifier(self, results: dict[str, Any], released: str) -> None:
        """Until it is in its place, with its digests, `released` is null."""
        run, baseline = runs_of_release(self.folder, released, results["all_layers"])
        self.place.write_results(results | {"released": None})
        student = str(self.folder / CLASSIFIER)
        release_with_card(ReleaseArguments(run=str(run), baseline=baseline, output_dir=student))
        note_files_of_fit(self.folder)
        self.place.write_config(read_config(self.folder) | {"release": self.args.release})
        decisions = read_results(run).get("decisions", [])
        kept = {"released": released, "finetuned": run.name == ALL_LAYERS, "decisions": decisions}
        self.place.write_results(results | kept)

    def _report(self, result: FitResult, judge: Judge, logits: dict[str, np.ndarray], name: str) -> None:
        """The page, with the images that judged, logits by name and which of them ship, and suspicious labels."""
        evidence, images = self.targets.evidence, self.images
        cards = suspicious_cards(images.training, evidence.unreviewed, evidence.model.probabilities_, images.id2label)
        title = f"{Path(self.data.dataset_name).name}: what g4i fit found"
        in_card = marked("in_card", "fit")
        settings = {name: value for name, value in read_config(self.folder).items() if name in in_card}
        shown = judge, logits[name], self.judging, cards, images.id2label, settings, self.decisions[name][0]
        write_fit_report(self.folder / REPORT, title, result, *shown)

    def _say_result(self, result: FitResult) -> FitResult:
        self.say("\n" + "\n".join(result.lines()))
        if self.before is not None and self.before.with_views_accuracy is not None:
            self.say(words.changes_since(self.before, result))
        self.say(f"Classifier: {result.classifier}, the folder to ship: a plain checkpoint with a card")
        if (self.folder / REPORT).is_file():
            self.say(f"Report:     {self.folder / REPORT}")
        self.say(f"Choices:    {result.config}, to edit; its first line says how to repeat all with it")
        if self.how_all_layers:
            self.say(self.how_all_layers)
        is_on_disk = self.images.in_memory is None
        of_label = words.options_of_label(self.args, self.data) if is_on_disk else None
        for line in in_words(result, of_label):
            self.say(line)
        result.next_step = words.next_command(result, of_label, is_on_disk and self.images.has_test)
        self.say(f"Next: {result.next_step}")
        return result


def fit(
    data: str | Path | Dataset | DatasetDict,
    *,
    views: Sequence[str | Path | View] | None = None,
    image: str | None = None,
    label: str | None = None,
    caption: str | None = None,
    image_id: str | None = None,
    verbose: bool = True,
    **options: Any,
) -> FitResult:
    """
    Trains a classifier with captions and on labels alone, as `g4i fit` does. Of several threads, one fits at a time,
    and the others wait.

    Args:
        data: folder or Hub id, see [`~g4i_hf.load_images`]; or a dataset in memory, one split or several by name.
        views: names as in `g4i fit --views`, folders of `g4i embed`, and `View(values)` with a row for each training
            image. None: captions, answers, features of the student, and views in `output_dir`.
        image, label, caption, image_id: names of these columns, if they differ.
        verbose: False prints nothing. The verbosity and progress bars of transformers, datasets and huggingface_hub
            have effect here too.
        options: others of the command, such as `output_dir`, `student` and `finetune`. A dataset in memory takes none
            about files or captioners.

    Returns:
        Its fields are `classifier`, the folder to ship, `released`, which of both classifiers it holds, `verdict`, and
        `labels_only_accuracy`, `with_views_accuracy` and `difference`, each with an `..._interval`; `judged_on` and
        `judged_images`; `views`, `suspicious_labels`, `doubtful_labels` and `label_noise_estimate`. `lines()` has them
        in words, and `next_step` a command. A notebook shows them. None after a dry run.

    Raises:
        ValueError: for data that cannot be trained on.
    """
    names, given_views = named_views(views or [])
    options |= {"views": names} if names else {}
    columns_given = {"image": image, "label": label, "caption": caption, "image_id": image_id}
    named = {ours: theirs for ours, theirs in columns_given.items() if theirs}
    printing = contextlib.nullcontext() if verbose else quietly()
    with ONE_AT_A_TIME, printing, called_from_python(named, "{}='...'"):
        if isinstance(data, (str, Path)):
            given = (
                {"dataset_name": str(data)} | {f"{ours}_column": theirs for ours, theirs in named.items()} | options
            )
            args, of_data = build_options(OPTIONS_OF["fit"], given)
            return Fit(args, of_data, views=given_views).run()
        return _fit_in_memory(data, named, given_views, options)


def _fit_in_memory(
    data: Any, named: dict[str, str], views: Mapping[str, View], options: dict[str, Any]
) -> FitResult | None:
    if of_files := sorted(({"captioner", *names_of(DataArguments)} - {"group_by"}) & set(options)):
        raise TypeError(
            f"{of_files[0]} is an option for images on disk or the Hub, and these are in memory. Name their columns "
            "by image, label, caption and image_id. For anything else, use save_to_disk, and pass the folder."
        )
    splits = data if isinstance(data, Mapping) else {"train": data}
    for split in splits.values():
        if not isinstance(split, Dataset):
            what = f"data is of type {type(split).__name__}; make a dataset of it"
            raise TypeError(f"{what}, by Dataset.from_generator, from_list or from_pandas.")
    images = DatasetDict()
    for name, split in splits.items():  # others than these are not read, and may lack columns
        is_read = name in ("train", *JUDGING_SPLITS)
        there = {ours: theirs for ours, theirs in named.items() if is_read or theirs in split.column_names}
        images[name] = standardise(split, name, there)
    class_names(images)
    given = {"dataset_name": IN_MEMORY, "output_dir": FOLDER} | options
    args, of_data = build_options(OPTIONS_OF["fit"], given)
    return Fit(args, of_data, images=images, views=views).run()
