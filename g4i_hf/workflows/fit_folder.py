"""
The folder of `g4i fit`: the inputs of an earlier result, and its new place if they have changed. Only the first of
several processes writes to it.
"""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..data.opening import STAGE_FILE
from ..data.record import RECORD_FILE, Record, differences
from ..files import replace_text
from ..hub.push import MANIFEST
from ..names import LABELS_ONLY, WITH_VIEWS, file_digest

CLASSIFIER, REPORT, RESULTS, CONFIG, NOTE = "classifier", "report.html", "all_results.json", "fit.yaml", "fit.json"
FINETUNED = "finetuned_"  # prefix of a run with all layers, until it is known whether it is better
FINISHED, OTHER, UNFINISHED = "finished", "other", "unfinished"

Result = TypeVar("Result")


def by_first(compute: Callable[[], Result]) -> Result:
    """The result of the first of several processes, in all of them."""
    return broadcast_object_list([compute() if PartialState().is_main_process else None])[0]


class FitFolder:
    """`options`: those that a result depends on; `say`: prints a line for the user."""

    def __init__(self, folder: str | Path, options: dict[str, Any], say: Callable[[str], object]):
        self.folder, self.options, self.say = Path(folder), options, say

    def noted(self) -> dict[str, Any]:
        file = self.folder / NOTE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def note(self, result: dict[str, str], **decided: float) -> None:
        """
        Record the options, the decisions, and digests of the files of a finished result. Earlier decisions stay while
        the options are the same.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = self.noted()
        kept = earlier if earlier.get("asked") == self.options else {}
        noted = kept | {"asked": self.options, "result": result} | decided
        replace_text(self.folder / NOTE, json.dumps(noted, indent=1) + "\n")

    def holds(self, record: Record) -> str:
        """
        `finished`: the result of this data and these options; `other`: a complete or partial result of other data or
        options, with a line on what has changed; `unfinished`: a part of this result, or nothing.
        """
        if self._is_other(record):
            return OTHER
        noted, files = self.noted(), self.result_files()
        is_finished = files and noted.get("asked") == self.options and noted.get("result") == files
        return FINISHED if is_finished else UNFINISHED

    def _is_other(self, record: Record) -> bool:
        earlier, noted = Record.read(self.folder), self.noted()
        if not self._earlier():
            return False
        if earlier is None or not noted:
            self.say(f"{self.folder} holds results, and it is not known of what data.")
            return True
        options = self.options
        names = [name for name in options if options[name] != noted["asked"].get(name)]
        changes = [*differences(earlier, record).values(), *(f"the option {name}" for name in names)]
        if changes:
            self.say(f"Changed since the last run in {self.folder}: {', '.join(changes)}.")
        return bool(changes)

    def _earlier(self) -> list[Path]:
        places = [self.folder / name for name in (LABELS_ONLY, WITH_VIEWS, CLASSIFIER, REPORT, RESULTS)]
        others = [*self.folder.glob(f"{FINETUNED}*"), *self.folder.glob("*_results.json")]  # and of g4i evaluate
        return [place for place in dict.fromkeys([*places, *others]) if place.exists()]

    def clear(self) -> None:
        (self.folder / NOTE).unlink(missing_ok=True)
        for path in self._earlier():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def set_aside(self) -> None:
        """Move an earlier result into a new folder; after an interruption, the next start continues."""
        records = [self.folder / name for name in (CONFIG, NOTE, RECORD_FILE)]  # last, as they show what to move
        moved = [*self._earlier(), *(path for path in records if path.exists())]
        numbered = (self.folder / f"earlier-{number}" for number in itertools.count(1))
        place = next(place for place in numbered if not any((place / path.name).exists() for path in moved))
        place.mkdir(exist_ok=True)
        for path in moved:
            path.rename(place / path.name)
        self.say(f"The earlier result is kept in {place}.")

    def result_files(self) -> dict[str, str]:
        """Digests of the files of a finished result; empty if one is missing."""
        runs = [path for path in (self.folder / LABELS_ONLY, self.folder / WITH_VIEWS) if path.exists()]
        files = [self.folder / RESULTS, self.folder / CONFIG, self.folder / CLASSIFIER / MANIFEST]
        files += [run / "model.safetensors" for run in runs]
        if not runs or not all(file.is_file() for file in files):
            return {}
        return {file.relative_to(self.folder).as_posix(): file_digest(file) for file in files}


def default_folder(dataset_name: str) -> str:
    """`runs/pictures` for the folder `pictures`, and for the captions that were written into `runs/pictures`."""
    folder = Path(dataset_name)
    if not folder.is_dir():
        return f"runs/{dataset_name.replace('/', '--')}"
    folder = folder.resolve()
    is_stage_of_a_fit = (folder / STAGE_FILE).is_file() and folder.parent.parent.name == "runs"
    return f"runs/{folder.parent.name if is_stage_of_a_fit else folder.name}"
