"""
The folder of `g4i fit`: what an earlier result was made from, and where it goes when that has changed. Of several
processes, the first alone writes to it.
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
FINETUNED = "finetuned_"  # before the name of a run, while it is not known whether that with all layers is better
FINISHED, OTHER, UNFINISHED = "finished", "other", "unfinished"

Result = TypeVar("Result")


def by_first(compute: Callable[[], Result]) -> Result:
    """What the first of several processes computes, in all of them."""
    return broadcast_object_list([compute() if PartialState().is_main_process else None])[0]


class FitFolder:
    """`asked` are the options that a result depends on; `say` takes a line for the user."""

    def __init__(self, folder: str | Path, asked: dict[str, Any], say: Callable[[str], object]):
        self.folder, self.asked, self.say = Path(folder), asked, say

    def noted(self) -> dict[str, Any]:
        file = self.folder / NOTE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def note(self, result: dict[str, str], **decided: float) -> None:
        """
        What was asked for and decided, and digests of the files of the result when it is finished. What was decided
        earlier stays while the same is asked for.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = self.noted()
        kept = earlier if earlier.get("asked") == self.asked else {}
        noted = kept | {"asked": self.asked, "result": result} | decided
        replace_text(self.folder / NOTE, json.dumps(noted, indent=1) + "\n")

    def holds(self, record: Record) -> str:
        """
        `finished`, the result of these data and options; `other`, one of other data or options, in part or whole, with
        a line that says what has changed; or `unfinished`, a part of this result or nothing.
        """
        if self._is_other(record):
            return OTHER
        noted, files = self.noted(), self.result_files()
        is_finished = files and noted.get("asked") == self.asked and noted.get("result") == files
        return FINISHED if is_finished else UNFINISHED

    def _is_other(self, record: Record) -> bool:
        earlier, noted = Record.read(self.folder), self.noted()
        if not self._earlier():
            return False
        if earlier is None or not noted:
            self.say(f"{self.folder} holds results, and it is not known of what data.")
            return True
        asked = self.asked
        names = [name for name in asked if asked[name] != noted["asked"].get(name)]
        words = [*differences(earlier, record).values(), *(f"the option {name}" for name in names)]
        if words:
            self.say(f"Changed since the last run in {self.folder}: {', '.join(words)}.")
        return bool(words)

    def _earlier(self) -> list[Path]:
        """What there is of an earlier result."""
        places = [self.folder / name for name in (LABELS_ONLY, WITH_VIEWS, CLASSIFIER, REPORT, RESULTS)]
        more = [*self.folder.glob(f"{FINETUNED}*"), *self.folder.glob("*_results.json")]  # also those of g4i evaluate
        return [place for place in dict.fromkeys([*places, *more]) if place.exists()]

    def clear(self) -> None:
        """Removes an earlier result."""
        (self.folder / NOTE).unlink(missing_ok=True)
        for path in self._earlier():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def set_aside(self) -> None:
        """Moves an earlier result into a folder of its own; after a kill, the next start moves the rest."""
        records = [self.folder / name for name in (CONFIG, NOTE, RECORD_FILE)]  # last: they say what is to be moved
        moved = [*self._earlier(), *(path for path in records if path.exists())]
        numbered = (self.folder / f"earlier-{number}" for number in itertools.count(1))
        place = next(place for place in numbered if not any((place / path.name).exists() for path in moved))
        place.mkdir(exist_ok=True)
        for path in moved:
            path.rename(place / path.name)
        self.say(f"The earlier result is kept in {place}.")

    def result_files(self) -> dict[str, str]:
        """Digests of the files of a finished result; empty where one is missing."""
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
