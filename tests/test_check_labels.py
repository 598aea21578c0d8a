"""`g4i check`: labels that captions contradict, as a page with pictures and a CSV file."""

import csv
import io

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Image, Value
from PIL import Image as PILImage
from test_supervision import CLASSES, captioned, vectors

from g4i_hf.running import main

ROWS = 120
TRUTH = np.arange(ROWS) % len(CLASSES)
WRONG, UNLABELLED, NOT_TRUSTED, WITHOUT_CAPTION = [0, 11, 22, 33, 44, 55], [60, 61], [33, 44], [55]


@pytest.fixture
def data(tmp_path):
    """An eighth of the labels is wrong; two of those rows have a caption of weight zero, one has none."""
    labels, embeds = TRUTH.copy(), vectors(TRUTH)
    labels[WRONG] = (labels[WRONG] + 1) % len(CLASSES)
    labels[UNLABELLED], embeds[WITHOUT_CAPTION] = -100, np.nan
    weights = [0.0 if row in NOT_TRUSTED else 1.0 for row in range(ROWS)]
    captions = [None if row in WITHOUT_CAPTION else f"picture {row}" for row in range(ROWS)]
    split: Dataset = captioned(
        labels, embeds, caption_weight=(weights, Value("float32")), caption=(captions, Value("string"))
    )
    split = split.add_column("image", [{"bytes": png(row), "path": None} for row in range(ROWS)], feature=Image())
    DatasetDict({"train": split}).save_to_disk(tmp_path / "data")
    return tmp_path / "data"


def png(row: int) -> bytes:
    file = io.BytesIO()
    PILImage.new("RGB", (8, 8), (row, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_labels_that_captions_contradict_are_listed(data, tmp_path, capsys):
    main(["check", str(data), "--check_dir", str(tmp_path / "check"), "--num_pictures", "2"])
    said = capsys.readouterr().out
    with (tmp_path / "check" / "suspicious_labels.csv").open() as file:
        found = list(csv.DictReader(file))
    expected = [row for row in WRONG if row not in NOT_TRUSTED + WITHOUT_CAPTION]
    assert sorted(line["image_id"] for line in found) == sorted(f"id-{row}" for row in expected)
    for line in found:
        row = int(line["image_id"].removeprefix("id-"))
        assert (line["label"], line["suggested"]) == (CLASSES[(TRUTH[row] + 1) % len(CLASSES)], CLASSES[TRUTH[row]])
        assert line["caption"] == f"picture {row}" and float(line["probability"]) < 0.5
    assert f"{len(expected)} of {ROWS - len(UNLABELLED + NOT_TRUSTED + WITHOUT_CAPTION)} labels are suspicious" in said
    assert "Captions tell the class of" in said and "of the labels are wrong (95% interval" in said
    page = (tmp_path / "check" / "suspicious_labels.html").read_text()
    assert page.count("<img") == 2 and f"captions say: {found[0]['suggested']}" in page


def test_captions_that_are_not_embedded_are_an_error(data, tmp_path, capsys):
    split = Dataset.from_dict({"image": [{"bytes": png(0), "path": None}], "label": [0], "caption": ["a"]})
    DatasetDict({"train": split.cast_column("image", Image())}).save_to_disk(tmp_path / "plain")
    with pytest.raises(SystemExit) as error:
        main(["check", str(tmp_path / "plain"), "--check_dir", str(tmp_path / "check")])
    assert error.value.code == 2 and "error: The captions are not embedded" in capsys.readouterr().err
    assert not (tmp_path / "check").exists()
