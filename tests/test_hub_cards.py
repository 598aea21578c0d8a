"""Cards that the test Hub takes and refuses."""

import pytest
import yaml
from hub_server.cards import check_card, metadata_of
from hub_server.vocabulary import LICENSES
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData, SpaceCardData

RESULT = {
    "task": {"type": "image-classification"},
    "dataset": {"name": "Images", "type": "me/images", "split": "test"},
    "metrics": [{"type": "accuracy", "value": 0.5}],
}


def card(**metadata) -> str:
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n# Title\n"


def with_result(**changes) -> dict:
    return {"model-index": [{"name": "a", "results": [RESULT | changes]}]}


def test_cards_of_the_client_library_are_taken():
    result = EvalResult(
        *("image-classification", "me/images", "Images", "accuracy", 0.5),
        **{"dataset_config": "default", "dataset_split": "test", "dataset_revision": "abc", "metric_name": "top-1"},
        source_url="https://example.com",
    )
    model = ModelCardData(
        base_model=["timm/resnet18.a1_in1k", "gpt2"],
        datasets=["me/images", "imagenet-1k"],
        eval_results=[result],
        language=["en", "de", "multilingual", "yue", "no"],
        library_name="timm",
        license="other",
        license_name="my-licence-1.0",
        license_link="LICENSE",
        metrics=["accuracy"],
        model_name="a",
        pipeline_tag="image-classification",
        tags=["vision"],
    )
    dataset = DatasetCardData(
        license=["mit", "cc-by-4.0"],
        pretty_name="Images",
        size_categories=["1K<n<10K"],
        task_categories=["image-classification"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/*"}]}],
        source_datasets="me/other",
        dataset_info={"features": []},
    )
    space = SpaceCardData(
        title="App",
        emoji="🦊",
        colorFrom="red",
        colorTo="pink",
        sdk="gradio",
        sdk_version="6.31.0",
        python_version="3.11",
        app_file="app.py",
        models=["me/model"],
        short_description="An app",
    )
    for kind, data in (("model", model), ("dataset", dataset), ("space", space)):
        assert check_card(f"---\n{data.to_yaml()}\n---\n", kind) == ([], []), kind
    assert metadata_of(f"---\n{model.to_yaml()}\n---\n")["language"][-1] == "no"  # a language, not a boolean


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"license": "my own"}, '"license" must be one of [afl-3.0, agpl-3.0, apache-2.0,'),
        ({"license": ["mit", "gpl-2.0-or-later"]}, '"license[1]" must be one of'),
        ({"license": None}, '"license" must not be null'),
        ({"license": "other", "license_name": "My licence"}, '"license_name" with value "My licence" fails to match'),
        ({"license_link": "/root/LICENSE"}, '"license_link" with value'),
        ({"datasets": ["/data/images/"]}, '"datasets[0]" with value "/data/images/" is not valid. If possible, use a'),
        ({"datasets": ["./images"]}, '"datasets[0]" with value "./images" is not valid'),
        ({"datasets": "runs/a/images"}, '"datasets" with value "runs/a/images" is not valid'),
        ({"datasets": [None]}, '"datasets[0]" must be a string'),
        ({"datasets": {"a": 1}}, '"datasets" must be a string'),
        ({"base_model": "Kokoro 82M"}, '"base_model" with value "Kokoro 82M" is not valid. Use a model id from'),
        ({"base_model": "/root/run/student"}, '"base_model" with value "/root/run/student" is not valid'),
        ({"base_model": ""}, '"base_model" must be a string'),
        ({"base_model_relation": "student"}, '"base_model_relation" must be one of [adapter, merge, quantized,'),
        ({"language": "english"}, '"language" with value "english" is not valid. It must be an ISO 639-1, 639-2 or'),
        ({"language": ["en", "xx"]}, '"language[1]" with value "xx" is not valid'),
        ({"tags": "vision"}, '"tags" must be an array'),
        ({"tags": ["vision", 3]}, '"tags[1]" must be a string'),
        ({"metrics": "accuracy"}, '"metrics" must be an array'),
        ({"widget": "w"}, '"widget" must be an array'),
        ({"pipeline_tag": ["image-classification"]}, '"pipeline_tag" must be a string'),
        ({"library_name": None}, '"library_name" must not be null'),
        ({"model-index": {}}, '"model-index" must be an array'),
        ({"model-index": [{"results": [RESULT]}]}, '"model-index[0].name" is required'),
        ({"model-index": [{"name": "a"}]}, '"model-index[0].results" is required'),
        (with_result(task={}), '"model-index[0].results[0].task.type" is required'),
        (with_result(task=None), '"model-index[0].results[0].task" must be of type object'),
        (with_result(dataset={"name": "Images"}), '"model-index[0].results[0].dataset.type" is required'),
        (with_result(dataset={"type": "me/images"}), '"model-index[0].results[0].dataset.name" is required'),
        (with_result(dataset={"name": "a", "type": "./run"}), '.dataset.type" with value "./run" is not valid'),
        (
            with_result(dataset=RESULT["dataset"] | {"config": None}),
            '"model-index[0].results[0].dataset.config" must be a string',
        ),
        (with_result(metrics={}), '"model-index[0].results[0].metrics" must be an array'),
        (with_result(metrics=[{"value": 1}]), '"model-index[0].results[0].metrics[0].type" is required'),
        (with_result(metrics=[{"type": "a", "value": None}]), '.metrics[0].value" is required'),
        (with_result(metrics=[{"type": "a", "value": float("nan")}]), '.metrics[0].value" must be a finite number'),
        (
            with_result(metrics=[{"type": "a", "value": 1, "config": {}}]),
            '"model-index[0].results[0].metrics[0].config" must be a string',
        ),
        (with_result(source={"name": "here"}), '"model-index[0].results[0].source.url" is required'),
    ],
)
def test_wrong_model_cards_are_refused(metadata, message):
    errors, _ = check_card(card(**metadata), "model")
    assert message in errors[0] and len(errors) == (2 if "must be of type object" in errors[0] else 1)


@pytest.mark.parametrize(
    ("kind", "metadata", "message"),
    [
        ("dataset", {"size_categories": ["many"]}, '"size_categories[0]" must be one of [n<1K, 1K<n<10K,'),
        ("dataset", {"pretty_name": 3}, '"pretty_name" must be a string'),
        ("dataset", {"configs": [{"data_files": "*"}]}, '"configs[0].config_name" is required'),
        ("dataset", {"configs": [{"config_name": "a"}] * 2}, '"configs" contains a duplicate config_name'),
        ("dataset", {"configs": {"config_name": "a"}}, '"configs" must be an array'),
        (
            "dataset",
            {"configs": [{"config_name": "a", "data_files": [{"path": "*"}]}]},
            '"configs[0].data_files[0].split" is required',
        ),
        ("dataset", {"dataset_info": "none"}, '"dataset_info" must be of type object'),
        ("space", {"title": "App"}, '"sdk" is required'),
        ("space", {"sdk": "streamlit"}, '"sdk" must be one of [gradio, docker, static]'),
        ("space", {"sdk": "static", "colorFrom": "orange"}, '"colorFrom" must be one of [red, yellow, green, blue,'),
        ("space", {"sdk": "static", "short_description": "x" * 61}, '"short_description" length must be less than'),
        ("space", {"sdk": "static", "emoji": "fox"}, '"emoji" with value "fox" fails to match'),
        ("space", {"sdk": "gradio", "sdk_version": 6.31}, '"sdk_version" must be a string'),
        ("space", {"sdk": "static", "pinned": "yes"}, '"pinned" must be a boolean'),
        ("space", {"sdk": "static", "models": ["./model"]}, '"models[0]" with value "./model" is not valid'),
        ("space", {"sdk": "gradio", "app_file": "/root/app.py"}, '"app_file" with value'),
    ],
)
def test_wrong_cards_of_data_sets_and_spaces_are_refused(kind, metadata, message):
    errors, _ = check_card(card(**metadata), kind)
    assert len(errors) == 1 and message in errors[0]


def test_yaml_is_read_as_the_hub_reads_it():
    assert check_card("---\nlicense: mit\nlicense: mit\n---\n", "model")[0][0].startswith("Invalid YAML")
    assert check_card("---\na: [\n---\n", "model")[0][0].startswith("Invalid YAML")
    assert check_card("---\n- a\n---\n", "model")[0] == ["The metadata must be a YAML object"]
    assert check_card("---\nlanguage: no\n---\n", "model") == ([], [])
    for empty in ("# No metadata\n", "---\n\n---\n", ""):
        assert check_card(empty, "model") == ([], ["empty or missing yaml metadata in repo card"])


def test_what_is_odd_but_allowed_is_warned_about():
    for kind, metadata, word in (
        ("model", {"pipeline_tag": "seeing"}, "seeing"),
        ("model", {"license": "other"}, "license_name"),
        ("dataset", {"task_categories": ["seeing"]}, "seeing"),
    ):
        errors, warnings = check_card(card(**metadata), kind)
        assert errors == [] and len(warnings) == 1 and word in warnings[0]
    assert check_card(card(**{"my own field": 3}), "model") == ([], [])
    assert "apache-2.0" in LICENSES and "Apache-2.0" not in LICENSES
