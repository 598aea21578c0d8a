"""
The whole loop over HTTP, with the real clients, against a small server of the Hub's interface on this machine:

    python tests/hub_demo.py [FOLDER]

Images are captioned and pushed, loaded by name, embedded, pushed, trained on; the student is pushed and loaded by a
process of an environment that does not have this package. Everything lands in FOLDER, `runs/hub_demo` by default.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))
from hub_client import ServedHub, serving

ROOT = Path(__file__).parent.parent
USER = "me"
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"

# In an environment of its own: datasets and transformers, but not this package
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
    """Paths and names of one demonstration."""

    folder: Path
    environment: dict[str, str]

    def script(self, name: str, *options) -> str:
        command = [sys.executable, "-m", "g4i_hf", name, *map(str, options)]
        shown = [f"g4i {name}", *(str(option) for option in options)]
        return self.run(command, " ".join(shown))

    def run(self, command: list[str], shown: str, cwd: Path = ROOT) -> str:
        print(f"\n$ {shown}", flush=True)
        environment = {name: value for name, value in self.environment.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
        print(done.stdout.strip(), flush=True)
        return done.stdout


def captions_to_hub(demo: Demo) -> None:
    """Images described by the small model of the recipe, pushed with the images; then embedded and pushed without."""
    recipe, captions, embeddings = ROOT / "recipes" / "shapes", demo.folder / "captions", demo.folder / "embeddings"
    demo.script("caption", "--config", recipe / "caption.yaml", "--captions_dir", captions)
    published = ("--license", "apache-2.0", "--push_to_hub", "true")
    demo.script(
        *("release", "--stage", captions, "--with_images", "true", "--repo_id", f"{USER}/shapes-captions", *published)
    )
    from_hub = ("--dataset_name", f"{USER}/shapes-captions", "--text_encoder", ENCODER)
    demo.script("embed", "--config", recipe / "embed.yaml", *from_hub, "--embeddings_dir", embeddings)
    demo.script("release", "--stage", embeddings, "--repo_id", f"{USER}/shapes-embedded", *published)


def student_to_hub(demo: Demo, more: list) -> Path:
    """A student trained on the data set loaded by name, beside its baseline, and pushed with its card."""
    recipe = ROOT / "recipes" / "shapes"
    runs = {"aligned": demo.folder / "aligned", "baseline": demo.folder / "baseline"}
    for name, run in runs.items():
        options = ["--config", recipe / ("train.yaml" if name == "aligned" else "baseline.yaml")]
        options += ["--dataset_name", f"{USER}/shapes-embedded", "--output_dir", run]
        demo.script("train", *options, "--disable_tqdm", "true", *more)
    both = ("--run", runs["aligned"], "--baseline", runs["baseline"])
    demo.script("evaluate", "--config", recipe / "evaluate.yaml", *both, "--report", demo.folder / "report.html")
    named = ("--repo_id", f"{USER}/shapes-student", "--license", "apache-2.0")
    demo.script("release", *both, *named, "--dry_run", "true")
    demo.script("release", *both, *named, "--push_to_hub", "true")
    return runs["aligned"]


def read_predictions(demo: Demo, student: str, images: str | Path, split: str) -> dict[str, dict]:
    """image_id -> label and score, by a process of an environment without this package."""
    environment, script, found = (demo.folder / name for name in ("reader", "reader.py", "predictions.json"))
    if not environment.exists():
        demo.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], "python -m venv reader")
        packages = next(environment.glob("lib/python*/site-packages"))
        # A .pth file lets it see what is installed here; this package, installed in place by a .pth file, is not
        (packages / "dependencies.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    script.write_text(READER)
    command = [environment / "bin" / "python", script, images, split, student, found]
    shown = f"reader/bin/python reader.py {images} {split} {student}  # no g4i_hf in there"
    demo.run([str(part) for part in command], shown, demo.folder)
    return json.loads(found.read_text())


def demonstrate(folder: Path, hub: ServedHub, *more: str) -> tuple[dict[str, dict], dict[str, dict]]:
    """
    Args:
        folder: for everything that is made.
        hub: what is pushed to.
        more: options of training.

    Returns:
        What `evaluate.py` predicted for the test images, and what the process without this package did.
    """
    demo = Demo(folder, hub.environment(folder / "home"))
    captions_to_hub(demo)
    run = student_to_hub(demo, list(more))
    rows = pq.read_table(run / "predictions" / "test.parquet").to_pylist()
    expected = {row["image_id"]: {"label": row["prediction"], "score": row["score"]} for row in rows}
    return expected, read_predictions(demo, f"{USER}/shapes-student", f"{USER}/shapes-captions", "test")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/hub_demo").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with serving(folder / "hub") as hub:
        print(f"A server of the Hub's interface: {hub.url}")
        expected, found = demonstrate(folder, hub)
    same = sum(found[name]["label"] == row["label"] for name, row in expected.items())
    largest = max(abs(found[name]["score"] - row["score"]) for name, row in expected.items())
    print(f"\n{same} of {len(expected)} predictions are those of evaluate.py; scores differ by {largest:.1g} at most")
    print(f"What was pushed lies in {os.path.relpath(folder / 'hub')}")


if __name__ == "__main__":
    main()
