"""Pushes datasets that were made of stages, and opens them by name as others would; prints JSON."""

import io
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature
from huggingface_hub import HfApi
from PIL import Image

from g4i_hf import load_images
from g4i_hf.data.loading import open_images
from g4i_hf.data.stage import Source, find_stage
from g4i_hf.hub.dataset import build_dataset
from g4i_hf.hub.push import push_folder

IMAGES = Features({"image": ImageFeature(decode=False), "image_id": Value("string")})
folder = Path(sys.argv[1])
pictures = folder / "pictures"
api, found = HfApi(), {}


def said_of(name: str | Source) -> str:
    """The error of opening a dataset."""
    try:
        return f"opened {open_images(name)}"
    except (ValueError, OSError) as error:
        return str(error)


# Images that were pushed in three ways, and captions that name them
load_dataset("imagefolder", data_dir=str(pictures)).push_to_hub("me/rows", private=True)
api.create_repo("me/files", repo_type="dataset", private=True)
api.upload_folder(repo_id="me/files", folder_path=pictures, repo_type="dataset")  # as `hf upload`
push_folder(build_dataset(folder / "stage", folder / "images", with_images=True), "me/images", "dataset")
for name in ("rows", "files", "images", "nothing"):
    built = build_dataset(folder / "stage", folder / f"of-{name}", images_id=f"me/{name}")
    push_folder(built, f"me/captions-of-{name}", "dataset")
    if name in ("files", "images"):
        card, seen = (built / "README.md").read_text(), {}
        exec(card.split("```python\n")[2].split("```")[0].replace("path/to/captions", f"me/captions-of-{name}"), seen)
        found[f"{name} by the snippet"] = dict(zip(seen["image_ids"], seen["joined"]["caption"][:], strict=True))
    else:
        found[name] = said_of(f"me/captions-of-{name}")


def rows(splits) -> list:
    names = [name for name in ("image_id", "label", "caption", "text_embeds") if name in splits["train"].features]
    return [[row[name] for name in names] for row in splits["train"].select_columns(names)]


first = api.dataset_info("me/captions-of-files").sha
push_folder(folder / "of-files", "me/captions-of-files", "dataset")
found["unchanged"] = api.dataset_info("me/captions-of-files").sha == first
found["alone"] = load_dataset("me/captions-of-files")["train"].column_names
found["joined"] = {
    "by its own name": rows(open_images("me/captions-of-files")),
    "with images": rows(open_images("me/images")),
    "to a folder": rows(load_images(pictures, captions_name="me/captions-of-files")),
}
found["none"] = [find_stage("me/nothing"), find_stage("me/captions-of-files", "no-such-branch"), find_stage("me/rows")]


def upload(name: str, split: Dataset, path: str = "train.parquet") -> None:
    file = io.BytesIO()
    pq.write_table(split.data.table.replace_schema_metadata(split.features.arrow_schema.metadata), file)
    upload_file(name, file.getvalue(), path)


def upload_file(name: str, content: bytes, path: str) -> None:
    api.create_repo(name, repo_type="dataset", exist_ok=True)
    api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=name, repo_type="dataset")


# Rows that name, in place of an image, a file of whoever opens them or an address of its network
secret = folder / "secret.png"
Image.new("RGB", (4, 4)).save(secret)
loopback, ids = f"{api.endpoint}/secret.png", {"image_id": ["a"]}
TRAPS = {
    path.partition(":")[0]: Dataset.from_dict({"image": [{"bytes": None, "path": path}]} | ids, features=IMAGES)
    for path in (str(secret), f"file://{secret}", loopback, "hf://datasets/me/files/secret.png")
}
as_struct = [{"bytes": None, "path": str(secret)}]
TRAPS |= {
    "string": Dataset.from_dict({"image": [str(secret)]} | ids),
    "string without id": Dataset.from_dict({"image": [str(secret)]}),
    "string of loopback": Dataset.from_dict({"image": [loopback]} | ids),
    "struct": Dataset.from_dict({"image": as_struct} | ids),
    "struct in a field": Dataset.from_dict({"json": [{"pic": as_struct[0], "id": 1}]} | ids),
}
found["traps"] = {}
for number, (kind, split) in enumerate(TRAPS.items()):
    source = Source(f"me/trap-{number}", columns={"image": "json.pic"} if "json" in split.features else {})
    upload(source.name, split)
    found["traps"][kind] = said_of(source)

# A column of files beside the images, which nothing asks for
picture = {"bytes": secret.read_bytes(), "path": None}
beside = {"image_id": ["cat/1.png"], "more": as_struct, "image": [picture]}
upload("me/more", Dataset.from_dict(beside, features=Features(IMAGES | {"more": ImageFeature(decode=False)})))
found["beside"] = open_images("me/more")["train"].column_names

# Files whose classes have other numbers, as splits and as parts of one; and a dataset that is a script
for number, names in enumerate((["a", "b", "c"], ["c", "b", "a"])):
    rows_of = {"image": [picture] * 3, "image_id": [f"{number}-{row}" for row in range(3)], "label": [0, 1, 2]}
    part = Dataset.from_dict(rows_of, features=Features(IMAGES | {"label": ClassLabel(names=names)}))
    upload("me/classes", part, f"data/{('train', 'validation')[number]}-00000-of-00001.parquet")
    upload("me/shards", part, f"data/train-0000{number}-of-00002.parquet")
upload_file("me/script", b"raise SystemExit('it ran')", "script.py")
found["classes"] = {
    name: [split.features["label"].names[label] for label in split["label"]]
    for name, split in load_images("me/classes").items()
}
found |= {name: said_of(name) for name in ("me/shards", "me/script")}
print(json.dumps(found))
