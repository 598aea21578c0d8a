"""Evaluate a run, and its baseline beside it, on every split but the training split.

    g4i evaluate --run runs/emoji_styles/aligned --baseline runs/emoji_styles/baseline

Adds the metrics to each run's all_results.json and writes its predictions. The data is that of the run's train.yaml.
Results on other data (`--dataset_name`) go into a folder in the run's evaluations/. `--measures all` adds probes of
the feature, corrupted images and the speed of the student, which take longer.
"""

from ..cli import OptionError, check_data, check_paths, quiet_libraries
from ..options import OPTIONS_OF, learned_from_captions

OPTIONS = OPTIONS_OF["evaluate"]
DEFAULT_CONFIG = "emoji_styles/evaluate.yaml"
RUN_OPTIONS = "train.yaml"


def check(args, data, encoder) -> None:
    check_paths(baseline=args.baseline)
    check_data(data)


def run(args, data, encoder) -> None:
    from ..evaluation.comparison import as_text
    from ..evaluation.speed import speed_as_markdown
    from ..training.run_folder import read_options
    from ..workflows.evaluate import Evaluation

    evaluation = Evaluation(args, data, encoder)
    quiet_libraries(evaluation.accelerator.is_main_process)
    evaluation.evaluate()
    if not evaluation.results:  # not the main process
        return
    print("\n" + as_text(evaluation.rows))
    if args.baseline and (weights := learned_from_captions(read_options(args.baseline))):
        print(f"{args.baseline} is no baseline: it learned from captions too ({weights}).")
    if "speed" in args.measures:
        print(f"\n{speed_as_markdown(evaluation.results['aligned'], list(evaluation.splits))}\n")
    for name, folder in evaluation.folders.items():
        print(f"{name}: {folder}/all_results.json, {folder}/predictions")
    try:
        print(f"pictures for a card: {evaluation.draw_card_pictures()}")
    except (ImportError, OSError) as error:
        print(f"no pictures for a card: {error}")
    if args.report:
        try:
            evaluation.write_report()
        except OSError as error:  # the figures are safe; only the page is missing
            raise OptionError(f"no report: {error}") from error
        print(f"report: {args.report}")
