"""Which training images could not be read and were left out, over all processes and interruptions."""

import json
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback

from ..data.bad_images import bad_image, check_not_too_many, warn_of
from ..files import replace_text

BAD_IMAGES_FILE = "bad_images.json"


class SkippedImages(TrainerCallback):
    """
    Keeps `bad_images.json` in the run folder: written with every checkpoint and at the end, where there are any.

    Args:
        dataset: [`~g4i_hf.data.dataset.CaptionedImages`] that is trained on.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self.known: dict[int, dict[str, Any]] = {}  # row -> what is told of it, on this process
        self.total = 0  # of all processes, known to each

    def note(self, bad: dict[int, str] | None) -> None:
        """
        Args:
            bad: row -> why its image cannot be read, of a batch.

        Raises:
            BadImageError: when too many cannot be read.
        """
        for row, reason in (bad or {}).items():
            if row in self.known:
                continue
            self.known[row] = bad_image(self.dataset.images, self.dataset.image_ids, row, reason)
            check_not_too_many(len(self.known), len(self.dataset), self.known[row])
            if len(self.known) == 1:  # the others are told of at the end
                warn_of("Training data", [self.known[row]], len(self.dataset))

    def on_save(self, args, state, control, **kwargs):
        self._write(args)

    def on_train_end(self, args, state, control, **kwargs):
        bad = self._write(args)
        if bad and args.process_index == 0:
            warn_of("Training data", bad, len(self.dataset), f" ({Path(args.output_dir) / BAD_IMAGES_FILE})")

    def _write(self, args: Any) -> list[dict[str, Any]]:
        path = Path(args.output_dir) / BAD_IMAGES_FILE
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        found = {each["image_id"]: each for each in (*earlier, *gather_object(list(self.known.values())))}
        bad, self.total = [found[image_id] for image_id in sorted(found)], len(found)
        if bad != earlier and args.should_save:
            replace_text(path, json.dumps(bad, indent=2, ensure_ascii=False) + "\n")
        return bad
