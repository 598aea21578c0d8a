"""Streams of training rows: the items of a data set at hand, every row once an epoch, from any place on the same."""

import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
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
from g4i_hf.data.stream import load_split, open_rows, stream_split
from g4i_hf.data.stream_batches import StreamBatch, StreamBatches, StreamedImages, _shuffled, read_ahead, rows_in_order
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
    assert images._split_of(batch)["image_id"][:] == [image_id_of(image) for image in stored]
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
        shards = list(range(len(SIZES)))

        def order(skip: int, seed: int | None = 3, stream=stream, shards=shards) -> list[str]:
            rows = rows_in_order(stream, shards, seed=None if seed is None else [seed], block=block, skip=skip)
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
    assert len(list(rows_in_order(stream, [0, 1, 2, 3], seed=None, block=0, skip=11))) == 19
    assert opened == [2, 3]


def test_what_a_thread_reads_ahead_fails_where_it_is_used():
    def items():
        yield from range(3)
        raise OSError("the disk is gone")

    found = read_ahead(items(), 2)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


# --- Which data -----------------------------------------------------------------------------------------------------


def known(folder: Path, processes: int = 1) -> dict:
    return fingerprint(StreamedImages(open_rows(str(folder), "train", num_processes=processes), whole))


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


ALL_READ = [(None, SIZES, 3), (None, [3], 4), (None, [5, 0], 2)]


@pytest.mark.parametrize(
    "row_group, sizes, number",
    [(None, SIZES, 2), (1, SIZES, 3), (None, SIZES, 3), (None, [3], 4), (None, [5, 0], 2), (None, [9, 0, 5, 6], 3)],
)
@pytest.mark.parametrize("block", [0, 7])
def test_processes_use_every_row_once_in_as_many_steps(tmp_path, row_group, sizes, number, block):
    """Shards for each; row groups where these are too uneven; parts of every batch where these are too."""
    save_parquet(tmp_path, sizes, row_group)
    stream = open_rows(str(tmp_path), "train", num_processes=number, batch_size=4)
    assert (stream.shards_of(number, 4) is None) == ((row_group, sizes, number) in ALL_READ)
    epochs = []
    for epoch in range(2):
        found = batches_of_processes(stream, number, 4, block=block, epoch=epoch)
        assert len({len(batches) for batches in found}) == 1
        assert len(found[0]) == len(StreamBatches(stream, 4, num_processes=number))
        used = [name for batches in found for batch in ids_of_batches(batches) for name in batch]
        assert Counter(used) == Counter(f"id-{row}" for row in range(sum(sizes)))
        assert sum(batch.padding for batches in found for batch in batches) <= number - 1
        epochs.append([ids_of_batches(batches) for batches in found])
    assert epochs[0] != epochs[1] or block == 0 or sizes == [3]


@pytest.mark.parametrize(
    "sizes, dealt",
    [
        ([8, 80], None),  # by 4: 2 batches and 20
        ([400, 440], None),
        ([796, 804], [[1], [0]]),  # 199 batches and 201: a hundredth
        ([30, 7, 21, 8], [[0], [1, 2, 3]]),
        ([9, 8, 0], [[0], [1, 2]]),
        ([5, 0], None),
    ],
)
def test_shards_are_dealt_out_where_that_is_even(parquet, sizes, dealt):
    stream = open_rows(str(parquet), "train")
    stream.rows, stream.shard_rows = SimpleNamespace(num_shards=len(sizes)), sizes
    assert stream.shards_of(2, 4) == dealt


def test_padding_is_a_batch_of_what_the_process_reads(archives):
    """One row would be all that BatchNorm sees, as often as it comes."""
    stream = open_rows(str(archives), "train")
    for process, (batches, starts) in enumerate(in_step(stream, 2, 12)):
        own = {name for batch in batches[: starts[1]] if not batch.padding for name in ids(batch)}
        padding = [ids(batch) for batch in batches[: starts[1]] if batch.padding]
        assert bool(padding) == (process == 1)  # 7 rows beside 23
        assert all(names == padding[0] and len(names) == 4 and own.issuperset(names) for names in padding)


def test_a_process_without_rows_waits_with_those_of_others(tmp_path):
    save_webdataset(tmp_path, [5, 0])
    stream = open_rows(str(tmp_path), "train")
    (mine, _), (none, _) = in_step(stream, 2, 4)
    assert sorted(name for batch in mine[:2] for name in ids(batch)) == [f"id-{row}" for row in range(5)]
    assert all(batch.padding and set(ids(batch)) <= {f"id-{row}" for row in range(5)} for batch in none)


def test_an_empty_shard_is_read(tmp_path):
    save_parquet(tmp_path, [5, 0])
    stream = open_rows(str(tmp_path), "train")
    assert [sum(map(len, stream.read(shard))) for shard in range(2)] == [5, 0]


def test_a_global_batch_is_the_same_for_any_number_of_processes_that_read_all(parquet):
    stream = open_rows(str(parquet), "train")
    whole_batches = [ids(batch) for batch in StreamBatches(stream, 12, block=7)]
    shared = batches_of_processes(stream, 3, 4, block=7)
    together = [
        [name for batch in parts if not batch.padding for name in ids(batch)] for parts in zip(*shared, strict=True)
    ]
    assert together == whole_batches


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


def in_step(stream, number: int, length: int, passed_over: int = 0, starts: list[int] | None = None):
    """So many batches of processes, here threads, which tell each other how many rows they have."""
    barrier, told = threading.Barrier(number, timeout=30), [0] * number

    def run(process: int) -> tuple[list[StreamBatch | None], list[int]]:
        def exchange(rows: int) -> list[int]:
            told[process] = rows
            barrier.wait()
            of_all = list(told)
            barrier.wait()
            return of_all

        who = {"num_processes": number, "process_index": process}
        batches = StreamBatches(stream, 4, block=3, exchange=exchange, **who)
        batches.pass_over(passed_over, starts)
        return list(islice(batches, length)), batches.epoch_starts

    with ThreadPoolExecutor(number) as processes:
        return list(processes.map(run, range(number)))


@pytest.mark.parametrize(
    "number", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_one_epoch_follows_another_where_nobody_knows_how_long_they_are(archives, number):
    stream, all_ids = open_rows(str(archives), "train"), [f"id-{row}" for row in range(sum(SIZES))]
    assert (stream.shards_of(number) is None) == (number == 3)
    found = in_step(stream, number, 20)
    starts = found[0][1]
    assert all(of_process[1] == starts for of_process in found) and len(starts) > 2
    for epoch, (start, end) in enumerate(pairwise(starts)):
        batches = [batch for of_process, _ in found for batch in of_process[start:end]]
        assert all(batch.epoch == epoch for batch in batches)
        assert sorted(name for batch in ids_of_batches(batches) for name in batch) == sorted(all_ids)
    for passed_over in (0, 3, starts[1] - 1, starts[1], starts[1] + 2):
        known = [start for start in starts if start < passed_over] or None  # the next one was not yet seen
        again = in_step(stream, number, 20, passed_over, known)
        for (before, _), (after, _) in zip(found, again, strict=True):
            assert after[:passed_over] == [None] * passed_over
            assert [ids(batch) for batch in after[passed_over:]] == [ids(batch) for batch in before[passed_over:]]
            assert [batch.epoch for batch in after[passed_over:]] == [batch.epoch for batch in before[passed_over:]]


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
    data = DataArguments(str(parquet), captions_name=str(parquet))
    with pytest.raises(ValueError, match="captions_name is set"):
        stream_split(data, "train", 1, 4)
    assert load_split(data, "test") is None


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    rows = example_rows(3).cast_column("image", Image(decode=False))
    broken = [image | {"bytes": image["bytes"][:40]} if row == 1 else image for row, image in enumerate(rows["image"])]
    rows = rows.remove_columns("image").add_column("image", broken, feature=Image(decode=False))
    rows.to_parquet(tmp_path / "train.parquet")
    images = StreamedImages(open_rows(str(tmp_path), "train"), whole)
    (batch,) = images.batches(4)
    with pytest.raises(BadImageError, match="'id-1': .*remove the row, which a stream cannot leave out.$"):
        images.__getitems__(batch)
