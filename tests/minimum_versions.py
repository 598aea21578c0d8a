"""The lower bound of everything that setup.cfg requires, as constraints for pip: what `make test-minimum` installs."""

import configparser
import re
import sys
from pathlib import Path

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,]+\])?>=(?P<version>[\d.]+)")


def lower_bounds(setup_cfg: Path) -> dict[str, str]:
    """
    Returns:
        name -> version.

    Raises:
        ValueError: for a requirement that is no plain `name>=version`, or one with two lower bounds.
    """
    config = configparser.ConfigParser()
    config.read(setup_cfg)
    required = config["options"]["install_requires"] + "\n" + "\n".join(config["options.extras_require"].values())
    bounds: dict[str, str] = {}
    for line in filter(None, map(str.strip, required.splitlines())):
        found = REQUIREMENT.fullmatch(line)
        if found is None:
            raise ValueError(f"{setup_cfg}: {line!r} is no `name>=version`. Give the lowest version that was tested.")
        name, version = found["name"], found["version"]
        if bounds.setdefault(name, version) != version:
            raise ValueError(f"{setup_cfg}: {name} has the lower bounds {bounds[name]} and {version}. Keep one.")
    return bounds


if __name__ == "__main__":
    for name, version in lower_bounds(Path(sys.argv[1])).items():
        print(f"{name}=={version}")
