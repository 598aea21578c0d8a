"""Pushes data sets that were made of stages, and opens them by name as others would; prints JSON."""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature
from huggingface_hub import HfApi
from PIL import Image

from g4i_hf.data.loading import load_data, open_images
from g4i_hf.data.stage import Source, find_stage
from g4i_hf.data.stream import load_split, open_rows, stream_images
from g4i_hf.hub.push import push_folder
from g4i_hf.options import DataArguments
from g4i_hf.running import run_command

IMAGES = Features({"image": ImageFeature(decode=False), "image_id": Value("string")})
pictures, images, captions, server = sys.argv[1:]
api = HfApi()
push_folder(images, "me/images", "dataset")
push_folder(captions, "me/captions", "dataset")
first = api.dataset_info("me/captions").sha
push_folder(captions, "me/captions", "dataset")


def rows(splits) -> dict:
    names = ("image_id", "label", "caption", "text_embeds")
    return {
        split: [
            [row.get(name) for name in names] + [len(row["image"]["bytes"] or b"")]
            for row in splits[split].select_columns([n for n in (*names, "image") if n in splits[split].features])
        ]
        for split in splits
    }


alone = load_dataset("me/captions")
joined = open_images("me/captions")
named = load_data(DataArguments(dataset_name=pictures, captions_name="me/captions", captions_revision=first))
found = {
    "unchanged": api.dataset_info("me/captions").sha == first,
    "files": sorted(api.list_repo_files("me/captions", repo_type="dataset")),
    "alone": {split: alone[split].column_names for split in alone},
    "joined": rows(joined),
    "named": rows(named),
    "with images": rows(open_images("me/images")),
    "source": find_stage("me/captions", first)["source"],
    "none": [find_stage("me/nothing"), find_stage("me/captions", "no-such-branch")],
}
# Rows that name, in place of an image, a file of whoever opens them or an address of its network
secret = Path(pictures).resolve() / "secret.png"
Image.new("RGB", (4, 4)).save(secret)
loopback = f"{api.endpoint}/secret.png"
as_struct = [{"bytes": None, "path": str(secret)}]
TRAPS = {
    "image": Dataset.from_dict({"image": as_struct, "image_id": ["a"]}, features=IMAGES),
    "address": Dataset.from_dict({"image": [{"bytes": None, "path": f"file://{secret}"}], "image_id": ["a"]}, IMAGES),
    "string": Dataset.from_dict({"image": [str(secret)], "image_id": ["a"]}),
    "string without id": Dataset.from_dict({"image": [str(secret)]}),
    "struct": Dataset.from_dict({"image": as_struct, "image_id": ["a"]}),
    "field": Dataset.from_dict({"json": [{"pic": str(secret), "id": 1}], "image_id": ["a"]}),
    "struct in a field": Dataset.from_dict({"json": [{"pic": as_struct[0], "id": 1}], "image_id": ["a"]}),
    "image of loopback": Dataset.from_dict({"image": [{"bytes": None, "path": loopback}], "image_id": ["a"]}, IMAGES),
    "string of loopback": Dataset.from_dict({"image": [loopback], "image_id": ["a"]}),
}


def described(name: str, **options) -> None:
    """By the command that asks a server for captions, whose error it raises."""
    options |= {"dataset_name": name, "captions_dir": f"{os.environ['HF_HOME']}/of/{name}"}
    options |= {"base_url": server, "captioner_model": "tiny"}
    words = [word for option, value in options.items() for word in (f"--{option}", value)]
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(said):
        try:
            run_command("caption", words, None)
        except SystemExit:
            raise ValueError(said.getvalue()) from None


def options_of(source: Source) -> dict[str, str]:
    return {f"{ours}_column": theirs for ours, theirs in source.columns.items()}


found["traps"] = {}
for kind, split in TRAPS.items():
    name = f"me/{kind.replace(' ', '-')}"
    api.create_repo(name, repo_type="dataset")
    file = io.BytesIO()
    pq.write_table(split.data.table.replace_schema_metadata(split.features.arrow_schema.metadata), file)
    api.upload_file(path_or_fileobj=file.getvalue(), path_in_repo="train.parquet", repo_id=name, repo_type="dataset")
    source = Source(name, columns={"image": "json.pic"} if "json" in split.features else {})
    doors = {
        "load_images": lambda source: open_images(source)["train"],
        "load_split": lambda source: load_split(DataArguments(source.name, **options_of(source)), "train"),
        "stream_images": lambda source: list(stream_images(source)["train"]),
        "open_rows": lambda source: list(open_rows(source, "train").read(0)),
        "caption.py": lambda source: described(source.name, **options_of(source)),
    }
    for door, opened in doors.items():
        try:
            found["traps"][f"{kind}, {door}"] = f"opened {opened(source)}"
        except Exception as error:  # also of a server that was asked
            found["traps"][f"{kind}, {door}"] = str(error)

# Columns of files beside the images and the captions, which nothing asks for
further = {"image_id": ["cat/1.png"], "caption": ["a cat"], "more": as_struct, "nested": [{"more": as_struct}]}
features = Features({name: Value("string") for name in ("image_id", "caption")})
features |= {"more": ImageFeature(), "nested": {"more": [ImageFeature()]}}
whole = Dataset.from_dict(further | {"image": [{"bytes": secret.read_bytes(), "path": None}]},
                          features=Features(features | {"image": ImageFeature()}))  # fmt: skip
for name, split in {"images-and-more": whole, "captions-and-more": whole.remove_columns("image")}.items():
    api.create_repo(f"me/{name}", repo_type="dataset")
    split.to_parquet(path := Path(os.environ["HF_HOME"]) / f"{name}.parquet")
    api.upload_file(path_or_fileobj=path, path_in_repo="train.parquet", repo_id=f"me/{name}", repo_type="dataset")
for beside, source in {
    "images": Source("me/images-and-more"),
    "captions": Source(pictures, captions="me/captions-and-more"),
}.items():
    try:
        found[f"beside {beside}"] = open_images(source)["train"].column_names
    except ValueError as error:
        found[f"beside {beside}"] = [str(error)]

# What a stream of the Hub is known by, after a commit that leaves its files alone, and after one that does not
found["known by"] = []
for path, content in {"notes.txt": b"text", "data/train-00000-of-00001.parquet": file.getvalue()}.items():
    found["known by"].append(open_rows("me/images", "train").files)
    api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="me/images", repo_type="dataset")
found["known by"].append(open_rows("me/images", "train").files)
api.delete_file("stage.json", "me/captions", repo_type="dataset")
found["without stage"] = find_stage("me/captions")
print(json.dumps(found))
