"""Where captions come from, what is checked of them, and how they are embedded."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from doors import ROOT, caption_server, files_in, server_stats
from drawings import ENCODER, draw_folder

pytestmark = pytest.mark.slow


@pytest.fixture
def bare(tmp_path) -> Path:
    """Drawings without captions: 12 and 6."""
    return draw_folder(tmp_path / "pictures", captions=False, train=12, validation=6)


def rows_of(stage: Path, split: str = "train") -> dict[str, dict]:
    return {row["image_id"]: row for row in pq.read_table(stage / f"{split}.parquet").to_pylist()}


def texts(row: dict) -> list[str]:
    caption = row["caption"]
    return [caption] if isinstance(caption, str) else list(caption or [])


# --- Captions from a server ------------------------------------------------------------------------------------------


def asked(bare: Path, server: str, **more) -> dict:
    options = {"dataset_name": bare, "captions_dir": bare.parent / "captions", "captioner_model": "tiny"}
    return options | {"base_url": f"{server}/v1", "report": "false"} | more


def test_prompts_columns_of_the_data_and_several_captions(quick, bare):
    """The server answers with what it was asked."""
    with caption_server("--answer", "digest", "--echo") as server:
        words = ("--prompt", "plain", "A photo of a {label}.", "--caption_splits", "train")
        quick.succeed("caption", asked(bare, server), *words)
        assert server_stats(server)["requests"] == 24
    rows = rows_of(bare.parent / "captions")
    assert len(rows) == 12
    for image_id, row in rows.items():
        plain, own = texts(row)
        assert "Describe this image in detail." in plain and f"A photo of a {image_id.split('/')[0]}." in own
    stage = json.loads((bare.parent / "captions" / "stage.json").read_text())
    assert stage["num_rows"].get("validation", 6) in (0, 6)


def test_a_prompt_that_names_the_class_is_refused_for_evaluation(quick, bare):
    with caption_server() as server:
        done = quick.run("caption", asked(bare, server, prompt="class"))
        assert done.code == 2 and len(done.errors()) == 1 and "--caption_splits" in done.err
        assert server_stats(server)["requests"] == 0


def test_limits_stop_a_run_and_the_same_command_goes_on(quick, bare):
    with caption_server("--answer", "digest") as server:
        done = quick.run("caption", asked(bare, server, max_requests=5))
        assert server_stats(server)["requests"] == 5 and not (bare.parent / "captions").exists(), done.said
        quick.succeed("caption", asked(bare, server, max_requests=5, partial="true"))
        assert server_stats(server)["requests"] == 10
        every = {**rows_of(bare.parent / "captions"), **rows_of(bare.parent / "captions", "validation")}
        assert sum(bool(texts(row)) for row in every.values()) == 10
        quick.succeed("caption", asked(bare, server))
        assert server_stats(server)["requests"] == 18 and server_stats(server)["asked_again"] == 0
        done = quick.run("caption", asked(bare, server, prompt="Another?"))
        assert done.code == 2 and "--overwrite" in done.err, "captions made otherwise are not replaced"


def test_one_bad_image_ends_nothing_and_failures_are_asked_again_on_request(quick, bare):
    (bare / "train" / "cross" / "1.png").write_bytes(b"no image")
    with caption_server("--answer", "digest") as server:
        quick.succeed("caption", asked(bare, server))
        assert server_stats(server)["requests"] == 17
        rows = rows_of(bare.parent / "captions")
        assert rows["cross/1.png"]["caption_status"] == "undecodable" and texts(rows["cross/1.png"]) == []
        assert {row["caption_status"] for name, row in rows.items() if name != "cross/1.png"} == {"ok"}
        shutil.copy(bare / "train" / "cross" / "4.png", bare / "train" / "cross" / "1.png")
        quick.succeed("caption", asked(bare, server, retry_failed="true"))
    assert rows_of(bare.parent / "captions")["cross/1.png"]["caption_status"] == "ok"


def test_a_faulty_server_loses_and_repeats_no_answer(quick, bare):
    faults = ("--fault_rate", "0.3", "--faults", "429", "503", "cut", "garbage", "--seed", "1")
    with caption_server("--answer", "digest", *faults) as server:
        quick.succeed("caption", asked(bare, server))
        assert server_stats(server)["asked_again"] == 0 and server_stats(server)["faults"]
    rows = rows_of(bare.parent / "captions")
    assert all(len(texts(row)) == 1 for row in rows.values())


def test_tokens_come_from_a_variable_and_are_written_nowhere(quick, bare):
    with caption_server("--answer", "digest", "--token", "confidential") as server:
        done = quick.run("caption", asked(bare, server))
        assert done.code == 2 and "401" in done.err and "Traceback" not in done.said
        quick.succeed("caption", asked(bare, server, api_key_env="MY_KEY"), env={"MY_KEY": "confidential"})
    for name in files_in(bare.parent):
        assert b"confidential" not in (bare.parent / name).read_bytes(), name


# --- Captions that exist, and those of a model in the process --------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_captions_of_a_file(quick, bare, kind):
    names = sorted(path.relative_to(bare / "train").as_posix() for path in (bare / "train").glob("*/*.png"))
    captions, file = {name: f"that of {name}" for name in names}, bare.parent / f"captions.{kind}"
    if kind == "jsonl":
        file.write_text("\n".join(json.dumps({"file_name": n, "caption": c}) for n, c in captions.items()))
    elif kind == "csv":
        with file.open("w", newline="") as out:
            csv.writer(out).writerows([("file_name", "caption"), *captions.items()])
    else:
        file.write_text("\n".join(captions.values()))
    options = {"dataset_name": bare, "captions_dir": bare.parent / "captions", "captions_file": file}
    quick.succeed("caption", options, {"caption_splits": "train"})
    assert {name: texts(row) for name, row in rows_of(bare.parent / "captions").items()} == {
        name: [text] for name, text in captions.items()
    }


def test_captions_are_cleaned_and_doubtful_ones_counted(quick, bare):
    file = bare.parent / "captions.jsonl"
    said = {
        "circle/0.png": "The image shows a red circle on paper.",
        "circle/3.png": "I'm sorry, I can't help with that.",
    }
    names = [path.relative_to(bare / "train").as_posix() for path in (bare / "train").glob("*/*.png")]
    lines = [{"file_name": name, "caption": said.get(name, "a grey thing on paper")} for name in names]
    file.write_text("\n".join(map(json.dumps, lines)))
    options = {"dataset_name": bare, "captions_dir": bare.parent / "captions", "captions_file": file}
    quick.succeed("caption", options, {"caption_splits": "train"})
    rows = rows_of(bare.parent / "captions")
    assert "The image shows" not in texts(rows["circle/0.png"])[0] and "circle" in texts(rows["circle/0.png"])[0]
    assert rows["circle/3.png"]["caption_status"] == "refused" and texts(rows["circle/3.png"]) == []
    quality = json.loads((bare.parent / "captions" / "stage.json").read_text())["quality"]["train"]
    assert quality["doubtful"] == len(rows) - 2 and quality["without_caption"] == 1
    assert (bare.parent / "captions" / "caption_report.html").is_file()


def test_a_model_in_the_process(quick, bare):
    model = {"captioner_model": ROOT / "recipes" / "shapes" / "captioner", "max_new_tokens": 8, "report": "false"}
    quick.succeed("caption", {"dataset_name": bare, "captions_dir": bare.parent / "captions"}, model)
    rows = rows_of(bare.parent / "captions")
    assert len(rows) == 12 and all(texts(row)[0] for row in rows.values())


# --- Embeddings ------------------------------------------------------------------------------------------------------


def test_embeddings_are_made_once(quick, loop):
    options = {"dataset_name": loop / "captions", "embeddings_dir": loop / "embeddings"}
    before = (loop / "embeddings" / "stage.json").stat().st_mtime_ns
    done = quick.succeed("embed", options, ENCODER)
    assert "lready" in done.out and (loop / "embeddings" / "stage.json").stat().st_mtime_ns == before


def test_other_captions_are_embedded_anew(quick, loop, tmp_path):
    folder = shutil.copytree(loop, tmp_path / "loop")
    table = pq.read_table(folder / "captions" / "train.parquet")
    captions = table["caption"].to_pylist()
    position = table.column_names.index("caption")
    changed = table.set_column(position, table.schema.field("caption"), [captions[1:] + captions[:1]])
    pq.write_table(changed, folder / "captions" / "train.parquet")
    before = pq.read_table(folder / "embeddings" / "train.parquet")["text_embeds"].to_pylist()
    done = quick.succeed("embed", {"dataset_name": "captions", "embeddings_dir": "embeddings"}, ENCODER, cwd=folder)
    after = pq.read_table(folder / "embeddings" / "train.parquet")["text_embeds"].to_pylist()
    assert "lready" not in done.out and after != before


def test_long_captions_are_counted_and_images_beside(quick, bare):
    file = bare.parent / "captions.jsonl"
    names = [path.relative_to(bare / "train").as_posix() for path in (bare / "train").glob("*/*.png")]
    long = {name: " ".join(f"Sentence {i} tells of thing {i} in {name}." for i in range(60)) for name in names}
    file.write_text("\n".join(json.dumps({"file_name": n, "caption": c}) for n, c in long.items()))
    stage = {"dataset_name": bare, "captions_dir": bare.parent / "captions", "captions_file": file}
    quick.succeed("caption", stage, {"caption_splits": "train", "report": "false"})
    embedded = {"dataset_name": bare.parent / "captions", "embeddings_dir": bare.parent / "embeddings"} | ENCODER
    done = quick.succeed("embed", embedded, {"with_images": "true"})
    assert "256" in done.said, "the window that they are longer than"
    rows = rows_of(bare.parent / "embeddings")
    assert all(len(row["text_embeds"]) == 384 and row["image"]["bytes"] for row in rows.values())
