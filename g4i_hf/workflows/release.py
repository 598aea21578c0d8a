"""What `g4i release` does: from a run or a stage to what is published, and the push."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from ..data.stage import STAGE_FILE
from ..evaluation.comparison import as_text
from ..evaluation.predict import check_run
from ..hub import dataset, release
from ..hub.card import license_line
from ..hub.privacy import check_publishable, list_files, private_places
from ..hub.push import check_release, check_replaceable, push_folders
from ..options import ReleaseArguments

RUN_PAGE = """# A run of g4i_hf

The aligned model, a student with its projector; `g4i_hf.AlignedImageClassification.from_pretrained` loads it. The
plain student is in `{student}`, with a card; the options are in `train.yaml`, the figures in `all_results.json`.
"""


@dataclass
class Released:
    """A folder that was made, its Hub id (None where none was given), and `model` or `dataset`."""

    folder: Path
    repo_id: str | None
    repo_type: str


class Release:
    """
    Makes and pushes the folders `released`, of which the command prints `lines`. In a dry run, `scratch` is an empty
    folder for what would be written.
    """

    def __init__(self, args: ReleaseArguments, scratch: Path | None = None):
        self.args, self.scratch = args, scratch
        self.released: list[Released] = []
        self.lines: list[str] = []

    def build(self) -> None:
        """A ValueError or OSError when there is no such run or stage, and for what cannot be released."""
        folder = Path(self.args.stage or self.args.run)
        is_stage, is_run = (folder / STAGE_FILE).is_file(), (folder / "model.safetensors").is_file()
        if self.args.run and is_stage and not is_run:
            raise ValueError(f"{folder} is a stage, no run. Release it as a dataset: --stage {folder}, without --run.")
        if self.args.stage and is_run and not is_stage:
            raise ValueError(f"{folder} is a run, no stage. Release its student: --run {folder}, without --stage.")
        if self.args.as_is:
            self._take_as_is()
            return
        if self.args.stage:
            self._build_dataset(folder)
        else:
            self._build_student(folder)
        self.lines.append(f"{'license':10}{license_line(self.args.license)}")

    def _take_as_is(self) -> None:
        for each in self._places():
            check_release(each.folder, each.repo_type, "Make it first: the same command without --as_is.")
            self.released.append(each)
            self._say(each.repo_type, each.folder, "as it is")

    def _places(self) -> list[Released]:
        """What is released, and where it is unless this is a dry run."""
        args = self.args
        if args.stage:
            stage = Path(args.stage)
            stage = stage if stage.name not in ("", "..") else stage.resolve()  # `.` has no name
            place = Path(args.dataset_dir or stage.with_name(f"{stage.name}-dataset"))
            return [Released(place, args.repo_id, "dataset")]
        return [Released(release.place_of(args), args.repo_id, "model")]

    def _build_dataset(self, stage: Path) -> None:
        args, (planned,) = self.args, self._places()
        check_replaceable(planned.folder, "dataset", args.replace)
        folder = dataset.build_dataset(
            stage,
            self._written(planned.folder),
            with_images=args.with_images,
            images_id=args.images_id,
            license=args.license,
            repo_id=args.repo_id,
            max_shard_size=args.max_shard_size,
            replace=args.replace,
        )
        self.released = [replace(planned, folder=folder)]
        self._say("dataset", planned.folder, "Parquet files and a card, for datasets.load_dataset")

    def _build_student(self, run: Path) -> None:
        args, (planned,) = self.args, self._places()
        for baseline in filter(None, (args.baseline, *(args.seed_baselines or []))):
            check_run(baseline)
        release.check_place(planned.folder, run, args.replace)
        student, rows = release.release_with_card(replace(args, student_dir=str(self._written(planned.folder))))
        if not self.scratch:
            self._write_page(run, planned.folder)
        self.released = [replace(planned, folder=student)]
        if rows:
            self.lines.append(f"\n{as_text(rows)}\n")
        kind = "a LoRA adapter, for its base by peft or by" if args.lora == "adapter" else "a plain checkpoint, for"
        self._say("student", planned.folder, f"{kind} AutoModelForImageClassification.from_pretrained")
        self._say("run", run, "the aligned model, options, figures, predictions")
        if (run.parent / "report.html").exists():
            self._say("report", run.parent / "report.html", "a page with pictures")

    def _write_page(self, run: Path, student: Path) -> None:
        """A README.md for the run, unless somebody has written one."""
        page = run / "README.md"
        if not page.exists() or page.read_text(encoding="utf-8").startswith(RUN_PAGE.splitlines()[0]):
            place = Path(os.path.relpath(student, run)).as_posix()
            page.write_text(RUN_PAGE.format(student=place), encoding="utf-8")

    def _written(self, place: Path) -> Path:
        """Where that which belongs to `place` is written."""
        return self.scratch / place.resolve().name if self.scratch else place

    def _say(self, name: str, path: Path, what: str) -> None:
        self.lines.append(f"{name:10}{path}  ({what})")

    # --- The Hub -----------------------------------------------------------------------------------------------------

    def _private_places(self) -> set[Path]:
        args = self.args
        runs = [args.run, args.baseline, *(args.seed_runs or []), *(args.seed_baselines or [])]
        made = [each.folder for each in self.released]
        return private_places(args.stage, args.student_dir, args.dataset_dir, *runs, *made)

    def listed(self) -> list[str]:
        """A dry run: what would be pushed."""
        lines = []
        for each in self.released:
            files = list_files(each.folder)
            where = each.repo_id or "a repository that --repo_id names"
            visibility = "private" if self.args.private else "public"
            total = tqdm.format_sizeof(sum(size for _, size in files), "B")
            what = f"{len(files)} files, {total}"
            lines.append(f"\nWould be pushed as a {each.repo_type} to {where}, {visibility} if new: {what}")
            lines += [f"{tqdm.format_sizeof(size, 'B'):>10}  {name}" for name, size in files]
        return lines

    def look_through(self) -> None:
        """A ValueError when a folder holds what must not be published."""
        for each in self.released:
            check_publishable(each.folder, self._private_places())

    def push(self) -> Iterator[str]:
        """Pushes the folders: none before all are looked through. Gives a line when one is there."""
        pushed = push_folders(
            [(each.folder, each.repo_id, each.repo_type) for each in self.released],
            private=self.args.private,
            revision=self.args.hub_revision,
            replace=self.args.replace,
            folders=self._private_places(),
        )
        for each, url in zip(self.released, pushed, strict=True):
            yield f"Pushed {each.folder} to {url}"
