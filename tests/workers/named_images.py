"""Publishes captions of images that were pushed in three ways, and opens what was published; prints JSON."""

import json
import sys
from pathlib import Path

from datasets import load_dataset
from huggingface_hub import HfApi

from g4i_hf.data import open_images
from g4i_hf.data.joining import image_id_of
from g4i_hf.data.stream import stream_images
from g4i_hf.hub.dataset import build_dataset
from g4i_hf.hub.push import push_folder

folder = Path(sys.argv[1])
api = HfApi()
load_dataset("imagefolder", data_dir=str(folder / "pictures")).push_to_hub("me/rows", private=True)
api.create_repo("me/files", repo_type="dataset", private=True)
api.upload_folder(repo_id="me/files", folder_path=folder / "pictures", repo_type="dataset")  # as `hf upload`
push_folder(build_dataset(folder / "stage", folder / "whole", with_images=True), "me/whole", "dataset")

found = {}
streamed = list(stream_images("me/files")["train"])
stored = {path.relative_to(folder / "pictures" / "train"): path.read_bytes() for path in folder.rglob("train/*/*.png")}
found["streamed"] = [image_id_of(row["image"]) for row in streamed]
found["as stored"] = [row["image"]["bytes"] == stored[Path(image_id_of(row["image"]))] for row in streamed]
for name in ("rows", "files", "whole", "nothing"):
    try:
        built = build_dataset(folder / "stage", folder / f"of-{name}", images_id=f"me/{name}")
    except ValueError as error:
        found[name] = str(error)
        continue
    found[name] = json.loads((built / "stage.json").read_text())["ids_from"]
    if name != "nothing":
        push_folder(built, f"me/captions-of-{name}", "dataset")
        train = open_images(f"me/captions-of-{name}")["train"]
        found[f"{name} joined"] = dict(zip(train["image_id"][:], train["caption"][:], strict=True))
        card = (built / "README.md").read_text()
        seen: dict = {}
        exec(card.split("```python\n")[2].split("```")[0].replace("path/to/captions", f"me/captions-of-{name}"), seen)
        found[f"{name} by the snippet"] = dict(zip(seen["image_ids"], seen["joined"]["caption"][:], strict=True))
print(json.dumps(found))
