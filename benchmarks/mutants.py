"""
Mutants of the mathematics: small changes of the code, one at a time, and whether a test fails with each.

    python benchmarks/mutants.py [--number 300] [--seed 0] [--jobs 2] [--only losses]

Writes results/mutants.json as it goes; the same command goes on where it was stopped. Remove the file to begin anew,
as after a change of the code: a row is known by its line. What is found out of a survivor is written there by hand:
`equivalent` says why no test can notice it, `removed` why its code has gone; one that a new test notices is `killed`,
`by` that test. Numbers and texts are not changed.
"""

import argparse
import ast
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from result_files import RESULTS, ROOT, Results

sys.path.insert(0, str(ROOT / "tests"))
import conftest  # noqa: F401  (sets the environment of tests)
from loaded import PYTHON

PACKAGE, ENCODING = ROOT / "g4i_hf", "utf-8"
# Files -> the tests that concern them, the quick ones first. The first pattern counts
OF_VIEWS = "test_label_model_input.py test_label_noise.py test_none_of_these.py test_label_model.py"
TESTS = {
    "losses/*.py": "test_losses.py test_trainer.py contract/test_contract_bits.py::test_two_processes",
    "label_model/none_of_these.py": "test_none_of_these.py",
    "label_model/picks.py": "test_none_of_these.py test_label.py",
    "label_model/twins.py": "test_judging.py",
    "label_model/annotators.py": "test_annotators.py",
    "label_model/*.py": OF_VIEWS,
    "evaluation/estimate.py": f"test_estimate.py test_judging.py {OF_VIEWS}",
    "linear.py": f"test_linear.py test_judging.py {OF_VIEWS}",
}
# A mutant takes too long after so many seconds of processor, and so many times what the code without a change takes
SECONDS, TIMES = 60, 4
LIMITED = """
import resource, sys
import pytest
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1]) + 5))
sys.exit(pytest.main(sys.argv[2:]))
"""
OTHERS = {
    **{ast.Lt: "LtE GtE", ast.LtE: "Lt Gt", ast.Gt: "GtE LtE", ast.GtE: "Gt Lt", ast.Eq: "NotEq", ast.NotEq: "Eq"},
    **{ast.Is: "IsNot", ast.IsNot: "Is", ast.In: "NotIn", ast.NotIn: "In", ast.And: "Or", ast.Or: "And"},
    **{ast.Add: "Sub", ast.Sub: "Add", ast.Mult: "Div", ast.Div: "Mult", ast.Pow: "Mult", ast.FloorDiv: "Mult"},
    **{ast.Mod: "FloorDiv", ast.BitAnd: "BitOr", ast.BitOr: "BitAnd"},
}
PAIRS = "min max, any all, minimum maximum, argmin argmax, sum mean, floor ceil, logical_and logical_or, log exp"
NAMES = {name: other for pair in PAIRS.split(", ") for name, other in (pair.split(), pair.split()[::-1])}
OPAQUE = ast.JoinedStr | ast.Raise | ast.Assert | ast.arguments  # not looked into, as these fields are not
UNMENTIONED = ("decorator_list", "returns", "annotation")


# --- Changes ---------------------------------------------------------------------------------------------------------


@dataclass
class Change:
    """Of a field of a node."""

    node: ast.AST
    field: str
    value: Any
    removed: ast.stmt | None = None

    @property
    def place(self) -> tuple[int, int]:
        node = self.removed or self.node
        return node.lineno, node.col_offset

    def apply(self) -> str:
        """Returns what has changed."""
        before = ast.unparse(self.removed or self.node)
        setattr(self.node, self.field, self.value)
        after = "nothing" if self.removed else ast.unparse(self.node)
        return " -> ".join(text.splitlines()[0] for text in (before, after))


def changes_of(tree: ast.Module) -> list[Change]:
    """Of the code in functions, in the order of the file."""
    functions = [node for node in _below(tree, ast.FunctionDef) if isinstance(node, ast.FunctionDef)]
    return [change for function in functions for node in _below(function) for change in _of_node(node)]


def _below(node: ast.AST, *ends: type) -> Iterator[ast.AST]:
    """The node and what is below it but for texts, annotations and errors; nothing below a node of these types."""
    yield node
    for field, value in () if isinstance(node, ends) else ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, OPAQUE) and field not in UNMENTIONED:
                yield from _below(child, *ends)


def _of_node(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Compare(ops=[op]):
            yield from (Change(node, "ops", [getattr(ast, other)()]) for other in OTHERS[type(op)].split())
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in OTHERS:
            yield Change(node, "op", getattr(ast, OTHERS[type(op)])())
        case ast.If() | ast.IfExp() | ast.While():
            yield Change(node, "test", ast.UnaryOp(ast.Not(), node.test))
        case ast.UnaryOp(op=op, operand=operand) if not isinstance(operand, ast.Constant):
            yield Change(node, "operand", ast.UnaryOp(op, operand))
        case ast.Slice():
            yield from (Change(node, field, None) for field in ("lower", "upper") if getattr(node, field))
        case ast.Name(id=name) if name in NAMES:
            yield Change(node, "id", NAMES[name])
        case ast.Attribute(attr=name) if name in NAMES:
            yield Change(node, "attr", NAMES[name])
    for field in ("body", "orelse") if isinstance(node, ast.stmt) else ():
        lines = getattr(node, field, [])
        for number, line in enumerate(lines):
            if _can_be_removed(line):
                yield Change(node, field, [*lines[:number], ast.Pass(), *lines[number + 1 :]], line)


def _can_be_removed(line: ast.stmt) -> bool:
    """Whether the code runs without it: it defines no name."""
    match line:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(value))
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
    return False


def drawn(number: int, seed: int, only: str) -> list[tuple[str, str, int]]:
    """(file, tests, number of the change) of a random sample of all changes."""
    tests_of = dict[str, str]()
    for pattern, tests in TESTS.items():
        for path in sorted(PACKAGE.glob(pattern)):
            tests_of.setdefault(path.relative_to(PACKAGE).as_posix(), tests)
    everything = []
    for file, tests in tests_of.items():
        changes = changes_of(ast.parse((PACKAGE / file).read_text(ENCODING))) if only in file else ()
        everything += [(file, tests, index) for index in range(len(changes))]
    chosen = random.Random(seed).sample(everything, min(number, len(everything)))
    print(f"{len(chosen):,} of {len(everything):,} changes")
    return sorted(chosen)


# --- Running the tests -----------------------------------------------------------------------------------------------


class Copy:
    """The package in a folder of its own, where one file is changed at a time."""

    def __init__(self, folder: Path):
        self.folder, self.time = folder, 1_000_000_000
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE, folder / "g4i_hf", symlinks=True, ignore=ignored)
        for name in ("recipes", "hub_cards"):  # which links of the package lead to
            (folder / name).symlink_to(ROOT / name)

    def judged(self, file: str, text: str, tests: str, seconds: float) -> str:
        """`killed`, `survived` or `timeout`, with this text of the file."""
        path, self.time = self.folder / "g4i_hf" / file, self.time + 10
        path.write_text(text, ENCODING)
        os.utime(path, (self.time, self.time))  # so that Python's cache does not hold what was there before
        command = [PYTHON, "-c", LIMITED, round(seconds), "-xq", "-c", ROOT / "pyproject.toml"]
        slow = ["-m", "slow or not slow"] if "::" in tests else []  # one that is named may be slow
        command += ["-p", "no:cacheprovider", "-p", "no:xdist"]
        command += [*slow, *(ROOT / "tests" / test for test in tests.split())]
        how = {"env": os.environ | {"PYTHONPATH": str(self.folder)}, "cwd": self.folder}
        try:
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **how)
        finally:
            path.write_text((PACKAGE / file).read_text(ENCODING), ENCODING)
        if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return "timeout"
        if done.returncode not in (0, 1, 2):  # 1: a test failed; 2: a file of tests cannot be imported
            raise SystemExit(f"pytest ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return "killed" if done.returncode else "survived"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="a part of the names of the files")
    args = parser.parse_args()
    results = Results(RESULTS / "mutants.json", ("file", "line", "column", "change"))
    results.here["command"] = " ".join(["python", "benchmarks/mutants.py", *sys.argv[1:]])
    chosen, usual = drawn(args.number, args.seed, args.only), dict[str, float]()
    copies: queue.Queue[Copy] = queue.Queue()

    def judge(file: str, tests: str, index: int | None) -> None:
        """Without a change if it has no number: how long the tests take."""
        tree = ast.parse((PACKAGE / file).read_text(ENCODING))
        change = None if index is None else changes_of(tree)[index]
        key = change and (file, *change.place, change.apply())
        if key and results.has(*key):
            return
        copy, began = copies.get(), time.monotonic()
        judged = copy.judged(file, ast.unparse(tree), tests, max(SECONDS, TIMES * usual.get(tests, SECONDS)))
        seconds = time.monotonic() - began
        copies.put(copy)
        if key:
            results.add(*key, result=judged, seconds=round(seconds, 1))
        elif judged == "survived":
            usual[tests] = seconds
        else:
            raise SystemExit(f"{judged} without a change: {tests}")

    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(args.jobs) as pool:
        for job in range(args.jobs):
            copies.put(Copy(Path(place, str(job))))
        for file, tests in {tests: (file, tests) for file, tests, _ in chosen}.values():
            judge(file, tests, None)
        print({tests: round(seconds) for tests, seconds in usual.items()}, "seconds without a change", flush=True)
        list(pool.map(lambda each: judge(*each), chosen))
    counts = Counter(row["result"] for row in results.rows)
    survivors = [row for row in results.rows if row["result"] == "survived"]
    unexplained = [row for row in survivors if not row.keys() & {"equivalent", "removed"}]
    print(f"{dict(counts)}; {len(unexplained)} of the survivors have no reason")


if __name__ == "__main__":
    main()
