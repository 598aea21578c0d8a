"""
The lower bound of everything that setup.cfg requires, as requirements for pip: what `make test-minimum` installs.

Extras of `NEWER` are left out: they need a newer version of something that the core needs too.
"""

import configparser
import re
import sys
from pathlib import Path

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<extras>\[[\w,]+\])?>=(?P<version>[\d.]+)")
NEWER = {"onnx"}


def lower_bounds(setup_cfg: Path) -> dict[str, str]:
    """
    Returns:
        name, with its extras as in `transformers[serving]`, -> version.

    Raises:
        ValueError: for a requirement that is no plain `name>=version`, or one with two lower bounds.
    """
    config = configparser.ConfigParser(interpolation=None)
    config.read(setup_cfg)
    lines = config["options"]["install_requires"].splitlines()
    for extra, required in config["options.extras_require"].items():
        # Lines such as %(hub)s repeat another extra
        lines += [line for line in required.splitlines() if extra not in NEWER and not line.startswith("%(")]
    versions: dict[str, str] = {}
    extras: dict[str, str] = {}
    for line in filter(None, map(str.strip, lines)):
        found = REQUIREMENT.fullmatch(line)
        if found is None:
            raise ValueError(f"{setup_cfg}: {line!r} is no `name>=version`. Give the lowest version that was tested.")
        name, version = found["name"], found["version"]
        if versions.setdefault(name, version) != version:
            raise ValueError(f"{setup_cfg}: {name} has the lower bounds {versions[name]} and {version}. Keep one.")
        extras[name] = found["extras"] or extras.get(name, "")
    return {f"{name}{extras[name]}": version for name, version in versions.items()}


if __name__ == "__main__":
    for name, version in lower_bounds(Path(sys.argv[1])).items():
        print(f"{name}=={version}")
