"""`g4i fit --sample`: fewer training images, chosen by their content, with what people said of them."""

import json

import numpy as np
import pytest
import yaml
from fitting import few_labels, results_of

from g4i_hf import View
from g4i_hf.fitting import sample
from g4i_hf.fitting.sample import rows_of_sample


@pytest.fixture
def pictures(tmp_path):
    """60 images, of which 6 have a label by their folder and one by a person."""
    folder = few_labels(tmp_path, 2, train=60)
    reviewed = sorted((folder / "train" / "unlabelled").iterdir())[0]
    name = reviewed.relative_to(folder).as_posix()
    (folder / "labels.jsonl").write_text(json.dumps({"file_name": name, "label": "cross", "pick": "manual"}) + "\n")
    return folder


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_fit_of_a_sample_has_all_labels_and_says_so(fitted, pictures, tmp_path, capsys, monkeypatch, by_itself):
    if by_itself:
        monkeypatch.setattr(sample, "MOST", 30)
    options = {"group_by": "none"} | ({} if by_itself else {"sample": 30})
    values = View(np.random.default_rng(0).normal(size=(60, 3)))
    result = fitted(pictures, tmp_path / "out", views=["image:student", values], **options)
    assert (result.images, result.sampled_from, result.labels) == (30, 60, 7)
    assert "Sample: 30 of 60 training images, 7 of the 7 labelled ones among them." in capsys.readouterr().out
    assert results_of(tmp_path / "out")["sampled_from"] == 60
    assert yaml.safe_load((tmp_path / "out" / "fit.yaml").read_text())["sample"] == 30
    again = fitted(pictures, tmp_path / "out", views=["image:student", values], **options)
    assert again.images == 30 and "nothing has changed since" in capsys.readouterr().out


def test_a_sample_is_of_contents_in_any_order_and_more_images_replace_few():
    generator = np.random.default_rng(0)
    digests = [generator.bytes(16).hex() for _ in range(900)]
    is_labelled, is_reviewed = np.arange(900) < 50, np.arange(900) < 9

    def taken(rows: np.ndarray, number: int) -> set[str]:
        found = rows_of_sample([digests[row] for row in rows], is_labelled[rows], is_reviewed[rows], number)
        assert (np.diff(found) > 0).all()
        return {digests[rows[row]] for row in found}

    everything = np.arange(900)
    whole = taken(everything, 200)
    assert len(whole) == 200 and whole >= set(digests[:50])
    assert taken(generator.permutation(900), 200) == whole
    assert len(taken(everything[:850], 200) - whole) < 30
    assert set(digests[:9]) <= taken(everything, 20) <= set(digests[:50])
