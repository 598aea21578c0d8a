"""What the workflows promise beside tests/contract/: a shared budget, honest figures, the right images."""

import caption_doors
import make
import numpy as np
import pytest
from datasets import DatasetDict
from drawings import draw_folder

from g4i_hf.captioning.runner import Share
from g4i_hf.cli import build_options
from g4i_hf.options import OPTIONS_OF
from g4i_hf.running import main
from g4i_hf.workflows.caption import Captioning

serve = caption_doors.serve


def test_processes_that_share_the_captions_share_the_budget(tmp_path, serve):
    """A request costs 3 here, and 27 images wait: two processes with a budget of 24 ask for 4 captions each."""
    pictures = draw_folder(tmp_path / "pictures", train=18, validation=9)
    given = {"dataset_name": str(pictures), "captions_dir": str(tmp_path / "new"), "captioner_model": "tiny"}
    server = serve("--answer", "digest")
    given |= {"base_url": f"{server.url}/v1", "max_concurrency": 1}
    given |= {"max_cost": 24, "price_input": 0, "price_output": 1e6}
    for rank in range(2):
        Captioning(*build_options(OPTIONS_OF["caption"], given), say=str).ask(Share(rank, 2))
    assert server.stats()["requests"] == 8


def test_check_prints_what_is_in_each_split(tmp_path, capsys):
    pictures = draw_folder(tmp_path / "pictures", train=9, validation=3)
    main(["check", str(pictures), "--check_dir", str(tmp_path / "check")])
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["split", "images", "classes", "labels", "captions", "unreadable"] in table
    assert ["train", "9", "3", "9", "9", "0"] in table and ["validation", "3", "3", "3", "3", "0"] in table


@pytest.mark.parametrize(
    ("fault", "named"),
    [("unreadable", "1 images of the split 'train'"), ("no class folders", "no classes"), ("no split", "'trian'")],
)
def test_check_ends_with_1_where_the_data_cannot_be_trained_on(tmp_path, capsys, fault, named):
    pictures = draw_folder(tmp_path / "pictures", train=9, captions=False)
    if fault == "unreadable":
        next((pictures / "train" / "cross").iterdir()).write_bytes(b"no image")
    elif fault == "no class folders":
        for path in list(pictures.rglob("*.png")):
            path.rename(pictures / "train" / path.name)
    with pytest.raises(SystemExit) as ended:
        main(["check", str(pictures), *(["--split", "trian"] if fault == "no split" else [])])
    said = capsys.readouterr().out.partition("This data cannot be trained on:")[2]
    assert ended.value.code == 1 and named in said


@pytest.mark.parametrize("tells", [True, False])
def test_check_says_whether_captions_are_better_than_guessing(tmp_path, capsys, tells):
    rng, labels = np.random.default_rng(0), np.arange(120) % 3
    embeds = make.unit(tells * np.eye(8)[labels] + 0.1 * rng.normal(size=(120, 8)))
    DatasetDict(train=make.rows(120, "abc", label=labels, text_embeds=embeds)).save_to_disk(tmp_path / "data")
    main(["check", str(tmp_path / "data"), "--check_dir", str(tmp_path / "check")])
    assert ("not clearly better than guessing (33%)" in capsys.readouterr().out) != tells
