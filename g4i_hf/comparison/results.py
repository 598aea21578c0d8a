"""What cells left: a file with a line of JSON a cell, appended the moment it ends."""

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .grid import Cell


@dataclass
class Result:
    """
    Args:
        student, variant, seed, digest: of the cell.
        options: of g4i train beside the common ones.
        predicted: split -> (n,) predicted classes, in the order of the split. No label is among it.
        retrieval: split -> figures of caption retrieval.
        training: terms of the loss over the last epoch, seconds and the like.
        device: kind of device, such as `cpu` or the name of a GPU.
        made: commit, versions and machine.
        images: split -> [`digest_of_rows`] of what was predicted; results of earlier versions have none.
    """

    student: str
    variant: str
    seed: int
    digest: str
    options: dict[str, Any]
    predicted: dict[str, np.ndarray]
    retrieval: dict[str, dict[str, float]] = field(default_factory=dict)
    training: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    made: dict[str, Any] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)

    def to_line(self) -> str:
        fields = vars(self) | {"predicted": {name: pack(values) for name, values in self.predicted.items()}}
        return json.dumps(fields) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Result":
        fields = json.loads(line)
        return cls(**fields | {"predicted": {name: unpack(text) for name, text in fields["predicted"].items()}})


def digest_of_rows(image_ids: Iterable[str], class_names: Iterable[str]) -> str:
    """Of the images of a split in their order, and of the classes in theirs."""
    return hashlib.sha256(json.dumps([list(image_ids), list(class_names)]).encode()).hexdigest()[:16]


def pack(classes: np.ndarray) -> str:
    """(n,) classes below 65,536 as text, about a byte each."""
    return base64.b64encode(zlib.compress(np.asarray(classes).astype("<u2").tobytes(), 9)).decode()


def unpack(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u2").astype(np.int64)


def other_than(before: Result, again: Result) -> str:
    """In what a second training of a cell differs from the first; empty for none."""
    differing = {name: (before.predicted[name] != again.predicted[name]) for name in before.predicted}
    other = [f"{rows.sum()} of {rows.size} in {name}" for name, rows in differing.items() if rows.any()]
    said = [f"other predictions: {', '.join(other)}"] if other else []
    losses = [result.training["train_loss"] for result in (before, again)]
    said += [f"train_loss {losses[1]}, which was {losses[0]}"] if losses[0] != losses[1] else []
    return "; ".join(said)


def append_result(path: str | Path, result: Result) -> None:
    """One write and on the disk, so that a kill leaves whole lines, or a last one that is skipped on reading."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    needs_newline = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with path.open("ab") as file:
        file.write(b"\n" * bool(needs_newline) + result.to_line().encode())
        file.flush()
        os.fsync(file.fileno())


def read_results(path: str | Path) -> list[Result]:
    """
    Raises:
        ValueError: for a line that is broken, unless it is the last one, which a kill may have cut.
    """
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
    """
    name of a cell -> its result, for cells that were trained with the very same options and predicted all of the
    splits; the last one counts.
    """
    whole = [result for result in results if set(splits) <= set(result.predicted)]
    by_digest = {(result.student, result.variant, result.digest): result for result in whole}
    found = {cell.name: by_digest.get((cell.student, cell.variant, cell.digest)) for cell in cells}
    return {name: result for name, result in found.items() if result is not None}


def check_device(results: dict[str, Result], device: str) -> None:
    """
    Raises:
        ValueError: when some of the cells were trained on another kind of device.
    """
    others = {result.device for result in results.values()} - {device}
    if others:
        raise ValueError(
            f"Cells of this comparison were trained on {', '.join(sorted(others))}, this machine has {device}: "
            "differences between devices would pass for differences between variants. Give another file of results "
            "(--results)."
        )
