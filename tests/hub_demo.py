"""
The whole loop over HTTP, with the real clients, against a small server of the Hub's interface on this machine:

    python tests/hub_demo.py [FOLDER]

Images are captioned and pushed, loaded by name, embedded, pushed, trained on; the student is pushed and loaded by a
process that does not have this package. Everything lands in FOLDER, `runs/hub_demo` by default.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))
from hub import serving
from loaded import PYTHON

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "shapes"
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"

READER = """
import json, sys
sys.modules["g4i_hf"] = None  # as where it is not installed: an import of it fails
from datasets import load_dataset
from transformers import pipeline

images = load_dataset(sys.argv[1], split=sys.argv[2])
classifier = pipeline("image-classification", model=sys.argv[3])
predicted = [classifier(image)[0] for image in images["image"]]
json.dump(dict(zip(images["image_id"], predicted)), open(sys.argv[4], "w"))
"""


@dataclass
class Demo:
    """
    Attributes:
        folder: for everything that is made.
        environment: of the processes.
    """

    folder: Path
    environment: dict[str, str]

    def g4i(self, *words) -> None:
        words = list(map(str, words))
        self.run([PYTHON, "-m", "g4i_hf", *words], "g4i " + " ".join(words))

    def run(self, command: list[str], shown: str) -> None:
        print(f"\n$ {shown}", flush=True)
        environment = {name: value for name, value in self.environment.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
        print(done.stdout.strip(), flush=True)

    def captions_to_hub(self) -> None:
        """Images described by the model of the recipe, pushed with the images; then embedded and pushed without."""
        captions, embeddings = self.folder / "captions", self.folder / "embeddings"
        published = ("--license", "apache-2.0", "--push_to_hub", "true")
        self.g4i("caption", "--config", RECIPE / "caption.yaml", "--captions_dir", captions)
        named = ("--with_images", "true", "--repo_id", "me/shapes-captions")
        self.g4i("release", "--stage", captions, *named, *published)
        from_hub = ("--dataset_name", "me/shapes-captions", "--text_encoder", ENCODER)
        self.g4i("embed", "--config", RECIPE / "embed.yaml", *from_hub, "--embeddings_dir", embeddings)
        self.g4i("release", "--stage", embeddings, "--repo_id", "me/shapes-embedded", *published)

    def student_to_hub(self) -> Path:
        """A student trained on the dataset loaded by name, beside its baseline, and pushed with its card."""
        runs = {"train": self.folder / "aligned", "baseline": self.folder / "baseline"}
        for name, run in runs.items():
            options = ("--config", RECIPE / f"{name}.yaml", "--dataset_name", "me/shapes-embedded")
            self.g4i("train", *options, "--output_dir", run, "--disable_tqdm", "true")
        both = ("--run", runs["train"], "--baseline", runs["baseline"])
        self.g4i("evaluate", "--config", RECIPE / "evaluate.yaml", *both, "--report", self.folder / "report.html")
        named = ("--repo_id", "me/shapes-student", "--license", "apache-2.0")
        self.g4i("release", *both, *named, "--dry_run", "true")
        self.g4i("release", *both, *named, "--push_to_hub", "true")
        return runs["train"]

    def read_predictions(self, student: str, images: str, split: str) -> dict[str, dict]:
        """image_id -> label and score, by a process without this package."""
        script, found = self.folder / "reader.py", self.folder / "predictions.json"
        script.write_text(READER)
        shown = f"python reader.py {images} {split} {student}  # where g4i_hf cannot be imported"
        self.run([PYTHON, str(script), images, split, student, str(found)], shown)
        return json.loads(found.read_text())


def demonstrate(demo: Demo) -> tuple[dict[str, dict], dict[str, dict]]:
    """What `g4i evaluate` predicted for the test images, and what the process without this package did."""
    demo.captions_to_hub()
    run = demo.student_to_hub()
    rows = pq.read_table(run / "predictions" / "test.parquet").to_pylist()
    expected = {row["image_id"]: {"label": row["prediction"], "score": row["score"]} for row in rows}
    return expected, demo.read_predictions("me/shapes-student", "me/shapes-captions", "test")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/hub_demo").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with serving() as hub:
        print(f"A server of the Hub's interface: {hub.url}")
        expected, found = demonstrate(Demo(folder, hub.environment(folder / "home")))
    same = sum(found[name]["label"] == row["label"] for name, row in expected.items())
    largest = max(abs(found[name]["score"] - row["score"]) for name, row in expected.items())
    print(f"\n{same} of {len(expected)} predictions are those of g4i evaluate; scores differ by {largest:.1g} at most")


if __name__ == "__main__":
    main()
