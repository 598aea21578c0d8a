"""What datasets does: pushes of images, splits and configurations, loading by name, streaming; prints JSON."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from huggingface_hub import DatasetCard, HfApi
from PIL import Image as Picture

api = HfApi()
found = {}
FEATURES = Features(
    {
        "image": Image(),
        "label": ClassLabel(names=["dark", "light"]),
        "text_embeds": List(Value("float16"), length=4),
        "caption": Value("string"),
    }
)


def rows(number: int, first: int = 0) -> Dataset:
    def row(index):
        picture = Picture.fromarray(np.full((8, 8, 3), index * 10, np.uint8))
        return {"image": picture, "label": index % 2, "text_embeds": [index] * 4, "caption": f"grey {index}"}

    values = [row(index) for index in range(first, first + number)]
    return Dataset.from_dict({name: [value[name] for value in values] for name in FEATURES}, features=FEATURES)


def seen(dataset) -> list:
    return [[int(np.asarray(row["image"])[0, 0, 0]), row["label"], row["text_embeds"][0]] for row in dataset]


def main(id: str) -> None:
    DatasetDict(train=rows(6), test=rows(2, 6)).push_to_hub(id, private=True, num_shards={"train": 2, "test": 1})
    first = api.dataset_info(id).sha
    found["files"] = api.list_repo_files(id, repo_type="dataset")
    found["train"] = seen(load_dataset(id, split="train"))
    found["test"] = seen(load_dataset(id, split="test"))
    found["streamed"] = seen(load_dataset(id, split="train", streaming=True))
    found["features"] = load_dataset(id, split="test").features == FEATURES

    rows(3, 10).push_to_hub(id, split="train", commit_message="Fewer rows")  # deletes the shards of before
    found["files after"] = api.list_repo_files(id, repo_type="dataset")
    found["train after"] = seen(load_dataset(id, split="train"))
    found["train before"] = len(load_dataset(id, split="train", revision=first))
    rows(1).push_to_hub(id, config_name="small", split="train")
    found["configurations"] = sorted(one["config_name"] for one in DatasetCard.load(id).data.configs)
    found["small"] = len(load_dataset(id, "small", split="train"))
    found["history"] = len(api.list_repo_commits(id, repo_type="dataset"))

    rows(1).push_to_hub(id, revision="tried", split="train")
    found["branch"] = [len(load_dataset(id, revision="tried", split="train")), len(load_dataset(id, split="train"))]
    folder(f"{id}-folder")


def folder(id: str) -> None:
    """A folder of Parquet with a card, pushed as it is."""
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        data.mkdir()
        rows(2).to_parquet(data / "train-00000-of-00001.parquet")
        files = "data_files:\n  - split: train\n    path: data/*\n"
        card = f"---\nlicense: mit\nconfigs:\n- config_name: default\n  {files}---\n"
        (Path(place) / "README.md").write_text(card)
        api.create_repo(id, repo_type="dataset")
        api.upload_folder(repo_id=id, folder_path=place, repo_type="dataset")
    found["folder"] = seen(load_dataset(id, split="train"))


main(sys.argv[1])
print(json.dumps(found))
