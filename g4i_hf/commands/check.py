"""Find labels that captions contradict: a page with images and a CSV file.

    g4i check runs/pictures/embeddings
    g4i check pictures --text_encoder sentence-transformers/all-MiniLM-L6-v2

Each label is compared with class probabilities from captions, estimated without that label. The data is not changed:
to train on corrected labels, use `g4i train --label_noise`, which has the same probabilities.
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
