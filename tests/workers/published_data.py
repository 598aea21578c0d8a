"""Pushes data sets that were made of stages, and opens them by name as others would; prints JSON."""

import json
import sys

from datasets import load_dataset
from huggingface_hub import HfApi

from g4i_hf.data import DataArguments, load_images
from g4i_hf.data.published import find_stage
from g4i_hf.hub.push import push_folder

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
api.delete_file("stage.json", "me/captions", repo_type="dataset")
found["without stage"] = find_stage("me/captions")
print(json.dumps(found))
