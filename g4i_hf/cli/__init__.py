"""Options of the scripts: defaults < YAML file < command line. Imports neither torch nor transformers by itself."""

from .errors import OptionError, wrong_choice
from .libraries import OWN_MODULE, end_processes, quiet_libraries
from .parsing import parse_options
from .resolved import NOT_RECORDED, is_secret
from .yaml_files import read_mapping

__all__ = [
    "NOT_RECORDED",
    "OWN_MODULE",
    "OptionError",
    "end_processes",
    "is_secret",
    "parse_options",
    "quiet_libraries",
    "read_mapping",
    "wrong_choice",
]
