"""Each result of the loop is a point of the curve in the report, and of a tracker."""

import json
import re
import shlex
from pathlib import Path

import pytest
from drawings import CLASSES, draw_folder
from fitting import results_of

from g4i_hf.running import main

PAGE = (Path(__file__).parent.parent / "docs" / "guides" / "review.md").read_text()


@pytest.fixture
def command(student, words, tmp_path, monkeypatch) -> list[str]:
    """That of the page, on drawings of which few have a label, and as small as it can be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    draw_folder(tmp_path / "pictures", labels_a_class=6, train=60)
    given = re.search(r"<!-- test: tracker -->\n```sh\ng4i (.*)\n```", PAGE)[1]
    small = f"--student {student} --text_encoder {words} --image_size 32 --finetune false --group_by none"
    return shlex.split(f"{given} {small}")


def label(number: int) -> None:
    lines = [{"file_name": f"train/unlabelled/{n}.png", "label": CLASSES[n % 3]} for n in range(18, 18 + number)]
    Path("pictures/labels.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.mark.slow
def test_a_tracker_and_the_report_have_a_point_for_each_result(command, few_draws, monkeypatch):
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    for reviewed in (0, 6, 6, 15):  # the third changes nothing
        label(reviewed)
        main(command)
        assert ("Round by round" in (report := Path("runs/pictures/report.html").read_text())) == (reviewed > 0)
    logged = storage.get_logs("g4i_fit", "pictures")
    assert [(line["step"], line["labels"], line["reviewed"]) for line in logged] == [
        (1, 18, 0),
        (2, 24, 6),
        (3, 33, 15),
    ]
    places = [Path("runs/pictures", name) for name in ("earlier-1", "earlier-2", "")]
    for line, place in zip(logged, places, strict=True):
        results = results_of(place)
        assert line["accuracy"] == results["with_views_accuracy"]
        assert [line["low"], line["high"]] == results["with_views_interval"]
        usual = next(each for each in results["decisions"] if each["precision"] == 0.95)
        assert line.get("answered_at_95") == (usual["share"] if usual["threshold"] else None)
    curve = re.search(r'aria-label="Accuracy by round".*?</svg>', report, flags=re.S)[0]
    assert re.findall(r'text-anchor="middle" fill="var\(--soft\)">(\d+)<', curve) == ["18", "24", "33"]
    heights = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', curve)]
    accuracies = [line["accuracy"] for line in logged]
    assert sorted(range(3), key=lambda n: (-heights[n], n)) == sorted(range(3), key=lambda n: (accuracies[n], n))
    assert re.findall(r"<title>([\d.]+)", curve) == [f"{100 * accuracy:.1f}" for accuracy in accuracies]


def test_a_tracker_that_does_not_start_is_one_line_and_nothing_is_computed(command, monkeypatch, capsys):
    trackio = pytest.importorskip("trackio")

    def no_login(**_):
        raise RuntimeError("No token.\nLog in first.")

    monkeypatch.setattr(trackio, "init", no_login)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "error: report_to is trackio, which does not start: No token. Log in first. Or leave report_to out."
    ]
    assert not list(Path("runs").rglob("*.parquet")) and not Path("runs/pictures/labels_only").exists()
