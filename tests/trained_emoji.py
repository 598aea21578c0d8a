"""A short training of the Emoji Styles recipe, for tests that need a student which has learned something."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def train_emoji(folder: Path) -> Path:
    """Three epochs, in a folder that looks like a clone; returns the run folder."""
    (folder / "recipes").symlink_to(ROOT / "recipes")
    command = [sys.executable, "recipes/train.py", "--config", "recipes/emoji_styles/train.yaml"]
    command += ["--num_train_epochs", "3", "--warmup_steps", "20", "--eval_strategy", "no", "--save_strategy", "no"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / "emoji_styles" / "aligned"
