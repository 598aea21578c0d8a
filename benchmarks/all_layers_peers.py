"""
Others fine-tune the network of all_layers.py, on the same images, labels and number of steps.

    pip install -e '.[demo]'
    pip install fastai  # for its rows
    python benchmarks/all_layers_peers.py PHOTOS

`timm` is a plain loop with its augmentation, AdamW and cosine schedule; `transformers` is Trainer as in its script for
image classification; `fastai` is `fine_tune` with its head and augmentation, whose first epoch trains the head alone.
They learn from the labels alone, with batches of 64 and norms as they come. With the first seed, `validation` chooses
one of three learning rates, which are larger for fastai, as it trains its head at half of its rate and the body at
a hundredth of that. all_layers.py compares the rows, whose arm is the peer.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import timm
import torch
from all_layers import CELLS, KEY, lines_of, photos_of_cell
from datasets import Dataset
from photos import parsed, parser_of
from result_files import Results
from timm.scheduler import CosineLRScheduler
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms import v2
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments, set_seed

from g4i_hf.data.checks import labels_of
from g4i_hf.fitting.all_layers import BATCH, EPOCHS, USUAL_STEPS
from g4i_hf.modeling.packaged import ARCHITECTURE, packaged_student

PEER_CELLS = ("flowers102, all", "caltech101, all", "cifar10, all")
RATES = {"timm": (3e-4, 1e-3, 3e-3), "transformers": (3e-4, 1e-3, 3e-3), "fastai": (3e-3, 1e-2, 3e-2)}
MEAN = STD = (0.5, 0.5, 0.5)


class Images(torch.utils.data.Dataset):
    """The labelled images of a split, decoded once, at 8/7 of the size."""

    def __init__(self, split: Dataset, size: int, transform: Callable):
        labels = labels_of(split)
        split, self.labels, self.transform = split.select(np.flatnonzero(labels >= 0)), labels[labels >= 0], transform
        shrunk = v2.Resize(size * 8 // 7, v2.InterpolationMode.BICUBIC)
        self.images = [shrunk(row["image"].convert("RGB")) for row in split]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict:
        return {"pixel_values": self.transform(self.images[row]), "labels": int(self.labels[row])}


def timm_transform(size: int, is_training: bool) -> Callable:
    return timm.data.create_transform(size, is_training, mean=MEAN, std=STD, interpolation="bicubic", crop_pct=0.875)


def script_transform(size: int) -> Callable:
    as_tensor = v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)
    return v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *as_tensor])


def by_timm(model: torch.nn.Module, images: Images, rate: float, steps: int, seed: int) -> torch.nn.Module:
    optimizer = timm.optim.create_optimizer_v2(model, "adamw", lr=rate, weight_decay=0.05)
    schedule = CosineLRScheduler(optimizer, steps, warmup_t=steps // 20, warmup_lr_init=1e-6, t_in_epochs=False)
    draws = RandomSampler(images, num_samples=steps * BATCH, generator=torch.Generator().manual_seed(seed))
    model.train()
    for step, batch in enumerate(DataLoader(images, BATCH, sampler=draws)):
        schedule.step_update(step)
        loss = torch.nn.functional.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def by_transformers(model: torch.nn.Module, images: Images, rate: float, steps: int, seed: int) -> torch.nn.Module:
    of_run = {"max_steps": steps, "learning_rate": rate, "seed": seed, "report_to": [], "save_strategy": "no"}
    of_run |= {"per_device_train_batch_size": BATCH, "remove_unused_columns": False}
    Trainer(model, TrainingArguments("runs/all_layers/trainer", **of_run), None, images).train()
    return model


def by_fastai(model: torch.nn.Module, images: Images, rate: float, steps: int, seed: int) -> torch.nn.Module:
    """With its own head on the same weights."""
    from fastai.vision import all as fastai

    size, classes = images[0]["pixel_values"].shape[-1], model.config.num_labels
    whole, _ = fastai.create_timm_model(ARCHITECTURE, classes, pretrained=False)
    weights = model.timm_model.state_dict()
    whole[0].model.load_state_dict({name: weights[name] for name in whole[0].model.state_dict()})
    block = fastai.DataBlock(
        blocks=(fastai.ImageBlock, fastai.CategoryBlock(vocab=list(range(classes)), sort=False)),
        get_x=lambda row: fastai.PILImage.create(np.asarray(images.images[row])),
        get_y=lambda row: int(images.labels[row]),
        splitter=fastai.IndexSplitter([]),
        item_tfms=fastai.RandomResizedCrop(size, min_scale=0.35),
        batch_tfms=[*fastai.aug_transforms(size=size), fastai.Normalize.from_stats(MEAN, STD)],
    )
    loaders = block.dataloaders(list(range(len(images))), bs=BATCH, num_workers=0, device=torch.device("cpu"))
    learner = fastai.Learner(loaders, whole, fastai.CrossEntropyLossFlat(), splitter=fastai.default_split)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(max(1, round(steps * BATCH / len(images)) - 1), base_lr=rate)
    return whole


@torch.no_grad()
def right_of(model: torch.nn.Module, images: Images) -> np.ndarray:
    device = next(model.parameters()).device
    outputs = [model.eval()(batch["pixel_values"].to(device)) for batch in DataLoader(images, BATCH)]
    predicted = [getattr(output, "logits", output).argmax(1).cpu() for output in outputs]
    return torch.cat(predicted).numpy() == images.labels


PEERS = {"timm": by_timm, "transformers": by_transformers, "fastai": by_fastai}


def main() -> None:
    parser = parser_of(__doc__, seeds=range(2), cache="runs/all_layers")
    parser.add_argument("--cells", nargs="+", default=PEER_CELLS, choices=list(CELLS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    args = parsed(parser)
    results = Results(args.results / "all_layers.json", KEY)
    for seed, name, peer in product(args.seeds, args.cells, args.peers):
        cell, key = CELLS[name], (name, args.steps, peer, seed)
        if results.has(*key):
            continue
        photos = photos_of_cell(args.photos, cell, seed)
        augmented = timm_transform(cell.size, True) if peer == "timm" else script_transform(cell.size)
        training, shown = Images(photos["train"], cell.size, augmented), timm_transform(cell.size, False)
        steps = args.steps or int(np.clip(EPOCHS * -(-len(photos["train"]) // BATCH), *USUAL_STEPS))
        chosen = [row["rate"] for row in results.rows if [row[each] for each in KEY[:-1]] == [*key[:-1]]]
        models = {}
        for rate in chosen[:1] or RATES[peer]:
            set_seed(seed)
            options = {"num_labels": photos["train"].features["label"].num_classes, "ignore_mismatched_sizes": True}
            pretrained = AutoModelForImageClassification.from_pretrained(
                packaged_student(), trust_remote_code=False, **options
            )
            models[rate] = PEERS[peer](pretrained, training, rate, steps, seed)
        validation = Images(photos["validation"], cell.size, shown)
        judged = {rate: right_of(model, validation).mean() for rate, model in models.items()}
        rate = max(judged, key=judged.get)
        right = right_of(models[rate], Images(photos["test"], cell.size, shown))
        figures = {"ships": right.mean(), "right": np.packbits(right).tobytes().hex()}
        results.add(*key, rate=rate, validation=judged, images=len(training), test_images=len(right), **figures)
    print("\n".join(lines_of(results.rows)))


if __name__ == "__main__":
    main()
