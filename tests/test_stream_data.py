"""Streams of training rows: the items of a data set at hand, every row once an epoch, from any place on the same."""

import shutil
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakSet

import numpy as np
import pytest
import torch
from datasets import DatasetDict, Image
from streams import CLASSES, example_rows, save_parquet, save_webdataset
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from g4i_hf.data.dataset import AlignmentCollator, CaptionedImages, Draw
from g4i_hf.data.fingerprint import fingerprint
from g4i_hf.data.images import BadImageError
from g4i_hf.data.joining import image_id_of
from g4i_hf.data.loading import load_data, open_images
from g4i_hf.data.stage import Source
from g4i_hf.data.stream import load_split, open_rows
from g4i_hf.data.stream_batches import (
    Part,
    StreamBatch,
    StreamBatches,
    StreamedImages,
    _shuffled,
    parts_of,
    rows_in_order,
)
from g4i_hf.data.transforms import train_transform
from g4i_hf.options import AugmentationArguments, DataArguments

SIZES = [9, 1, 14, 6]  # 30 rows
AUGMENTATION = AugmentationArguments(image_size=24, train_crop="pad", color_jitter=0.4, random_erasing=0.5)
IN_JSON = {"text_embeds": "json.vector", "caption_weight": "json.weight"}


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    save_parquet(folder, SIZES)
    return folder


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("webdataset")
    save_webdataset(folder, SIZES)
    return folder


def ids(batch: StreamBatch) -> list[str]:
    return batch.table["image_id"].to_pylist()


def ids_of_batches(batches) -> list[list[str]]:
    return [ids(batch) for batch in batches if not batch.padding]


def whole(image) -> torch.Tensor:
    return pil_to_tensor(image)


def assert_items_of_rows(streamed: StreamedImages, rows: CaptionedImages) -> None:
    batches = list(islice(streamed.batches(7, shuffle=False), 5))  # one epoch
    ours = [item for batch in batches for item in streamed.__getitems__(batch)]
    theirs = rows.get_draws([Draw(row, 0) for row in range(len(rows))])
    assert len(ours) == len(theirs) == sum(SIZES)
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() == (their.keys() - {"text_rows"}) | {"row"}  # a stream has no texts to be found again
        for name in ("pixel_values", "labels", "text_embeds", "caption_weight", "image_key", "text_keys"):
            assert np.array_equal(our[name], their[name]), name
        assert set(our["caption_keys"].tolist()) == set(their["caption_keys"].tolist()) | {-1} & {*our["caption_keys"]}


# --- Items ----------------------------------------------------------------------------------------------------------


def test_a_stream_gives_the_items_of_a_data_set(parquet):
    rows = open_images(str(parquet))["train"]
    assert_items_of_rows(StreamedImages(open_rows(str(parquet), "train"), whole), CaptionedImages(rows, whole))


def test_a_webdataset_gives_the_items_of_a_data_set(archives):
    """By its usual columns, and by fields of its JSON; streamed, and read as a whole."""
    source = Source(str(archives), columns=IN_JSON)
    stream, rows = open_rows(source, "train"), open_images(source)
    assert stream.shard_rows is None
    assert_items_of_rows(StreamedImages(stream, whole), CaptionedImages(rows["train"], whole))
    assert "__url__" not in rows["train"].column_names  # a path of this machine
    assert rows["train"]["image_id"][:3] == ["id-0", "id-1", "id-2"]
    data = DataArguments(str(archives), class_names_file=str(class_file(archives)))
    assert load_data(data)["train"].features["label"].names == load_split(data, "validation").features["label"].names
    assert load_split(data, "validation").features["label"].names == CLASSES


def class_file(folder: Path) -> Path:
    path = folder / "classes.txt"
    path.write_text("\n".join(CLASSES) + "\n")
    return path


def test_labels_may_be_texts_and_ids_are_made_where_there_are_none(tmp_path):
    rows = example_rows(4).remove_columns(["label", "image_id"]).add_column("kind", ["c", "a", None, "b"])
    (tmp_path / "rows").mkdir()
    rows.to_parquet(tmp_path / "rows" / "train.parquet")
    stream = open_rows(Source(str(tmp_path / "rows"), columns={"label": "kind"}), "train")
    images = StreamedImages(stream, whole, class_names=CLASSES)
    (batch,) = images.batches(4, shuffle=False)
    assert [item["labels"] for item in images.__getitems__(batch)] == [2, 0, -100, 1]
    stored = open_images(str(tmp_path / "rows"))["train"]["image"]
    assert [item["row"] for item in images.__getitems__(batch)] == [image_id_of(image) for image in stored]
    with pytest.raises(ValueError, match="'c', which is none of the 2 classes"):
        StreamedImages(stream, whole, class_names=CLASSES[:2]).__getitems__(batch)


def test_augmentation_depends_on_seed_epoch_and_id_alone(parquet):
    """Not on workers, on other rows of the batch, or on the order."""
    stream = open_rows(str(parquet), "train")

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


# --- Order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [0, 7])
def test_what_comes_after_some_rows_does_not_depend_on_reading_them(parquet, archives, block):
    for name in (parquet, archives):
        stream = open_rows(str(name), "train")
        parts = parts_of(stream, 4, num_processes=1, process_index=0)

        def order(skip: int, seed: int | None = 3, stream=stream, parts=parts) -> list[str]:
            rows = rows_in_order(stream, parts, seed=None if seed is None else [seed], block=block, skip=skip)
            return [table["image_id"][place].as_py() for table, place in rows]

        every = order(0)
        in_the_data = [f"id-{row}" for row in range(sum(SIZES))]
        assert order(0, seed=None) == in_the_data
        assert Counter(every) == Counter(in_the_data)
        assert order(0, seed=4) != every != in_the_data
        assert all(order(skip) == every[skip:] for skip in (1, 6, 7, 8, 15, 29, 30, 99))


def test_rows_of_a_block_are_let_go_as_they_are_taken():
    class Row:
        pass

    alive, most = WeakSet(), 0

    def rows():
        nonlocal most
        for _ in range(40):
            row = Row()
            alive.add(row)
            most = max(most, len(alive))
            yield row

    assert sum(1 for _ in _shuffled(rows(), [0], 10, 0)) == 40
    assert most <= 10 + 2  # one that was just made, and one in use


def test_shards_before_the_place_are_not_opened(parquet, monkeypatch):
    stream, opened = open_rows(str(parquet), "train"), []
    read = stream.read
    monkeypatch.setattr(stream, "read", lambda shard: opened.append(shard) or read(shard))
    parts = parts_of(stream, 4, num_processes=1, process_index=0)
    assert len(list(rows_in_order(stream, parts, seed=None, block=0, skip=11))) == 19
    assert opened == [2, 3]


def test_what_a_thread_reads_ahead_fails_where_it_is_used(parquet, monkeypatch):
    stream = open_rows(str(parquet), "train")
    read = stream.read

    def until_the_disk_is_gone(shard: int):
        if shard == 1:
            raise OSError("the disk is gone")
        yield from read(shard)

    monkeypatch.setattr(stream, "read", until_the_disk_is_gone)
    batches = iter(StreamBatches(stream, 3, shuffle=False))
    assert [len(ids(next(batches))) for _ in range(3)] == [3, 3, 3]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


# --- Which data -----------------------------------------------------------------------------------------------------


def known(folder: Path, processes: int = 1) -> dict:
    return fingerprint(StreamedImages(open_rows(str(folder), "train", processes), whole))


@pytest.mark.parametrize("save", [save_parquet, save_webdataset])
def test_a_stream_is_known_by_its_files(tmp_path, save):
    """What is read in another order, or is other rows, is not the same; where it lies does not matter."""
    save(tmp_path / "rows", SIZES)
    ours = known(tmp_path / "rows")
    assert set(ours) == ({"rows", "files"} if save is save_parquet else {"files"})
    shutil.copytree(tmp_path / "rows", tmp_path / "moved")
    assert known(tmp_path / "moved") == ours
    assert known(tmp_path / "moved", processes=3) == ours  # which `processes` tells, beside the data
    save(tmp_path / "other order", [14, 9, 1, 6])
    assert known(tmp_path / "other order").get("rows") == ours.get("rows")
    first = next((tmp_path / "moved").glob("train-00000*"))
    renamed = first.rename(first.with_name(first.name.replace("train-00000", "train-00009")))
    assert {known(tmp_path / name)["files"] for name in ("other order", "moved")}.isdisjoint([ours["files"]])
    shutil.copy(next((tmp_path / "rows").glob("train-00002*")), renamed.rename(first))
    assert known(tmp_path / "moved")["files"] != ours["files"]


def test_a_stream_of_rows_at_hand_is_known_by_their_ids(tmp_path):
    rows = example_rows(9)
    for name, split in {"rows": rows, "same": rows, "turned": rows.select(range(9)[::-1])}.items():
        DatasetDict(train=split).save_to_disk(str(tmp_path / name))
    assert known(tmp_path / "rows") == known(tmp_path / "same") != known(tmp_path / "turned")


# --- Processes ------------------------------------------------------------------------------------------------------


def batches_of_processes(stream, number: int, batch_size: int, epoch: int = 0, **options) -> list[list[StreamBatch]]:
    """The batches of one epoch on each process."""
    found = []
    for process in range(number):
        batches = StreamBatches(stream, batch_size, num_processes=number, process_index=process, **options)
        batches.set_epoch(epoch)
        found.append(list(batches))
    return found


@pytest.mark.parametrize(
    "row_group, sizes, number",
    [(None, SIZES, 2), (1, SIZES, 3), (None, SIZES, 3), (None, [3], 4), (None, [5, 0], 2), (None, [9, 0, 5, 6], 3)],
)
@pytest.mark.parametrize("block", [0, 7])
def test_processes_use_every_row_once_in_as_many_steps(tmp_path, row_group, sizes, number, block):
    save_parquet(tmp_path, sizes, row_group)
    stream = open_rows(str(tmp_path), "train", number)
    assert stream.rows.num_shards == (sum(sizes) if row_group else len(sizes))
    epochs = []
    for epoch in range(2):
        found = batches_of_processes(stream, number, 4, block=block, epoch=epoch)
        assert {len(batches) for batches in found} == {-(-sum(sizes) // (4 * number))}
        used = [name for batches in found for batch in ids_of_batches(batches) for name in batch]
        assert Counter(used) == Counter(f"id-{row}" for row in range(sum(sizes)))
        for together in zip(*found, strict=True):  # as even as it goes
            rows = [0 if batch.padding else len(ids(batch)) for batch in together]
            assert max(rows) - min(rows) <= 1
        assert all(
            set(ids(batch)) <= {f"id-{row}" for row in range(4)} for of in found for batch in of if batch.padding
        )
        epochs.append([ids_of_batches(batches) for batches in found])
    assert epochs[0] != epochs[1] or block == 0 or sum(sizes) <= 5


@pytest.mark.parametrize(
    "sizes, parts",
    [
        ([8, 80], [[Part(0, 0, 8), Part(1, 0, 36)], [Part(1, 36, 80)]]),
        ([9, 8, 0], [[Part(0, 0, 9)], [Part(1, 0, 8)]]),
        ([5, 1], [[Part(0, 0, 3)], [Part(0, 3, 5), Part(1, 0, 1)]]),
        ([1], [[Part(0, 0, 1)], []]),
    ],
)
def test_rows_that_follow_each_other_are_of_one_process(parquet, sizes, parts):
    stream = open_rows(str(parquet), "train")
    stream.rows, stream.shard_rows = SimpleNamespace(num_shards=len(sizes)), sizes
    assert [parts_of(stream, 4, 2, process) for process in range(2)] == parts


def test_an_empty_shard_is_read(tmp_path):
    save_parquet(tmp_path, [5, 0])
    stream = open_rows(str(tmp_path), "train")
    assert [sum(map(len, stream.read(shard))) for shard in range(2)] == [5, 0]


@pytest.mark.parametrize("passed_over", [0, 1, 3, 4, 5, 8, 9])
def test_batches_that_were_trained_on_are_passed_over(parquet, passed_over):
    stream = open_rows(str(parquet), "train")
    for process in range(2):
        options = {"num_processes": 2, "process_index": process, "block": 3}
        whole_epoch = list(StreamBatches(stream, 4, **options))
        batches = StreamBatches(stream, 4, **options)
        batches.pass_over(passed_over)
        rest = list(batches)
        assert rest[:passed_over] == [None] * passed_over
        assert [(ids(batch), batch.padding) for batch in rest[passed_over:]] == [
            (ids(batch), batch.padding) for batch in whole_epoch[passed_over:]
        ]
        assert [ids(batch) for batch in batches] == [ids(batch) for batch in whole_epoch]  # once


def some_batches(stream, number: int, process: int, passed_over: int = 0) -> list[StreamBatch | None]:
    batches = StreamBatches(stream, 4, block=3, num_processes=number, process_index=process)
    batches.pass_over(passed_over)
    return list(islice(batches, 20))


def test_one_epoch_follows_another_where_nobody_knows_how_long_they_are(archives):
    """On each process for itself: archives 0 and 2 have 23 rows, 1 and 3 have 7."""
    stream = open_rows(str(archives), "train")
    starts = np.cumsum([0, *SIZES])
    for process, per_epoch in enumerate((6, 2)):
        own = [f"id-{row}" for shard in (process, process + 2) for row in range(starts[shard], starts[shard + 1])]
        found = some_batches(stream, 2, process)
        assert [batch.epoch for batch in found] == [number // per_epoch for number in range(20)]
        for start in range(0, 18, per_epoch):
            names = [name for batch in found[start : start + per_epoch] for name in ids(batch)]
            assert sorted(names) == sorted(own)
        for passed_over in (1, per_epoch - 1, per_epoch, 2 * per_epoch + 1):
            again = some_batches(stream, 2, process, passed_over)
            assert again[:passed_over] == [None] * passed_over
            for before, after in zip(found[passed_over:], again[passed_over:], strict=True):
                assert (ids(before), before.epoch) == (ids(after), after.epoch)


def test_archives_that_cannot_be_divided_are_refused(archives):
    stream = open_rows(str(archives), "train")
    with pytest.raises(ValueError, match="4 archives for 3 processes.*make it a multiple, or at least 8 archives a"):
        StreamBatches(stream, 4, num_processes=3)


def test_a_stream_without_rows_is_no_endless_one(archives):
    stream = open_rows(str(archives), "train")
    stream.rows = stream.rows.take(0)
    with pytest.raises(ValueError, match="has no rows"):
        next(iter(StreamBatches(stream, 4)))


# --- Errors ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_streamed_says_so(parquet, archives):
    with pytest.raises(ValueError, match="no split 'test'. It has: train, validation"):
        open_rows(str(parquet), "test")
    with pytest.raises(ValueError, match=r"no column of images called 'image'.*--image_column"):
        open_rows(Source(str(parquet), columns={"image": "caption"}), "train")
    with pytest.raises(ValueError, match=r"no column 'json.nothing'"):
        open_rows(Source(str(archives), columns={"caption": "json.nothing"}), "train")
    with pytest.raises(FileNotFoundError):
        open_rows(str(parquet / "nowhere"), "train")
    with pytest.raises(ValueError, match="captions_name is set"):
        open_rows(Source(str(parquet), captions=str(parquet)), "train")
    assert load_split(DataArguments(str(parquet)), "test") is None


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    rows = example_rows(3).cast_column("image", Image(decode=False))
    broken = [image | {"bytes": image["bytes"][:40]} if row == 1 else image for row, image in enumerate(rows["image"])]
    rows = rows.remove_columns("image").add_column("image", broken, feature=Image(decode=False))
    rows.to_parquet(tmp_path / "train.parquet")
    images = StreamedImages(open_rows(str(tmp_path), "train"), whole)
    (batch,) = images.batches(4)
    with pytest.raises(BadImageError, match="'id-1': .*remove the row, .*not of a stream"):
        images.__getitems__(batch)
