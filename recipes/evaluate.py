"""
Evaluates a run, and its baseline beside it, on every split but the one trained on.

    accelerate launch recipes/evaluate.py --run runs/emoji_styles/aligned --baseline runs/emoji_styles/baseline

Adds the figures to each run's all_results.json and writes its predictions. The data is that of the run's train.yaml;
figures of other data (--dataset_name) go into a folder of their own in the run's evaluations/.
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
    from g4i_hf.evaluation.predict import check_run
    from g4i_hf.training.run_folder import read_options

    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    quiet_libraries(accelerator.is_main_process)
    runs = {"aligned": Path(args.run)} | ({"baseline": Path(args.baseline)} if args.baseline else {})
    try:
        # 1. The data of the run, with its embeddings
        for run in runs.values():
            check_run(run, args.weights)
        splits, id2label, training = load_splits(args, data, encoder, accelerator)
        # 2. Predictions and figures of each run
        folders = {label: results_folder(run, read_options(run), vars(data)) for label, run in runs.items()}
        evaluated = {
            label: evaluate_run(run, folders[label], splits, id2label, args, accelerator)
            for label, run in runs.items()
        }
    except (OSError, ValueError) as error:
        raise OptionError(str(error)) from error
    if not accelerator.is_main_process:
        return
    # 3. The comparison, as a table and as a page
    results = {label: results for label, (results, _) in evaluated.items()}
    rows = compare(results["aligned"], results.get("baseline"), list(splits))
    print("\n" + as_text(rows))
    for label, folder in folders.items():
        print(f"{label}: {folder}/all_results.json, {folder}/predictions")
    draw_pictures(args, runs, folders["aligned"], splits, evaluated["aligned"][1], id2label, training)
    if args.report and args.baseline:
        from g4i_hf.evaluation.report import write_report

        predictions = {label: predicted for label, (_, predicted) in evaluated.items()}
        try:
            write_report(args.report, rows, runs, read_options(args.run), splits, predictions, id2label)
        except (ImportError, OSError) as error:  # the figures are safe; only the pictures are missing
            raise OptionError(f"no report: {error}") from error
        print(f"report: {args.report}")


def draw_pictures(args, runs, folder, splits, predictions, id2label, training) -> None:
    """For the card of a release; the figures are there without."""
    from g4i_hf.evaluation.card_pictures import draw_card_pictures
    from g4i_hf.training.run_folder import read_options

    captions = (args.train_split, training) if training and read_options(args.run).get("align_weight") else None
    try:
        drawn = draw_card_pictures(
            folder, runs, splits, predictions, id2label, weights=args.weights, training=captions
        )
    except (ImportError, OSError) as error:
        print(f"no pictures for a card: {error}")
    else:
        print(f"pictures for a card: {drawn}")


def load_splits(args, data, encoder, accelerator):
    """The evaluated splits, checked; the class names; the rows that were trained on, where they have captions."""
    from datasets import DatasetDict

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
    splits = DatasetDict({name: splits[name] for name in wanted})
    for name, split in splits.items():
        check_split(split, name, num_labels=len(id2label), training=False, require_labels=False)
    return splits, id2label, embedded.get(args.train_split)


def _has_texts(split) -> bool:
    from g4i_hf import columns

    return columns.CAPTION in split.column_names or columns.TEXT_EMBEDS in split.column_names


def evaluate_run(run, folder, splits, id2label, args, accelerator):
    """Predictions of every split; the figures, merged into the folder's all_results.json."""
    from g4i_hf import columns
    from g4i_hf.evaluation.evaluate import split_metrics, update_results
    from g4i_hf.evaluation.nearest import nearest_captions
    from g4i_hf.evaluation.predict import load_run, predict
    from g4i_hf.training.run_folder import read_options

    model, processor = load_run(run, args.weights)
    if {int(i): name for i, name in model.config.id2label.items()} != id2label:
        raise ValueError(f"{run} was trained on other classes than those of the data, or on another order of them.")
    predictions, metrics = {}, {}
    for name, split in splits.items():
        predictions[name] = predict(
            model,
            processor,
            split,
            accelerator,
            args.eval_batch_size,
            args.eval_num_workers,
            description=f"{run.name}, {name}",
        )
        metrics.update(split_metrics(predictions[name], split, name) | {f"{name}_weights": args.weights})
    if accelerator.is_main_process:
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        for name, predicted in predictions.items():
            table = predicted.to_dataset(model.config.id2label)
            nearest = nearest_captions(splits[name], predicted) if read_options(run).get("align_weight") else None
            if nearest is not None:
                table = table.add_column(f"nearest_{columns.CAPTION}", nearest)
            table.to_parquet(folder / "predictions" / f"{name}.parquet")
        metrics = update_results(folder, metrics, list(splits))
    accelerator.wait_for_everyone()
    return metrics, predictions


if __name__ == "__main__":
    from g4i_hf.cli import end_processes

    main()
    end_processes()
