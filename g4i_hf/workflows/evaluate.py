"""`g4i evaluate`: from run folders and data to metrics, predictions and a report."""

import json
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict

from .. import columns
from ..cli import build_options
from ..data.checks import check_split, readable_rows
from ..data.classes import ClassNames, class_names
from ..data.groups import groups_of
from ..data.labels import GOLD
from ..data.loading import check_has_split, class_words, load_reviewed, source_of
from ..data.record import Record, differences, image_digests
from ..embedding.embed import embeds_of_class_names, with_text_embeds
from ..evaluation.classes import classes_in_words, confusion_matrix, of_classes
from ..evaluation.comparison import ALL_MEASURES, ComparisonRow, compare, shown_names
from ..evaluation.estimate import accuracy_interval, effective_number, judged_by_labels
from ..evaluation.metrics import results_folder, size_metrics, speed_metrics, split_metrics, update_results
from ..evaluation.predict import Predictions, load_run, predict
from ..evaluation.report import write_report
from ..files import printable, replace_text
from ..fitting.folder import CONFIG
from ..fitting.result import FitResult, judgement_in_results
from ..fitting.words import accuracy_of, classifier_in_words
from ..hub.formats import read_formats
from ..modeling.none_of_these import NoneOfThese
from ..modeling.processing import ImageSettings
from ..modeling.student import plain_student
from ..names import (
    ALL_LAYERS,
    CLASSIFIER,
    LABELS_ONLY,
    NONE_FILE,
    OPTIONS_FILE,
    USUAL_PRECISION,
    WITH_VIEWS,
    changed_in_words,
    changed_since_fit,
    check_run,
    is_of_fit,
    run_of,
)
from ..options import OPTIONS_OF, DataArguments, EncoderArguments, EvaluateArguments, aligns
from ..options.caller import called_from_python
from ..training.checkpoint import OtherDataError
from ..training.features import FEATURES, student_features
from ..training.run_folder import read_options

logger = logging.getLogger(__name__)


class Evaluation:
    """Evaluates a run, and its baseline if given, on every split but the training split."""

    def __init__(self, args: EvaluateArguments, data: DataArguments, encoder: EncoderArguments):
        self.args, self.data, self.encoder = args, data, encoder
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available())
        self.fit = Path(args.run) if is_of_fit(args.run) else None
        labels_only = Path(args.run) / LABELS_ONLY
        if self.fit is not None and args.baseline is None and labels_only.is_dir():
            args.baseline = str(labels_only)
        self.runs = {"aligned": run_of(args.run)} | ({"baseline": Path(args.baseline)} if args.baseline else {})
        if self.fit is not None and (self.fit / ALL_LAYERS / OPTIONS_FILE).is_file():
            self.runs[ALL_LAYERS] = self.fit / ALL_LAYERS
        self.folders: dict[str, Path] = {}  # by run, for its metrics
        self.splits = DatasetDict()  # to evaluate, with their embeddings
        self.id2label: dict[int, str] = {}
        self.record: Record | None = None  # of the splits evaluated now or before; in the main process
        self.predictions: dict[str, dict[str, Predictions]] = {}  # by run and split
        self.results: dict[str, dict[str, Any]] = {}  # by run, its `all_results.json`; in the main process
        self.verdicts: list[str] = []  # of a run and its baseline, a line a split

    def evaluate(self) -> None:
        """Raise ValueError or OSError for a missing run, split or dataset, or classes other than those of the run."""
        for run in self.runs.values():
            check_run(run, self.args.weights)
        if self.fit is not None and (changed := changed_since_fit(self.fit)):
            logger.warning("%s. The same g4i fit again makes them again.", changed_in_words(self.fit, changed))
        for name, run in self.runs.items():
            self.folders[name] = results_folder(run, read_options(run), vars(self.data))
        self._load()
        self.predictions = {name: self._predict(name) for name in self.runs}
        if self.accelerator.is_main_process:
            self.results = {name: self._metrics(name) for name in self.runs}
            if "baseline" in self.runs:
                self._compare_predictions()
            if ALL_LAYERS in self.runs:
                self._say_of_all_layers()

    def _all_layers_accuracy(self, split: str) -> float | None:
        """None if the fit has not kept them, or without labels."""
        if ALL_LAYERS not in self.runs:
            return None
        predictions = self.predictions[ALL_LAYERS][split]
        known = predictions.labels >= 0
        return float((predictions.predicted == predictions.labels)[known].mean()) if known.any() else None

    def _compare_predictions(self) -> None:
        """
        Both accuracies, and the interval of their difference; also as `SPLIT_results.json` in a folder of `g4i fit`.
        """
        is_of_fit = self.fit is not None and self.runs["baseline"] == self.fit / LABELS_ONLY
        is_of_fit = is_of_fit and self.folders["aligned"] == self.runs["aligned"]  # otherwise it is other data
        name_of = {"baseline": LABELS_ONLY, "aligned": WITH_VIEWS}
        for name in self.splits:
            both = {run: by_split[name] for run, by_split in self.predictions.items()}
            known = (labels := both["aligned"].labels) >= 0
            if not known.any():
                continue
            predicted = {classifier: both[run].predicted[known] for run, classifier in name_of.items()}
            groups = self._groups(name)[known]
            judgement = judged_by_labels(predicted, labels[known], groups=groups)
            shares = {"images": int(known.sum()), "groups": judgement.judges} | judgement_in_results(judgement)
            if is_of_fit:
                shares["all_layers_accuracy"] = self._all_layers_accuracy(name)
                replace_text(self.fit / f"{name}_results.json", json.dumps(shares, indent=2) + "\n")
            scenes = f" of {judgement.judges:,} scenes" if judgement.judges < shares["images"] else ""
            points, low, high = (100 * end for end in (shares["difference"], *shares["difference_interval"]))
            self.verdicts.append(
                f"{name}, {shares['images']:,} images{scenes}: labels only {shares['labels_only_accuracy']:.1%} -> "
                f"{self.names['aligned']} {shares['with_views_accuracy']:.1%}, {points:+.1f} points "
                f"(95% interval {low:+.1f} to {high:+.1f}){self._estimate_of_fit() if is_of_fit else ''}"
            )

    def _groups(self, name: str) -> np.ndarray:
        """(n,) numbers, the same for images of one scene, by the column of groups."""
        split = self.splits[name]
        keys = split[columns.GROUP][:] if columns.GROUP in split.column_names else [None] * len(split)
        return groups_of(keys, np.arange(len(split)))

    def _say_of_all_layers(self) -> None:
        """Their accuracy; both others are of last layers."""
        trained = FitResult.read(self.fit).all_layers
        for name, predictions in self.predictions[ALL_LAYERS].items():
            if (share := self._all_layers_accuracy(name)) is not None:
                images = int((predictions.labels >= 0).sum())
                before, after = (f"{trained[key]:.1%}" for key in ("last_layer_accuracy", "accuracy"))
                self.verdicts.append(
                    f"{name}, {images:,} images: all layers {share:.1%}; g4i fit had said {after}, and {before} "
                    "with the last layer alone"
                )

    def _estimate_of_fit(self) -> str:
        """The accuracy that `g4i fit` had estimated of the classifier that ships."""
        fit = FitResult.read(self.fit)
        released = fit.released or WITH_VIEWS
        share, interval = accuracy_of(fit, released)
        if share is None:
            return ""
        of = classifier_in_words(released, fit.views)
        return "; g4i fit had said {:.0%} ({:.0%} to {:.0%}), ".format(share, *interval) + of

    @property
    def names(self) -> dict[str, str]:
        return shown_names(read_options(self.runs["aligned"])) | {ALL_LAYERS: "all layers"}

    @property
    def rows(self) -> list[ComparisonRow]:
        return compare(self.results["aligned"], self.results.get("baseline"), list(self.splits), ALL_MEASURES)

    # --- Data --------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        args = self.args
        with self.accelerator.main_process_first():  # which fills the cache for the others
            splits = load_reviewed(self.data)
        splits, id2label = class_names(splits)
        self.id2label = ClassNames(id2label, class_words(self.data))
        names = self._names_of_splits(splits)
        if self.accelerator.is_main_process:
            self._check_data(splits, names)
        # A split without captions is evaluated too
        texts = {columns.CAPTION, columns.TEXT_EMBEDS}
        captioned = DatasetDict({name: split for name, split in splits.items() if texts & {*split.column_names}})
        if captioned:
            folder = self.encoder.embeddings_dir
            where: dict[str, Any] = {"source": source_of(self.data), "shared": folder is None}
            splits |= with_text_embeds(
                captioned, self.encoder, folder or self.runs["aligned"].parent / "embeddings", **where
            )
        for name in dict.fromkeys(names):
            check_split(splits[name], name, num_labels=len(self.id2label), training=False, require_labels=False)
            splits[name] = readable_rows(splits[name], name, args.on_bad_images)
        if GOLD in names and (learned := self._learned_gold(splits[GOLD])):
            kept = [row for row, name in enumerate(splits[GOLD][columns.IMAGE_ID]) if name not in learned]
            if not kept:
                raise ValueError(f"{self.fit} has learned all {len(learned):,} gold images, so they tell nothing.")
            splits[GOLD] = splits[GOLD].select(kept)
            if self.accelerator.is_main_process:
                self.record = self.record.with_learned(GOLD, learned)
            line = "gold: %s images are left out, as g4i fit has learned them; %s are evaluated."
            logger.warning(line, f"{len(learned):,}", f"{len(kept):,}")
        self.splits = DatasetDict({name: splits[name] for name in names})

    def _learned_gold(self, gold: Dataset) -> set[str]:
        """The images that training learned, as gold showed too many of its scenes."""
        if self.fit is None or (record := Record.read(self.fit)) is None or not (learned := record.learned()):
            return set()
        digests = image_digests(gold, record.of_splits([GOLD]).rows)
        both = zip(digests[columns.IMAGE_ID], digests[columns.IMAGE_DIGEST], strict=True)
        return {name for name, digest in both if digest in learned}

    def _check_data(self, splits: DatasetDict, evaluated: list[str]) -> None:
        """Raise OtherDataError if the data is not that of the training, or that of the metrics of other splits."""
        earlier = {name: Record.read(folder) for name, folder in self.folders.items()}
        known = [record for record in earlier.values() if record is not None]
        names = {*evaluated, *(name for record in known for name in record.splits)} & set(splits)
        opened = {name: splits[name] for name in splits if name in names}
        first = known[0] if known else None
        self.record = Record.of(opened, self.id2label.values(), earlier=first)
        for name, record in earlier.items():
            if record is not None:
                self._compare(name, record, self.record, evaluated)

    def _compare(self, name: str, earlier: Record, current: Record, evaluated: list[str]) -> None:
        run, folder = self.runs[name], self.folders[name]
        options = read_options(run)
        trained = {options.get("train_split", "train"), options.get("eval_split", "validation")}
        trained = trained & set(earlier.splits) if folder == run else set()
        if changes := differences(earlier.of_splits(trained), current.of_splits(trained)):
            again = f"g4i train --config {run / OPTIONS_FILE} --overwrite true"
            if self.fit is not None:
                again = f"g4i fit --config {self.fit / CONFIG}"
            raise OtherDataError(
                f"The data is not what {run} was trained on. What differs: {', '.join(changes.values())}. Train it "
                f"again with {again}, or evaluate it on a copy of the data by another name, with --dataset_name: "
                "those figures have a folder of their own."
            )
        for split in set(earlier.splits) & set(current.splits) - trained - set(evaluated):
            if changes := differences(earlier.of_splits([split]), current.of_splits([split])):
                raise OtherDataError(
                    f"The figures of {split} in {folder} are of other data. What differs: "
                    f"{', '.join(changes.values())}. Evaluate it too: --splits {' '.join([*evaluated, split])}."
                )

    def _names_of_splits(self, splits: DatasetDict) -> list[str]:
        train_split = self.args.train_split
        named = [name for word in self.args.splits or [] for name in word.split(",") if name]
        names = named or [name for name in splits if name != train_split]
        if not names:
            raise ValueError(
                f"The data has no split but {train_split!r}, which was trained on. Name the splits with --splits."
            )
        for name in names:
            check_has_split(splits, name, "splits")
        return names

    # --- Predictions and metrics -------------------------------------------------------------------------------------

    def _predict(self, name: str) -> dict[str, Predictions]:
        run, args, by_split = self.runs[name], self.args, {}
        model, processor = load_run(run, args.weights)
        if {int(i): label for i, label in model.config.id2label.items()} != self.id2label:
            raise ValueError(f"{run} was trained on other classes than those of the data, or another order of them.")
        how = (self.accelerator, args.eval_batch_size, args.eval_num_workers)
        # Compared with captions and class names; a baseline's untrained projector says nothing
        texts = aligns(read_options(run)) is not False
        for split_name, split in self.splits.items():
            what, features = f"{run.name}, {split_name}", None
            if self.fit is not None and model.takes_features:  # mostly both runs have the same backbone
                place = (self.fit / FEATURES, self.accelerator, args.eval_num_workers, f"Features, {split_name}")
                features = student_features(model, processor, split, *place)
            outputs: dict[str, Any] = {"output_image_embeds": texts, "features": features}
            outputs["output_features"] = (run / NONE_FILE).is_file()
            by_split[split_name] = predict(model, processor, split, *how, what, **outputs)
        if self.accelerator.is_main_process:
            folder = self.folders[name] / "predictions"
            folder.mkdir(parents=True, exist_ok=True)
            for split_name, predicted in by_split.items():
                table = predicted.to_dataset(model.config.id2label, self._groups(split_name))
                table.to_parquet(folder / f"{split_name}.parquet")
        self.accelerator.wait_for_everyone()
        return by_split

    @cached_property
    def _name_embeds(self) -> np.ndarray:
        device = self.accelerator.device
        return embeds_of_class_names(self.id2label, self.encoder, device, "zero-shot accuracy by class names")

    def _metrics(self, name: str) -> dict[str, Any]:
        """Compute the metrics of a run and merge them into its `all_results.json`."""
        args, by_split = self.args, self.predictions[name]
        metrics: dict[str, Any] = {}
        has_texts = any(predicted.image_embeds is not None for predicted in by_split.values())
        name_embeds = self._name_embeds if has_texts else None
        for split_name, predicted in by_split.items():
            split = self.splits[split_name]
            metrics |= split_metrics(predicted, split, split_name, name_embeds)
            metrics |= self._of_classes(split_name, predicted)
            metrics[f"{split_name}_weights"] = args.weights
        if args.speed and name == "aligned":  # the baseline has the same architecture
            model, processor = load_run(self.runs[name], args.weights)
            student, size = plain_student(model).float(), ImageSettings.from_processor(processor).size
            metrics |= size_metrics(student, size) | speed_metrics(student, size)
        results = update_results(self.folders[name], metrics, list(self.splits))
        evaluated, earlier = self.record.of_splits(self.splits), Record.read(self.folders[name])
        (evaluated if earlier is None else earlier.with_splits_of(evaluated)).write(self.folders[name])
        return results

    def _of_classes(self, name: str, predicted: Predictions) -> dict[str, Any]:
        """The interval of the accuracy, by groups, and precision and recall of each class."""
        known = predicted.labels >= 0
        if not known.any():
            return {}
        counts = confusion_matrix(predicted.labels, predicted.predicted, len(self.id2label))
        number = effective_number(self._groups(name), known)
        interval = accuracy_interval(counts.trace() / counts.sum(), number)
        return {f"{name}_accuracy_interval": interval, f"{name}_classes": of_classes(counts, self.id2label)}

    def lines(self) -> list[str]:
        """How right the run is on each split, and its worst classes."""
        lines, results = list[str](), self.results["aligned"]
        for name in self.splits:
            if classes := results.get(f"{name}_classes"):
                low, high = results[f"{name}_accuracy_interval"]
                images, share = sum(each["images"] for each in classes), results[f"{name}_accuracy"]
                lines.append(
                    f"{name}: right for {share:.1%} of {images:,} images (95% interval {low:.1%} to {high:.1%}). "
                    f"The worst of {len(classes):,} classes, in percent:"
                )
                lines += [printable(line) for line in classes_in_words(classes)]
                lines += [*self._answers_in_words(name), ""]
        return lines

    def _answers_in_words(self, name: str) -> list[str]:
        """How right the answers are that the classifier of a fit gives by itself."""
        fit = None if self.fit is None else FitResult.read(self.fit)
        known = [each for each in (fit and fit.decisions) or [] if each["precision"] == USUAL_PRECISION]
        if not known or known[0]["threshold"] is None:
            return []
        folder = self.fit / (ALL_LAYERS if fit.finetuned else fit.released or WITH_VIEWS)
        ships = next((each for each, run in self.runs.items() if Path(run) == folder), None)
        if ships is None:
            return []
        predictions = self.predictions[ships][name]
        has_label = predictions.labels >= 0
        answered = has_label & (predictions.score >= known[0]["threshold"])
        if predictions.features is not None:
            score = NoneOfThese.load(folder / NONE_FILE, predictions.features.shape[1])
            answered &= ~np.array(score.finds(torch.from_numpy(predictions.features)))
        of = f"{name}: at {USUAL_PRECISION:.0%} {CLASSIFIER}/ answers {answered.sum():,} of {has_label.sum():,} images"
        if not answered.any():
            return [f"{of}."]
        right = float((predictions.predicted == predictions.labels)[answered].mean())
        low, high = accuracy_interval(right, effective_number(self._groups(name), answered))
        return [f"{of}, and {right:.1%} of these answers are right (95% interval {low:.1%} to {high:.1%})."]

    def write_report(self) -> None:
        of_runs = (self.runs, read_options(self.runs["aligned"]), self.splits, self.predictions)
        formats = read_formats(self.fit / CLASSIFIER if self.fit is not None else self.runs["aligned"] / "student")
        write_report(self.args.report, self.rows, *of_runs, self.id2label, self.results, self.args.weights, formats)


@called_from_python()
def evaluate_run(run: str | Path, baseline: str | Path | None = None, **options: Any) -> dict[str, dict[str, Any]]:
    """
    Evaluate a run, and its baseline if given, on the data of the run, as `g4i evaluate` does.

    Args:
        run: run folder.
        baseline: run folder of its baseline.
        options: other fields of [`~g4i_hf.options.EvaluateArguments`], such as `splits`, `speed` and `report`, and
            of `DataArguments` and `EncoderArguments`, which override those of the run.

    Returns:
        `{"aligned": metrics, "baseline": metrics}`, also written to the `all_results.json` of each run.
    """
    arguments = {"run": str(run)} | ({"baseline": str(baseline)} if baseline else {}) | options
    evaluation = Evaluation(*build_options(OPTIONS_OF["evaluate"], arguments))
    evaluation.evaluate()
    if evaluation.args.report and evaluation.results:
        evaluation.write_report()
    return evaluation.results
