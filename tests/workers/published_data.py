"""Pushes data sets that were made of stages, and opens them by name as others would; prints JSON."""

import json
import sys
from pathlib import Path

from datasets import Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature
from huggingface_hub import HfApi
from PIL import Image

from g4i_hf.data import DataArguments, load_images
from g4i_hf.data.published import find_stage
from g4i_hf.data.row_streams import load_one_split, open_rows
from g4i_hf.data.streaming import stream_images
from g4i_hf.hub.push import push_folder

IMAGES = Features({"image": ImageFeature(decode=False), "image_id": Value("string")})
pictures, images, captions = sys.argv[1:]
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
joined = load_images("me/captions")
named = DataArguments(dataset_name=pictures, captions_name="me/captions", captions_revision=first).load()
found = {
    "unchanged": api.dataset_info("me/captions").sha == first,
    "files": sorted(api.list_repo_files("me/captions", repo_type="dataset")),
    "alone": {split: alone[split].column_names for split in alone},
    "joined": rows(joined),
    "named": rows(named),
    "with images": rows(load_images("me/images")),
    "source": find_stage("me/captions", first)["source"],
    "none": [find_stage("me/nothing"), find_stage("me/captions", "no-such-branch")],
}
# Rows that name a file of whoever opens them
secret = Path(pictures).resolve() / "secret.png"
Image.new("RGB", (4, 4)).save(secret)
found["pointing"] = []
for name, path in {"me/path": str(secret), "me/address": f"file://{secret}"}.items():
    pointing = Path(pictures).with_name(name.replace("/", "-"))
    pointing.mkdir()
    rows_of_files = {"image": [{"bytes": None, "path": path}], "image_id": ["a"]}
    Dataset.from_dict(rows_of_files, features=IMAGES).to_parquet(pointing / "train.parquet")
    api.create_repo(name, repo_type="dataset")
    api.upload_folder(repo_id=name, repo_type="dataset", folder_path=pointing)  # ours would refuse
    for opened in (
        load_images,
        lambda name: list(stream_images(name)["train"]),
        lambda name: list(open_rows(name, "train").read(0)),
        lambda name: load_one_split(name, "train"),
    ):
        try:
            found["pointing"].append(f"opened {opened(name)}")
        except ValueError as error:
            found["pointing"].append(str(error))

# What a stream of the Hub is known by, after a commit that leaves its files alone, and after one that does not
found["known by"] = []
for path, content in {"notes.txt": b"text", "data/train-00000-of-00001.parquet": pointing / "train.parquet"}.items():
    found["known by"].append(open_rows("me/images", "train").files)
    api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="me/images", repo_type="dataset")
found["known by"].append(open_rows("me/images", "train").files)
api.delete_file("stage.json", "me/captions", repo_type="dataset")
found["without stage"] = find_stage("me/captions")
print(json.dumps(found))
