"""Options of `g4i label`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .data import DEFAULT_TEXT_ENCODER
from .fields import BadImages, Checked, Count, option

FORMATS = {".csv": "csv", ".xml": "cvat"}  # by the end of a file's name


@dataclass(kw_only=True)
class ExchangeOptions:
    """Labels of other tools"""

    import_file: str | None = option(
        None, "File with labels to add: CSV, Label Studio JSON, CVAT XML, FiftyOne's labels.json, or a labels.jsonl."
    )
    columns: list[str] | None = option(
        None, "Its columns: FILE_NAME LABEL [CAPTION]; in Label Studio, those of the task and its choices."
    )
    new_classes: bool = option(False, "Add labels that are none of the classes as new classes.")
    export_file: str | None = option(None, "File to write: all images, with the labels that people gave.")
    format: Literal["csv", "label-studio", "cvat", "fiftyone"] | None = option(
        None, "Format of that file: csv (.csv), cvat (.xml), label-studio or fiftyone (.json)."
    )
    suggest: str | None = option(
        None, "Folder of g4i fit, or any classifier, whose predictions the exported file suggests."
    )


@dataclass
class LabelArguments(ExchangeOptions, Checked):
    """Label"""

    output_dir: str | None = option(None, "Folder of g4i fit, for embeddings and features; runs/NAME by default.")
    views: list[str] | None = option(None, "Views to use, as in g4i fit.")
    pick: Literal["wrong", "next", "gold", "none", "disagreements"] = option(
        "next",
        "wrong (labels that look wrong), next (images most useful to label), gold (a random sample, to measure "
        "accuracy), none (images of no class), or disagreements (images that annotators label differently).",
    )
    n: Count = option(100, "Number of images; for gold, the size of the whole sample.")
    run: str | None = option(
        None,
        "Folder of g4i fit or a release, to measure on new images: they have its classes, and nothing learns them.",
    )
    by: str = option("person", "Your name, where several people label.")
    list: bool = option(False, "Print file_name, suggestion and probability of each, and open no page.")
    no_browser: bool = option(False, "Print the address of the page without opening a browser.")
    text_encoder: str = option(DEFAULT_TEXT_ENCODER, "Hub id or folder of the text encoder.")
    student: str | None = option(None, "Pretrained timm or transformers model; a small EfficientNet by default.")
    image_size: Count | None = option(None, "Image size of its features, as in g4i fit.")
    on_bad_images: BadImages = option("error", "Unreadable images: error, or skip (and report them).")

    def __post_init__(self):
        super().__post_init__()
        if self.import_file and self.export_file:
            raise ValueError("import_file and export_file are both given: one at a time. Leave one out.")
        if self.columns and not self.import_file:
            raise ValueError("columns are those of a file to read: give it with --import.")
        if self.columns and not 2 <= len(self.columns) <= 3:
            raise ValueError(f"columns are {len(self.columns)}: give FILE_NAME LABEL, or FILE_NAME LABEL CAPTION.")
        if not self.export_file and (self.format or self.suggest):
            given = "format" if self.format else "suggest"
            raise ValueError(f"{given} is about a file to write: give it with --export.")
        if self.run and self.pick != "gold" and not self.export_file:
            raise ValueError(f"run is {self.run!r}, to measure it on new images: give --pick gold, or leave run out.")
        if not self.by.strip():
            raise ValueError("by is empty: give a name, or leave it out.")
        if self.export_file:
            self.format = self.format or FORMATS.get(Path(self.export_file).suffix.lower())
            if self.format is None:
                what = f"export_file is {self.export_file!r}, whose name does not tell its format"
                raise ValueError(f"{what}: give csv, label-studio, cvat or fiftyone with --format.")
