"""The cells of a comparison: one training each."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import read_mapping
from ..options import CompareArguments


@dataclass(frozen=True)
class Cell:
    """
    One training of a grid.

    Args:
        student, variant, seed: its place in the grid.
        options: of g4i train, beside those of `train_config`. `{seed}` and `{student}` in a text stand for
            those of the cell, for data or checkpoints that differ.
        student_options: those of them that belong to the student.
        digest: of all options: a cell whose options were changed is another cell.
    """

    student: str
    variant: str
    seed: int
    options: dict[str, Any]
    digest: str
    student_options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.student}/{self.variant}/{self.seed}"

    def argv(self, train_config: str, output_dir: str | Path) -> list[str]:
        """The command line of g4i train for this cell; nothing is saved, logged or evaluated on the way."""
        quiet = dict.fromkeys(("save_strategy", "eval_strategy", "logging_strategy"), "no") | {"disable_tqdm": True}
        options = self.options | quiet | {"output_dir": str(output_dir), "seed": self.seed}
        words = ["--config", str(train_config)]
        for name, value in options.items():
            if isinstance(value, list) and all(isinstance(item, str) for item in value):
                words += [f"--{name}", *value]
            else:
                words += [
                    f"--{name}",
                    json.dumps(value) if isinstance(value, (dict, list, bool)) else self._own(value),
                ]
        return words

    def _own(self, value: Any) -> str:
        return str(value).replace("{seed}", str(self.seed)).replace("{student}", self.student)


def cells_of(args: CompareArguments) -> list[Cell]:
    """
    All cells, seed by seed, so that what is finished first is whole for some seeds.

    Raises:
        ValueError, OSError: for a `train_config` that cannot be read.
    """
    common = read_mapping(args.train_config)
    students = {name: options or {} for name, options in args.students.items()}
    variants = {name: options or {} for name, options in args.variants.items()}
    cells = []
    for seed in args.seeds:
        for student in args.only_students or students:
            for variant in args.only_variants or variants:
                options = {**args.options, **students[student], **variants[variant]}
                digest = digest_of({**common, **options, "seed": seed})
                cells.append(Cell(student, variant, seed, options, digest, students[student]))
    return cells


def digest_of(options: dict[str, Any]) -> str:
    """Of options in any order; where a run is written does not matter."""
    known = {name: value for name, value in options.items() if name != "output_dir"}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
