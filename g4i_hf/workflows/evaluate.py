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
from ..data.checks import check_split
from ..data.classes import class_names
from ..data.images import readable_rows
from ..data.loading import check_has_split, load_reviewed, source_of
from ..data.record import Record, differences
from ..embedding import with_text_embeds
from ..embedding.embed import embeds_of_class_names
from ..evaluation.comparison import ALL_MEASURES, ComparisonRow, compare, shown_results
from ..evaluation.evaluate import results_folder, split_metrics, update_results
from ..evaluation.predict import Predictions, check_run, load_run, nearest_captions, predict
from ..evaluation.report import write_report
from ..evaluation.speed import size_metrics, speed_metrics
from ..files import replace_text
from ..modeling.lora import plain_student
from ..modeling.processing import ImageSettings
from ..names import LABELS_ONLY, WITH_VIEWS, run_of
from ..options import OPTIONS_OF, DataArguments, EncoderArguments, EvaluateArguments, aligns
from ..training.checkpoint import OtherDataError
from ..training.features import FEATURES, student_features
from ..training.run_folder import OPTIONS_FILE, read_options
from .check import num_suspicious
from .fit_result import RESULTS

logger = logging.getLogger(__name__)


class Evaluation:
    """Evaluates a run, and its baseline if there is one, on every split but the training split."""

    def __init__(self, args: EvaluateArguments, data: DataArguments, encoder: EncoderArguments):
        self.args, self.data, self.encoder = args, data, encoder
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available())
        self.fit = Path(args.run) if run_of(args.run).parent == Path(args.run) else None  # a folder of `g4i fit`
        beside = Path(args.run) / LABELS_ONLY
        if self.fit is not None and args.baseline is None and beside.is_dir():
            args.baseline = str(beside)
        self.runs = {"aligned": run_of(args.run)} | ({"baseline": Path(args.baseline)} if args.baseline else {})
        self.folders: dict[str, Path] = {}  # by run, for its metrics
        self.splits = DatasetDict()  # those that are evaluated, with their embeddings
        self.id2label: dict[int, str] = {}
        self.training: Dataset | None = None  # split
        self.record: Record | None = None  # of the splits that are evaluated, or were before; in the main process
        self.left_out: dict[str, int] = {}  # by split, unreadable images that are skipped
        self.found: dict[str, dict[str, Predictions]] = {}  # by run and split
        self.results: dict[str, dict[str, Any]] = {}  # by run, its `all_results.json`; in the main process
        self.verdicts: list[str] = []  # of a folder of `g4i fit`, a line a split

    def evaluate(self) -> None:
        """A ValueError or OSError for a run, split or dataset that does not exist, or other classes than the run's."""
        for run in self.runs.values():
            check_run(run, self.args.weights)
        for name, run in self.runs.items():
            self.folders[name] = results_folder(run, read_options(run), vars(self.data))
        self._load()
        self.found = {name: self._predict(name) for name in self.runs}
        if self.accelerator.is_main_process:
            self.results = {name: self._figures(name) for name in self.runs}
            of_fit = self.fit is not None and self.runs.get("baseline") == self.fit / LABELS_ONLY
            if of_fit and self.folders["aligned"] == self.runs["aligned"]:  # else the data are others
                self._write_differences()

    def _write_differences(self) -> None:
        """`SPLIT_results.json` in a folder of `g4i fit`: both accuracies, and the interval of their difference."""
        for name in self.splits:
            both = {run: found[name] for run, found in self.found.items()}
            labels = both["aligned"].labels
            right = {run: (one.predicted == labels)[labels >= 0].astype(float) for run, one in both.items()}
            if not len(right["aligned"]):
                continue
            paired = right["aligned"] - right["baseline"]
            half = 1.96 * paired.std() / np.sqrt(len(paired))
            found = {
                "images": len(paired),
                "labels_only_accuracy": right["baseline"].mean(),
                "with_views_accuracy": right["aligned"].mean(),
                "difference": paired.mean(),
                "difference_interval": [paired.mean() - half, paired.mean() + half],
            }
            replace_text(self.fit / f"{name}_results.json", json.dumps(found, indent=2) + "\n")
            low, high = (100 * end for end in found["difference_interval"])
            views = "captions" if aligns(read_options(self.runs["aligned"])) else "image features of all"
            self.verdicts.append(
                f"{name}, {len(paired):,} images: labels only {found['labels_only_accuracy']:.1%} -> with {views} "
                f"{found['with_views_accuracy']:.1%}, {100 * found['difference']:+.1f} points "
                f"(95% interval {low:+.1f} to {high:+.1f}){self._said_by_fit()}"
            )

    def _said_by_fit(self) -> str:
        """What `g4i fit` had said of the classifier with views."""
        found = json.loads((self.fit / RESULTS).read_text(encoding="utf-8")) if (self.fit / RESULTS).is_file() else {}
        share, interval = found.get(f"{WITH_VIEWS}_accuracy"), found.get(f"{WITH_VIEWS}_interval")
        if share is None or interval is None:
            return ""
        return "; g4i fit had said {:.0%} ({:.0%} to {:.0%})".format(share, *interval)

    @property
    def rows(self) -> list[ComparisonRow]:
        """The metrics of the run beside those of its baseline."""
        shown = {name: shown_results(self.results[name], read_options(run)) for name, run in self.runs.items()}
        return compare(shown["aligned"], shown.get("baseline"), list(self.splits), ALL_MEASURES)

    # --- Data --------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        args = self.args
        with self.accelerator.main_process_first():  # the first fills the cache that the others read
            splits = load_reviewed(self.data)
        splits, self.id2label = class_names(splits)
        wanted = self._wanted(splits)
        if self.accelerator.is_main_process:
            self._check_data(splits, wanted)
        # A split without captions has an accuracy too
        captioned = DatasetDict({name: split for name, split in splits.items() if has_texts(split)})
        if captioned:
            own = self.encoder.embeddings_dir
            where: dict[str, Any] = {"source": source_of(self.data), "shared": own is None}
            splits |= with_text_embeds(
                captioned, self.encoder, own or self.runs["aligned"].parent / "embeddings", **where
            )
        for name in dict.fromkeys(wanted):
            if args.on_bad_images == "skip":
                splits[name], bad = readable_rows(splits[name], name)
                self.left_out[name] = len(bad)
            check_split(splits[name], name, num_labels=len(self.id2label), training=False, require_labels=False)
        self.splits = DatasetDict({name: splits[name] for name in wanted})
        self.training = splits.get(args.train_split)

    def _check_data(self, splits: DatasetDict, wanted: list[str]) -> None:
        """
        An OtherDataError where the data are not what a run was trained on, or what its figures of other splits are of.
        """
        earlier = {name: Record.read(folder) for name, folder in self.folders.items()}
        known = [record for record in earlier.values() if record is not None]
        names = {*wanted, *(name for record in known for name in record.splits)} & set(splits)
        opened = {name: splits[name] for name in splits if name in names}
        first = known[0] if known else None
        self.record = Record.of(opened, self.id2label.values(), earlier=first)
        for name, there in earlier.items():
            if there is not None:
                self._compare(name, there, self.record, wanted)

    def _compare(self, name: str, there: Record, here: Record, wanted: list[str]) -> None:
        run, folder = self.runs[name], self.folders[name]
        options = read_options(run)
        trained = {options.get("train_split", "train"), options.get("eval_split", "validation")}
        trained = trained & set(there.splits) if folder == run else set()
        if found := differences(there.of_splits(trained), here.of_splits(trained)):
            raise OtherDataError(
                f"The data is not what {run} was trained on. What differs: {', '.join(found.values())}. Train it "
                f"again with g4i train --config {run / OPTIONS_FILE} --overwrite true, or evaluate it on a copy of "
                "the data by another name, with --dataset_name: those figures have a folder of their own."
            )
        for split in set(there.splits) & set(here.splits) - trained - set(wanted):
            if found := differences(there.of_splits([split]), here.of_splits([split])):
                raise OtherDataError(
                    f"The figures of {split} in {folder} are of other data. What differs: "
                    f"{', '.join(found.values())}. Evaluate it too: --splits {' '.join([*wanted, split])}."
                )

    def _wanted(self, splits: DatasetDict) -> list[str]:
        train_split = self.args.train_split
        named = [name for word in self.args.splits or [] for name in word.split(",") if name]
        wanted = named or [name for name in splits if name != train_split]
        if not wanted:
            raise ValueError(
                f"The data has no split but {train_split!r}, which was trained on. Name the splits with --splits."
            )
        for name in wanted:
            check_has_split(splits, name, "splits")
        return wanted

    # --- Predictions and figures -------------------------------------------------------------------------------------

    def _predict(self, name: str) -> dict[str, Predictions]:
        """Predicts every split, and writes the predictions."""
        run, args, found = self.runs[name], self.args, {}
        model, processor = load_run(run, args.weights)
        if {int(i): label for i, label in model.config.id2label.items()} != self.id2label:
            raise ValueError(f"{run} was trained on other classes than those of the data, or another order of them.")
        how = (self.accelerator, args.eval_batch_size, args.eval_num_workers)
        # Image embeddings are compared with captions of these splits and with class names
        with_texts = [*self.splits.values(), *([self.training] if self.training else [])]
        texts = "zero_shot" in args.measures or any(map(has_texts, with_texts))
        for split_name, split in self.splits.items():
            what, features = f"{run.name}, {split_name}", None
            if self.fit is not None and model.takes_features:  # both runs have one backbone, mostly
                place = (self.fit / FEATURES, self.accelerator, args.eval_num_workers, f"Features, {split_name}")
                features = student_features(model, processor, split, *place)
            outputs: dict[str, Any] = {"output_image_embeds": texts, "features": features}
            found[split_name] = predict(model, processor, split, *how, what, **outputs)
        if self.accelerator.is_main_process:
            self._write_predictions(name, found, model.config.id2label)
        self.accelerator.wait_for_everyone()
        return found

    def _write_predictions(self, name: str, found: dict[str, Predictions], id2label: dict[int, str]) -> None:
        folder = self.folders[name] / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        aligned = aligns(read_options(self.runs[name]))
        for split_name, predicted in found.items():
            table = predicted.to_dataset(id2label)
            if aligned and (nearest := nearest_captions(self.splits[split_name], predicted)) is not None:
                table = table.add_column(f"nearest_{columns.CAPTION}", nearest)
            table.to_parquet(folder / f"{split_name}.parquet")

    @cached_property
    def _name_embeds(self) -> np.ndarray:
        device = self.accelerator.device
        return embeds_of_class_names(self.id2label, self.encoder, device, "zero-shot accuracy by class names")

    @cached_property
    def _suspicious(self) -> dict[str, int | None]:
        """By split, how many labels captions contradict; None where that is not asked for, or unknown."""
        if "labels" not in self.args.measures:
            return dict.fromkeys(self.splits)
        training = {name: self.training if name != self.args.train_split else None for name in self.splits}
        return {name: num_suspicious(split, training[name], len(self.id2label)) for name, split in self.splits.items()}

    def _figures(self, name: str) -> dict[str, Any]:
        """Computes the metrics of a run and merges them into its `all_results.json`."""
        args, found = self.args, self.found[name]
        metrics: dict[str, Any] = {}
        name_embeds = self._name_embeds if "zero_shot" in args.measures else None
        for split_name, predicted in found.items():
            split = self.splits[split_name]
            metrics |= split_metrics(predicted, split, split_name, args.measures, name_embeds=name_embeds)
            if (suspicious := self._suspicious[split_name]) is not None:
                metrics[f"{split_name}_suspicious_labels"] = suspicious
            metrics[f"{split_name}_weights"] = args.weights
            if args.on_bad_images == "skip":
                metrics[f"{split_name}_bad_images"] = self.left_out[split_name]
        if "speed" in args.measures and name == "aligned":  # the baseline is the same architecture
            metrics |= self._speed(name)
        results = update_results(self.folders[name], metrics, list(self.splits))
        evaluated, there = self.record.of_splits(self.splits), Record.read(self.folders[name])
        (evaluated if there is None else there.with_splits_of(evaluated)).write(self.folders[name])
        return results

    def _speed(self, name: str) -> dict[str, float]:
        """Size and speed of the released student."""
        model, processor = load_run(self.runs[name], self.args.weights)
        student, size = plain_student(model).float(), ImageSettings.from_processor(processor).size
        return size_metrics(student, size) | speed_metrics(student, size)

    def write_report(self) -> None:
        of_runs = (self.runs, read_options(self.runs["aligned"]), self.splits, self.found, self.id2label)
        write_report(self.args.report, self.rows, *of_runs, self.args.weights, self.results["aligned"])


def evaluate_run(run: str | Path, baseline: str | Path | None = None, **options: Any) -> dict[str, dict[str, Any]]:
    """
    Evaluates a run, and its baseline beside it, on the data of the run, as `g4i evaluate` does.

    Args:
        run: run folder.
        baseline: run folder of its baseline.
        options: others of [`~g4i_hf.options.EvaluateArguments`], such as `splits`, `measures` and `report`, and of
            `DataArguments` and `EncoderArguments`, which override the run's own.

    Returns:
        `{"aligned": metrics, "baseline": metrics}`, also written to the `all_results.json` of each run.
    """
    given = {"run": str(run)} | ({"baseline": str(baseline)} if baseline else {}) | options
    evaluation = Evaluation(*build_options(OPTIONS_OF["evaluate"], given, run_options=OPTIONS_FILE))
    evaluation.evaluate()
    if evaluation.args.report and evaluation.results:
        evaluation.write_report()
    return evaluation.results


def has_texts(split: Dataset) -> bool:
    return columns.CAPTION in split.column_names or columns.TEXT_EMBEDS in split.column_names
