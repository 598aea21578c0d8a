"""Pushes and loads of transformers, timm and peft with tiny models; prints JSON."""

import json
import sys
import tempfile

import timm
import torch
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from timm.models import push_to_hf_hub
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

torch.set_num_threads(1)
torch.manual_seed(0)
api = HfApi()
found = {}
pixels = torch.rand(1, 3, 8, 8)


def vit() -> ViTForImageClassification:
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **size)).eval()


def same(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())


def of_transformers(id: str) -> None:
    model = vit()
    model.push_to_hub(id, private=True)
    ViTImageProcessor(size={"height": 8, "width": 8}).push_to_hub(id)
    loaded = AutoModelForImageClassification.from_pretrained(id)
    found["whole"] = same(model, loaded)
    found["processor"] = AutoImageProcessor.from_pretrained(id).size["height"]
    found["task"] = api.model_info(id).pipeline_tag
    found["pipeline"] = len(pipeline(model=id, device="cpu")(Image.new("RGB", (9, 9)), top_k=3))

    model.push_to_hub(f"{id}-sharded", max_shard_size="5KB")
    found["shards"] = sum(name.endswith(".safetensors") for name in api.list_repo_files(f"{id}-sharded"))
    found["sharded"] = same(model, AutoModelForImageClassification.from_pretrained(f"{id}-sharded"))

    changed = vit()
    changed.push_to_hub(id, revision="changed")
    found["revision"] = [
        same(changed, AutoModelForImageClassification.from_pretrained(id, revision="changed")),
        same(model, AutoModelForImageClassification.from_pretrained(id)),
    ]
    changed.push_to_hub(id, create_pr=True)
    pull = AutoModelForImageClassification.from_pretrained(id, revision="refs/pr/1")
    found["pull request"] = same(changed, pull)


def of_the_trainer(id: str) -> None:
    model = vit()
    images = [{"pixel_values": pixels[0], "labels": 0}] * 2
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, push_to_hub=True, hub_model_id=id, max_steps=2, save_steps=1, use_cpu=True, report_to="none"
        )
        trainer = Trainer(model, arguments, train_dataset=images)
        trainer.train()
        trainer.push_to_hub(dataset="me/images", finetuned_from="google/vit-base")
    found["trained"] = same(model, AutoModelForImageClassification.from_pretrained(id))
    found["trainer's card"] = ModelCard.load(id).data.base_model
    found["trainer's commits"] = len(api.list_repo_commits(id)) > 2


def of_timm(id: str) -> None:
    model = timm.create_model("resnet10t", num_classes=3).eval()
    push_to_hf_hub(model, id, model_config={"label_names": ["a", "b", "c"]})
    found["timm"] = same(model, timm.create_model(f"hf-hub:{id}", pretrained=True))


def of_peft(id: str) -> None:
    base = vit()
    base.push_to_hub(f"{id}-base")
    loaded = AutoModelForImageClassification.from_pretrained(f"{id}-base")
    adapted = get_peft_model(loaded, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()
    adapted.push_to_hub(id)
    again = AutoModelForImageClassification.from_pretrained(f"{id}-base")
    with torch.no_grad():
        wanted, logits = adapted(pixels).logits, PeftModel.from_pretrained(again, id).eval()(pixels).logits
        found["adapter"] = torch.equal(wanted, logits) and not torch.equal(base(pixels).logits, logits)
        direct = AutoModelForImageClassification.from_pretrained(id).eval()
        found["adapter by its own name"] = torch.equal(direct(pixels).logits, wanted)


def of_cards(id: str) -> None:
    result = EvalResult("image-classification", "me/images", "Images", "accuracy", 0.5, dataset_split="test")
    data = ModelCardData(
        license="mit", language="en", datasets=["me/images"], model_name="A model", eval_results=[result]
    )
    card = ModelCard.from_template(data, model_id="A model")
    card.validate()
    card.push_to_hub(id)
    found["metric"] = ModelCard.load(id).data.eval_results[0].metric_value
    data.base_model = "/home/ann/folder"
    try:
        ModelCard.from_template(data, model_id="A model").push_to_hub(id)
    except ValueError as error:
        found["local path"] = str(error)


name = sys.argv[1]
of_transformers(name)
of_cards(name)
of_the_trainer(f"{name}-trained")
of_timm(f"{name}-timm")
of_peft(f"{name}-adapter")
print(json.dumps(found))
