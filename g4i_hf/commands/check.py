"""Find labels that captions contradict: a page with pictures and a CSV file.

    g4i check runs/pictures/embeddings
    g4i check pictures --text_encoder sentence-transformers/all-MiniLM-L6-v2

The labels are compared with class probabilities from the captions, estimated without the label in question. Nothing is
changed: `--label_noise` of g4i train uses the same probabilities.
"""

from ..cli import check_data, quiet_libraries, say
from ..options import OPTIONS_OF

OPTIONS = OPTIONS_OF["check"]
DEFAULT_CONFIG = "emoji_styles/embed.yaml"


def check(args, data, encoder) -> None:
    check_data(data)


def run(args, data, encoder) -> None:
    from ..workflows.check import check_labels

    quiet_libraries(True)
    say("\n".join(check_labels(args, data, encoder)))
