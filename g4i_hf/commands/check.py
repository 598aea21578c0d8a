"""Check data before training, and find labels that captions contradict: a page with images and a CSV file.

    g4i check pictures
    g4i check pictures --text_encoder sentence-transformers/all-MiniLM-L6-v2

Prints images, classes, labels, captions and unreadable files of each split, and ends with status 1 where the data
cannot be trained on. With a text encoder, or embeddings, each label is compared with class probabilities from
captions, estimated without that label. The data is not changed: to train on corrected labels, use
`g4i train --label_noise`, which has the same probabilities.
"""

from ..cli import check_data, quiet_libraries, say
from ..options import OPTIONS_OF

OPTIONS = OPTIONS_OF["check"]
DEFAULT_CONFIG = "emoji_styles/embed.yaml"


def check(args, data, encoder) -> None:
    check_data(data)


def run(args, data, encoder) -> None:
    from ..workflows.check import check_labels, checked_data

    quiet_libraries(True)
    checked = checked_data(args, data)
    say("\n".join(checked.lines))
    if checked.faults:
        say("\n".join(["\nThis data cannot be trained on:", *checked.faults]))
        raise SystemExit(1)
    say("\n" + "\n".join(check_labels(args, data, encoder, checked.splits)))
