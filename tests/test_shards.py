"""Shards on a disk or in a bucket: a result for each, whole or not at all, by any tasks, whatever kills them."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tracemalloc
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import make
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from caption_doors import ROOT, picture_of
from datasets import Dataset
from datasets import Image as StoredImage
from doors import TWO_PROCESSES, WAIT, spelled, succeed
from fitting import save_resnet
from loaded import PYTHON, kill
from processes import happens
from test_encoders_as_views import saved

from g4i_hf import embed_view
from g4i_hf.running import main

IMAGES = 6  # of a shard


def parquet(number: int, images: int = IMAGES) -> pa.Table:
    """As the Hub has images; the last one of shard 0 is null."""
    stored = [make.stored(make.noise(100 * number + row)) | {"path": f"{number}-{row}.png"} for row in range(images)]
    if number == 0:
        stored[-1] |= {"bytes": None}
    return pa.table({"image": stored, "image_id": [f"id {number}-{row}" for row in range(images)]})


def archive(number: int) -> bytes:
    """As WebDataset has images, beside a caption and a pickle."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for row in range(IMAGES):
            members = {
                "jpg": make.content(make.noise(row), "JPEG"),
                "txt": b"a picture",
                "pyd": b"cos\nsystem\n(S'x'\ntR.",
            }
            for kind, content in members.items():
                about = tarfile.TarInfo(f"a/{number}-{row}.{kind}")
                about.size = len(content)
                file.addfile(about, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three Parquet files and an archive."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pq.write_table(parquet(number), folder / f"{number}.parquet")
    (folder / "3.tar").write_bytes(archive(3))
    return folder


def over(command: str, *words) -> None:
    main([command, *spelled(words)])


def rows_of(folder: Path) -> dict[str, list[dict]]:
    return {path.name: pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}


def test_each_shard_has_a_result_with_its_keys_and_what_is_there_is_not_made_again(student, photos, tmp_path, capsys):
    given = {"shards": photos / "[0-9].*", "out": tmp_path / "out"}
    over("predict", student, given, {"rank": 1, "world_size": 3})
    assert list(rows_of(tmp_path / "out")) == ["1.parquet"]
    made = (tmp_path / "out" / "1.parquet").stat().st_mtime_ns
    pq.write_table(parquet(4, 0), photos / "4.parquet")
    tarfile.open(photos / "5.tar", "w").close()
    over("predict", student, given)
    assert "Shards: 5 made with 18 images; 1 were there" in capsys.readouterr().out
    assert (tmp_path / "out" / "1.parquet").stat().st_mtime_ns == made
    for empty, full in ((4, 1), (5, 3)):
        schemas = [pq.read_schema(tmp_path / "out" / f"{number}.parquet") for number in (empty, full)]
        assert schemas[0].equals(schemas[1])
    found = rows_of(tmp_path / "out")
    assert list(found) == [f"{number}.parquet" for number in range(6)]
    assert not found["4.parquet"] and not found["5.parquet"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*found}
    first = found["0.parquet"]
    assert list(first[0]) == ["file_name", "image_id", "label", "probability", "decision", "reason"]
    assert [row["file_name"] for row in first] == [f"0-{row}.png" for row in range(IMAGES)]
    assert first[-1]["reason"] == "null" and first[-1]["decision"] == "ask" and first[-1]["label"] is None
    assert [(row["file_name"], row["__key__"]) for row in found["3.parquet"]] == [
        (f"a/3-{row}.jpg", f"a/3-{row}") for row in range(IMAGES)
    ]
    (tmp_path / "one").mkdir()
    for row in range(IMAGES):
        make.noise(100 + row).save(tmp_path / "one" / f"1-{row}.png")
    over("predict", student, tmp_path / "one", {"predictions": tmp_path / "one.parquet"})
    alone = pq.read_table(tmp_path / "one.parquet").to_pylist()
    assert [row | {"image_id": None} for row in found["1.parquet"]] == [row | {"image_id": None} for row in alone]


def test_a_path_in_a_shard_is_not_followed(student, photos, tmp_path):
    make.noise().save(tmp_path / "private.png")
    images = [{"bytes": None, "path": str(tmp_path / "private.png")}]
    pq.write_table(pa.table({"image": pa.array(images, parquet(1).schema.field("image").type)}), photos / "0.parquet")
    over("predict", student, {"shards": photos / "0.parquet", "out": tmp_path / "out"})
    ((row,),) = rows_of(tmp_path / "out").values()
    assert row["reason"] == "null"


def test_no_more_of_a_shard_is_in_memory_than_some_rows(student, photos, tmp_path):
    images = [{"bytes": os.urandom(40_000), "path": None} for _ in range(1000)]
    pq.write_table(pa.table({"image": images}), photos / "0.parquet", write_batch_size=16)
    del images
    tracemalloc.start()
    try:
        over("predict", student, {"shards": photos / "0.parquet", "out": tmp_path / "out"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 25e6 and len(rows_of(tmp_path / "out")["0.parquet"]) == 1000


def refused(capsys, command: str, *words) -> str:
    """The one line of an error."""
    with pytest.raises(SystemExit) as end:
        over(command, *words)
    *_, line = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("error: ")
    return line


def test_a_result_of_other_data_options_or_weights_is_named_and_never_taken(student, photos, tmp_path, capsys):
    given = {"shards": photos / "*.parquet", "out": tmp_path / "out"}
    over("predict", student, given, {"rank": 0, "world_size": 3})
    other = save_resnet(tmp_path / "other", seed=5)
    line = refused(capsys, "predict", other, given, {"rank": 2, "world_size": 3})
    assert "0.parquet in" in line and "another model or other options" in line, "that of another task"
    over("predict", student, given)
    before = rows_of(tmp_path / "out")
    line = refused(capsys, "predict", student, given, "--top", 2)
    assert "0.parquet in" in line and "another model or other options" in line and "--overwrite" in line
    pq.write_table(parquet(7), photos / "1.parquet")
    line = refused(capsys, "predict", student, given)
    assert "1.parquet in" in line and "another version of its shard" in line
    assert rows_of(tmp_path / "out") == before
    over("predict", student, given, "--overwrite")
    now = rows_of(tmp_path / "out")
    assert [now[name] == before[name] for name in before] == [True, False, True]
    (tmp_path / "out" / "2.parquet").write_bytes(b"PAR1")
    assert "2.parquet in" in refused(capsys, "predict", student, given)


def test_a_shard_that_cannot_be_read_is_named_and_the_others_are_done(student, photos, tmp_path, capsys):
    cut = (photos / "0.parquet").read_bytes()
    (photos / "0.parquet").write_bytes(cut[: len(cut) // 2])
    (photos / "3.tar").write_bytes(archive(3)[:9000])
    pq.write_table(parquet(4, 0), photos / "4.parquet")  # without rows, and done
    pq.write_table(pa.table({"picture": [b""]}), photos / "1.parquet")
    line = refused(capsys, "predict", student, {"shards": photos / "*.*", "out": tmp_path / "out"})
    assert "3 of 5 shards cannot be read: 0.parquet: " in line and "1.parquet: no column 'image'" in line
    assert "3.tar: the archive is cut off or damaged at byte" in line
    made = {name: len(rows) for name, rows in rows_of(tmp_path / "out").items()}
    assert made == {"2.parquet": IMAGES, "4.parquet": 0}


def test_mistakes_are_found_before_any_work(student, photos, tmp_path, capsys):
    out = tmp_path / "out"
    given = {"shards": photos / "*.parquet", "out": out}
    (photos / "deep").mkdir()
    (photos / "deep" / "1.parquet").write_bytes(b"")
    (photos / "notes.zip").write_bytes(b"")
    for changed, said in (
        ({"shards": photos / "*.arrow"}, ("*.arrow'", "no such file")),
        ({"shards": photos / "*.zip"}, ("'notes.zip'", ".parquet, .tar")),
        ({"shards": f"{photos}/**/*.parquet"}, ("photos/1.parquet and", "deep/1.parquet", "one folder at a time")),
        ({"out": photos}, ("photos'", "which holds the shard '0.parquet'")),
        ({"out": photos / "0.parquet" / "out"}, ("out is", "cannot be made")),
        ({"shards": "nowhere://b/*.parquet"}, ("shards is 'nowhere://b/*.parquet'", "Protocol not known: nowhere")),
        ({"rank": 3, "world_size": 3}, ("rank is 3", "ranks are 0 to 2")),
        ({"out": None}, ("out is missing", "--out")),
        ({"shards": None}, ("shards is missing",)),
        ({"images": photos}, ("images and shards", "leave one")),
    ):
        words = {name: value for name, value in (given | changed).items() if value is not None}
        line = refused(capsys, "predict", student, words)
        assert all(part in line for part in said), line
    assert not out.exists()


def test_tasks_of_a_scheduler_are_shared_out_once(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    given = {"shards": photos / "*.parquet", "out": tmp_path / "out", "rank": 1, "world_size": 3}
    line = refused(capsys, "embed", given | {"view": f"image:{saved('vit', tmp_path / 'vit')}"})
    assert "shared out twice" in line and "unset RANK and WORLD_SIZE" in line


# --- In a bucket, as S3 has them -------------------------------------------------------------------------------------

SHARDS, OF_EACH = 12, 60


@pytest.fixture
def bucket(monkeypatch, tmp_path) -> Iterator[s3fs.S3FileSystem]:
    """Shards in `photos` of a server in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "canary", "AWS_REGION": "us-east-1"}
    variables |= {"AWS_SECRET_ACCESS_KEY": "sk-canary", "AWS_EC2_METADATA_DISABLED": "true"}
    variables |= {f"AWS_{name}_FILE": str(tmp_path / "none") for name in ("CONFIG", "SHARED_CREDENTIALS")}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()  # one state a process
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(use_listings_cache=False)
    files.mkdir("photos")
    for number in range(SHARDS):
        buffer = io.BytesIO()
        pq.write_table(parquet(number, OF_EACH), buffer, row_group_size=20)
        files.pipe_file(f"photos/in/{number:02}.parquet", buffer.getvalue())
    yield files
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def results(files: s3fs.S3FileSystem, folder: str) -> dict[str, list[dict]]:
    paths = files.find(f"photos/{folder}")  # also hidden ones
    return {path.rpartition("/")[2]: pq.read_table(io.BytesIO(files.cat_file(path))).to_pylist() for path in paths}


def names_in(files: s3fs.S3FileSystem, folder: str) -> set[str]:
    return {path.rpartition("/")[2] for path in files.find(f"photos/{folder}")}


def task(student: str, out: str, rank: int, tasks: int) -> subprocess.Popen:
    given = {"shards": "s3://photos/in/*.parquet", "out": f"s3://photos/{out}", "rank": rank, "world_size": tasks}
    words = [PYTHON, "-m", "g4i_hf", "predict", *spelled((student, given))]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


def to_the_end(processes: list[subprocess.Popen]) -> str:
    said = "".join(process.communicate()[0] for process in processes)
    assert all(process.returncode == 0 for process in processes), said
    return said


@pytest.mark.slow
def test_tasks_that_are_killed_leave_whole_results_and_lose_one_shard_each(student, bucket):
    to_the_end([task(student, "alone", 0, 1)])
    alone, kills = results(bucket, "alone"), 2
    processes = [task(student, "out", rank, 4) for rank in range(4)]
    for rank in range(kills):
        mine = {f"{number:02}.parquet" for number in range(rank, SHARDS, 4)}
        assert happens(lambda mine=mine: mine & names_in(bucket, "out"), processes[rank])
        kill(processes[rank])
    said = to_the_end(processes[kills:])
    there = results(bucket, "out")
    assert said.count("Shards: 3 made") == 2 and all(alone[name] == there[name] for name in there)
    assert len(there) < SHARDS, "killed too late to show anything"
    bucket.invalidate_cache()
    said = to_the_end([task(student, "out", 0, 1)])
    assert f"Shards: {SHARDS - len(there)} made" in said and results(bucket, "out") == alone
    assert {*bucket.ls("photos")} == {f"photos/{folder}" for folder in ("in", "out", "alone")}
    assert "canary" not in said and b"canary" not in bucket.cat_file("photos/out/00.parquet")


@pytest.mark.slow
def test_access_that_is_missing_or_ends_is_one_line_and_what_is_done_stays(student, bucket, monkeypatch, capsys):
    given = {"shards": "s3://photos/in/*.parquet", "out": "s3://photos/out"}
    assert "out is 's3://gone/out', which cannot be written to: The specified bucket does not exist" in refused(
        capsys, "predict", student, given | {"out": "s3://gone/out"}
    )
    opening, ends = s3fs.S3FileSystem.open, 3 + 2

    def open_until_the_token_expires(self, path, *more, **kwargs):
        nonlocal ends
        ends -= "/in/" in path
        if ends <= 2:
            raise PermissionError("The provided token has expired.")
        return opening(self, path, *more, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "open", open_until_the_token_expires)
        line = refused(capsys, "predict", student, given)
    assert "02.parquet: The provided token has expired. 2 shards are done. Run the same command again." in line
    assert list(results(bucket, "out")) == ["00.parquet", "01.parquet"]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    assert "which cannot be listed: Unable to locate credentials" in refused(capsys, "predict", student, given)


# --- Vectors, captions and many tasks --------------------------------------------------------------------------------


def test_vectors_of_shards_are_those_of_embed(student, photos, tmp_path):
    vit = saved("vit", tmp_path / "vit")
    given = {"view": f"image:{vit}", "shards": photos / "*.parquet", "out": tmp_path / "out"}
    over("embed", given)
    found = rows_of(tmp_path / "out")
    assert list(found["0.parquet"][0]) == ["file_name", "image_id", "image_digest", "values", "reason"]
    assert found["0.parquet"][-1]["reason"] == "null" and np.isnan(found["0.parquet"][-1]["values"]).all()
    images = Dataset.from_dict(parquet(1).select(["image"]).to_pydict()).cast_column(
        "image", StoredImage(decode=False)
    )
    stage = embed_view(images, f"image:{vit}", tmp_path / "alone") / "train.parquet"
    alone = pq.read_table(stage).to_pylist()
    assert [row["values"] for row in found["1.parquet"]] == [pytest.approx(row["values"], abs=1e-5) for row in alone]
    assert [row["image_digest"] for row in found["1.parquet"]] == [row["image_digest"] for row in alone]


def test_captions_of_shards_have_the_columns_of_a_stage_and_a_limit_loses_one_shard(tmp_path, serve, capsys):
    server, photos = serve(), tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        images = [make.stored(picture_of(3 * number + row)) for row in range(3)]
        pq.write_table(pa.table({"image": images}), photos / f"{number}.parquet")
    given = {"shards": photos / "*.parquet", "out": tmp_path / "out", "captioner_model": "tiny"}
    given |= {"base_url": f"{server.url}/v1", "check_vision": "false"}
    line = refused(capsys, "caption", given, "--max_requests", 4)
    assert "max_requests is reached" in line and list(rows_of(tmp_path / "out")) == ["0.parquet"]
    over("caption", given)
    assert server.stats()["requests"] == 7
    found = rows_of(tmp_path / "out")
    captions = [row["caption"] for name in sorted(found) for row in found[name]]
    assert captions == [[f"number {number}"] for number in range(6)]
    first = ["file_name", "image_digest", "caption", "caption_raw", "caption_status", "caption_reason"]
    assert list(found["0.parquet"][0]) == first
    for more, said in (
        ({"prompt": "class"}, "has no column 'label'"),
        ({"captions_dir": "c"}, "captions_dir and shards"),
        ({"dataset_name": photos}, "dataset_name and shards"),
        ({"dry_run": 2}, "dry_run and shards"),
    ):
        assert said in refused(capsys, "caption", given | more)
    assert "View 'caption' cannot be made of shards" in refused(
        capsys, "embed", {"view": "caption", "shards": photos / "*.parquet", "out": tmp_path / "v"}
    )


def in_tasks(student: str, photos: Path, out: Path, executor: str, **options: object) -> str:
    ray = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    words = ["--executor", executor, "--tasks", "3", "--executor_options", json.dumps(options)]
    words += ["--logging_dir", out.with_suffix(".log"), "predict", student, "--shards", photos / "*.*", "--out", out]
    command = [sys.executable, ROOT / "recipes" / "scale" / "tasks.py", *map(str, words)]
    done = subprocess.run(command, env=os.environ | ray, cwd=ROOT, capture_output=True, text=True, timeout=WAIT)
    return f"{done.returncode}: {done.stdout}{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize(("executor", "options"), [("local", {"workers": 2}), ("ray", {"cpus_per_task": 1})])
def test_tasks_of_datatrove_share_the_shards(student, photos, tmp_path, executor, options):
    said = in_tasks(student, photos, tmp_path / "out", executor, **options)
    assert said.startswith("0: "), said[-3000:]
    over("predict", student, {"shards": photos / "*.*", "out": tmp_path / "alone"})
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "alone")


@pytest.mark.slow
def test_processes_of_a_launcher_share_the_shards_of_a_task(photos, tmp_path):
    given = {"view": f"image:{saved('vit', tmp_path / 'vit')}", "shards": photos / "*.parquet"}
    done = succeed("embed", given, {"out": tmp_path / "out"}, launcher=TWO_PROCESSES)
    assert "Shards: 2 made" in done.out
    over("embed", given, {"out": tmp_path / "alone"})
    assert rows_of(tmp_path / "out").keys() == rows_of(tmp_path / "alone").keys()


@pytest.mark.slow
def test_shards_of_the_hub(hub, student, tmp_path):
    with hub.here():
        make.rows(6).push_to_hub("me/photos")
    given = {"shards": "hf://datasets/me/photos/data/*.parquet", "out": tmp_path / "out"}
    succeed("predict", student, given, env=hub.environment(tmp_path / "home") | {"HF_HUB_OFFLINE": None})
    (rows,) = rows_of(tmp_path / "out").values()
    assert [row["image_id"] for row in rows] == [f"id-{row}" for row in range(6)]
