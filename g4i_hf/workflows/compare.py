"""A grid of trainings over students, variants and seeds: cells in processes of their own, and what they say."""

import multiprocessing
import os
import tempfile
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

import numpy as np
import torch
from tqdm import tqdm

from ..cli import OWN_MODULE, import_module, parse_options, quiet_libraries
from ..comparison.findings import Finding, Labels, as_table, find
from ..comparison.grid import Cell, cells_of, digest_of
from ..comparison.openings import note_opening
from ..comparison.pixel_neighbours import MOST, labelled_pixels, neighbour_predictions
from ..comparison.plan import plan
from ..comparison.plots import plot_curves, plot_differences
from ..comparison.provenance import made_by
from ..comparison.results import (
    Result,
    append_result,
    check_device,
    digest_of_rows,
    finished,
    other_than,
    read_results,
)
from ..comparison.summary import left_out, write_summary
from ..data.checks import labels_of
from ..data.images import rows_to_use
from ..data.loading import class_names, load_data
from ..evaluation.evaluate import retrieval_metrics
from ..evaluation.predict import predict
from ..options import OPTIONS_OF, CompareArguments
from ..training.progress import AlignmentProgress
from .train import TrainingRun


class Study:
    """
    Args:
        args: the options of the command.

    Attributes:
        cells: all of the grid.
        results: of the finished ones, by name.
        missing: the others.
        findings, bars: set by [`score`]; bars are the accuracies of the nearest training image, by split.
    """

    def __init__(self, args: CompareArguments):
        self.args = args
        self.cells = cells_of(args)
        self.results = finished(self.cells, read_results(args.results), args.splits + args.final_splits)
        check_device(self.results, device_kind())
        self.findings: list[Finding] = []
        self.bars: dict[str, float] = {}
        self.missing = [cell for cell in self.cells if cell.name not in self.results]

    def plan(self) -> str:
        return plan(self.args, self.cells, self.missing, self.results)

    # --- Training ----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """
        Trains what is missing, `processes` cells at a time; every result is written when it is there.

        Raises:
            ValueError: with the name of a cell that failed; those that were finished are kept.
        """
        if not self.missing:
            return
        made, read = made_by(), [*self.args.splits, *self.args.final_splits]
        self._embed()
        with self._workers(min(self.args.processes, len(self.missing))) as pool:
            waiting = {pool.submit(train_cell, cell, self.args.train_config, read): cell for cell in self.missing}
            try:
                for future in tqdm(as_completed(waiting), total=len(waiting), desc="Cells", unit="cell"):
                    result = result_of(future, waiting[future])
                    result.made = made
                    append_result(self.args.results, result)
                    self.results[f"{result.student}/{result.variant}/{result.seed}"] = result
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def check_cell(self) -> str | None:
        """Trains the cell of `check_cell` again. Returns what is other than before; None when all is the same."""
        name = self.args.check_cell
        chosen = [cell for cell in self.cells if cell.name == name]
        if not chosen or name not in self.results:
            raise ValueError(f"check_cell is {name!r}, which is no finished cell, student/variant/seed.")
        before = self.results[name]
        with self._workers(1) as pool:
            again = pool.submit(train_cell, chosen[0], self.args.train_config, list(before.predicted)).result()
        return other_than(before, again)

    def _embed(self) -> None:
        """Once, before several processes would all do so."""
        embedded = set()
        for cell in self.missing:
            with tempfile.TemporaryDirectory() as folder:
                run = run_of(cell, self.args.train_config, folder)
                if run.encoder.embeddings_dir not in embedded:
                    run.load()
                embedded.add(run.encoder.embeddings_dir)

    def _workers(self, number: int) -> ProcessPoolExecutor:
        os.environ["OMP_NUM_THREADS"] = str(self.args.threads)  # read when they start
        os.environ["TQDM_DISABLE"] = "1"  # in them: the bar is that of the cells. Read when tqdm is imported
        if torch.cuda.device_count() > 1:
            raise ValueError("Several GPUs are visible: show this command one of them (CUDA_VISIBLE_DEVICES).")
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(number, spawn, initializer=prepare_worker, initargs=(self.args.threads,))

    # --- Findings ----------------------------------------------------------------------------------------------------

    def score(self) -> str:
        """Scores the cells. Returns the table."""
        labels, self.bars = self._open_labels()
        self.findings = find(self.args, self.cells, self.results, labels)
        few = {cell.student for cell in self.cells if float(cell.options.get("label_fraction", 1)) < 1}
        # None: all of them together
        table = as_table(self.findings, self.bars, few | {None} if few else ())
        shown = ", ".join(f"{name} {100 * value:.1f}" for name, value in self.bars.items())
        return table + (f"\n\nNearest training image by 16 x 16 pixels: {shown}" if self.bars else "")

    def write(self) -> list[str]:
        """Writes summary and pictures of what was scored. Returns a line for each."""
        args, lines, findings = self.args, [], self.findings
        if args.summary and (others := left_out(args.summary, findings, args.seeds)):
            return [
                f"{args.summary} has figures of {', '.join(others)}, which were not scored now: it and the pictures "
                "are left as they are. Score these too (--final true for the final splits), name another file "
                "(--summary), or remove it."
            ]
        if args.summary:
            write_summary(args.summary, self.results, findings, self.bars, args.seeds)
            lines.append(f"summary: {args.summary}")
        if args.plot and any(finding.difference for finding in findings):
            plot_differences(findings, args.plot)
            lines.append(f"plot: {args.plot}")
        if args.curves:
            plot_curves(findings, self.cells, "label_fraction", args.curves)
            lines.append(f"curves: {args.curves}")
        return lines

    def _open_labels(self) -> tuple[dict[str, Labels], dict[str, float]]:
        """Labels and clusters of the splits that are scored, and what the nearest neighbour scores on them."""
        args = self.args
        with tempfile.TemporaryDirectory() as folder:
            run = run_of(self.cells[0], args.train_config, folder)
        splits, id2label = class_names(load_data(run.data))
        scored = args.splits + (args.final_splits if args.final else [])
        if unlabelled := [name for name in scored if not (labels_of(splits[name]) >= 0).any()]:
            raise ValueError(f"{unlabelled[0]} has no labelled image, and cannot be scored.")
        if args.final and args.final_splits:
            note_opening(args.openings, args.final_splits, args.results)
        training, on_bad_images = splits[run.run.train_split], run.run.on_bad_images
        few_enough = len(training) <= MOST
        rows = rows_to_use(training, run.run.train_split, on_bad_images) if few_enough else None
        known = labelled_pixels(rows) if few_enough else None
        labels, bars = {}, {}
        for name in scored:
            split = rows_to_use(splits[name], name, on_bad_images)
            if args.cluster_column and args.cluster_column not in split.column_names:
                raise ValueError(f"{name} has no column {args.cluster_column!r} (cluster_column).")
            classes = labels_of(split)
            clusters = np.asarray(split[args.cluster_column or "image_id"][:])
            labels[name] = Labels(classes, clusters, digest_of_rows(split["image_id"], id2label.values()))
            if known is not None:
                bars[name] = float((neighbour_predictions(known, split) == classes)[classes >= 0].mean())
        return labels, bars


def device_kind() -> str:
    if not torch.accelerator.is_available():
        return "cpu"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else torch.accelerator.current_accelerator().type


# --- One cell, in a process of its own -------------------------------------------------------------------------------


def prepare_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    quiet_libraries(False)
    if module := os.environ.get(OWN_MODULE):
        import_module(module)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """A cell that nobody waits for is not worth its hour of CPU time."""
    multiprocessing.parent_process().join()
    os._exit(1)


def train_cell(cell: Cell, train_config: str, splits_read: list[str]) -> Result:
    """Trains a cell and predicts the splits; the result is without `made`."""
    start, cpu_start = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(cell, train_config, folder)
        run.load()
        if missing := [name for name in splits_read if name not in run.splits]:
            raise ValueError(f"The data has no split {missing[0]!r}. It has: {', '.join(run.splits)}.")
        scored = {name: rows_to_use(run.splits[name], name, run.run.on_bad_images) for name in splits_read}
        trainer = run.build_trainer()
        trainer.pop_callback(AlignmentProgress)
        trained = trainer.train()
        predicted, retrieval = {}, {}
        for name, split in scored.items():
            unlabelled = split.remove_columns("label")  # nothing here can look at one
            predictions = predict(trainer.model.eval(), run.built.processor, unlabelled, trainer.accelerator)
            predicted[name] = predictions.predicted
            retrieval[name] = retrieval_metrics(predictions, unlabelled)
    training = {name: float(value) for name, value in trained.metrics.items() if name in ("train_loss", "epoch")}
    training["seconds"] = round(time.perf_counter() - start, 1)
    training["thread_seconds"] = round(time.process_time() - cpu_start, 1)
    training["parameters"] = sum(parameter.numel() for parameter in run.built.model.student.parameters())
    place = (cell.student, cell.variant, cell.seed, cell.digest, cell.options)
    images = {name: digest_of_rows(split["image_id"], run.id2label.values()) for name, split in scored.items()}
    return Result(*place, predicted, retrieval, training, device_kind(), images=images)


def result_of(future: Future, cell: Cell) -> Result:
    try:
        return future.result()
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"cell {cell.name}: {error}") from error


def run_of(cell: Cell, train_config: str, folder: str) -> TrainingRun:
    """
    The training of a cell. One that names data or a text encoder of its own has a folder of embeddings beside that of
    the others, which would replace each other's.
    """
    run = TrainingRun(*parse_options(OPTIONS_OF["train"], cell.argv(train_config, folder)))
    own = {
        name: value for name, value in cell.options.items() if hasattr(run.data, name) or hasattr(run.encoder, name)
    }
    if run.encoder.embeddings_dir is None:
        own, run.encoder.embeddings_dir = vars(run.data) | vars(run.encoder), "runs/embeddings/grid"
    if own:
        run.encoder.embeddings_dir += f"-{digest_of(own)[:8]}"
    return run
