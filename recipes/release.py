"""
Writes the student of a run as a plain checkpoint, with a card.

    accelerate launch recipes/release.py --run runs/emoji_styles/aligned --baseline runs/emoji_styles/baseline

transformers loads it without this package, and so does timm when the student is one of its models.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # this folder holds evaluate.py, which would hide the package evaluate
    if {"-h", "--help"} & set(sys.argv):
        os.environ["G4I_HF_LAZY_IMPORT"] = "1"  # help is there before torch would be

OPTIONS = ("g4i_hf.hub.arguments.ReleaseArguments",)

RUN_PAGE = """# A run of g4i_hf

The aligned model, a student with its projector; `g4i_hf.AlignedImageClassification.from_pretrained` loads it. The
plain student is in `student/`, with a card; the options are in `train.yaml`, the figures in `all_results.json`.
"""


def main() -> None:
    from g4i_hf.cli import OptionError, parse_options, quiet_libraries

    (args,) = parse_options(
        OPTIONS,
        description=__doc__,
        default_config=Path(__file__).parent / "emoji_styles" / "release.yaml",
    )
    import torch
    from accelerate import PartialState

    from g4i_hf.evaluation.comparison import as_text
    from g4i_hf.evaluation.predict import check_run
    from g4i_hf.hub import release_student

    state = PartialState(cpu=not torch.accelerator.is_available())
    quiet_libraries(state.is_main_process)
    if not state.is_main_process:
        return
    try:
        if args.baseline:
            check_run(args.baseline)
        student = release_student(args.run, args.student_dir, args.weights)
        rows = comparison(args)
        card = build_card(args, student, rows)
    except (OSError, ValueError) as error:
        raise OptionError(str(error)) from error
    card.save(student / "README.md")
    (Path(args.run) / "README.md").write_text(RUN_PAGE)
    if rows:
        print(f"\n{as_text(rows)}\n")
    made = {
        "student": (student, "a plain checkpoint, for AutoModelForImageClassification.from_pretrained"),
        "aligned": (Path(args.run), "the run: model with projector, options, figures, predictions, card"),
        "baseline": (Path(args.baseline) if args.baseline else None, "the run without alignment"),
        "report": (Path(args.run).parent / "report.html", "a page with pictures"),
    }
    for name, (path, what) in made.items():
        if path is not None and path.exists():
            print(f"{name:10}{path}  ({what})")


def comparison(args) -> list:
    """Rows of the run's figures, beside the baseline's where one is given; empty before any evaluation."""
    import json

    from g4i_hf.evaluation.comparison import MEASURES, compare

    def figures(run: str | None) -> dict:
        """Those of the weights that are released: a split may have been evaluated with the others."""
        path = Path(run) / "all_results.json" if run else None
        found = json.loads(path.read_text()) if path and path.is_file() else {}
        evaluated = [key.removesuffix("_samples") for key in found if key.endswith("_samples")]
        others = [split for split in evaluated if found.get(f"{split}_weights", "raw") != args.weights]
        for split in others:
            print(f"{run}: {split} was not evaluated with the {args.weights} weights, see --weights of evaluate.py.")
            found = {key: value for key, value in found.items() if key not in {f"{split}_{name}" for name in MEASURES}}
        return found

    results = figures(args.run)
    splits = [key.removesuffix("_samples") for key in results if key.endswith("_samples")]
    return compare(results, figures(args.baseline), splits)


def build_card(args, student: Path, rows: list):
    """The card, from the run's options and figures."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from g4i_hf.hub import student_card
    from g4i_hf.modeling.processing import ImageSettings
    from g4i_hf.training.run_folder import read_options

    model = AutoModelForImageClassification.from_pretrained(student)
    is_timm = model.config.model_type == "timm_wrapper"
    return student_card(
        architecture=model.config.architecture if is_timm else type(model).__name__,
        num_labels=model.config.num_labels,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        image_size=ImageSettings.from_processor(AutoImageProcessor.from_pretrained(student)).size,
        options=read_options(args.run),
        rows=rows,
        is_timm=is_timm,
        weights=args.weights,
    )


if __name__ == "__main__":
    main()
