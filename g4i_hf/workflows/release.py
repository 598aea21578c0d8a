"""`g4i release`: from a run or a stage to a released folder, and the push."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ..data.stage import STAGE_FILE
from ..evaluation.comparison import as_text
from ..evaluation.predict import check_run
from ..hub import dataset, release
from ..hub.push import check_replaceable, list_files, push_folder
from ..options import ReleaseArguments


class Release:
    """
    Builds and pushes a student or a dataset; the command prints `lines`. In a dry run, files are written into
    `scratch`, an empty folder.
    """

    def __init__(self, args: ReleaseArguments, scratch: Path | None = None):
        self.args, self.scratch = args, scratch
        self.repo_type = "dataset" if args.stage else "model"
        self.place = dataset_place(args) if args.stage else release.place_of(args)
        self.folder = scratch / self.place.resolve().name if scratch else self.place  # where it is written
        self.lines: list[str] = []

    def build(self) -> None:
        """Raise ValueError or OSError if there is no such run or stage, and for one that cannot be released."""
        folder = Path(self.args.stage or self.args.run)
        is_stage, is_run = (folder / STAGE_FILE).is_file(), (folder / "model.safetensors").is_file()
        if self.args.run and is_stage and not is_run:
            raise ValueError(f"{folder} is a stage, no run. Release it as a dataset: --stage {folder}, without --run.")
        if self.args.stage and is_run and not is_stage:
            raise ValueError(f"{folder} is a run, no stage. Release its student: --run {folder}, without --stage.")
        if self.args.stage:
            self._build_dataset(folder)
        else:
            self._build_student(folder)
        self.lines.append(f"{'license':10}{self.args.license or 'none: give one with --license'}")

    def _build_dataset(self, stage: Path) -> None:
        args = self.args
        check_replaceable(self.place, "dataset")
        dataset.build_dataset(
            stage,
            self.folder,
            with_images=args.with_images,
            images_id=args.images_id,
            license=args.license,
            repo_id=args.repo_id,
        )
        self._say("dataset", self.place, "Parquet files and a card, for datasets.load_dataset")

    def _build_student(self, run: Path) -> None:
        args = self.args
        if args.baseline:
            check_run(args.baseline)
        release.check_place(self.place, run)
        _, rows = release.release_with_card(replace(args, student_dir=str(self.folder)))
        if rows:
            self.lines.append(f"\n{as_text(rows)}\n")
        self._say("student", self.place, "a plain checkpoint, for AutoModelForImageClassification.from_pretrained")
        self._say("run", run, "the aligned model, options, figures, predictions")
        if (run.parent / "report.html").exists():
            self._say("report", run.parent / "report.html", "a page with pictures")

    def _say(self, name: str, path: Path, what: str) -> None:
        self.lines.append(f"{name:10}{path}  ({what})")

    # --- The Hub -----------------------------------------------------------------------------------------------------

    def listed(self) -> list[str]:
        """The files that would be pushed, for a dry run."""
        files = list_files(self.folder)
        where = self.args.repo_id or "a repository that --repo_id names"
        visibility = "private" if self.args.private else "public"
        total = tqdm.format_sizeof(sum(size for _, size in files), "B")
        what = f"{len(files)} files, {total}"
        lines = [f"\nWould be pushed as a {self.repo_type} to {where}, {visibility} if new: {what}"]
        return lines + [f"{tqdm.format_sizeof(size, 'B'):>10}  {name}" for name, size in files]

    def push(self) -> str:
        """Push the folder; returns the URL of the commit."""
        return push_folder(
            self.folder,
            self.args.repo_id,
            self.repo_type,
            private=self.args.private,
            replace=self.args.replace,
        )


def dataset_place(args: ReleaseArguments) -> Path:
    """The folder of the dataset."""
    stage = Path(args.stage)
    stage = stage if stage.name not in ("", "..") else stage.resolve()  # `.` has no name
    return Path(args.dataset_dir or stage.with_name(f"{stage.name}-dataset"))
