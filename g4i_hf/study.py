"""Studies: grids of trainings over students, variants and seeds, their results and statistics."""

import base64
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .extras import require
from .files import read_mapping, replace_text
from .options import CompareArguments
from .training.lineage import versions

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Cell:
    """One training of a grid. Its options are those of `g4i train`, beside those of `train_config`."""

    student: str
    variant: str
    seed: int
    options: dict[str, Any]
    digest: str  # of all options: a cell whose options were changed is another cell

    @property
    def name(self) -> str:
        return f"{self.student}/{self.variant}/{self.seed}"

    def argv(self, train_config: str, output_dir: str | Path) -> list[str]:
        """The command line of `g4i train` for this cell; nothing is saved, logged or evaluated on the way."""
        quiet = dict.fromkeys(("save_strategy", "eval_strategy", "logging_strategy"), "no") | {"disable_tqdm": True}
        options = self.options | quiet | {"output_dir": str(output_dir), "seed": self.seed}
        words = ["--config", str(train_config)]
        for name, value in options.items():
            words.append(f"--{name}")
            if isinstance(value, list) and all(isinstance(item, str) for item in value):
                words += value
            elif isinstance(value, (dict, list, bool)):
                words.append(json.dumps(value))
            else:
                words.append(str(value))
        return words


def cells_of(args: CompareArguments) -> list[Cell]:
    """All cells, seed by seed, so that what is finished first is whole for some seeds."""
    common = read_mapping(args.train_config)
    cells = []
    for seed in args.seeds:
        for student in args.only_students or args.students:
            for variant in args.only_variants or args.variants:
                options = {**args.options, **(args.students[student] or {}), **(args.variants[variant] or {})}
                digest = digest_of({**common, **options, "seed": seed})
                cells.append(Cell(student, variant, seed, options, digest))
    return cells


def digest_of(options: dict[str, Any]) -> str:
    """Of options in any order; where a run is written does not matter."""
    known = {name: value for name, value in options.items() if name != "output_dir"}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Result:
    """What a cell predicted, and how it was trained."""

    student: str
    variant: str
    seed: int
    digest: str
    options: dict[str, Any]
    predicted: dict[str, np.ndarray]  # split -> (n,) predicted classes, in the order of the split; no label
    training: dict[str, float] = field(default_factory=dict)  # loss, seconds, size
    device: str = "cpu"  # or the name of a GPU
    made: dict[str, Any] = field(default_factory=dict)  # commit, versions and machine
    images: dict[str, str] = field(default_factory=dict)  # split -> `digest_of_rows`

    @property
    def name(self) -> str:
        return f"{self.student}/{self.variant}/{self.seed}"

    def to_line(self) -> str:
        """A line of JSON. Classes, below 65,536, are about a byte each."""
        packed = {name: zlib.compress(values.astype("<u2").tobytes(), 9) for name, values in self.predicted.items()}
        predicted = {name: base64.b64encode(data).decode() for name, data in packed.items()}
        return json.dumps(vars(self) | {"predicted": predicted}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Result":
        fields = json.loads(line)
        packed = {name: zlib.decompress(base64.b64decode(text)) for name, text in fields["predicted"].items()}
        predicted = {name: np.frombuffer(data, dtype="<u2").astype(np.int64) for name, data in packed.items()}
        return cls(**fields | {"predicted": predicted})

    def other_than(self, before: "Result") -> str:
        """In what this training of a cell differs from the one before; empty for none."""
        differing = {name: before.predicted[name] != self.predicted[name] for name in before.predicted}
        other = [f"{rows.sum()} of {rows.size} in {name}" for name, rows in differing.items() if rows.any()]
        said = [f"other predictions: {', '.join(other)}"] if other else []
        loss, loss_before = self.training["train_loss"], before.training["train_loss"]
        return "; ".join([*said, *([f"train_loss {loss}, which was {loss_before}"] if loss != loss_before else [])])


def digest_of_rows(image_ids: Iterable[str], class_names: Iterable[str]) -> str:
    """Of the images of a split in their order, and of the classes in theirs."""
    return hashlib.sha256(json.dumps([list(image_ids), list(class_names)]).encode()).hexdigest()[:16]


def append_result(path: str | Path, result: Result) -> None:
    """One write and on the disk, so that a kill leaves whole lines, or a last one that is skipped on reading."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    was_cut = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with path.open("ab") as file:
        file.write(b"\n" * bool(was_cut) + result.to_line().encode())
        file.flush()
        os.fsync(file.fileno())


def read_results(path: str | Path) -> list[Result]:
    """ValueError for a line that is no result, but for one that a kill has cut."""
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    results = []
    for number, line in enumerate(lines, 1):
        try:
            results.append(Result.from_line(line))
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            if number < len(lines) and line.startswith("{") and line.endswith("}"):
                raise ValueError(f"{path}, line {number} is no result of a cell: {error}") from error
    return results


def finished(cells: list[Cell], results: list[Result], splits: Iterable[str] = ()) -> dict[str, Result]:
    """Name -> last result, of cells that were trained with the very same options and predicted all of the splits."""
    known = {(each.name, each.digest): each for each in results if set(splits) <= set(each.predicted)}
    return {cell.name: known[cell.name, cell.digest] for cell in cells if (cell.name, cell.digest) in known}


# --- Statistics ------------------------------------------------------------------------------------------------------


@dataclass
class Difference:
    """As fractions: mean, 95% interval, two-sided p value; in how many pairs of student and seed it was positive."""

    mean: float
    low: float
    high: float
    p: float
    positive: int
    seeds: int


def estimate_difference(gains: np.ndarray, clusters: np.ndarray) -> Difference:
    """
    A difference between two ways of training has three sources of chance: the seeds, the images (those of one thing,
    such as an emoji in several styles, are one cluster), and how this seed happens to do on that image. The variance
    of the mean is that of the seeds plus that of the clusters minus that of single cells, which is in both (two-way
    clustering; Cameron, Gelbach & Miller, 2011), never less than that of the clusters. The interval is Student's, with
    Satterthwaite's degrees of freedom.

    Args:
        gains: (S, n) what a seed gained on an image, such as right minus right of the baseline; over several students,
            the mean of theirs. Students of one seed may have much in common (which labels are kept, the order of the
            data), so that their seeds are no more seeds than those of one student.
        clusters: (n,) which cluster an image belongs to.

    Raises:
        ValueError: with fewer than two seeds or clusters.
    """
    from scipy import stats

    gains = np.asarray(gains, dtype=float)
    names, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    num_seeds, num_clusters, total = len(gains), len(names), len(index)
    if num_seeds < 2 or num_clusters < 2:
        raise ValueError("An interval needs two or more seeds, and two or more clusters of images.")
    sums = np.stack([np.bincount(index, weights=row) for row in gains])  # (S, C)
    mean = float(sums.sum() / (num_seeds * total))
    # Contributions to the mean: residuals of a ratio, as the number of images is by chance too
    rest = sums - mean * sizes
    of_seeds = np.var(rest.sum(1) / total, ddof=1) / num_seeds
    of_clusters = np.var(rest.mean(0) * num_clusters / total, ddof=1) / num_clusters
    cells = rest - rest.mean(0) - rest.mean(1, keepdims=True) + rest.mean()
    of_cells = (cells**2).sum() / ((num_seeds - 1) * (num_clusters - 1)) * num_clusters / (num_seeds * total**2)
    variance = max(of_seeds + of_clusters - of_cells, of_clusters, 1e-30)
    uncertain = of_seeds**2 / (num_seeds - 1) + of_clusters**2 / (num_clusters - 1)
    degrees = max(num_seeds - 1, variance**2 / max(uncertain, 1e-60))
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf(0.975, degrees)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, degrees))
    return Difference(mean, mean - half, mean + half, p, int((gains.sum(1) > 0).sum()), num_seeds)


def holm(p_values: list[float]) -> list[float]:
    """p values corrected for their number (Holm, 1979), in the same order."""
    p_values = np.asarray(p_values, dtype=float)
    order, number = np.argsort(p_values), len(p_values)
    corrected = np.empty(number)
    corrected[order] = np.maximum.accumulate((number - np.arange(number)) * p_values[order]).clip(max=1)
    return corrected.tolist()


@dataclass
class Labels:
    """Of one split of n images."""

    classes: np.ndarray  # (n,), negative for unlabelled images, which are not scored
    clusters: np.ndarray  # (n,)
    digest: str | None = None  # `digest_of_rows`


@dataclass
class Finding:
    """
    Accuracy on one split as fractions: of each seed, and the difference to the variant it is compared with over the
    seeds that both have. `p_holm`: the p value corrected for the number of students. `student` is None in the
    row over all of them.
    """

    split: str
    student: str | None
    variant: str
    compared_with: str | None
    accuracies: dict[int, float]
    difference: Difference | None = None
    p_holm: float | None = None

    @property
    def mean(self) -> float:
        return float(np.mean([*self.accuracies.values()]))

    @property
    def sd(self) -> float:
        values = [*self.accuracies.values()]
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"mean": self.mean, "sd": self.sd}


def find(
    args: CompareArguments, cells: list[Cell], results: dict[str, Result], labels: dict[str, Labels]
) -> list[Finding]:
    """
    A row a split, student and variant, and after those of a variant one over all students. Cells without a result are
    left out, with the pair they belong to. ValueError where a split has other images, or other numbers of its classes,
    than were predicted.
    """
    students = list(dict.fromkeys(cell.student for cell in cells))
    variants = list(dict.fromkeys(cell.variant for cell in cells))
    findings = []
    for split, every in labels.items():
        clusters = every.clusters[every.classes >= 0]
        # student, variant -> seed -> (n,) 1.0 for images that are classified rightly
        right: dict[tuple[str, str], dict[int, np.ndarray]] = {}
        for cell in cells:
            if cell.name in results:
                seeds = right.setdefault((cell.student, cell.variant), {})
                seeds[cell.seed] = _right(results[cell.name], split, every)
        for variant in variants:
            other, rows, gains = None if variant == args.baseline else args.baseline, [], []
            for student in students:
                of_seeds, before = right.get((student, variant), {}), right.get((student, other), {})
                if of_seeds:
                    gain = {seed: of_seeds[seed] - before[seed] for seed in of_seeds if seed in before}
                    difference = estimate_difference([*gain.values()], clusters) if len(gain) > 1 else None
                    accuracies = {seed: float(of_images.mean()) for seed, of_images in of_seeds.items()}
                    rows.append(Finding(split, student, variant, other, accuracies, difference))
                    gains.append(gain)
            compared = [row for row in rows if row.difference is not None]
            for row, p in zip(compared, holm([row.difference.p for row in compared]), strict=True):
                row.p_holm = p
            findings += rows
            if len(rows) > 1 and (all_of_them := _over_students(rows, gains, clusters)):
                findings.append(all_of_them)
    return findings


def _right(result: Result, split: str, labels: Labels) -> np.ndarray:
    predicted = result.predicted[split]
    if len(predicted) != len(labels.classes) or labels.digest != result.images.get(split, labels.digest):
        raise ValueError(
            f"{result.name} predicted other images of {split} than the first cell, or other classes. Give all the "
            "same data, or another file of results (--results)."
        )
    return (predicted == labels.classes)[labels.classes >= 0].astype(float)


def _over_students(rows: list[Finding], gains: list[dict[int, np.ndarray]], clusters: np.ndarray) -> Finding | None:
    """Of the seeds that all students of a variant have."""
    seeds = sorted(set.intersection(*(set(row.accuracies) for row in rows)))
    if not seeds:
        return None
    accuracies = {seed: float(np.mean([row.accuracies[seed] for row in rows])) for seed in seeds}
    paired, difference = sorted(set.intersection(*map(set, gains))), None
    if len(paired) > 1:
        means = np.stack([np.mean([gain[seed] for gain in gains], axis=0) for seed in paired])
        positive = sum(int(gain[seed].sum() > 0) for gain in gains for seed in paired)
        difference = estimate_difference(means, clusters)
        difference = replace(difference, positive=positive, seeds=len(paired) * len(gains))
    return Finding(rows[0].split, None, rows[0].variant, rows[0].compared_with, accuracies, difference)


def as_table(findings: Iterable[Finding]) -> str:
    """Markdown, in percent and percentage points."""
    lines = [
        "| split | student | variant | accuracy | difference | 95% interval | seeds better | p, Holm |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in findings:
        accuracy = f"{100 * row.mean:.1f}" + (f" ± {100 * row.sd:.1f}" if len(row.accuracies) > 1 else "")
        cells = [row.split, row.student or "all", row.variant, accuracy]
        if (found := row.difference) is None:
            cells += [""] * 4
        else:
            cells += [points(found.mean), f"{points(found.low)} to {points(found.high)}"]
            cells += [f"{found.positive} of {found.seeds}", "" if row.p_holm is None else f"{row.p_holm:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def points(value: float) -> str:
    """Percentage points; no minus before what is zero but for rounding errors."""
    return f"{round(100 * value, 9) + 0.0:+.1f}"


# --- Plots -----------------------------------------------------------------------------------------------------------


def plot_differences(findings: list[Finding], path: str | Path) -> None:
    """Difference and 95% interval a student, in a panel a split, variants side by side. Needs matplotlib."""
    compared = [row for row in findings if row.difference is not None]
    names = sorted(dict.fromkeys(row.student for row in compared), key=lambda name: name is None)  # all at the end
    variants = list(dict.fromkeys(row.variant for row in compared))
    height = 1.2 + (0.22 * len(variants) + 0.15) * len(names)
    with _panels(compared, 4, height, path) as panels:
        for split, axis in panels.items():
            for number, variant in enumerate(variants):
                rows = [row for row in compared if (row.split, row.variant) == (split, variant)]
                means, lows, highs = (
                    100 * np.array([getattr(row.difference, name) for row in rows]) for name in ("mean", "low", "high")
                )
                heights = [-names.index(row.student) - (number + 0.5) / len(variants) * 0.8 for row in rows]
                bars = [means - lows, highs - means]
                axis.errorbar(means, heights, xerr=bars, fmt="o", markersize=4, capsize=2, label=variant)
            axis.axvline(0, color="black", linewidth=0.8)
            axis.set_xlabel("difference of accuracy, points")
            axis.set_yticks([-number - 0.4 for number in range(len(names))], [name or "all" for name in names])


@contextmanager
def _panels(findings: list[Finding], width: float, height: float, path: str | Path) -> Iterator[dict[str, Any]]:
    """An axis for each split; what is drawn there is written to `path`."""
    require("matplotlib", "report", "A figure").use("Agg")
    import matplotlib.pyplot as plt

    splits = list(dict.fromkeys(row.split for row in findings))
    size = (1.5 + width * len(splits), height)
    figure, axes = plt.subplots(1, len(splits), figsize=size, sharey=True, squeeze=False, layout="tight")
    for split, axis in zip(splits, axes[0], strict=True):
        axis.set_title(split)
        axis.grid(alpha=0.3)
    yield dict(zip(splits, axes[0], strict=True))
    axes[0][-1].legend(fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def not_scored_now(path: str | Path, findings: list[Finding], seeds: list[int]) -> list[str]:
    """Splits, students, variants and seeds that a summary has figures of and `findings` have not."""
    if not Path(path).is_file():
        return []
    known = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(known, dict) or not {"findings", "seeds"} <= set(known):
        return []
    more: dict[str, None] = {}
    for name in ("split", "student", "variant"):
        now = {getattr(row, name) for row in findings} | {None}
        more |= dict.fromkeys(row[name] for row in known["findings"] if row[name] not in now)
    return [*more, *(f"seed {seed}" for seed in known["seeds"] if seed not in seeds)]


def write_summary(path: str | Path, results: dict[str, Result], findings: list[Finding], seeds: list[int]) -> None:
    """A JSON file of the findings, with how they were made; the cells may be of other commits."""
    made = {"command": command(), "date": datetime.now(UTC).date().isoformat(), **made_by()}
    made["commits_of_cells"] = sorted({result.made.get("commit") or "unknown" for result in results.values()})
    found = {"made": made, "seeds": seeds, "findings": [finding.to_dict() for finding in findings]}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(found, indent=1) + "\n")


def note_opening(path: str | None, splits: list[str], results: str) -> None:
    """A line, in a file or printed, whenever labels are used that choices must not depend on."""
    line = f"- {datetime.now(UTC).date()}: {', '.join(splits)} opened for `{results}` by `{command()}`"
    if path is None:
        print(line)
        return
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def command() -> str:
    """The command at work; files in this clone by their path in it, others by their name alone."""
    words = [Path(sys.argv[0]).name] if Path(sys.argv[0]).name == "g4i" else ["python", sys.argv[0]]
    found = []
    for word in [*words, *sys.argv[1:]]:
        option, equals, value = word.rpartition("=")
        place = Path(value)
        if place.is_absolute():
            value = place.relative_to(ROOT).as_posix() if place.is_relative_to(ROOT) else place.name
        found.append(option + equals + value)
    return shlex.join(found)


def made_by() -> dict[str, Any]:
    """Commit (of a clone), versions and processor; no path and no host name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    machine = f"{os.cpu_count()} CPU cores, {next(names, platform.processor())}"
    return {"commit": _commit(), "versions": versions(), "machine": machine}


def _commit() -> str | None:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "g4i_hf", "recipes")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no clone
        return None
