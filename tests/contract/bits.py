"""
Weights and logged numbers of tiny runs, compared with the fixture: fixtures/bits.safetensors and fixtures/bits.json.

In the environment that wrote a case, every bit must be the same. Another CPU, torch or transformers rounds
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

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent / "fixtures"
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


def check(name: str, tensors: Tensors, log: list[dict] | None = None, config: dict | None = None) -> None:
    """
    Args:
        name: of the case.
        tensors: all must be the same.
        log: lines of a log. The committed keys must be there with the same numbers.
        config: configuration of a released student. Other versions of a library may have other fields.
    """
    record, numbers, here = json.loads(RECORD.read_text()), load_file(NUMBERS), environment()
    case = {"digest": digest_of(tensors), "log": log or [], "config": config or {}, "environment": here}
    found = numbers_of(tensors)
    if os.environ.get("G4I_HF_REWRITE_GOLDENS"):
        parts = record | {"cases": record["cases"] | {name: case}}
        text = ",\n".join(f'"{part}": {lines(entries)}' for part, entries in parts.items())
        RECORD.write_text(f"{{{text}}}\n", encoding="utf-8")
        save_file(dict(sorted((numbers | {name: found}).items())), NUMBERS)
        return
    expected, wanted = record["cases"][name], numbers[name]
    made_in = expected.get("environment", record["environment"])
    older = [name for name in ("torch", "transformers") if Version(here[name]) < Version(made_in[name])]
    if older:
        pytest.skip(f"an older {' and '.join(older)} has other first weights than in the fixture")
    others = sorted(key for key in here if made_in.get(key) != here[key])
    how = f"{name}, " + (f"within tolerances, for another {', '.join(others)}" if others else "bit by bit")
    old, new = expected["config"], case["config"]
    fields = old.keys() & new.keys() if others else old.keys() | new.keys()
    assert {field: new.get(field) for field in fields} == {field: old.get(field) for field in fields}, how
    allowed = TENSOR_TOLERANCE * wanted[:, 2:3] + ABSOLUTE_TOLERANCE if others else torch.zeros(1)
    apart = ~((found - wanted).abs() <= allowed).all(1)
    assert not apart.any(), f"{how}: {[key for key, other in zip(sorted(tensors), apart, strict=True) if other]}"
    room = {"rel": LOG_TOLERANCE, "abs": ABSOLUTE_TOLERANCE} if others else {"rel": 0, "abs": 0}
    for line, committed in zip(case["log"], expected["log"], strict=True):
        compared = {key for key in committed if not (others and key.removeprefix("eval_") in COUNTED)}
        logged = {key: line.get(key) for key in compared}
        assert logged == pytest.approx({key: committed[key] for key in compared}, **room), how
    assert others or case["digest"] == expected["digest"], f"{how}: the same numbers, but other bits"


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
        means = torch.stack([values.mean(), values.abs().mean(), values.square().mean().sqrt()])
        rows.append(torch.cat([means, singles]))
    return torch.stack(rows)
