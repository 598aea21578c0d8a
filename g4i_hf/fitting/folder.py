"""The folder of `g4i fit`: whether it holds the result of these data and options, and how it makes room for it."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ..data.record import RECORD_FILE, Record, differences
from ..evaluation.metrics import read_results
from ..files import replace_text
from ..names import (
    CLASSIFIER,
    FIT_FILE,
    RESULTS_FILE,
    RUNS_OF_FIT,
    changed_in_words,
    changed_since_fit,
    is_shipped,
)

REPORT, CONFIG = "report.html", "fit.yaml"
FINISHED, ALTERED, OTHER, UNFINISHED = "finished", "altered", "other", "unfinished"
FORMAT = 21  # of what is written here. Raise it where a change of the code changes results


def read_config(folder: Path) -> dict[str, Any]:
    """The options, as they were resolved."""
    return yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))


class FitFolder:
    """`options`: those that a result depends on; `say`: prints a line for the user."""

    def __init__(self, folder: str | Path, options: dict[str, Any], say: Callable[[str], object]):
        self.folder, self.options, self.say = Path(folder), options, say

    def noted(self) -> dict[str, Any]:
        file = self.folder / FIT_FILE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def note(self, **decided: Any) -> None:
        """
        Record options, decisions and digests of the files of a finished `result`; `chosen` are the options as `fit`
        resolved them. Earlier ones stay while the options do.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = self.noted()
        kept = earlier if earlier.get("options") == self.options else {}
        noted = kept | {"format": FORMAT, "options": self.options} | decided
        replace_text(self.folder / FIT_FILE, json.dumps(noted, indent=1) + "\n")

    def write_results(self, results: dict[str, Any]) -> None:
        replace_text(self.folder / RESULTS_FILE, json.dumps(results, indent=2) + "\n")

    def write_config(self, chosen: dict[str, Any], first_line: str | None = None) -> None:
        """By default the first line, which says how to repeat it, stays."""
        first_line = first_line or (self.folder / CONFIG).read_text(encoding="utf-8").partition("\n")[0]
        replace_text(self.folder / CONFIG, f"{first_line}\n{yaml.safe_dump(chosen, sort_keys=False)}")

    def holds(self, record: Record) -> str:
        """
        `finished`: the result of this data and these options; `altered`: the same, but `classifier/` is not what was
        written; `other`: a result of other data or options, or with other runs than were written; `unfinished`: a part
        of this result, or nothing. With a line on what has changed.
        """
        if self._is_other(record):
            return OTHER
        noted = self.noted().get("result", ())
        files = [*(file for file in noted if not is_shipped(file)), RESULTS_FILE, CONFIG]
        if not noted or not all((self.folder / file).is_file() for file in files):
            return UNFINISHED
        changed = changed_since_fit(self.folder)
        are_shipped = all(map(is_shipped, changed))
        if are_shipped and not (changed and read_results(self.folder)["released"]):  # else a release was interrupted
            return FINISHED
        self.say(f"{changed_in_words(self.folder, changed)}.")
        return ALTERED if are_shipped else OTHER

    def _is_other(self, record: Record) -> bool:
        earlier, noted = Record.read(self.folder), self.noted()
        if not self._earlier():
            return False
        if earlier is None or not noted:
            self.say(f"{self.folder} holds results, and it is not known of what data.")
            return True
        options, given, chosen = self.options, noted["options"], noted.get("chosen", {})
        names = [name for name in options if options[name] not in (given.get(name), chosen.get(name, given.get(name)))]
        changes = [*differences(earlier, record).values(), *(f"the option {name}" for name in names)]
        changes += ["how g4i fit works"] if noted.get("format") != FORMAT else []
        if changes:
            self.say(f"Changed since the last run in {self.folder}: {', '.join(changes)}.")
        return bool(changes)

    def _earlier(self) -> list[Path]:
        places = [self.folder / name for name in (*RUNS_OF_FIT, CLASSIFIER, REPORT, RESULTS_FILE)]
        of_evaluate = self.folder.glob("*_results.json")
        return [place for place in dict.fromkeys([*places, *of_evaluate]) if place.exists()]

    def clear(self) -> None:
        (self.folder / FIT_FILE).unlink(missing_ok=True)
        for path in self._earlier():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def set_classifier_aside(self) -> None:
        """For the next release to make it again, also after an interruption."""
        if (self.folder / CLASSIFIER).exists():
            self._move([self.folder / CLASSIFIER])
        self.write_results(read_results(self.folder) | {"released": None})
        self.say(f"{self.folder / CLASSIFIER} is made again from the run beside it.")

    def set_aside(self) -> None:
        """Move an earlier result into a new folder; after an interruption, the next start continues."""
        records = [self.folder / name for name in (CONFIG, FIT_FILE, RECORD_FILE)]  # last, as they show what to move
        self._move([*self._earlier(), *(path for path in records if path.exists())])

    def _move(self, moved: list[Path]) -> None:
        """Into the first of `earlier-1`, `earlier-2` ... that has none of them."""
        numbered = (self.folder / f"earlier-{number}" for number in itertools.count(1))
        place = next(place for place in numbered if not any((place / path.name).exists() for path in moved))
        place.mkdir(exist_ok=True)
        for path in moved:
            path.rename(place / path.name)
        self.say(f"The earlier result is kept in {place}.")
