"""
Makes what can be published: of a run, its student as a plain checkpoint with a card; of a stage, a data set.

    accelerate launch recipes/release.py --run runs/emoji_styles/aligned --baseline runs/emoji_styles/baseline
    accelerate launch recipes/release.py --stage runs/emoji_styles/embeddings --repo_id me/emoji-captions

transformers loads the student without this package, and so does timm when it is one of its models. Nothing is pushed
without --push_to_hub true; --dry_run true lists what would be.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # this folder holds evaluate.py, which would hide the package evaluate
    if {"-h", "--help"} & set(sys.argv):
        os.environ["G4I_HF_LAZY_IMPORT"] = "1"  # help is there before torch would be

OPTIONS = ("g4i_hf.hub.arguments.ReleaseArguments",)
DEFAULT_CONFIG = Path(__file__).parent / "emoji_styles" / "release.yaml"

RUN_PAGE = """# A run of g4i_hf

The aligned model, a student with its projector; `g4i_hf.AlignedImageClassification.from_pretrained` loads it. The
plain student is in `student/`, with a card; the options are in `train.yaml`, the figures in `all_results.json`.
"""


def main() -> None:
    from g4i_hf.cli import OptionError, parse_options, quiet_libraries

    (args,) = parse_options(OPTIONS, description=__doc__, default_config=DEFAULT_CONFIG)
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available())
    quiet_libraries(state.is_main_process)
    if not state.is_main_process:
        return
    try:
        check_folder(args)
        # 1. What is published, each as a folder that is whole or not there
        released = [data_set(args)] if args.stage else student_and_space(args)
        # 2. The list of it, or the push
        publish(args, released)
    except (OSError, ValueError, ImportError) as error:
        raise OptionError(str(error)) from error


def check_folder(args) -> None:
    """
    Raises:
        ValueError, FileNotFoundError: when there is no such folder, or a stage is given as a run or a run as a stage.
    """
    from g4i_hf.data.stage import STAGE_FILE

    kind, folder = ("stage", Path(args.stage)) if args.stage else ("run", Path(args.run))
    is_stage, is_run = (folder / STAGE_FILE).is_file(), (folder / "model.safetensors").is_file()
    if not folder.is_dir():
        named = any(word.split("=")[0] in ("--config", "--run", "--stage") for word in sys.argv)
        hint = " It is that of recipes/emoji_styles/release.yaml: name yours with --run, or a stage with --stage."
        raise FileNotFoundError(f"There is no {kind} {str(folder)!r}: no such folder.{'' if named else hint}")
    if kind == "run" and is_stage and not is_run:
        raise ValueError(f"{folder} is a stage, no run. Release it as a data set: --stage {folder} in place of --run.")
    if kind == "stage" and is_run and not is_stage:
        raise ValueError(f"{folder} is a run, no stage. Release its student: --run {folder} in place of --stage.")


def data_set(args) -> tuple[Path, str | None, str]:
    """The folder of the data set that a stage has made, its Hub id, and what kind of repository it is."""
    from g4i_hf.hub.dataset_folder import build_dataset
    from g4i_hf.hub.licences import licence_line

    stage = Path(args.stage)
    stage = stage if stage.name not in ("", "..") else stage.resolve()  # `.` has no name
    folder = build_dataset(
        stage,
        args.dataset_dir or stage.with_name(f"{stage.name}-dataset"),
        with_images=args.with_images,
        images_id=args.images_id,
        license=args.license,
        repo_id=args.repo_id,
        max_shard_size=args.max_shard_size,
    )
    _say("data set", folder, "Parquet files and a card, for datasets.load_dataset")
    print(f"{'licence':10}{licence_line(args.license)}")
    return folder, args.repo_id, "dataset"


def student_and_space(args) -> list[tuple[Path, str | None, str]]:
    """The folders of the student and, where it was asked for, of its Space."""
    from g4i_hf.evaluation.comparison import as_text
    from g4i_hf.evaluation.predict import check_run
    from g4i_hf.hub.earlier_release import lost_parts, parts_of
    from g4i_hf.hub.licences import licence_line
    from g4i_hf.hub.student_folder import release_with_card

    for baseline in (args.baseline, *(args.seed_baselines or [])):
        if baseline:
            check_run(baseline)
    earlier = parts_of(args.student_dir or Path(args.run) / "student")
    student, rows = release_with_card(args)
    (Path(args.run) / "README.md").write_text(RUN_PAGE)
    released = [(student, args.repo_id, "model")]
    if args.space:
        from g4i_hf.hub.space import build_space

        space = build_space(args.run, student, args.space_dir or Path(args.run) / "space", repo_id=args.repo_id)
        released.append((space, args.space_repo_id or (f"{args.repo_id}-space" if args.repo_id else None), "space"))
    if rows:
        print(f"\n{as_text(rows)}\n")
    kind = "a LoRA adapter, for its base by peft or by" if args.lora == "adapter" else "a plain checkpoint, for"
    _say("student", student, f"{kind} AutoModelForImageClassification.from_pretrained")
    if args.space:
        _say("space", space, f"a Gradio app: python {space / 'app.py'}")
    _say("run", Path(args.run), "the aligned model, options, figures, predictions")
    report = Path(args.run).parent / "report.html"
    if report.exists():
        _say("report", report, "a page with pictures")
    print(f"{'licence':10}{licence_line(args.license)}", *lost_parts(earlier, student), sep="\n")
    return released


def publish(args, released: list[tuple[Path, str | None, str]]) -> None:
    """Checks the folders and lists them, or pushes them where that was asked for: none before all are checked."""
    from g4i_hf.hub.manifest import list_files, write_manifest
    from g4i_hf.hub.publishable import check_publishable, private_places
    from g4i_hf.hub.push import push_folders

    runs = [args.run, args.baseline, *(args.seed_runs or []), *(args.seed_baselines or [])]
    private = private_places(args.stage, *runs, *(folder for folder, _, _ in released))
    if args.dry_run:
        for folder, repo_id, repo_type in released:
            write_manifest(folder)
            files = list_files(folder)
            total = sum(size for _, size in files)
            where = (
                f"{repo_id or 'a repository that --repo_id names'}, {'private' if args.private else 'public'} if new"
            )
            print(f"\nWould be pushed as a {repo_type} to {where}: {len(files)} files, {_size(total)}")
            for name, size in files:
                print(f"{_size(size):>10}  {name}")
        for folder, _, _ in released:
            check_publishable(folder, private)
        print("No local path, host name or token was found in them. Nothing was pushed.")
    elif args.push_to_hub:
        pushed = push_folders(
            released, private=args.private, revision=args.hub_revision, replace=args.replace, folders=private
        )
        for (folder, _, _), url in zip(released, pushed, strict=True):
            print(f"Pushed {folder} to {url}")


def _size(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _say(name: str, path: Path, what: str) -> None:
    print(f"{name:10}{path}  ({what})")


if __name__ == "__main__":
    main()
