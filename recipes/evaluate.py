"""
Evaluates a run, and its baseline beside it, on every split but the one trained on.

    accelerate launch recipes/evaluate.py --run runs/emoji_styles/aligned --baseline runs/emoji_styles/baseline

Adds the figures to each run's all_results.json and writes its predictions. The data is that of the run's train.yaml;
figures of other data (--dataset_name) go into a folder of their own in the run's evaluations/. Probes of the feature
and corrupted images, which take longer, come with --measures all.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # this folder holds evaluate.py, which would hide the package evaluate
    if {"-h", "--help"} & set(sys.argv):
        os.environ["G4I_HF_LAZY_IMPORT"] = "1"  # help is there before torch would be

OPTIONS = (
    "g4i_hf.evaluation.arguments.EvaluateArguments",
    "g4i_hf.data.arguments.DataArguments",
    "g4i_hf.embedding.arguments.EncoderArguments",
)


def main() -> None:
    from g4i_hf.cli import OptionError, parse_options, quiet_libraries

    args, data, encoder = parse_options(
        OPTIONS,
        description=__doc__,
        default_config=Path(__file__).parent / "emoji_styles" / "evaluate.yaml",
        run_options="train.yaml",
    )
    import torch
    from accelerate import Accelerator

    from g4i_hf.evaluation.comparison import as_text, compare
    from g4i_hf.evaluation.evaluate import results_folder
    from g4i_hf.evaluation.measures import ALL_MEASURES
    from g4i_hf.evaluation.predict import check_run
    from g4i_hf.training.run_folder import learned_from_captions, read_options

    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    quiet_libraries(accelerator.is_main_process)
    runs = {"aligned": Path(args.run)} | ({"baseline": Path(args.baseline)} if args.baseline else {})
    try:
        # 1. The data of the run, with its embeddings
        for run in runs.values():
            check_run(run, args.weights)
        splits, id2label, training, left_out = load_splits(args, data, encoder, accelerator)
        # 2. What each run makes of the images, on all processes
        folders = {label: results_folder(run, read_options(run), vars(data)) for label, run in runs.items()}
        evaluated = {
            label: evaluate_run(run, folders[label], splits, id2label, args, accelerator, training)
            for label, run in runs.items()
        }
        if not accelerator.is_main_process:
            return
        # 3. The figures: nobody waits for the main process, which may fit probes for long
        results = write_figures(
            args, encoder, runs, folders, splits, evaluated, id2label, accelerator.device, left_out
        )
    except (OSError, ValueError) as error:
        raise OptionError(str(error)) from error
    # 4. The comparison, as a table and as a page
    rows = compare(results["aligned"], results.get("baseline"), list(splits), ALL_MEASURES)
    print("\n" + as_text(rows))
    if args.baseline and (weights := learned_from_captions(read_options(args.baseline))):
        print(f"{args.baseline} is no baseline: it learned from captions too ({weights}).")
    for label, folder in folders.items():
        print(f"{label}: {folder}/all_results.json, {folder}/predictions")
    predictions = {label: found.predictions for label, found in evaluated.items()}
    draw_pictures(args, runs, folders["aligned"], splits, predictions["aligned"], id2label, training)
    if args.report:
        from g4i_hf.evaluation.report import write_report

        options = read_options(args.run)
        try:
            write_report(args.report, rows, runs, options, splits, predictions, id2label, args.weights)
        except OSError as error:  # the figures are safe; only the page is missing
            raise OptionError(f"no report: {error}") from error
        print(f"report: {args.report}")


def draw_pictures(args, runs, folder, splits, predictions, id2label, training) -> None:
    """For the card of a release; the figures are there without."""
    from g4i_hf.evaluation.card_pictures import draw_card_pictures
    from g4i_hf.training.run_folder import read_options

    with_captions = training is not None and _has_texts(training) and read_options(args.run).get("align_weight")
    captions = (args.train_split, training) if with_captions else None
    try:
        drawn = draw_card_pictures(
            folder, runs, splits, predictions, id2label, weights=args.weights, training=captions
        )
    except (ImportError, OSError) as error:
        print(f"no pictures for a card: {error}")
    else:
        print(f"pictures for a card: {drawn}")


def load_splits(args, data, encoder, accelerator):
    """
    The evaluated splits, checked; the class names; the rows that were trained on, where the data has them; by split,
    how many images cannot be read and are left out.
    """
    from datasets import DatasetDict

    from g4i_hf.data.bad_images import readable_rows
    from g4i_hf.data.checks import check_split
    from g4i_hf.data.loading import class_names
    from g4i_hf.embedding import with_text_embeds

    with accelerator.main_process_first():  # the first fills the cache that the others read
        splits = data.load()
    splits, id2label = class_names(splits)
    # A split without captions has its accuracy all the same
    captioned = DatasetDict({name: split for name, split in splits.items() if _has_texts(split)})
    embedded = with_text_embeds(
        captioned,
        encoder,
        encoder.embeddings_dir or Path(args.run).parent / "embeddings",
        source=data.source(),
        shared=encoder.embeddings_dir is None,
    )
    splits = DatasetDict(splits | embedded)
    named = [name for word in args.splits or [] for name in word.split(",") if name]
    wanted = named or [name for name in splits if name != args.train_split]
    if not wanted:
        raise ValueError(
            f"The data has no split but {args.train_split!r}, which was trained on. Give it another, such as a folder "
            "`validation`, or name the splits with --splits."
        )
    missing = [name for name in wanted if name not in splits]
    if missing:
        raise ValueError(f"The data has no split {missing[0]!r} (splits). It has: {', '.join(splits)}.")
    if "probe" in args.measures and args.train_split not in splits:
        raise ValueError(
            f"The data has no split {args.train_split!r} (train_split), which probes are fitted on. Name the one that "
            "was trained on, or leave probe out of measures."
        )
    checked = [*wanted, args.train_split] if "probe" in args.measures else wanted
    left_out = {}
    for name in dict.fromkeys(checked):
        if args.on_bad_images == "skip":
            splits[name], bad = readable_rows(splits[name], name)
            left_out[name] = len(bad)
        check_split(splits[name], name, num_labels=len(id2label), training=False, require_labels=False)
    return DatasetDict({name: splits[name] for name in wanted}), id2label, splits.get(args.train_split), left_out


def _has_texts(split) -> bool:
    from g4i_hf import columns

    return columns.CAPTION in split.column_names or columns.TEXT_EMBEDS in split.column_names


def evaluate_run(run, folder, splits, id2label, args, accelerator, training=None):
    """Predictions of every split, which are written; with them what other measures want of the images."""
    from g4i_hf import columns
    from g4i_hf.evaluation.corruptions import corrupted_accuracies
    from g4i_hf.evaluation.evaluate import Evaluated
    from g4i_hf.evaluation.nearest import nearest_captions
    from g4i_hf.evaluation.predict import load_run, predict
    from g4i_hf.training.run_folder import read_options

    model, processor = load_run(run, args.weights)
    if {int(i): name for i, name in model.config.id2label.items()} != id2label:
        raise ValueError(f"{run} was trained on other classes than those of the data, or on another order of them.")
    how = (accelerator, args.eval_batch_size, args.eval_num_workers)
    probes, found = "probe" in args.measures, Evaluated()
    # Image embeddings are compared with texts: those of the split, of the training split for pictures, of class names
    texts = "zero_shot" in args.measures or any(map(_has_texts, [*splits.values(), *([training] if training else [])]))
    outputs = {"output_features": probes, "output_image_embeds": texts}
    for name, split in splits.items():
        found.predictions[name] = predict(model, processor, split, *how, f"{run.name}, {name}", **outputs)
        if "robustness" in args.measures:
            found.corrupted[name] = corrupted_accuracies(model, processor, split, *how, f"{run.name}, {name}")
    if probes:
        rows, what = drawn_rows(training, args.probe_samples), f"{run.name}, {args.train_split} for probes"
        found.training = predict(model, processor, rows, *how, what, output_features=True, output_image_embeds=False)
    if accelerator.is_main_process:
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        for name, predicted in found.predictions.items():
            table = predicted.to_dataset(model.config.id2label)
            nearest = nearest_captions(splits[name], predicted) if read_options(run).get("align_weight") else None
            if nearest is not None:
                table = table.add_column(f"nearest_{columns.CAPTION}", nearest)
            table.to_parquet(folder / "predictions" / f"{name}.parquet")
    accelerator.wait_for_everyone()
    return found


def drawn_rows(training, number):
    """The rows of the training split, or so many of them."""
    import numpy as np

    if number is None or number >= len(training):
        return training
    return training.select(np.sort(np.random.default_rng(0).permutation(len(training))[:number]))


def write_figures(args, encoder, runs, folders, splits, evaluated, id2label, device, left_out):
    """The figures of each run, merged into its folder's all_results.json; `left_out`: images by split."""
    from g4i_hf.evaluation.evaluate import split_metrics, update_results
    from g4i_hf.evaluation.probes import Probes
    from g4i_hf.evaluation.zero_shot import embeds_of_class_names

    names = embeds_of_class_names(id2label, encoder, device) if "zero_shot" in args.measures else None
    results = {}
    for label, found in evaluated.items():
        probes = Probes(found.training, runs[label].name) if found.training is not None else None
        metrics = {}
        for name, predicted in found.predictions.items():
            others = None if name == args.train_split else probes  # probes know the rows that they were fitted on
            metrics |= split_metrics(predicted, splits[name], name, args.measures, name_embeds=names, probes=others)
            metrics |= {f"{name}_{figure}": value for figure, value in found.corrupted.get(name, {}).items()}
            metrics[f"{name}_weights"] = args.weights
            if args.on_bad_images == "skip":
                metrics[f"{name}_bad_images"] = left_out[name]
        results[label] = update_results(folders[label], metrics, list(splits))
    return results


if __name__ == "__main__":
    from g4i_hf.cli import end_processes

    main()
    end_processes()
