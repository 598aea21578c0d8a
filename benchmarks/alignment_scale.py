"""
Alignment at the size of ImageNet: the memory of a process that opens 1.28 million captions and embeddings, what
reading them costs beside a ResNet-50 step, and the loss of a global batch of 16,384 on 16 processes against the way of
the official code.

    python benchmarks/alignment_scale.py

Everything is measured in processes of its own with one thread; memory is what Linux says is resident, and a step is
that of one process among the 16, with the other processes' texts made up. Needs 4 GB of disk for a while and 8 GB of
memory. Writes results/alignment_scale.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from provenance import RESULTS, provenance

ROWS, DIM, CLASSES = 1_281_167, 1024, 1000
PROCESSES, LOCAL = 16, 1024  # of the loss: a global batch of 16,384
BATCH = 256  # rows read together
CAPTION = "The image shows an object in front of a background that is described at some length. " * 5
CHANGED = Path("/proc/self/clear_refs")


# --- Data ------------------------------------------------------------------------------------------------------------


def write_data(folder: Path, rows: int) -> None:
    """As `datasets` keeps them: Arrow files of batches of 1000 rows. Vectors repeat; only their number matters."""
    from datasets import Features, Image, Value

    from g4i_hf.columns import text_embeds_features

    plain = Features(
        {"image": Image(), "image_id": Value("string"), "label": Value("int64"), "caption": Value("string")}
    )
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((1000, DIM), dtype=np.float32)
    vectors = pa.array((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).reshape(-1))
    with (
        pa.OSFile(str(folder / "images.arrow"), "wb") as images,
        pa.OSFile(str(folder / "embeds.arrow"), "wb") as embeds,
        pa.ipc.new_stream(images, plain.arrow_schema) as image_writer,
        pa.ipc.new_stream(embeds, text_embeds_features(DIM).arrow_schema) as embeds_writer,
    ):
        for start in range(0, rows, 1000):
            numbers = range(start, min(start + 1000, rows))
            ids = pa.array([f"n{row % CLASSES:08d}/n{row % CLASSES:08d}_{row}.JPEG" for row in numbers])
            pictures = pa.StructArray.from_arrays([pa.nulls(len(ids), pa.binary()), ids], ["bytes", "path"])
            labels, captions = pa.array([row % CLASSES for row in numbers]), [f"{row} {CAPTION}" for row in numbers]
            columns = [pictures, ids, labels, pa.array(captions)]
            image_writer.write_table(pa.table(columns, schema=plain.arrow_schema))
            lists = pa.FixedSizeListArray.from_arrays(vectors[: len(ids) * DIM], DIM)
            embeds_writer.write_table(pa.table([ids, lists], schema=text_embeds_features(DIM).arrow_schema))


def memory() -> dict[str, int]:
    """Resident bytes of this process: all, those of its own, and those of files that others share."""
    found = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    names = {"all": "VmRSS", "own": "RssAnon", "of_files": "RssFile", "peak": "VmHWM"}
    return {name: int(found[field].split()[0]) * 1024 for name, field in names.items()}


def opened(folder: Path, with_embeds: bool):
    import torch
    from datasets import Dataset, concatenate_datasets

    from g4i_hf.data.dataset import CaptionedImages

    split = Dataset.from_file(str(folder / "images.arrow"))
    if with_embeds:
        embeds = Dataset.from_file(str(folder / "embeds.arrow")).remove_columns("image_id")
        split = concatenate_datasets([split, embeds], axis=1)
    start = time.process_time()
    images = CaptionedImages(split, lambda image: torch.zeros(3, 2, 2))
    return images, time.process_time() - start


# --- What is measured, each in a process of its own ------------------------------------------------------------------


def without(folder: Path) -> dict:
    _, seconds = opened(folder, with_embeds=False)
    return {"seconds": seconds, "memory": memory()}


def ours(folder: Path) -> dict:
    """Opens, then reads batches of random rows, as shuffled training does; the file is in the page cache by then."""
    images, seconds = opened(folder, with_embeds=True)
    found = {"seconds": seconds, "memory": memory()}
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, len(images), BATCH) for _ in range(400)]
    for batch in rows:  # from the disk
        images.texts.read(images.texts.starts[batch][:, None])
    start = time.process_time()
    for batch in rows:
        images.texts.read(images.texts.starts[batch][:, None])
    read = (time.process_time() - start) / (len(rows) * BATCH)
    return found | {"read_seconds_a_row": read, "memory_after_reading": memory()}


def official_embeddings(folder: Path) -> dict:
    """All of them, as float32, in every process."""
    from datasets import Dataset

    split = Dataset.from_file(str(folder / "embeds.arrow"))
    whole = np.empty((len(split), DIM), dtype=np.float32)
    before, start = memory(), 0
    for batch in split.select_columns(["text_embeds"]).with_format("arrow").iter(batch_size=10_000):
        values = batch["text_embeds"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        whole[start : start + len(batch)] = values.reshape(-1, DIM)
        start += len(batch)
    after = memory()
    return {"memory": after, "own_more": after["own"] - before["own"]}


def resnet_step(_: Path) -> dict:
    """Seconds an image of forward and backward of a ResNet-50 at 224 px in float32."""
    import timm
    import torch

    model, images = timm.create_model("resnet50").train(), torch.randn(8, 3, 224, 224)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        torch.nn.functional.cross_entropy(model(images), torch.arange(8)).backward()
        seconds.append((time.process_time() - start) / len(images))
    return {"seconds_an_image": min(seconds)}


def batch():
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(LOCAL, DIM, generator=generator), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(PROCESSES * LOCAL, DIM, generator=generator), dim=1)
    return images.requires_grad_(), texts.half()


def measured_step(step) -> dict:
    import resource

    resource.getrusage(resource.RUSAGE_SELF)
    CHANGED.write_text("5")  # the peak begins anew
    before, start = memory()["all"], time.process_time()
    logits = step()
    return {"seconds": time.process_time() - start, "bytes": memory()["peak"] - before, "logits": logits}


def our_loss(_: Path) -> dict:
    """The first of 16 processes: the integers and texts of the others come from here instead of from them."""
    import torch

    from g4i_hf.losses import pairs
    from g4i_hf.losses.objectives import LogitSettings, clip_loss
    from g4i_hf.losses.pairs import make_pairs

    images, texts = batch()
    pairs.gather_counts = lambda counts: counts.repeat(PROCESSES, 1)
    pairs.gather_rows = lambda local, num_rows: (
        texts.unsqueeze(1)
        if local.is_floating_point()
        else torch.cat([local + LOCAL * number for number in range(PROCESSES)])
    )
    numbers, weights = torch.arange(LOCAL).unsqueeze(1), torch.ones(LOCAL, 1)

    def step() -> list[int]:
        made = make_pairs(images, texts[:LOCAL], weights, [numbers, numbers])
        (clip_loss(made, LogitSettings()) / made.num_captions).backward()
        return list(made.allowed.shape)

    return measured_step(step)


def official_loss(_: Path) -> dict:
    """Images and texts gathered in float32 without gradient, and N x N logits of both directions, as on every rank."""
    import torch

    images, texts = batch()
    texts, others = texts.float(), torch.randn((PROCESSES - 1) * LOCAL, DIM)

    def step() -> list[int]:
        logits = torch.cat([images, others]) @ texts.T / 0.2
        own = torch.arange(len(logits))
        loss = sum(torch.nn.functional.cross_entropy(side, own) for side in (logits, logits.T)) / 2
        loss.backward()
        return list(logits.shape)

    return measured_step(step)


def received_bytes(local: int, processes: int, dim: int = DIM) -> dict[str, int]:
    """
    A process and step, `local` images each and texts of `dim` numbers, as they were counted:
    integers of keys, captions and rows; texts in float16; three sums a text for the softmax over images.
    """
    others, total = (processes - 1) * local, processes * local
    integers = 8 * 3 * others + 8 * 2 * (processes - 1)
    sums = 3 * 2 * total * 4 * (processes - 1) // processes
    return {"official": 2 * others * dim * 4, "texts gathered": others * dim * 2 + integers + sums}


PARTS = {part.__name__: part for part in (without, ours, official_embeddings, resnet_step, our_loss, official_loss)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--child", nargs=2, metavar=("PART", "FOLDER"), help="used by the script itself")
    args = parser.parse_args()
    if args.child:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(PARTS[args.child[0]](Path(args.child[1]))))
        return
    path = RESULTS / "alignment_scale.json"
    found = json.loads(path.read_text())["measured"] if set(args.parts) != set(PARTS) else {}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        if {"without", "ours", "official_embeddings"} & set(args.parts):
            write_data(Path(folder), args.rows)
        for part in args.parts:
            command = [sys.executable, __file__, "--child", part, folder]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found[part] = json.loads(done.stdout.splitlines()[-1])
            print(part, found[part], flush=True)
    sizes = {"rows": args.rows, "dim": DIM, "processes": PROCESSES, "local": LOCAL, "read_together": BATCH}
    exchanged = {
        f"{local} x {processes}": received_bytes(local, processes)
        for local, processes in ((256, 8), (LOCAL, PROCESSES))
    }
    path.write_text(
        json.dumps({**provenance(), **sizes, "measured": found, "received_bytes": exchanged}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
