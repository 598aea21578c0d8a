"""A grid of trainings over students, variants and seeds: cells in processes of their own, and what they say."""

import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

import numpy as np
import torch
from tqdm import tqdm

from .. import study
from ..cli import OWN_MODULE, import_module, parse_options, quiet_libraries
from ..data.checks import labels_of
from ..data.images import rows_to_use
from ..data.loading import check_has_split, class_names, load_data
from ..evaluation.predict import predict
from ..options import OPTIONS_OF, CompareArguments
from ..training.progress import AlignmentProgress
from .train import TrainingRun


class Study:
    """The cells of a grid, the results of the finished ones by name, and those that are missing."""

    def __init__(self, args: CompareArguments):
        self.args = args
        self.cells = study.cells_of(args)
        self.results = study.finished(self.cells, study.read_results(args.results), args.splits + args.final_splits)
        self.missing = [cell for cell in self.cells if cell.name not in self.results]
        self.findings: list[study.Finding] = []  # set by `score`
        if others := {result.device for result in self.results.values()} - {device_kind()}:
            raise ValueError(
                f"Cells of this comparison were trained on {', '.join(sorted(others))}, this machine has "
                f"{device_kind()}, which may make a difference of its own. Give another file of results (--results)."
            )

    def plan(self) -> str:
        """Cells by student and variant, finished and all, and how long the missing ones will take."""
        done = len(self.cells) - len(self.missing)
        lines = [f"{len(self.cells)} cells, {done} of them in {self.args.results}; finished of all:"]
        students = list(dict.fromkeys(cell.student for cell in self.cells))
        for student in students:
            counts = []
            for variant in dict.fromkeys(cell.variant for cell in self.cells):
                names = [cell.name for cell in self.cells if (cell.student, cell.variant) == (student, variant)]
                counts.append(f"{variant} {sum(name in self.results for name in names)}/{len(names)}")
            lines.append(f"  {student:{max(map(len, students))}}  " + "  ".join(counts))
        took: dict[str, list[float]] = {}
        for result in self.results.values():
            took.setdefault(result.student, []).append(result.training["seconds"])
        if self.missing and took:
            known = {student: statistics.median(seconds) for student, seconds in took.items()}
            usual = statistics.median(known.values())
            seconds = sum(known.get(cell.student, usual) for cell in self.missing) / self.args.processes
            many = f"{len(self.missing)}, {self.args.processes} at a time"
            lines.append(f"About {seconds / 60:.0f} minutes for the missing {many}.")
        elif self.missing:
            lines.append("How long a cell takes is known once one is finished; g4i train --dry_run times steps.")
        return "\n".join(lines)

    # --- Training ----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """
        Trains what is missing, `processes` cells at a time; every result is written when it is there. After one failed
        no further cell begins, those that have begun are finished, and a ValueError names it.
        """
        if not self.missing:
            return
        made, read = study.made_by(), [*self.args.splits, *self.args.final_splits]
        self._embed()
        failed: tuple[str, Exception] | None = None
        with self.workers(min(self.args.processes, len(self.missing))) as pool:
            waiting = {pool.submit(train_cell, cell, self.args.train_config, read): cell for cell in self.missing}
            try:
                for future in tqdm(as_completed(waiting), total=len(waiting), desc="Cells", unit="cell"):
                    if future.cancelled():
                        continue
                    try:
                        result = future.result()
                    except (ImportError, OSError, ValueError, RuntimeError) as error:
                        failed = failed or (waiting[future].name, error)
                        cancel(waiting)
                        continue
                    result.made = made
                    study.append_result(self.args.results, result)
                    self.results[result.name] = result
            except BaseException:
                cancel(waiting)
                raise
        if failed:
            raise ValueError(f"cell {failed[0]}: {failed[1]}") from failed[1]

    def check_cell(self) -> str:
        """Trains the cell of `check_cell` again. Returns what is other than before; empty when all is the same."""
        name = self.args.check_cell
        chosen = [cell for cell in self.cells if cell.name == name]
        if not chosen or name not in self.results:
            raise ValueError(f"check_cell is {name!r}, which is no finished cell, student/variant/seed.")
        before = self.results[name]
        with self.workers(1) as pool:
            again = pool.submit(train_cell, chosen[0], self.args.train_config, list(before.predicted)).result()
        return again.other_than(before)

    def _embed(self) -> None:
        """Once, before several processes would all do so."""
        embedded = set()
        for cell in self.missing:
            with tempfile.TemporaryDirectory() as folder:
                run = run_of(cell, self.args.train_config, folder)
                if run.encoder.embeddings_dir not in embedded:
                    run.load()
                embedded.add(run.encoder.embeddings_dir)

    def workers(self, number: int) -> ProcessPoolExecutor:
        os.environ["OMP_NUM_THREADS"] = str(self.args.threads)  # read when they start
        os.environ["TQDM_DISABLE"] = "1"  # in them: the bar is that of the cells. Read when tqdm is imported
        if torch.cuda.device_count() > 1:
            raise ValueError("Several GPUs are visible: show this command one of them (CUDA_VISIBLE_DEVICES).")
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(number, spawn, initializer=prepare_worker, initargs=(self.args.threads,))

    # --- Findings ----------------------------------------------------------------------------------------------------

    def score(self) -> str:
        """Scores the cells. Returns the table."""
        self.findings = study.find(self.args, self.cells, self.results, self._open_labels())
        return study.as_table(self.findings)

    def write(self) -> list[str]:
        """Writes summary and pictures of what was scored. Returns a line for each."""
        args, lines, findings = self.args, [], self.findings
        if args.summary and (others := study.not_scored_now(args.summary, findings, args.seeds)):
            return [
                f"{args.summary} has figures of {', '.join(others)}, which were not scored now: it and the pictures "
                "are left as they are. Score these too (--final), or name another file (--summary)."
            ]
        if args.summary:
            study.write_summary(args.summary, self.results, findings, args.seeds)
            lines.append(f"summary: {args.summary}")
        if args.plot and any(finding.difference for finding in findings):
            study.plot_differences(findings, args.plot)
            lines.append(f"plot: {args.plot}")
        return lines

    def _open_labels(self) -> dict[str, study.Labels]:
        """Labels and clusters of the splits that are scored."""
        args = self.args
        with tempfile.TemporaryDirectory() as folder:
            run = run_of(self.cells[0], args.train_config, folder)
        splits, id2label = class_names(load_data(run.data))
        scored = args.splits + (args.final_splits if args.final else [])
        for name in scored:
            if not (labels_of(splits[name]) >= 0).any():
                raise ValueError(f"{name} has no labelled image, and cannot be scored.")
            if args.cluster_column and args.cluster_column not in splits[name].column_names:
                raise ValueError(f"{name} has no column {args.cluster_column!r} (cluster_column).")
        if args.final and args.final_splits:
            study.note_opening(args.openings, args.final_splits, args.results)
        labels = {}
        for name in scored:
            split = rows_to_use(splits[name], name, run.run.on_bad_images)
            classes, clusters = labels_of(split), np.asarray(split[args.cluster_column or "image_id"][:])
            labels[name] = study.Labels(classes, clusters, study.digest_of_rows(split["image_id"], id2label.values()))
        return labels


def cancel(futures: Iterable[Future]) -> None:
    """Those that have not begun."""
    for future in futures:
        future.cancel()


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


def train_cell(cell: study.Cell, train_config: str, splits_read: list[str]) -> study.Result:
    """Trains a cell and predicts the splits; the result is without `made`."""
    start, cpu_start = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(cell, train_config, folder)
        run.load()
        for name in splits_read:
            check_has_split(run.splits, name)
        scored = {name: rows_to_use(run.splits[name], name, run.run.on_bad_images) for name in splits_read}
        trainer = run.build_trainer()
        trainer.pop_callback(AlignmentProgress)
        trained = trainer.train()
        predicted = {}
        for name, split in scored.items():
            unlabelled = split.remove_columns("label")  # nothing here can look at one
            predictions = predict(trainer.model.eval(), run.built.processor, unlabelled, trainer.accelerator)
            predicted[name] = predictions.predicted
    training = {name: float(value) for name, value in trained.metrics.items() if name in ("train_loss", "epoch")}
    training["seconds"] = round(time.perf_counter() - start, 1)
    training["thread_seconds"] = round(time.process_time() - cpu_start, 1)
    training["parameters"] = sum(parameter.numel() for parameter in run.built.model.student.parameters())
    place = (cell.student, cell.variant, cell.seed, cell.digest, cell.options)
    images = {name: study.digest_of_rows(split["image_id"], run.id2label.values()) for name, split in scored.items()}
    return study.Result(*place, predicted, training, device_kind(), images=images)


def run_of(cell: study.Cell, train_config: str, folder: str) -> TrainingRun:
    """
    The training of a cell. One that names data or a text encoder of its own has a folder of embeddings beside that of
    the others, which would replace each other's.
    """
    run = TrainingRun(*parse_options(OPTIONS_OF["train"], cell.argv(train_config, folder)))
    named = vars(run.data) | vars(run.encoder)
    own = {name: value for name, value in cell.options.items() if name in named}
    if run.encoder.embeddings_dir is None:
        own, run.encoder.embeddings_dir = named, "runs/embeddings/grid"
    if own:
        run.encoder.embeddings_dir += f"-{study.digest_of(own)[:8]}"
    return run
