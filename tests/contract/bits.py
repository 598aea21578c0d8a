"""
Weights and logged numbers of tiny runs, compared with the fixture: fixtures/bits.safetensors and fixtures/bits.json.

In the environment that wrote the fixture, every bit must be the same. Another CPU, torch or transformers rounds
differently. There the numbers are compared within tolerances, and a failure says so. Older torch or transformers
than in the fixture draw other first weights from the same seed. Nothing can be compared then, and tests are skipped.
To accept the present numbers:

    G4I_HF_REWRITE_GOLDENS=1 pytest -m "" tests/contract/test_contract_bits.py

To compare bits in another environment, do this with the code before a change, then test the code after it.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent / "fixtures"
REWRITE = "G4I_HF_REWRITE_GOLDENS"
RECORD, NUMBERS = FOLDER / "bits.json", FOLDER / "bits.safetensors"
# Libraries that compute weights, pixels and their order
PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "timm", "peft", "datasets", "numpy", "pillow")
OF_CPU = ("vendor_id", "cpu family", "model", "model name", "cache size")
SAMPLES = 5  # single values of each tensor
# Kernels without AVX differ by less than ABSOLUTE_TOLERANCE in tensors, and by 3e-5 in logged numbers
TENSOR_TOLERANCE = 1e-4  # of a tensor's numbers, as a share of its root mean square
LOG_TOLERANCE = 3e-4  # of a logged number, relative
ABSOLUTE_TOLERANCE = 1e-5  # of both: some biases have no gradient but rounding errors
COUNTED = ("retrieval_top1", "accuracy")  # over few images; one more or less is a large step

Tensors = Mapping[str, torch.Tensor]


def environment() -> dict[str, str]:
    """What the bits depend on beside our code."""
    found = {name: version(name) for name in PACKAGES}
    found["capability"] = torch.backends.cpu.get_cpu_capability()
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists():
        return found | {"cpu": f"{platform.machine()} {platform.processor()}"}
    fields = dict(map(str.strip, line.split(":", 1)) for line in cpu.read_text().split("\n\n")[0].splitlines())
    wide = sorted(flag for flag in fields.get("flags", "").split() if flag.startswith(("avx", "fma", "amx")))
    return found | {"cpu": ", ".join([fields[name] for name in OF_CPU if name in fields] + wide)}


class Bits:
    """
    The fixture.

    Attributes:
        exact: whether the present environment wrote it, but for cases that have an environment of their own.
        other_weights: the packages that make students start from other weights than in the fixture; "" without.
        cases: name -> digest of all bits, log, and configuration of a released student.
        numbers: name -> float64 (tensors, 3 + SAMPLES), see [`numbers_of`].
    """

    def __init__(self):
        self.here, self.rewrites = environment(), bool(os.environ.get(REWRITE))
        record = json.loads(RECORD.read_text())
        self.made_in: dict[str, str] = record["environment"]
        self.exact = self.made_in == self.here
        older = [name for name in ("torch", "transformers") if Version(self.here[name]) < Version(self.made_in[name])]
        self.other_weights = " and ".join(f"{name} {self.here[name]}" for name in older)
        self.cases: dict[str, dict[str, Any]] = record["cases"]
        self.numbers = load_file(NUMBERS)

    def check(self, name: str, tensors: Tensors, log: list[dict] | None = None, config: dict | None = None) -> None:
        """
        Args:
            name: of the case.
            tensors: all must be the same.
            log: lines of a log. The committed keys must be there with the same numbers.
            config: configuration of a released student. Other versions of a library may have other fields.
        """
        case, found = {"digest": digest_of(tensors), "log": log or [], "config": config or {}}, numbers_of(tensors)
        if self.rewrites:
            if not self.exact:
                case["environment"] = self.here  # written again elsewhere than the others
            self.cases[name], self.numbers[name] = case, found
            self._write()
            return
        assert name in self.cases, f"{name} is not in the fixture; see bits.py"
        expected = self.cases[name]
        assert found.shape == self.numbers[name].shape, f"{name}: another number of tensors"
        old, new = expected["config"], case["config"]
        exact = expected.get("environment", self.made_in) == self.here
        fields = old.keys() | new.keys() if exact else old.keys() & new.keys()
        assert {field: new.get(field) for field in fields} == {field: old.get(field) for field in fields}, name
        differences = self.differences(name, found, case["log"], exact, sorted(tensors))
        assert not differences, f"{name}, {self.how(exact)}: " + "; ".join(differences)
        if exact:
            assert case["digest"] == expected["digest"], f"{name}, {self.how(exact)}: the same numbers, but other bits"

    def how(self, exact: bool) -> str:
        """How the fixture is compared, for messages."""
        if exact:
            return "bit by bit"
        others = sorted(key for key in self.here if self.made_in.get(key) != self.here[key])
        return f"within tolerances, as the fixture was made with another {', '.join(others)}"

    def differences(self, name: str, found: torch.Tensor, log: list[dict], exact: bool, names: list[str]) -> list[str]:
        """What differs from the case, a phrase each; `names` of the tensors."""
        case, numbers = self.cases[name], self.numbers[name]
        allowed = torch.zeros_like(numbers) if exact else TENSOR_TOLERANCE * numbers[:, 2:3] + ABSOLUTE_TOLERANCE
        apart = (found - numbers).abs()
        rows = torch.nonzero(~(apart <= allowed).all(1)).flatten().tolist()
        parts = [f"{names[row]} by {apart[row].max():.3g}" for row in rows]
        if len(log) != len(case["log"]):
            parts.append(f"{len(log)} lines of the log in place of {len(case['log'])}")
        for number, (line, committed) in enumerate(zip(log, case["log"], strict=False)):
            for key, value in committed.items():
                if not exact and key.removeprefix("eval_") in COUNTED:
                    continue
                room = 0.0 if exact else LOG_TOLERANCE * abs(value) + ABSOLUTE_TOLERANCE
                if key not in line or abs(line[key] - value) > room:
                    parts.append(f"{key} of line {number} is {line.get(key)}, was {value}")
        return parts

    def _write(self) -> None:
        parts = {"environment": self.made_in, "cases": self.cases}
        text = ",\n".join(f'"{part}": {lines(entries)}' for part, entries in parts.items())
        RECORD.write_text(f"{{{text}}}\n", encoding="utf-8")
        save_file(dict(sorted(self.numbers.items())), NUMBERS)


def lines(entries: dict) -> str:
    """JSON with an entry a line, sorted by name."""
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(entries[name])}" for name in sorted(entries)) + "\n}"


def digest_of(tensors: Tensors) -> str:
    """Of names, types, shapes and every bit."""
    arrays = {name: tensors[name].contiguous().numpy() for name in sorted(tensors)}
    layout = [f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items()]
    digest = hashlib.sha256("\n".join(layout).encode())
    for array in arrays.values():
        digest.update(array.tobytes())
    return digest.hexdigest()


def numbers_of(tensors: Tensors) -> torch.Tensor:
    """Mean, mean absolute value, root mean square and single values of each tensor: float64 (tensors, 3 + SAMPLES)."""
    rows = []
    for name in sorted(tensors):
        values = tensors[name].double().flatten()
        singles = values[torch.linspace(0, len(values) - 1, SAMPLES).round().long()]
        rows.append(
            torch.cat([torch.stack([values.mean(), values.abs().mean(), values.square().mean().sqrt()]), singles])
        )
    return torch.stack(rows)
