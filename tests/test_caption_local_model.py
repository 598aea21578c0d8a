"""Which model describes: found, told apart from all others, refused with a reason, changed by an adapter."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_captioners
import torch
from huggingface_hub import constants
from local_captioners import answers, captioner, picture, question
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForImageTextToText, BertConfig, BertModel

from g4i_hf.captioning.answers import CaptionerError, Decoding
from g4i_hf.captioning.local import LocalCaptioner, dtype_on
from g4i_hf.captioning.store import Keys
from g4i_hf.options import LocalCaptionerArguments

QUESTIONS = [question(number, picture(number)) for number in range(4)]
COMMITS = ("1" * 40, "2" * 40)


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    return tiny_captioners.save("llava", tmp_path_factory.mktemp("captioner") / "my-llava")


def texts(of: LocalCaptioner) -> list[str]:
    found = answers(of, QUESTIONS)
    return [found[str(number)].text for number in range(len(QUESTIONS))]


# --- Provenance -----------------------------------------------------------------------------------------------------


def test_provenance_of_a_folder_is_its_name_and_content(llava, tmp_path):
    first = captioner(llava).provenance
    assert first["model"] == "my-llava" and str(llava.parent) not in json.dumps(first)
    moved = tmp_path / "elsewhere" / "my-llava"
    shutil.copytree(llava, moved)
    (moved / "README.md").write_text("words")
    (moved / ".git").mkdir()
    (moved / ".git" / "config.json").write_text("{}")
    assert captioner(moved).provenance == first
    other = tiny_captioners.save("llava", tmp_path / "other" / "my-llava", seed=1)
    assert captioner(other).provenance["revision"] != first["revision"]
    template = moved / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert captioner(moved).provenance["revision"] != first["revision"]
    before = captioner(moved).provenance["revision"]
    template.rename(moved / "chat_template_of_old.jinja")
    assert captioner(moved).provenance["revision"] != before


def test_every_option_that_changes_answers_is_in_the_key(llava):
    options = [
        {},
        {"max_new_tokens": 9},
        {"temperature": 0.5},
        {"temperature": 0.5, "top_p": 0.5},
        {"max_side": 20},
    ]
    made = [captioner(llava, **given).provenance for given in options]
    assert len({Keys(provenance).key("image", "prompt") for provenance in made}) == len(options)
    # These change nothing
    same = [{"top_p": 0.5}, {"batch_size": 2}]
    assert all(captioner(llava, **given).provenance == made[0] for given in same)


@pytest.fixture
def hub_id(llava, tmp_path, monkeypatch) -> str:
    """Two commits of a model in the cache of the Hub; `main` is the second."""
    cache = tmp_path / "hub"
    repository = cache / "models--someone--tiny-llava"
    for number, commit in enumerate(COMMITS):
        tiny_captioners.save("llava", repository / "snapshots" / commit, seed=number)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMITS[1])
    (repository / "refs" / "v1").write_text(COMMITS[0])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return "someone/tiny-llava"


def test_a_revision_is_resolved_to_its_commit(hub_id):
    made = {revision: LocalCaptioner(hub_id, Decoding(8), revision=revision) for revision in (None, "v1")}
    assert [of.provenance["revision"] for of in made.values()] == [COMMITS[1], COMMITS[0]]
    assert {of.provenance["model"] for of in made.values()} == {hub_id}
    first, second = (texts(of) for of in made.values())
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert first == texts(LocalCaptioner(hub_id, Decoding(8), revision=COMMITS[1]))


def test_the_weights_are_those_of_the_commit_in_the_provenance(hub_id, tmp_path):
    of = LocalCaptioner(hub_id, Decoding(8))
    expected = texts(LocalCaptioner(hub_id, Decoding(8), revision=COMMITS[1]))
    (tmp_path / "hub" / "models--someone--tiny-llava" / "refs" / "main").write_text(COMMITS[0])  # the branch moves
    assert of.provenance["revision"] == COMMITS[1] and texts(of) == expected


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_a_model_that_is_no_captioner_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertModel(BertConfig(vocab_size=8, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(CaptionerError, match="'bert'.*AutoModelForImageTextToText.*SmolVLM"):
        LocalCaptioner(str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "/a/b/c", "a/b/c"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(CaptionerError, match=f"'{name}' cannot be found: there is no such folder"):
        LocalCaptioner(name)


def test_a_model_that_cannot_be_found_is_named():
    with pytest.raises(CaptionerError, match="'someone/nothing' cannot be found"):
        LocalCaptioner("someone/nothing")


def test_missing_weights_and_processors_are_named(llava, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(llava, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(CaptionerError, match="broken' cannot be loaded: .*model.safetensors"):
        answers(LocalCaptioner(str(broken)), QUESTIONS)
    (broken / "processor_config.json").unlink()
    with pytest.raises(CaptionerError, match="broken'"):
        answers(LocalCaptioner(str(broken)), QUESTIONS)


@pytest.mark.parametrize(
    "given, message",
    [({"caption_batch_size": 0}, "must be at least 1")],
)
def test_options_are_checked(given, message):
    with pytest.raises(ValueError, match=f"{next(iter(given))} is .*{message}"):
        LocalCaptionerArguments(**given)


def test_the_dtype():
    assert dtype_on("cpu") == torch.float32


# --- Adapters -------------------------------------------------------------------------------------------------------


def save_adapter(llava: Path, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForImageTextToText.from_pretrained(llava), config).save_pretrained(folder)
    return folder


def adapted(llava: Path, adapter: Path) -> LocalCaptioner:
    local = LocalCaptionerArguments(captioner_adapter=str(adapter))
    return LocalCaptioner(str(llava), Decoding(8), local=local)


def test_an_adapter_changes_answers_and_provenance(llava, tmp_path):
    plain = captioner(llava)
    first, second = (adapted(llava, save_adapter(llava, tmp_path / str(seed) / "lora", seed)) for seed in range(2))
    made = [of.provenance for of in (plain, first, second)]
    assert [provenance.get("adapter") for provenance in made] == [None, "lora", "lora"]
    assert len({provenance.get("adapter_revision") for provenance in made}) == 3
    said = [texts(of) for of in (plain, first, second)]
    assert all(len(set(of_image)) == 3 for of_image in zip(*said, strict=True))
    # As peft alone applies it
    from peft import PeftModel

    base = AutoModelForImageTextToText.from_pretrained(llava)
    plain.generator.model = PeftModel.from_pretrained(base, tmp_path / "0" / "lora").eval()
    assert texts(plain) == said[1]


def test_adapters_that_are_missing_or_do_not_fit_are_refused(llava, tmp_path):
    with pytest.raises(CaptionerError, match="nowhere' cannot be found"):
        adapted(llava, tmp_path / "nowhere")
    PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2).save_pretrained(tmp_path / "prompt")
    LoraConfig(target_modules=["nothing_of_this_name"]).save_pretrained(tmp_path / "lora")
    for name in ("prompt", "lora"):
        with pytest.raises(CaptionerError, match="does not fit the captioner"):
            answers(adapted(llava, tmp_path / name), QUESTIONS)
