"""Streams of training rows: the items of a dataset at hand, every row once an epoch, resumed at any place."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Image
from streams import CLASSES, example_rows, save_parquet, save_webdataset
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from g4i_hf.data.dataset import AlignmentCollator, CaptionedImages, Draw
from g4i_hf.data.images import BadImageError, BadRowError
from g4i_hf.data.joining import image_id_of
from g4i_hf.data.loading import open_images
from g4i_hf.data.stage import Source
from g4i_hf.data.stream import RowStream, load_split, open_rows
from g4i_hf.data.stream_batches import StreamBatch, StreamBatches, StreamedImages, parts_of, rows_in_order
from g4i_hf.data.transforms import train_transform
from g4i_hf.options import AugmentationArguments, DataArguments, RunArguments
from g4i_hf.training.arguments import AlignmentArguments
from g4i_hf.training.checkpoint import fingerprint
from g4i_hf.workflows.train import load_streamed

WORKER = Path(__file__).parent / "workers" / "kill_and_resume.py"
SIZES = [9, 1, 14, 6]  # 30 rows
IDS = [f"id-{row}" for row in range(sum(SIZES))]
AUGMENTATION = AugmentationArguments(image_size=24, train_crop="pad", color_jitter=0.4, random_erasing=0.5)
IN_JSON = {"text_embeds": "json.vector", "caption_weight": "json.weight"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The same rows as Parquet and as archives, and the names of their classes."""
    folder = tmp_path_factory.mktemp("streams")
    save_parquet(folder / "parquet", SIZES)
    save_webdataset(folder / "archives", SIZES)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def stream_of(folder: Path, kind: str, processes: int = 1) -> RowStream:
    columns = IN_JSON if kind == "archives" else {}
    return open_rows(Source(str(folder / kind), columns=columns), "train", processes)


def ids(batch: StreamBatch) -> list[str]:
    return batch.table["image_id"].to_pylist()


def told(batches: list[StreamBatch | None]) -> list:
    return [batch and (ids(batch), batch.epoch, batch.padding) for batch in batches]


# --- Items -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "archives"])
def test_a_stream_gives_the_items_of_a_dataset_at_hand(folder, kind):
    """A WebDataset by its usual columns, and by fields of its JSON."""
    stream = stream_of(folder, kind)
    rows = open_images(Source(str(folder / kind), columns=IN_JSON if kind == "archives" else {}))["train"]
    assert (stream.num_rows is None) == (kind == "archives") and "__url__" not in rows.column_names
    streamed, whole = StreamedImages(stream, pil_to_tensor), CaptionedImages(rows, pil_to_tensor)
    batches = islice(streamed.batches(7, shuffle=False), 5)  # one epoch
    ours = [item for batch in batches for item in streamed.__getitems__(batch)]
    theirs = whole.get_draws([Draw(row, 0) for row in range(len(rows))])
    assert len(ours) == len(theirs) == sum(SIZES) and [item["row"] for item in ours] == IDS
    for our, their in zip(ours, theirs, strict=True):
        for name in ("pixel_values", "labels", "text_embeds", "caption_weight", "image_key", "text_keys"):
            assert np.array_equal(our[name], their[name]), name
        assert set(our["caption_keys"].tolist()) - {-1} == set(their["caption_keys"].tolist()) - {-1}
        assert our["text_embeds"].shape == (1, 8)  # also where nothing of the batch has a caption


def test_labels_may_be_texts_and_ids_are_made_where_there_are_none(tmp_path):
    rows = example_rows(4).remove_columns(["label", "image_id"]).add_column("kind", ["c", "a", None, "b"])
    rows.to_parquet(tmp_path / "train.parquet")
    stream = open_rows(Source(str(tmp_path), columns={"label": "kind"}), "train")
    images = StreamedImages(stream, pil_to_tensor, class_names=CLASSES)
    (batch,) = images.batches(4, shuffle=False)
    assert [item["labels"] for item in images.__getitems__(batch)] == [2, 0, -100, 1]
    stored = open_images(str(tmp_path))["train"]["image"]
    assert [item["row"] for item in images.__getitems__(batch)] == [image_id_of(image) for image in stored]
    with pytest.raises(ValueError, match="'c', which is none of the 2 classes"):
        StreamedImages(stream, pil_to_tensor, class_names=CLASSES[:2]).__getitems__(batch)


def test_augmentation_depends_on_seed_epoch_and_id_alone(folder):
    """Not on workers, on other rows of the batch, or on the order."""
    stream = stream_of(folder, "parquet")

    def pixels(epoch: int, batch_size: int, workers: int = 0, seed: int = 0, shuffle: bool = True) -> dict:
        images = StreamedImages(stream, train_transform(AUGMENTATION), seed, block=5)
        batches = images.batches(batch_size, shuffle=shuffle)
        batches.set_epoch(epoch)
        loader = DataLoader(images, batch_sampler=batches, num_workers=workers, collate_fn=AlignmentCollator())
        found = [pair for batch in loader for pair in zip(batch["image_keys"], batch["pixel_values"], strict=True)]
        assert len(found) == sum(SIZES)
        return {int(key): image for key, image in found}

    first = pixels(2, 8)
    for same in (pixels(2, 3, workers=2), pixels(2, 8, shuffle=False)):
        assert all(torch.equal(first[key], image) for key, image in same.items())
    for other in (pixels(1, 8), pixels(2, 8, seed=1)):
        assert not any(torch.equal(first[key], image) for key, image in other.items())


@pytest.mark.parametrize("kind", ["parquet", "archives"])
def test_labels_of_a_stream_are_checked_as_they_come(folder, kind):
    """Rows 0 to 6, of which the last is unlabelled; the third class is number 2. Errors of a worker are one line."""

    def labels(class_names: list[str], require_labels: bool) -> list[int]:
        stream = open_streamed(folder, kind)["train"]
        images = StreamedImages(stream, pil_to_tensor, class_names=class_names, require_labels=require_labels)
        loader = DataLoader(images, batch_sampler=images.batches(7, shuffle=False), num_workers=1, collate_fn=list)
        return [item["labels"] for item in next(iter(loader))]

    assert labels(CLASSES, False) == [0, 1, 2, 0, 1, 2, -100]
    with pytest.raises(BadRowError, match=r"^The image 'id-6' is unlabelled \((None|-1)\).*--require_labels false"):
        labels(CLASSES, True)
    with pytest.raises(BadRowError, match=r"^The image 'id-2' has the label 2, but there are 2 classes \(0 to 1\)"):
        labels(CLASSES[:2], False)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    rows = example_rows(3).cast_column("image", Image(decode=False))
    broken = [image | {"bytes": image["bytes"][:40]} if row == 1 else image for row, image in enumerate(rows["image"])]
    rows = rows.remove_columns("image").add_column("image", broken, feature=Image(decode=False))
    rows.to_parquet(tmp_path / "train.parquet")
    images = StreamedImages(open_rows(str(tmp_path), "train"), pil_to_tensor)
    (batch,) = images.batches(4)
    with pytest.raises(BadImageError, match="'id-1' .*remove the row, .*not of a stream"):
        images.__getitems__(batch)


# --- Order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [0, 7])
@pytest.mark.parametrize("kind", ["parquet", "archives"])
def test_what_comes_after_some_rows_does_not_depend_on_reading_them(folder, kind, block):
    stream = stream_of(folder, kind)
    parts = parts_of(stream, 4, num_processes=1, process_index=0)

    def order(skip: int, seed: int | None = 3) -> list[str]:
        rows = rows_in_order(stream, parts, seed=None if seed is None else [seed], block=block, skip=skip)
        return [table["image_id"][place].as_py() for table, place in rows]

    every = order(0)
    assert order(0, seed=None) == IDS and Counter(every) == Counter(IDS)
    assert order(0, seed=4) != every != IDS
    assert all(order(skip) == every[skip:] for skip in (1, 6, 7, 8, 15, 29, 30, 99))


def test_shards_before_the_place_are_not_opened(tmp_path):
    save_parquet(tmp_path, SIZES)
    stream = open_rows(str(tmp_path), "train")
    parts, behind = parts_of(stream, 4, num_processes=1, process_index=0), sum(SIZES[:2])
    for shard in range(2):
        (tmp_path / f"train-0000{shard}-of-00004.parquet").unlink()
    rows = list(rows_in_order(stream, parts, seed=None, block=0, skip=behind))
    assert [table["image_id"][place].as_py() for table, place in rows] == IDS[behind:]


def test_an_error_of_reading_ahead_comes_where_its_rows_are_used(tmp_path):
    save_parquet(tmp_path, SIZES)
    stream = open_rows(str(tmp_path), "train")
    (tmp_path / "train-00001-of-00004.parquet").unlink()
    batches = iter(StreamBatches(stream, 3, shuffle=False))
    assert [len(ids(next(batches))) for _ in range(3)] == [3, 3, 3]
    with pytest.raises(FileNotFoundError):
        next(batches)


@pytest.mark.parametrize(
    "row_group, sizes, number",
    [(None, SIZES, 2), (1, SIZES, 3), (None, SIZES, 3), (None, [3], 4), (None, [5, 0], 2), (None, [9, 0, 5, 6], 3)],
)
@pytest.mark.parametrize("block", [0, 7])
def test_processes_use_every_row_once_in_as_many_steps(tmp_path, row_group, sizes, number, block):
    save_parquet(tmp_path, sizes, row_group)
    stream, epochs, rows = open_rows(str(tmp_path), "train", number), [], sum(sizes)
    assert stream.rows.num_shards == (rows if row_group else len(sizes))
    for epoch in range(2):
        found = []
        for process in range(number):
            batches = StreamBatches(stream, 4, num_processes=number, process_index=process, block=block)
            batches.set_epoch(epoch)
            found.append(list(batches))
        assert {len(batches) for batches in found} == {-(-rows // (4 * number))}
        used = [name for batches in found for batch in batches if not batch.padding for name in ids(batch)]
        assert Counter(used) == Counter(f"id-{row}" for row in range(rows))
        for together in zip(*found, strict=True):  # as even as it goes
            counts = [0 if batch.padding else len(ids(batch)) for batch in together]
            assert max(counts) - min(counts) <= 1
        padding = {name for batches in found for batch in batches if batch.padding for name in ids(batch)}
        assert padding <= {f"id-{row}" for row in range(4)}
        epochs.append(used)
    assert epochs[0] != epochs[1] or block == 0 or rows <= 5


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("kind", ["parquet", "archives"])
def test_batches_that_were_trained_on_are_passed_over_and_the_rest_is_the_same(folder, kind, process):
    """Of archives, whose length nobody knows, one epoch follows another, on each process for itself."""
    stream = stream_of(folder, kind)

    def batches(passed_over: int) -> StreamBatches:
        found = StreamBatches(stream, 4, num_processes=2, process_index=process, block=3)
        found.pass_over(passed_over)
        return found

    every = told(islice(batches(0), 20))
    for passed_over in (1, 3, 4, 5, 9):
        rest = batches(passed_over)
        found = told(islice(rest, 20))
        assert found == [None] * passed_over + every[passed_over:]
        if kind == "parquet":
            assert told(rest) == every  # once
    if kind == "archives":  # archives 0 and 2 have 23 rows, 1 and 3 have 7
        starts, per_epoch = np.cumsum([0, *SIZES]), (6, 2)[process]
        own = [name for shard in (process, process + 2) for name in IDS[starts[shard] : starts[shard + 1]]]
        assert [epoch for _, epoch, _ in every] == [number // per_epoch for number in range(20)]
        for start in range(0, 18, per_epoch):
            assert sorted(name for names, *_ in every[start : start + per_epoch] for name in names) == sorted(own)


# --- Which data ------------------------------------------------------------------------------------------------------


def known(folder: Path, processes: int = 1) -> dict:
    return fingerprint(StreamedImages(open_rows(str(folder), "train", processes), pil_to_tensor))


@pytest.mark.parametrize("save", [save_parquet, save_webdataset])
def test_a_stream_is_known_by_its_files_and_their_order(tmp_path, save):
    save(tmp_path / "rows", SIZES)
    ours = known(tmp_path / "rows")
    assert set(ours) == ({"rows", "files"} if save is save_parquet else {"files"})
    shutil.copytree(tmp_path / "rows", tmp_path / "moved")  # where it lies does not matter, nor how it is divided
    assert known(tmp_path / "moved") == known(tmp_path / "moved", processes=3) == ours
    save(tmp_path / "other order", [14, 9, 1, 6])
    first = next((tmp_path / "moved").glob("train-00000*"))
    renamed = first.rename(first.with_name(first.name.replace("train-00000", "train-00009")))
    assert {known(tmp_path / name)["files"] for name in ("other order", "moved")}.isdisjoint([ours["files"]])
    shutil.copy(next((tmp_path / "rows").glob("train-00002*")), renamed.rename(first))
    assert known(tmp_path / "moved")["files"] != ours["files"]


# --- Killed and resumed ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind, block, accumulation, workers", [("parquet", 5, 3, 0), ("archives", 0, 1, 1)])
def test_a_killed_run_goes_on_bit_for_bit(folder, tmp_path, kind, block, accumulation, workers):
    """Killed in the middle of an epoch, and resumed from a checkpoint."""
    options = {"streaming": True, "require_labels": False, "shuffle_buffer_size": block, "max_steps": 12}
    options |= {"gradient_accumulation_steps": accumulation, "dataloader_num_workers": workers}
    options |= {"align_text_bank": 0, "supervision": "none", "align_warmup_epochs": 0}  # others need all rows
    if kind == "archives":
        options |= {f"{ours}_column": theirs for ours, theirs in IN_JSON.items()}
        options |= {"class_names_file": folder / "classes.txt"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, str(WORKER), str(tmp_path), str(folder / kind), "step:2", "step:11", "--", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [outcome["killed"] for outcome in found] == [True, True]
    assert [outcome["went_on_from"] for outcome in found] == [False, True]
    for outcome in found:
        assert outcome["resumed"] == 0, outcome["log"]
        assert outcome["same"] == {"model.safetensors": True, "ema.safetensors": True}


# --- Options, and what cannot be streamed ----------------------------------------------------------------------------


def open_streamed(folder: Path, kind: str, dim: int | None = 8, **options) -> dict:
    """The splits of a training from a stream, whose embeddings have `dim` numbers; options of run and training."""
    run = {name: options.pop(name) for name in list(options) if name in RunArguments.__dataclass_fields__}
    data = {}
    if kind == "archives":
        options = {"max_steps": 3} | options
        data = {"class_names_file": str(folder / "classes.txt"), "text_embeds_column": dim and "json.vector"}
    args = AlignmentArguments("nowhere", use_cpu=True, report_to="none", **options)
    run = RunArguments(streaming=True, require_labels=False, **run)
    splits, id2label, found = load_streamed(run, DataArguments(str(folder / kind), **data), args)
    assert list(id2label.values()) == CLASSES and found == dim
    return splits


def test_splits_of_a_stream_are_opened_and_the_others_are_not_touched(folder):
    for kind, number in (("parquet", 30), ("archives", None)):
        splits = open_streamed(folder, kind)
        assert (splits["train"].num_rows, len(splits["validation"])) == (number, 6)
    assert open_streamed(folder, "archives", dim=None, align_weight=0)["train"].num_rows is None
    assert load_split(DataArguments(str(folder / "parquet")), "test") is None


NEED_ALL_ROWS = [
    ("align_text_bank", 5),
    ("align_center", True),
    ("align_captions", "all"),
    ("supervision", "auto"),
    ("label_noise", "soften"),
    ("label_noise_rate", 0.2),
    ("long_tail_factor", 10.0),
    ("label_fraction", 0.5),
    ("unlabelled", "drop"),
    ("caption_control", "shuffle"),
    ("repeated_augmentation", 3),
    ("on_bad_images", "skip"),
    ("dataloader_drop_last", True),
    ("class_weights", "balanced"),
]


@pytest.mark.parametrize("name, value", NEED_ALL_ROWS)
def test_what_needs_all_rows_is_refused(folder, name, value):
    with pytest.raises(ValueError, match=rf"^{name} is .*stream"):
        open_streamed(folder, "parquet", **{name: value})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dim": None}, "align_weight is 0.3, but the stream has no column 'text_embeds'"),
        ({"max_steps": -1}, "max_steps is -1, but the number of rows"),
        ({"save_strategy": "epoch"}, "save_strategy is epoch, but"),
        ({"align_off_epochs": 1.0}, "align_off_epochs is 1.0, but"),
        ({"lr_scheduler_type": "timm:cosine"}, "lr_scheduler_type is timm:cosine, which"),
    ],
)
def test_what_archives_do_not_tell_is_asked_for(folder, options, message):
    with pytest.raises(ValueError, match=message):
        open_streamed(folder, "archives", **options)


def test_what_cannot_be_streamed_says_so(folder):
    parquet, archives = (str(folder / name) for name in ("parquet", "archives"))
    for source, split, message in (
        (parquet, "test", "no split 'test'. It has: train, validation"),
        (Source(parquet, columns={"image": "caption"}), "train", "no column of images called 'image'.*--image_column"),
        (Source(archives, columns={"caption": "json.nothing"}), "train", "no column 'json.nothing'"),
        (Source(parquet, captions=parquet), "train", "captions_name is set"),
    ):
        with pytest.raises(ValueError, match=message):
            open_rows(source, split)
    with pytest.raises(FileNotFoundError):
        open_rows(str(folder / "nowhere" / "at all"), "train")
    with pytest.raises(ValueError, match="4 archives for 3 processes.*make it a multiple, or at least 8 archives a"):
        StreamBatches(open_rows(archives, "train"), 4, num_processes=3)
    empty = open_rows(archives, "train")
    empty.rows = empty.rows.take(0)
    with pytest.raises(ValueError, match="has no rows"):  # and is no endless loop
        next(iter(StreamBatches(empty, 4)))
