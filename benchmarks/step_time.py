"""
What alignment costs: time of a training step (forward, loss, backward, optimizer) of the aligned student over that of
its baseline, with and without soft labels. Both are stepped in turn in one process and one thread, and the processor's
time is compared, as other processes on a busy machine do not count in it. The demo student is measured with every
objective.

    python benchmarks/step_time.py

Writes results/step_time.json.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import yaml
from result_files import RESULTS, ROOT, write_result

from g4i_hf import AlignedImageClassification
from g4i_hf.losses.objectives import OBJECTIVES
from g4i_hf.training import AlignmentArguments, AlignmentTrainer


def students() -> dict[str, dict]:
    """Name -> student, its arguments, image size, batch size, classes, size of the text embeddings."""
    demo = yaml.safe_load((ROOT / "recipes" / "emoji_styles" / "train.yaml").read_text())
    return {
        "ResNet-50, 224 px": {"student": "resnet50", "size": 224, "batch": 16, "classes": 1000, "dim": 1024},
        f"demo student, {demo['image_size']} px": {
            "student": demo["student"],
            "student_args": demo.get("student_args"),
            "size": demo["image_size"],
            "batch": demo["per_device_train_batch_size"],
            "classes": 58,
            "dim": 384,
        },
    }


SOFT = {"align_loss": "clip", "soft_label_weight": 1.0}
# what is measured beside the paper's objective, on the small student, where the rest of a step takes least
OTHERS = [{"align_loss": name} for name in OBJECTIVES if name != "clip"]


def trainer_for(spec: dict, folder: str, **options) -> AlignmentTrainer:
    torch.manual_seed(0)
    model = AlignedImageClassification.from_student(
        spec["student"],
        id2label={i: str(i) for i in range(spec["classes"])},
        text_embed_dim=spec["dim"],
        student_args=spec.get("student_args"),
    )
    args = AlignmentArguments(
        folder, use_cpu=True, max_steps=1000, optim="sgd", learning_rate=1e-3, report_to="none", **options
    )
    trainer = AlignmentTrainer(model, args, train_dataset=range(4096))
    trainer.create_optimizer_and_scheduler(1000)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def one_step(trainer: AlignmentTrainer, batch: dict) -> float:
    start = time.process_time()
    trainer.training_step(trainer.model, dict(batch))
    trainer.optimizer.step()
    trainer.model.zero_grad()
    return time.process_time() - start


def captioned_batch(spec: dict) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    n, keys = spec["batch"], torch.arange(spec["batch"]).unsqueeze(1)
    texts = torch.nn.functional.normalize(torch.randn(n, 1, spec["dim"], generator=generator), dim=-1)
    return {
        "pixel_values": torch.randn(n, 3, spec["size"], spec["size"], generator=generator),
        "labels": torch.randint(0, spec["classes"], (n,), generator=generator),
        "text_embeds": texts,
        "soft_labels": torch.rand(n, spec["classes"], generator=generator).softmax(-1),
        "caption_weight": torch.ones(n, 1),
        "image_keys": keys,
        "caption_keys": keys,
    }


def measure(spec: dict, steps: int, options: dict) -> dict:
    captioned = captioned_batch(spec)
    plain = {name: captioned[name] for name in ("pixel_values", "labels")}
    with tempfile.TemporaryDirectory() as folder:
        # the baseline has no texts at all: it does not even measure how far they are
        baseline, aligned = trainer_for(spec, folder, align_weight=0.0), trainer_for(spec, folder, **options)
        if "soft_label_weight" not in options:
            del captioned["soft_labels"]
        pair = [(baseline, plain), (aligned, captioned)]
        times = [[], []]
        for step in range(steps + 2):
            for times_of, (trainer, batch) in zip(times, pair, strict=True):
                seconds = one_step(trainer, batch)
                if step >= 2:  # the first ones allocate
                    times_of.append(seconds)
    ratios = [aligned / baseline for baseline, aligned in zip(*times, strict=True)]
    return {
        "batch_size": spec["batch"],
        "steps": steps,
        "baseline_ms": 1000 * statistics.median(times[0]),
        "aligned_ms": 1000 * statistics.median(times[1]),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="steps of each kind; a quarter of it for ResNet-50")
    parser.add_argument("--output", type=Path, default=RESULTS / "step_time.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for name, spec in students().items():
        is_small = spec["size"] < 100
        for options in [{"align_loss": "clip"}, SOFT, *(OTHERS if is_small else [])]:
            found = measure(spec, args.steps if is_small else max(4, args.steps // 4), options)
            results.append({"student": name, "options": options, **found})
            print(f"{name}, {options}: aligned / baseline {found['ratio']:.3f}", found["ratio_quartiles"], flush=True)
    write_result(args.output, measured=results)


if __name__ == "__main__":
    main()
