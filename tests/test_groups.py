"""Images of one scene, clip, site or patient: which they are, and that all that is held out is held out by them."""

import json
import shutil
from pathlib import Path

import make
import pytest
from datasets import DatasetDict
from drawings import draw_folder, drawing
from PIL import Image

from g4i_hf import load_images
from g4i_hf.data.checks import labels_of
from g4i_hf.data.groups import with_groups


def pictures_of(folder: Path, files: list[str], lines: dict[str, dict] | None = None) -> Path:
    """Noise under these names of `train`, with these columns in metadata.jsonl."""
    make.folder(folder / "train", files)
    if lines is not None:
        rows = [json.dumps({"file_name": name} | lines.get(name, {})) for name in files]
        (folder / "train" / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def groups_by_file(folder: Path, group_by: str | None = None) -> dict[str, str | None]:
    split = load_images(folder, group_by=group_by)["train"]
    if "group" not in split.column_names:
        return {}
    return {Path(image["path"]).name: group for image, group in zip(split["image"], split["group"], strict=True)}


SITES = ["cat/north/1.png", "cat/south/far/2.png", "dog/north/3.png", "unlabelled/north/4.png", "dog/5.png"]
NAMES = ["cat/cam1_0001.png", "cat/cam2_0002.png", "dog/cam1_0003.png", "dog/other.png"]
TIMES = ["20240131_101500", "2024-01-31 10.15.40", "20240131T101600123", "20240131_111500", "IMG_19991399_250000"]


@pytest.mark.parametrize(
    ("files", "group_by", "expected"),
    [
        (SITES, "folder", ["north", "cat/south/far", "north", "north", None]),
        ([f"sites/{name}" for name in SITES], "folder", ["north", "cat/south/far", "north", "north", None]),
        (["cat/1/1.png", "dog/1/2.png", "cat/1/3.png"], "folder", ["cat/1", "dog/1", "cat/1"]),
        (["cat/1/1.png", "dog/1/2.png", "dog/2/3.png"], "([^/]+)/[^/]+$", ["1", "1", "2"]),
        (NAMES, r"cam\d", ["cam1", "cam2", "cam1", None]),
        (NAMES, r"cam(\d)_", ["1", "2", "1", None]),
        (
            *(["cat/north/1.png", "cat/2.png", "unlabelled/3.png", "dog/a/4.png"], "([^/]+)/[^/]+$"),
            ["north", None, None, "a"],
        ),
        (
            *([f"{'cat' if row % 2 else 'dog'}/{name}.png" for row, name in enumerate(TIMES)], "time"),
            ["2024-01-31 10:15:00"] * 3 + ["2024-01-31 11:15:00", None],
        ),
        (
            *([f"{'cat' if row % 2 else 'dog'}/{name}.png" for row, name in enumerate(TIMES[:3])], "time:30"),
            ["2024-01-31 10:15:00"] + ["2024-01-31 10:15:40"] * 2,
        ),
        (NAMES, "none", []),
    ],
)
def test_groups_by_folders_file_names_and_times(tmp_path, caplog, files, group_by, expected):
    found = groups_by_file(pictures_of(tmp_path, files), group_by)
    assert group_by != "folder" or "lie below their class folder" not in caplog.text, "it was asked for"
    assert found == {Path(file).name: group for file, group in zip(files, expected, strict=False)}


def test_groups_by_the_time_in_exif_come_before_those_of_file_names(tmp_path):
    for number, time in enumerate(["2024:01:31 10:00:00", "2024:01:31 10:00:50", "2024:01:31 12:00:00"]):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = time
        path = tmp_path / "train" / ("cat", "dog")[number % 2] / f"{number} 20200101_000000.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        make.noise(number).save(path, exif=exif)
    assert [*groups_by_file(tmp_path, "time").values()] == ["2024-01-31 10:00:00", "2024-01-31 12:00:00"] * 1 + [
        "2024-01-31 10:00:00"
    ]


def test_the_column_group_is_of_any_kind_and_options_replace_it(tmp_path, caplog):
    folder = pictures_of(tmp_path, NAMES, {NAMES[0]: {"group": 3}, NAMES[1]: {"group": 3}, NAMES[2]: {"group": 4}})
    assert [*groups_by_file(folder).values()] == ["3", "3", "4", None]
    assert "Column 'group' tells no group of 1 of 4 images of 'train', such as 'dog/other.png'" in caplog.text
    assert groups_by_file(folder, "none") == {}
    assert groups_by_file(folder, "other|cam")["other.png"] == "other"


def test_numbers_of_groups_are_the_same_with_gaps_and_in_text():
    """As pandas writes them; a gap is no group."""
    columns = {"train": [1, 2, 2], "validation": [1.0, None, 2.0], "test": ["1.0", "", "2.5"]}
    rows = {name: make.rows(3).add_column("group", values) for name, values in columns.items()}
    rows["nan"] = make.rows(3).add_column("group", [1.0, float("nan"), 2.0])
    found = with_groups(DatasetDict(rows), None)
    assert found["train"]["group"][:] == ["1", "2", "2"] and found["test"]["group"][:] == ["1", None, "2.5"]
    assert found["validation"]["group"][:] == found["nan"]["group"][:] == ["1", None, "2"]


def frames_of(folder: Path, scenes: int = 12, frames: int = 4) -> Path:
    """Drawings, of which so many frames show a scene, that its file name tells."""
    draw_folder(folder / "drawn", captions=False, train=scenes * frames)
    for path in sorted((folder / "drawn" / "train").rglob("*.png")):
        number = int(path.stem)
        scene, frame = number // 3 // frames * 3 + number % 3, number // 3 % frames
        target = folder / "frames" / "train" / path.parent.name / f"scene{scene:02d}_{frame}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        drawing(number).save(target)
    return folder / "frames"


def test_validation_is_held_out_by_groups(tmp_path):
    splits = load_images(frames_of(tmp_path), validation_fraction=0.25, group_by="scene..")
    there = [set(splits[name]["group"]) for name in ("train", "validation")]
    assert not there[0] & there[1] and len(there[1]) == 3
    assert [(labels_of(splits["validation"]) == label).sum() for label in range(3)] == [4, 4, 4]


def test_a_stage_of_grouped_images_has_the_same_validation(tmp_path, monkeypatch):
    """And so a run on its captions does not validate on frames of training."""
    from g4i_hf.data.stage import Source

    source = Source("pictures", validation_fraction=0.25, group_by="scene..")
    recorded = source.recorded(tmp_path / "stage")
    assert Source.read(recorded, tmp_path).group_by == "scene.."


def test_sites_of_several_classes_are_held_out_whole(tmp_path):
    """No class loses more than half of its images."""
    files = [f"{'cat' if row % 2 else 'dog'}/site{row // 8}/{row}.png" for row in range(48)]
    splits = load_images(pictures_of(tmp_path, files), validation_fraction=0.3, group_by="([^/]+)/[^/]+$")
    there = [set(splits[name]["group"]) for name in ("train", "validation")]
    assert not there[0] & there[1] and 1 <= len(there[1]) <= 3
    shutil.rmtree(tmp_path / "train")
