"""
Writes fixtures_0_1/: an image folder, its captions and embeddings as stages, an aligned run and its baseline, and what
they predicted. It was run once, with version 0.1 and

    python tests/contract/make_fixtures.py

and is not to be run again: later versions must open these very files (test_contract_older_folders.py).
"""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
from doors import caption_server, succeed
from drawings import draw_folder

FIXTURES = Path(__file__).parent / "fixtures_0_1"
STUDENT = {
    "student": "resnet18",
    "student_args": '{"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}',
    "image_size": 32,
    "projector_hidden_size": 16,
}
TRAINING = {
    "max_steps": 60,
    "per_device_train_batch_size": 9,
    "learning_rate": "2e-2",
    "train_crop": "pad",
    "crop_padding": 0,
    "hflip": 0,
    "save_strategy": "no",
    "logging_steps": 20,
    "ema_decay": 0.8,
    "use_cpu": "true",
    "disable_tqdm": "true",
}
ENCODER = {"text_encoder": "sentence-transformers/all-MiniLM-L6-v2"}


def make(folder: Path) -> None:
    draw_folder(folder / "pictures", captions=False, train=18, validation=9)
    with caption_server("--answer", "digest") as server:
        options = {"dataset_name": "./pictures", "captions_dir": "captions", "captioner_model": "tiny"}
        succeed("caption", options, {"base_url": f"{server}/v1", "report": "false"}, cwd=folder)
    succeed("embed", {"dataset_name": "./captions", "embeddings_dir": "embeddings"}, ENCODER, cwd=folder)
    for name, weight in (("aligned", 0.3), ("baseline", 0)):
        data = {"dataset_name": "./embeddings", "output_dir": name, "align_weight": weight}
        succeed("train", data, STUDENT, TRAINING, cwd=folder)
    succeed("evaluate", {"run": "aligned", "baseline": "baseline"}, cwd=folder)


def expected(folder: Path) -> dict:
    """What must stay: predictions of both runs and their figures, columns and rows of the stages."""
    found = {}
    for run in ("aligned", "baseline"):
        rows = pq.read_table(folder / run / "predictions" / "validation.parquet").to_pylist()
        results = json.loads((folder / run / "all_results.json").read_text())
        found[run] = {"predictions": rows, "results": {n: v for n, v in results.items() if n.startswith("validation")}}
    for stage in ("captions", "embeddings"):
        table = pq.read_table(folder / stage / "train.parquet")
        found[stage] = {"columns": table.column_names, "image_id": table["image_id"].to_pylist()}
    return found


def main() -> None:
    shutil.rmtree(FIXTURES, ignore_errors=True)
    FIXTURES.mkdir()
    make(FIXTURES)
    (FIXTURES / "expected.json").write_text(json.dumps(expected(FIXTURES), indent=1) + "\n")


if __name__ == "__main__":
    main()
