"""
Compares variants of training over students and seeds: every cell of the grid is one training of recipes/train.py, and
differs from the others only in what is named.

    accelerate launch recipes/compare.py --config recipes/emoji_styles/compare.yaml --dry_run true
    accelerate launch recipes/compare.py --config recipes/emoji_styles/compare.yaml --processes 2
    accelerate launch recipes/compare.py --config recipes/emoji_styles/compare.yaml --final true

A cell that ends is a line in the file of results; the same command goes on with those that are missing. The labels of
`final_splits` are opened by `--final true` alone, which is noted in the file of `openings`.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # this folder holds evaluate.py, which would hide the package evaluate
    if {"-h", "--help"} & set(sys.argv):
        os.environ["G4I_HF_LAZY_IMPORT"] = "1"  # help is there before torch would be

OPTIONS = ("g4i_hf.comparison.arguments.CompareArguments",)


def main() -> None:
    from g4i_hf.cli import OptionError, parse_options, quiet_libraries

    (args,) = parse_options(
        OPTIONS, description=__doc__, default_config=Path(__file__).parent / "emoji_styles" / "compare.yaml"
    )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise OptionError("Cells are trained by one process each: launch one, and give --processes.")
    quiet_libraries(True)
    from g4i_hf.comparison.grid import cells_of
    from g4i_hf.comparison.plan import plan
    from g4i_hf.comparison.results import check_device, finished, read_results

    try:
        # 1. The grid, and what of it is there
        cells = cells_of(args)
        results = finished(cells, read_results(args.results), args.splits + args.final_splits)
        check_device(results, device_kind())
        if args.check_cell:
            check_cell(args, cells, results)
            return
        missing = [cell for cell in cells if cell.name not in results]
        if args.dry_run or missing:
            print(plan(args, cells, missing, results), flush=True)
        if args.dry_run:
            return
        # 2. The missing cells
        if args.final and missing:
            raise ValueError("--final scores a grid that is whole: run it without first.")
        train_cells(args, missing, results)
        # 3. What they say
        report(args, cells, results)
    except (ImportError, OSError, ValueError) as error:
        raise OptionError(str(error)) from error


def device_kind() -> str:
    import torch

    if not torch.accelerator.is_available():
        return "cpu"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else torch.accelerator.current_accelerator().type


# --- One cell, in a process of its own -------------------------------------------------------------------------------


def prepare_worker(threads: int) -> None:
    os.environ["TQDM_DISABLE"] = "1"  # the bar is that of the cells; read when tqdm is imported
    import threading

    import torch

    from g4i_hf.cli import quiet_libraries

    torch.set_num_threads(threads)
    quiet_libraries(False)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """A cell that nobody waits for is not worth its hour of a processor."""
    import multiprocessing

    multiprocessing.parent_process().join()
    os._exit(1)


def train_cell(cell, train_config: str, splits_read: list[str]):
    """
    Trains a cell and predicts the splits.

    Returns:
        [`~g4i_hf.comparison.results.Result`] without `made`.
    """
    import tempfile
    import time

    from g4i_hf.comparison.results import Result, digest_of_rows
    from g4i_hf.data.bad_images import rows_to_use
    from g4i_hf.evaluation.evaluate import retrieval_metrics
    from g4i_hf.evaluation.predict import predict
    from g4i_hf.recipes import train
    from g4i_hf.training.progress import AlignmentProgress

    start, cpu_start = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run, data, encoder, student, augmentation, args = options_of(cell, train_config, folder)
        splits, id2label, dim, *_ = train.load_data(run, data, encoder, args)
        missing = [name for name in splits_read if name not in splits]
        if missing:
            raise ValueError(f"The data has no split {missing[0]!r}. It has: {', '.join(splits)}.")
        scored = {name: rows_to_use(splits[name], name, run.on_bad_images) for name in splits_read}
        model, saved, processor = train.build_model(student, augmentation, args, id2label, dim)
        trainer = train.build_trainer(model, processor, saved, splits, run, augmentation, args)
        trainer.pop_callback(AlignmentProgress)
        trained = trainer.train()
        predicted, retrieval = {}, {}
        for name, split in scored.items():
            unlabelled = split.remove_columns("label")  # nothing here can look at one
            predictions = predict(trainer.model.eval(), processor, unlabelled, trainer.accelerator)
            predicted[name] = predictions.predicted
            retrieval[name] = retrieval_metrics(predictions, unlabelled)
    training = {name: float(value) for name, value in trained.metrics.items() if name in ("train_loss", "epoch")}
    training["seconds"] = round(time.perf_counter() - start, 1)
    training["thread_seconds"] = round(time.process_time() - cpu_start, 1)
    training["parameters"] = sum(parameter.numel() for parameter in model.student.parameters())
    place = (cell.student, cell.variant, cell.seed, cell.digest, cell.options)
    images = {name: digest_of_rows(split["image_id"], id2label.values()) for name, split in scored.items()}
    return Result(*place, predicted, retrieval, training, device_kind(), images=images)


def options_of(cell, train_config: str, folder: str):
    """
    The options of recipes/train.py. A cell that names data or a text encoder of its own has a folder of embeddings
    beside that of the others, which would replace each other's.
    """
    from g4i_hf.cli import parse_options
    from g4i_hf.comparison.grid import digest_of
    from g4i_hf.recipes import train

    options = parse_options(train.OPTIONS, cell.argv(train_config, folder))
    _, data, encoder, *_ = options
    own = {name: value for name, value in cell.options.items() if hasattr(data, name) or hasattr(encoder, name)}
    if encoder.embeddings_dir is None:
        own, encoder.embeddings_dir = vars(data) | vars(encoder), "runs/embeddings/grid"
    if own:
        encoder.embeddings_dir += f"-{digest_of(own)[:8]}"
    return options


# --- All of them -----------------------------------------------------------------------------------------------------


def train_cells(args, missing, results) -> None:
    """Trains what is missing, `processes` at a time; every result is written when it is there."""
    from concurrent.futures import as_completed

    from tqdm import tqdm

    from g4i_hf.comparison.provenance import made_by
    from g4i_hf.comparison.results import append_result
    from g4i_hf.recipes import compare  # by a name that other processes can import

    if not missing:
        return
    made, read = made_by(), [*args.splits, *args.final_splits]
    embed_captions(args, missing)
    with workers(args, min(args.processes, len(missing))) as pool:
        waiting = {pool.submit(compare.train_cell, cell, args.train_config, read): cell for cell in missing}
        bar = tqdm(as_completed(waiting), total=len(waiting), desc="Cells", unit="cell")
        try:
            for future in bar:
                result = result_of(future, waiting[future])
                result.made = made
                append_result(args.results, result)
                results[f"{result.student}/{result.variant}/{result.seed}"] = result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def result_of(future, cell):
    try:
        return future.result()
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"cell {cell.name}: {error}") from error


def embed_captions(args, cells) -> None:
    """Once, before several processes would all do so."""
    import tempfile

    from g4i_hf.recipes import train

    embedded = set()
    for cell in cells:
        with tempfile.TemporaryDirectory() as folder:
            run, data, encoder, _, _, training = options_of(cell, args.train_config, folder)
            if encoder.embeddings_dir not in embedded:
                train.load_data(run, data, encoder, training)
            embedded.add(encoder.embeddings_dir)


def workers(args, number: int):
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    import torch

    from g4i_hf.recipes import compare

    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read when they start
    if torch.cuda.device_count() > 1:
        raise ValueError("Several GPUs are visible: show this command one of them (CUDA_VISIBLE_DEVICES).")
    return ProcessPoolExecutor(
        number,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=compare.prepare_worker,
        initargs=(args.threads,),
    )


def check_cell(args, cells, results) -> None:
    """Trains a cell again and compares every prediction."""
    from g4i_hf.comparison.results import other_than
    from g4i_hf.recipes import compare

    chosen = [cell for cell in cells if cell.name == args.check_cell]
    if not chosen or args.check_cell not in results:
        raise ValueError(f"check_cell is {args.check_cell!r}, which is no finished cell, student/variant/seed.")
    before = results[args.check_cell]
    with workers(args, 1) as pool:
        again = pool.submit(compare.train_cell, chosen[0], args.train_config, list(before.predicted)).result()
    other = other_than(before, again)
    print(f"{args.check_cell}: {other or 'the same to the bit'}")
    if other:
        raise SystemExit(1)


def report(args, cells, results) -> None:
    from g4i_hf.comparison.findings import as_table, find
    from g4i_hf.comparison.plots import plot_curves, plot_differences
    from g4i_hf.comparison.summary import left_out, write_summary

    labels, bars = open_labels(args, cells[0])
    findings = find(args, cells, results, labels)
    few = {cell.student for cell in cells if float(cell.options.get("label_fraction", 1)) < 1}
    print("\n" + as_table(findings, bars, few | {None} if few else ()))  # None: all of them together
    if bars:
        shown = ", ".join(f"{name} {100 * value:.1f}" for name, value in bars.items())
        print(f"\nNearest training image by 16 x 16 pixels: {shown}")
    if args.summary and (others := left_out(args.summary, findings, args.seeds)):
        print(
            f"{args.summary} has figures of {', '.join(others)}, which were not scored now: it and the pictures are "
            "left as they are. Score these too (--final true for the final splits), name another file (--summary), or "
            "remove it."
        )
        return
    if args.summary:
        write_summary(args.summary, results, findings, bars, args.seeds)
        print(f"summary: {args.summary}")
    if args.plot and any(finding.difference for finding in findings):
        plot_differences(findings, args.plot)
        print(f"plot: {args.plot}")
    if args.curves:
        plot_curves(findings, cells, args.curve_option, args.curves)
        print(f"curves: {args.curves}")


def open_labels(args, cell):
    """Labels and clusters of the splits that are scored, and what the nearest neighbour scores on them."""
    import tempfile

    import numpy as np

    from g4i_hf.comparison.findings import Labels
    from g4i_hf.comparison.openings import note_opening
    from g4i_hf.comparison.pixel_neighbours import MOST, labelled_pixels, neighbour_predictions
    from g4i_hf.comparison.results import digest_of_rows
    from g4i_hf.data.bad_images import rows_to_use
    from g4i_hf.data.labels import labels_of
    from g4i_hf.data.loading import class_names

    with tempfile.TemporaryDirectory() as folder:
        run, data, *_ = options_of(cell, args.train_config, folder)
    splits, id2label = class_names(data.load())
    scored = args.splits + (args.final_splits if args.final else [])
    labels, bars = {}, {}
    if unlabelled := [name for name in scored if not (labels_of(splits[name]) >= 0).any()]:
        raise ValueError(f"{unlabelled[0]} has no labelled image, and cannot be scored.")
    if args.final and args.final_splits:
        note_opening(args.openings, args.final_splits, args.results)
    training = splits[run.train_split]
    few_enough = len(training) <= MOST
    known = labelled_pixels(rows_to_use(training, run.train_split, run.on_bad_images)) if few_enough else None
    for name in scored:
        split = rows_to_use(splits[name], name, run.on_bad_images)
        if args.cluster_column and args.cluster_column not in split.column_names:
            raise ValueError(f"{name} has no column {args.cluster_column!r} (cluster_column).")
        classes = labels_of(split)
        clusters = np.asarray(split[args.cluster_column or "image_id"][:])
        labels[name] = Labels(classes, clusters, digest_of_rows(split["image_id"], id2label.values()))
        if known is not None:
            bars[name] = float((neighbour_predictions(known, split) == classes)[classes >= 0].mean())
    return labels, bars


if __name__ == "__main__":
    from g4i_hf.cli import end_processes

    main()
    end_processes()
