"""
Writes the tables between the markers of the pages in `PAGES` from the files in results/.

    python benchmarks/readme_tables.py
"""

import re

import tables_of_cost
import tables_of_photos
from provenance import ROOT

PAGES = (
    "README.md",
    "docs/index.md",
    "docs/evidence.md",
    "docs/guides/training.md",
    "docs/speed.md",
    "docs/guides/large_datasets.md",
    "docs/guides/captions.md",
    "docs/guides/wrong_labels.md",
)
TABLES = {
    "label_model": tables_of_photos.label_model,
    "questions": tables_of_photos.questions,
    "captioning": tables_of_cost.captioning,
    "client_rate": tables_of_cost.client_rate,
    "coverage": tables_of_photos.coverage,
    "embed_speed": tables_of_cost.embed_speed,
    "imagenet_captioning": tables_of_cost.imagenet_captioning,
    "imagenet_network": tables_of_cost.imagenet_network,
    "imagenet_training": tables_of_cost.imagenet_training,
    "input_pipeline": tables_of_cost.input_pipeline,
    "next_labels": tables_of_photos.next_labels,
    "wrong_labels_found": tables_of_photos.wrong_labels_found,
    "gold_intervals": tables_of_photos.gold_intervals,
    "none_of_these": tables_of_photos.none_of_these,
    "people_labels": tables_of_photos.people_labels,
    "photos_all_labels": tables_of_photos.all_labels,
    "photos_calibration": tables_of_photos.calibration,
    "photos_controls": tables_of_photos.controls,
    "photos_few_labels": tables_of_photos.few_labels,
    "photos_fit": tables_of_photos.fit,
    "photos_fit_short": lambda: tables_of_photos.fit(("none", "1 a class", "40% wrong")),
    "photos_fit_estimates": tables_of_photos.fit_estimates,
    "photos_shipped": tables_of_photos.shipped,
    "photos_wrong_labels": tables_of_photos.wrong_labels,
    "small_students": tables_of_cost.small_students,
    "step_time": tables_of_cost.step_time,
    "uneven_labels": tables_of_photos.uneven_labels,
    "verdicts": tables_of_photos.verdicts,
    "views_added": tables_of_photos.views_added,
}


def with_tables(text: str) -> str:
    """The text with every marked table made anew."""

    def fill(match: re.Match) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end of table -->"

    return re.sub(r"<!-- table: (\w+) -->.*?<!-- end of table -->", fill, text, flags=re.S)


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(with_tables((ROOT / page).read_text()))
