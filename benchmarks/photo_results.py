"""The files results/photos_*.json: a row for each training, of several students by several scripts."""

import json
from pathlib import Path

import numpy as np
from filelock import FileLock
from provenance import RESULTS, provenance
from scipy import stats

from g4i_hf.files import replace_text

KEY = ("data", "student", "variant", "setting", "seed")


class PhotoResults:
    """
    Rows with `data`, `student`, `variant`, `setting`, `seed`, `accuracy` (on `test`, in [0, 1]) and other figures. A
    row also has the commit and the machine that made it, where they are not those of its student in `made`.

    Args:
        grid: `wrong_labels`, `few_labels`, `controls` or `all_labels`.
        command: what repeats the rows that are added.
    """

    def __init__(self, grid: str, command: str, folder: Path = RESULTS):
        self.file = folder / f"photos_{grid}.json"
        self.command = command
        self.read()

    def read(self) -> None:
        found = json.loads(self.file.read_text()) if self.file.exists() else {"made": {}, "rows": []}
        self.made, self.rows = found["made"], found["rows"]
        self.keys = {tuple(row[name] for name in KEY) for row in self.rows}

    def has(self, **key: str | int) -> bool:
        return tuple(key[name] for name in KEY) in self.keys

    def add(self, row: dict) -> None:
        """Appends a row, and writes the file at once; another script may have written it since."""
        with FileLock(self.file.parent.parent / "runs" / f"{self.file.name}.lock"):
            self.read()
            made = self.made.setdefault(row["student"], provenance())
            made["command"] = self.command
            here = provenance()
            self.rows.append(row | {name: here[name] for name in ("commit", "machine") if here[name] != made[name]})
            self.keys.add(tuple(row[name] for name in KEY))
            self.write()

    def write(self) -> None:
        lines = ",\n".join(f"  {json.dumps(row)}" for row in self.rows)  # a row a line
        summary = ",\n".join(f"  {json.dumps(row)}" for row in self.summary())
        made = json.dumps(self.made, indent=1)
        replace_text(self.file, f'{{"made": {made},\n"summary": [\n{summary}\n],\n"rows": [\n{lines}\n]}}\n')

    def summary(self) -> list[dict]:
        """For each data, student, setting and variant: mean, and the difference to the baseline of the same seeds."""
        groups: dict[tuple, dict[int, float]] = {}
        for row in self.rows:
            place = (row["data"], row["student"], row["setting"], row["variant"])
            groups.setdefault(place, {})[row["seed"]] = row["accuracy"]
        found = []
        for place, values in groups.items():
            line = dict(zip(("data", "student", "setting", "variant"), place, strict=True))
            baseline = groups.get((*place[:3], "baseline"), {})
            seeds = sorted(values.keys() & baseline.keys())
            line |= {"seeds": len(values), "accuracy": sum(values.values()) / len(values)}
            if len(seeds) > 1 and place[3] != "baseline":
                gains = np.array([values[seed] - baseline[seed] for seed in seeds])
                half = float(stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains))  # Student's t over seeds
                mean = float(gains.mean())
                line |= {"difference": mean, "low": mean - half, "high": mean + half}
            found.append(line)
        return found
