"""From images to a student: what every command leaves, and what its cards and pages hold."""

import json

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from doors import ROOT, caption_server, files_in, refused_by_windows, server_stats
from drawings import ENCODER, STUDENT, TRAINING, caption
from goldens import front_matter, golden, outline_of_card, outline_of_page

pytestmark = pytest.mark.slow  # `make test` has the options, the mistakes and the front door

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle")
RUN = {"model.safetensors", "config.json", "preprocessor_config.json", "all_results.json", "trainer_state.json"}
RUN |= {"train.yaml", "predictions/validation.parquet"}


def test_captions_are_a_stage_of_rows_without_images(loop):
    assert {"train.parquet", "validation.parquet", "stage.json", "README.md"} <= files_in(loop / "captions")
    rows = pq.read_table(loop / "captions" / "train.parquet").to_pylist()
    assert {"image_id", "caption", "caption_status"} <= set(rows[0]) and "image" not in rows[0]
    assert len(rows) == 18
    for row in rows:
        number = int(row["image_id"].split("/")[-1].removesuffix(".png"))
        assert row["caption"] == [caption(number)]
    stage = json.loads((loop / "captions" / "stage.json").read_text())
    assert stage["source"] == "../pictures" and stage["num_rows"] == {"train": 18, "validation": 9}


def test_embeddings_are_a_stage_of_unit_vectors_in_half_precision(loop):
    assert {"train.parquet", "validation.parquet", "stage.json"} <= files_in(loop / "embeddings")
    table = pq.read_table(loop / "embeddings" / "train.parquet")
    assert {"image_id", "text_embeds"} <= set(table.column_names) and "image" not in table.column_names
    assert "halffloat" in str(table.schema.field("text_embeds").type)
    for row in table.to_pylist():
        [vector] = row["text_embeds"]
        assert len(vector) == 384 and sum(value**2 for value in vector) == pytest.approx(1, abs=1e-2)
    stage = json.loads((loop / "embeddings" / "stage.json").read_text())
    assert stage["text_encoder"] == ENCODER["text_encoder"] and stage["source"] == "../captions"


def test_windows_takes_the_name_of_every_file(loop):
    assert len(list(loop.rglob("*"))) > 50 and not refused_by_windows(loop)


@pytest.mark.parametrize("run", ["aligned", "baseline"])
def test_a_run_folder_is_whole(loop, run):
    files = files_in(loop / run)
    assert files >= RUN and not [name for name in files if name.endswith(PICKLES)]
    results = json.loads((loop / run / "all_results.json").read_text())
    assert results["validation_samples"] == 9 and 0 <= results["validation_accuracy"] <= 1
    assert {"train_loss", "train_samples_per_second", "validation_ece", "validation_nll"} <= set(results)
    state = json.loads((loop / run / "trainer_state.json").read_text())
    assert state["global_step"] == TRAINING["max_steps"]
    options = yaml.safe_load((loop / run / "train.yaml").read_text())
    assert options["align_weight"] == (0.3 if run == "aligned" else 0) and options["dataset_name"] == "../embeddings"
    rows = pq.read_table(loop / run / "predictions" / "validation.parquet").to_pylist()
    assert len(rows) == 9 and {"image_id", "label", "prediction", "score"} <= set(rows[0])
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert results["validation_accuracy"] == pytest.approx(right / 9)


def test_retrieval_is_measured_of_the_aligned_run(loop):
    results = json.loads((loop / "aligned" / "all_results.json").read_text())
    assert results["validation_gallery_size"] == 9
    for measure in ("recall", "chance", "text_to_image_recall"):
        assert 0 <= results[f"validation_{measure}_at_1"] <= results[f"validation_{measure}_at_5"] <= 1
    assert results["validation_chance_at_5"] == pytest.approx(5 / 9)


def test_a_released_stage_is_read_by_datasets(loop, tmp_path):
    folder = loop / "captions-dataset"
    assert {"README.md", "stage.json", "data/train-00000-of-00001.parquet"} <= files_in(folder)
    rows = load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    assert len(rows) == 18 and {"image_id", "caption", "caption_status"} <= set(rows.column_names)


def test_no_path_of_this_machine_is_in_what_was_made(loop):
    for name in files_in(loop):
        if name.endswith((".json", ".md", ".yaml", ".html", ".parquet")) and not name.startswith("pictures"):
            content = (loop / name).read_bytes()
            assert str(loop).encode() not in content and str(ROOT).encode() not in content, name


def test_the_card_of_a_student(loop):
    card = (loop / "aligned" / "student" / "README.md").read_text()
    assert outline_of_card(card) == golden("card_student", outline_of_card(card))
    matter = front_matter(card)
    assert matter["license"] == "apache-2.0" and matter["pipeline_tag"] == "image-classification"
    assert "g4i_hf" in matter["tags"] and matter["model-index"][0]["results"]
    assert 'pipeline("image-classification"' in card and "2306.00693" in card


@pytest.mark.parametrize("folder, name", [("captions-dataset", "card_captions"), ("captions", "card_captions_stage")])
def test_the_cards_of_captions(loop, folder, name):
    card = (loop / folder / "README.md").read_text()
    assert outline_of_card(card) == golden(name, outline_of_card(card))


def test_the_report_is_one_file_with_its_sections(loop):
    page = (loop / "report.html").read_text()
    assert outline_of_page(page) == golden("report", outline_of_page(page))
    assert "data:image/" in page and "<script src" not in page
    assert "http://" not in page.replace("http://www.w3.org", "") and not (loop / "report").exists()


def test_the_report_of_captions_has_its_sections(loop):
    page = (loop / "captions" / "caption_report.html").read_text()
    assert outline_of_page(page) == golden("report_captions", outline_of_page(page))


def test_a_dry_run_of_training_writes_nothing(quick, loop, tmp_path):
    before = files_in(loop)
    data = {"dataset_name": loop / "pictures", "output_dir": "run", "dry_run": "true"}
    done = quick.succeed("train", data, STUDENT, TRAINING, ENCODER, cwd=tmp_path)
    assert "resnet18" in done.out and "18 images" in done.out and "27" in done.out, "what, on what, what to embed"
    data |= {"dataset_name": loop / "embeddings", "supervision": "auto"}
    assert "Estimates: Captions tell the class of" in quick.succeed("train", data, STUDENT, TRAINING, cwd=tmp_path).out
    assert list(tmp_path.iterdir()) == [] and files_in(loop) == before


def test_a_dry_run_of_captioning_asks_about_so_many_and_keeps_their_answers(quick, loop, tmp_path):
    options = {"dataset_name": loop / "pictures", "captions_dir": "captions", "captioner_model": "tiny"}
    prices = {"price_input": 1, "price_output": 2}
    with caption_server("--answer", "digest") as server:
        options["base_url"] = f"{server}/v1"
        done = quick.succeed("caption", options, prices, {"dry_run": 3}, cwd=tmp_path)
        assert server_stats(server)["requests"] == 3 and "15 are still to come" in done.out, "images that are left"
        assert not (tmp_path / "captions").exists()
        assert list(tmp_path.rglob("*.html")), "a page that shows them"
        quick.succeed("caption", options, {"report": "false"}, cwd=tmp_path)
        assert server_stats(server)["requests"] == 18 and server_stats(server)["asked_again"] == 0
    assert len(pq.read_table(tmp_path / "captions" / "train.parquet")) == 18


def test_a_dry_run_of_a_push_lists_the_files(quick, loop, tmp_path):
    stage = {"stage": loop / "embeddings", "dataset_dir": tmp_path / "made", "repo_id": "me/embedded"}
    done = quick.succeed("release", stage, {"dry_run": "true"}, cwd=tmp_path)
    for name in ("README.md", "stage.json", "data/train-00000-of-00001.parquet", "me/embedded"):
        assert name in done.out, name
    assert not files_in(tmp_path)
