"""
What reading, decoding and augmenting images adds to training: time of a step with its batch from the data loader over
that of the same step with a batch that lies in memory, in turn, in one process and one thread. The processor's time is
compared. There are no workers: on a machine with cores to spare they take this off the training process.

The demo student learns Emoji Styles as in its recipe, where decoded images are kept; ResNet-18 and ResNet-50 learn
photographs of about ImageNet's size, which are decoded every time.

    taskset -c 0 python benchmarks/fed_from_memory.py

Writes results/fed_from_memory.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from input_pipeline import write_photographs
from provenance import RESULTS, ROOT, provenance

import g4i_hf.data.dataset
from g4i_hf import AlignedImageClassification
from g4i_hf.data.classes import class_names
from g4i_hf.data.dataset import CaptionedImages
from g4i_hf.data.loading import open_images
from g4i_hf.data.transforms import train_transform
from g4i_hf.options import AugmentationArguments
from g4i_hf.training import AlignmentArguments, AlignmentTrainer

PHOTOGRAPHS = 64
KEPT = g4i_hf.data.dataset.CACHE_BYTES


def cases(photographs: str) -> dict[str, dict]:
    """Name -> data, student, its arguments, augmentation, batch size, steps, bytes of images that are kept."""
    demo = yaml.safe_load((ROOT / "recipes" / "emoji_styles" / "train.yaml").read_text())
    small = AugmentationArguments(image_size=demo["image_size"], train_crop=demo["train_crop"], hflip=demo["hflip"])
    return {
        f"demo student, {demo['image_size']} px": {
            "data": "recipes/emoji_styles",
            "student": demo["student"],
            "student_args": demo.get("student_args"),
            "augmentation": small,
            "batch": demo["per_device_train_batch_size"],
            "steps": 40,
            "kept": KEPT,
        },
        **{
            f"{title}, 224 px": {
                "data": photographs,
                "student": student,
                "student_args": None,
                "augmentation": AugmentationArguments(image_size=224),
                "batch": 8,
                "steps": steps,
                "kept": 0,
            }
            for title, student, steps in (("ResNet-18", "resnet18", 6), ("ResNet-50", "resnet50", 3))
        },
    }


def trainer_for(case: dict, folder: str) -> AlignmentTrainer:
    torch.manual_seed(0)
    splits, id2label = class_names(open_images(case["data"]))
    model = AlignedImageClassification.from_student(
        case["student"], id2label=id2label, text_embed_dim=384, student_args=case["student_args"]
    )
    args = AlignmentArguments(
        folder,
        use_cpu=True,
        max_steps=1000,
        optim="sgd",
        learning_rate=1e-3,
        report_to="none",
        align_weight=0.0,
        per_device_train_batch_size=case["batch"],
        dataloader_drop_last=True,
    )
    images = CaptionedImages(splits["train"], train_transform(case["augmentation"]))
    trainer = AlignmentTrainer(model, args, train_dataset=images)
    trainer.create_optimizer_and_scheduler(1000)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def batches_of(trainer: AlignmentTrainer) -> Iterator[dict]:
    loader = trainer.get_train_dataloader()
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def one_step(trainer: AlignmentTrainer, batches: Iterator[dict]) -> float:
    start = time.process_time()
    trainer.training_step(trainer.model, next(batches))
    trainer.optimizer.step()
    trainer.model.zero_grad()
    return time.process_time() - start


def in_memory(batch: dict) -> Iterator[dict]:
    while True:
        yield dict(batch)


def measure(case: dict) -> dict:
    g4i_hf.data.dataset.CACHE_BYTES = case["kept"]
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(case, folder)
        loaded = batches_of(trainer)
        warm = len(trainer.get_train_dataloader()) if case["kept"] else 1  # until everything is kept
        for _ in range(warm):
            batch = next(loaded)
        memory = in_memory(g4i_hf.data.dataset.finish_batch(trainer._prepare_inputs(batch)))  # as the model takes it
        pairs = [(one_step(trainer, memory), one_step(trainer, loaded)) for _ in range(case["steps"] + 1)][1:]
    ratios = [fed / kept for kept, fed in pairs]
    return {
        "batch_size": case["batch"],
        "steps": case["steps"],
        "memory_ms": 1000 * statistics.median(kept for kept, _ in pairs),
        "loader_ms": 1000 * statistics.median(fed for _, fed in pairs),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    measured = []
    with tempfile.TemporaryDirectory() as work:
        write_photographs(Path(work), PHOTOGRAPHS)
        for name, case in cases(work).items():
            measured.append({"student": name, **measure(case)})
            print(measured[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fed_from_memory.json").write_text(
        json.dumps({**provenance(), "threads": 1, "measured": measured}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
