"""
Writes the tables between the markers of the pages in `PAGES` from the files in results/.

    python benchmarks/readme_tables.py
"""

import re

import tables_accuracy
import tables_cost
import tables_estimates
import tables_views
from result_files import ROOT
from tables import TABLES

SOURCES = tables_accuracy, tables_cost, tables_estimates, tables_views  # each adds to `TABLES`
PAGES = (
    "README.md",
    "docs/index.md",
    "docs/evidence.md",
    "docs/speed.md",
    "docs/guides/large_datasets.md",
    "docs/guides/predict.md",
    "docs/guides/publish.md",
    "docs/guides/captions.md",
    "docs/guides/classes.md",
    "docs/guides/wrong_labels.md",
    "docs/guides/views.md",
    "docs/guides/all_layers.md",
)


def with_tables(text: str) -> str:
    """The text with every marked table made anew."""

    def fill(match: re.Match) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end of table -->"

    return re.sub(r"<!-- table: (\w+) -->.*?<!-- end of table -->", fill, text, flags=re.S)


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(with_tables((ROOT / page).read_text()))
