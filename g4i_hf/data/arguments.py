"""Options of the data: where it is, what its columns are called, how images are augmented."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset

from .loading import ColumnNames, load_images, with_class_names
from .row_streams import RowStream, load_one_split, open_rows
from .source import Source
from .streaming import stream_images

NO_JOIN = "captions_name is set, but a stream has no rows that captions could be joined to."


@dataclass
class DataArguments:
    """Where the data is and what it calls its columns."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Hub id, folder of Parquet, imagefolder, save_to_disk folder, or the folder of a stage. In a YAML "
            "file, a path that starts with a dot is relative to that file."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub data set."})
    captions_name: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of captions or embeddings, joined to the images of dataset_name by image_id. "
            "Images that have none there are trained on their label alone."
        },
    )
    captions_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the captions."})
    image_column: str | None = field(default=None, metadata={"help": "Name of the column `image` in the data."})
    label_column: str | None = field(default=None, metadata={"help": "Name of the column `label` in the data."})
    image_id_column: str | None = field(default=None, metadata={"help": "Name of the column `image_id` in the data."})
    caption_column: str | None = field(default=None, metadata={"help": "Name of the column `caption` in the data."})
    text_embeds_column: str | None = field(
        default=None, metadata={"help": "Name of the column `text_embeds` in the data."}
    )
    caption_weight_column: str | None = field(
        default=None, metadata={"help": "Name of the column `caption_weight` in the data."}
    )

    class_names_file: str | None = field(
        default=None,
        metadata={
            "help": "File with the name of a class in each line, in the order of the labels: for labels without "
            "names, and for a stream whose labels are texts."
        },
    )

    def __post_init__(self):
        if not self.dataset_name:
            raise ValueError("dataset_name is missing: give a Hub id or a folder with --dataset_name.")
        if self.captions_revision and not self.captions_name:
            raise ValueError("captions_revision is set, but captions_name is not: name the captions.")

    def load(self) -> DatasetDict:
        """The splits, see [`~g4i_hf.data.loading.load_images`]."""
        splits = load_images(
            self.dataset_name,
            config_name=self.dataset_config_name,
            revision=self.dataset_revision,
            names=self.column_names(),
            captions_name=self.captions_name,
            captions_revision=self.captions_revision,
        )
        return splits if self.class_names_file is None else with_class_names(splits, self.read_class_names())

    def load_split(self, split: str) -> Dataset | None:
        """One split alone, where the others need not be copied for it; None where there is none of that name."""
        loaded = load_one_split(
            self.dataset_name,
            split,
            config_name=self.dataset_config_name,
            revision=self.dataset_revision,
            names=self.column_names(),
        )
        if loaded is None or self.class_names_file is None:
            return loaded
        return with_class_names(DatasetDict({split: loaded}), self.read_class_names())[split]

    def open_rows(self, split: str, num_processes: int, batch_size: int) -> RowStream:
        """
        A split to be trained on as a stream, see [`~g4i_hf.data.row_streams.open_rows`].

        Raises:
            ValueError: with `captions_name`.
        """
        if self.captions_name:
            raise ValueError(NO_JOIN)
        return open_rows(
            self.dataset_name,
            split,
            config_name=self.dataset_config_name,
            revision=self.dataset_revision,
            names=self.column_names(),
            num_processes=num_processes,
            batch_size=batch_size,
        )

    def read_class_names(self) -> list[str] | None:
        """
        The names of the classes in `class_names_file`.

        Raises:
            OSError: when the file cannot be read.
            ValueError: when it holds a name twice, or none.
        """
        if self.class_names_file is None:
            return None
        names = Path(self.class_names_file).read_text(encoding="utf-8").splitlines()
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"class_names_file is {self.class_names_file}: give every class a line with a name of its own."
            )
        return names

    def stream(self) -> dict[str, IterableDataset]:
        """
        The splits as streams, see [`~g4i_hf.data.streaming.stream_images`].

        Raises:
            ValueError: with `captions_name`.
        """
        if self.captions_name:
            raise ValueError(NO_JOIN)
        return stream_images(
            self.dataset_name,
            config_name=self.dataset_config_name,
            revision=self.dataset_revision,
            names=self.column_names(),
        )

    def source(self) -> Source:
        """What a stage made of this data records."""
        named = {ours: theirs for ours, theirs in vars(self.column_names()).items() if theirs}
        return Source(
            self.dataset_name,
            self.dataset_revision,
            self.dataset_config_name,
            named,
            self.captions_name,
            self.captions_revision,
        )

    def column_names(self) -> ColumnNames:
        return ColumnNames(
            image=self.image_column,
            label=self.label_column,
            image_id=self.image_id_column,
            caption=self.caption_column,
            text_embeds=self.text_embeds_column,
            caption_weight=self.caption_weight_column,
        )


@dataclass
class AugmentationArguments:
    """How training images are cropped and changed."""

    image_size: int | None = field(
        default=None,
        metadata={"help": "Side of the student's input in pixels; a pretrained checkpoint's, or 224, by default."},
    )
    interpolation: str | None = field(
        default=None, metadata={"help": "Of all resizing: bicubic (by default), bilinear, nearest or lanczos."}
    )
    crop_pct: float | None = field(
        default=None,
        metadata={"help": "Part of an evaluated image's shorter side that the centre crop keeps; 1 by default."},
    )
    train_crop: str = field(
        default="resized",
        metadata={"help": "`resized` (random resized crop) or `pad` (resize, pad and crop; for images of 32-64 px)."},
    )
    crop_min_scale: float = field(default=0.08, metadata={"help": "Smallest area of a random resized crop."})
    crop_padding: int | None = field(
        default=None, metadata={"help": "Pixels of padding for `train_crop: pad`; one eighth of the size by default."}
    )
    hflip: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})
    color_jitter: float = field(default=0.0, metadata={"help": "Strength of random brightness, contrast, saturation."})
    auto_augment: str | None = field(
        default=None, metadata={"help": "timm's policy string, such as rand-m9-mstd0.5-inc1."}
    )
    random_erasing: float = field(default=0.0, metadata={"help": "Probability of erasing a rectangle."})

    def __post_init__(self):
        if self.train_crop not in ("resized", "pad"):
            raise ValueError(f"train_crop is {self.train_crop!r}; choose resized or pad.")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; it must be positive.")
        if self.interpolation not in (None, "bicubic", "bilinear", "nearest", "lanczos"):
            raise ValueError(
                f"interpolation is {self.interpolation!r}; choose one of bicubic, bilinear, nearest, lanczos."
            )
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is {self.crop_pct}; it must lie between 0 and 1.")

    @property
    def image_settings(self) -> dict[str, Any]:
        """What was said of how images are resized, in timm's words."""
        chosen = {"interpolation": self.interpolation, "crop_pct": self.crop_pct}
        return {name: value for name, value in chosen.items() if value is not None}
