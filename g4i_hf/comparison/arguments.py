"""Options of a comparison."""

from dataclasses import dataclass, field


@dataclass
class CompareArguments:
    """The grid, where its results go, and which labels are opened."""

    # --- Grid ---
    train_config: str | None = field(
        default=None, metadata={"help": "YAML file of recipes/train.py that every cell starts from."}
    )
    options: dict = field(default_factory=dict, metadata={"help": "Options of recipes/train.py for all cells."})
    students: dict = field(
        default_factory=dict, metadata={"help": "name: options, such as student, student_args and learning_rate."}
    )
    variants: dict = field(
        default_factory=dict, metadata={"help": "name: options that make the difference, such as align_weight."}
    )
    baseline: str | None = field(
        default=None, metadata={"help": "Variant that the others are compared with; the first one by default."}
    )
    against: dict = field(
        default_factory=dict, metadata={"help": "variant: another one that it is compared with in place of baseline."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Seeds of every pair."})
    only_students: list[str] | None = field(default=None, metadata={"help": "Of the students, these alone."})
    only_variants: list[str] | None = field(default=None, metadata={"help": "Of the variants, these alone."})
    # --- Evaluation ---
    splits: list[str] = field(
        default_factory=lambda: ["validation"], metadata={"help": "Splits whose labels may be used for choices."}
    )
    final_splits: list[str] = field(
        default_factory=list, metadata={"help": "Splits predicted by every cell, and scored with --final alone."}
    )
    final: bool = field(default=False, metadata={"help": "Score final_splits, and say so in the file of `openings`."})
    openings: str | None = field(
        default=None, metadata={"help": "File that gets a line whenever the labels of final_splits are opened."}
    )
    cluster_column: str | None = field(
        default=None, metadata={"help": "Column of images that belong together, such as several of one thing."}
    )
    # --- Work and output ---
    results: str = field(default="runs/compare.jsonl", metadata={"help": "File that gets a line when a cell ends."})
    summary: str | None = field(
        default=None, metadata={"help": "JSON file for the figures; kept where it has some of what is not scored now."}
    )
    plot: str | None = field(default=None, metadata={"help": "PNG file for differences and their intervals."})
    curves: str | None = field(default=None, metadata={"help": "PNG file for accuracies against curve_option."})
    curve_option: str = field(
        default="label_fraction", metadata={"help": "Option of train.py in which students differ, a number."}
    )
    processes: int = field(default=1, metadata={"help": "Cells at a time; on GPUs, one each in turn."})
    threads: int = field(default=1, metadata={"help": "Threads of each process."})
    dry_run: bool = field(default=False, metadata={"help": "Show the plan and how long it takes; train nothing."})
    check_cell: str | None = field(
        default=None, metadata={"help": "student/variant/seed: train it again and say whether it is the same."}
    )

    def __post_init__(self):
        if not self.train_config or not self.students or not self.variants:
            raise ValueError("A comparison needs train_config, students and variants: give them in a file (--config).")
        for name, group in (("students", self.students), ("variants", self.variants)):
            wrong = [key for key, options in group.items() if options is not None and not isinstance(options, dict)]
            if wrong:
                raise ValueError(f"{name}: {wrong[0]} must hold options, name: value.")
        for group in ({"options": self.options}, self.students, self.variants):
            for name, options in group.items():
                for option in (option for option, value in (options or {}).items() if value is None or value == []):
                    raise ValueError(
                        f"{name}: {option} has no value, and what train_config sets cannot be unset here: leave it "
                        "out there, and give it where it is wanted."
                    )
        self.baseline = self.baseline or next(iter(self.variants))
        named = {"baseline": [self.baseline], "against": [*self.against, *self.against.values()]}
        for option, names in (named | {"only_variants": self.only_variants or []}).items():
            self._check_known(option, names, self.variants)
        self._check_known("only_students", self.only_students or [], self.students)
        if set(self.splits) & set(self.final_splits):
            raise ValueError("A split is in both splits and final_splits: its labels are open, or they are not.")
        if self.processes < 1 or self.threads < 1:
            raise ValueError("processes and threads must be 1 or more.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must be different numbers, one or more.")

    @staticmethod
    def _check_known(option: str, names: list[str], known: dict) -> None:
        wrong = [name for name in names if name not in known]
        if wrong:
            raise ValueError(f"{option} names {wrong[0]!r}, which is none of {', '.join(known)}.")

    def reference_of(self, variant: str) -> str | None:
        """The variant that this one is compared with; None for the baseline, unless `against` says another."""
        other = self.against.get(variant, self.baseline)
        return None if other == variant or self.against.get(other) == variant else other
