"""Help, printed configurations, and where the value of an option comes from."""

import re

import pytest
import yaml
from doors import COMMANDS, ROOT, spelled
from released_runs import a_run

from g4i_hf.running import main

DATA = {"dataset_name": "./pictures", "output_dir": "run"}
# Of each command, options that the README or a page of docs/ names
PROMISED = {
    "fit": "dataset_name output_dir captioner student finetune minutes dry_run",
    "caption": "captioner_model base_url prompt captions_dir dry_run max_cost price_input",
    "embed": "view text_encoder embeddings_dir text_encoder_prompt",
    "check": "split check_dir text_encoder embeddings_dir",
    "train": "align_weight align_loss supervision unlabelled student pretrained ema_decay learning_rate seed bf16",
    "evaluate": "run baseline splits speed report weights",
    "release": "run stage baseline repo_id push_to_hub dry_run formats license with_images",
}


@pytest.fixture
def answer(capsys, tmp_path, monkeypatch):
    """What a command in an empty folder prints, and the exit code with which it should end."""
    monkeypatch.chdir(tmp_path)

    def answered(*words, code: int | None = None) -> str:
        try:
            main(spelled(words))
        except SystemExit as end:
            assert end.code == code
        else:
            assert code is None
        return capsys.readouterr().out

    return answered


def options_in(page: str) -> list[str]:
    return re.findall(r"^  (?:-o, )?--(\w+)", page, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_there_at_once_and_names_groups_and_options(answer, command):
    brief = answer(command, "--help", code=0)
    assert len(brief.splitlines()) <= 100, "no more than two screens"
    page = answer(command, "--help", "all", code=0)
    assert {"config", "print_config", "help", *PROMISED[command].split()} <= set(options_in(page))
    assert len(options_in(page)) == len(set(options_in(page))) and set(options_in(brief)) <= set(options_in(page))
    assert all(re.search(rf"\b{name}\b", brief) for name in options_in(page))
    assert re.search(r"^\S.*\n  (?:--|-o)", page, flags=re.MULTILINE), "a group with a title"
    assert f"{command}" in page.splitlines()[0] and "recipes/" in page, "a command to copy"


def words_of(command: str, folder) -> tuple:
    if command in ("evaluate", "release"):
        return ({"run": a_run(folder / "run", model=False, dataset_name="them/photos")},)
    return (DATA,) if command in ("embed", "check") else ()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_configuration_says_the_same_again(answer, tmp_path, command):
    words = words_of(command, tmp_path)
    before = set(tmp_path.rglob("*"))
    first = answer(command, *words, "--print_config", code=0)
    assert set(tmp_path.rglob("*")) == before, "nothing is written"
    (tmp_path / "printed.yaml").write_text(first, encoding="utf-8")
    values = yaml.safe_load(first)
    assert set(values) >= set(PROMISED[command].split()) - {"dry_run", "final", "pretrained"}
    assert answer(command, {"config": "printed.yaml"}, "--print_config", code=0) == first


def test_secrets_are_not_printed(answer):
    printed = answer("train", DATA, {"hub_token": "hf_confidential"}, "--print_config", code=0)
    assert "confidential" not in printed and "hub_token" not in printed


@pytest.fixture
def printed(answer):
    """The options that `g4i train` would have."""
    return lambda *words: yaml.safe_load(answer("train", *words, "--print_config", code=0))


def test_defaults_that_the_readme_promises(printed):
    values = printed(DATA)
    expected = {"align_weight": 0.3, "align_loss": "clip", "supervision": "none", "unlabelled": "error"}
    expected |= {"pretrained": False, "soft_label_weight": None}
    expected |= {"learning_rate": 1e-3, "num_train_epochs": 50, "per_device_train_batch_size": 64}
    expected |= {"lr_scheduler_type": "cosine"}
    expected |= {"on_bad_images": "error", "train_split": "train"}
    assert {name: values[name] for name in expected} == expected


def test_the_recipe_takes_options_by_its_name_and_data_or_a_file_replace_it(answer, printed, tmp_path):
    """An option alone would train it in place of a dataset that was forgotten."""
    assert printed()["freeze_backbone"] is True
    recipe = ROOT / "recipes" / "emoji_styles" / "train.yaml"
    values = printed({"config": recipe, "align_weight": 0})
    assert values["align_weight"] == 0 and values["student_args"]["channels"] == [32, 64, 128, 256]
    assert answer("train", {"align_weight": 0}, code=2) == ""
    assert printed(DATA)["student_args"] is None
    (tmp_path / "o.yaml").write_text("dataset_name: x\noutput_dir: y\n")
    assert printed({"config": "o.yaml"})["student_args"] is None
