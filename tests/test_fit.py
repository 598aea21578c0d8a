"""`g4i fit`: one command from images with captions to a classifier and what its captions were worth."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import caption_doors
import pytest
import yaml
from datasets import List, Value
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "contract"))

from doors import run, succeed
from drawings import STUDENT, draw_folder

from g4i_hf import fit, load_images
from g4i_hf.cli import build_options, parse_options
from g4i_hf.data.checks import labels_of
from g4i_hf.hub.push import write_manifest
from g4i_hf.options import OPTIONS_OF
from g4i_hf.running import main
from g4i_hf.workflows.fit import Fit, default_batch_size
from g4i_hf.workflows.train import TrainingRun

serve = caption_doors.serve


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """36 drawings with captions, without a validation split; `test` holds a file that nobody may open."""
    root = draw_folder(tmp_path_factory.mktemp("fit") / "pictures", train=36, test=6)
    for image in (root / "test").rglob("*.png"):
        image.write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """Options of `g4i train` that make it short."""
    path = tmp_path_factory.mktemp("quick") / "train.yaml"
    options = {"student": "resnet18", "student_args": json.loads(STUDENT["student_args"]), "max_steps": 4}
    path.write_text(yaml.safe_dump(options | {"use_cpu": True, "disable_tqdm": True}))
    return path


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(folder, tmp_path, capsys):
    before = sorted(folder.rglob("*"))
    assert fit(folder, output_dir=str(tmp_path / "out"), dry_run=True) is None
    said = capsys.readouterr().out
    assert "36 training images" not in said  # some of them are held out
    for part in ("30 training images of 3 classes", "6 validation images", "Image size: 32 px", "small ResNet"):
        assert part in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("  g4i ")] == [
        *("train", "train", "evaluate", "release")
    ]
    assert not (tmp_path / "out").exists() and sorted(folder.rglob("*")) == before


def test_classes_that_validation_lacks_are_said(tmp_path, capsys):
    for validation, lacks in ((2, True), (3, False)):
        pictures = draw_folder(tmp_path / f"pictures {validation}", train=18, validation=validation)
        fit(pictures, output_dir=str(tmp_path / "out"), dry_run=True)
        assert ("no labelled image of 1 of the 3 classes, such as 'square'" in capsys.readouterr().out) == lacks


def test_classes_with_no_label_or_one_are_said(tmp_path, capsys):
    """Two circles, a cross and a square; a star in `validation` alone."""
    pictures = draw_folder(tmp_path / "pictures", train=4, validation=3)
    (pictures / "validation" / "star").mkdir()
    shutil.copy(next((pictures / "validation").rglob("*.png")), pictures / "validation" / "star" / "star.png")
    fit(pictures, output_dir=str(tmp_path / "out"), dry_run=True)
    of_fit = capsys.readouterr().out
    main(["check", str(pictures), "--check_dir", str(tmp_path / "check")])
    line = "Labels: no label for 1 of the 4 classes ('star'); one label for 2 of the 4 classes ('cross', 'square')."
    assert line in of_fit.splitlines() and line in capsys.readouterr().out.splitlines()
    more = draw_folder(tmp_path / "more", train=6, validation=3)
    fit(more, output_dir=str(tmp_path / "out"), dry_run=True)
    assert "Labels:" not in capsys.readouterr().out


def test_nothing_is_said_twice_and_no_bar_is_shown_of_what_takes_a_moment(folder, tmp_path):
    said = succeed("fit", folder, {"output_dir": tmp_path / "out"}, "--dry_run").said
    assert said.count("Split train: 3 class names taken from the folders") == 1
    assert "%|" not in said and "it/s" not in said


def test_check_names_the_package_of_the_text_encoder_once(tmp_path):
    pictures = draw_folder(tmp_path / "pictures", train=36)
    said = succeed("check", pictures, {"check_dir": tmp_path / "check", "text_encoder": "all-MiniLM-L6-v2"}).said
    assert said.count("is taken from the installed package") == 1


def closed(home: Path) -> dict[str, str]:
    """Variables of a process that reaches no server."""
    return {"HF_ENDPOINT": "http://no-such-host.invalid", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}


def test_without_a_connection_it_takes_a_student_that_needs_none(folder, tmp_path):
    """Large images: the default student is a pretrained one, which is asked for on the Hub."""
    pictures = shutil.copytree(folder, tmp_path / "pictures")
    for path in pictures.glob("train/*/*.png"):
        with Image.open(path) as image:
            image.resize((128, 128)).save(path)
    done = run("fit", pictures, {"output_dir": tmp_path / "out"}, "--dry_run", env=closed(tmp_path))
    assert done.code == 0, done.err[-2000:]
    assert "a small ResNet from scratch" in done.out and "is not reachable" in done.out


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({}, "default student timm/tf_.* Leave --pretrained"),
        ({"student": "resnet18"}, "timm/resnet18.* on the Hub"),
    ],
    ids=["default", "of timm"],
)
def test_without_a_connection_a_pretrained_student_is_said_to_be_missing_first(folder, tmp_path, student, said):
    done = run("fit", folder, {"pretrained": "true", "output_dir": tmp_path / "out"} | student, env=closed(tmp_path))
    assert done.code == 2 and len(done.errors()) == 1 and re.search(said, done.err)
    assert "training images" not in done.out and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interrupt_is_one_line(folder, tmp_path):
    """Ctrl-C reaches fit and the training that it started."""
    command = [sys.executable, "-m", "g4i_hf", "fit", str(folder), "--output_dir", str(tmp_path / "out")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as fitting:
        for line in fitting.stdout:
            if "step 2" in line:  # of the first training
                break
        os.killpg(fitting.pid, signal.SIGINT)
        said = fitting.communicate(timeout=120)[1]
    assert fitting.returncode == 130 and "Run the same command again" in said and "Traceback" not in said


def test_without_captions_the_three_ways_to_get_some_are_named(tmp_path):
    pictures = draw_folder(tmp_path / "pictures", captions=False, train=24)
    with pytest.raises(ValueError, match=r"--captioner .*metadata\.jsonl.*--caption_column"):
        fit(pictures, dry_run=True)


@pytest.mark.parametrize(("number", "held_out"), [(9, 1), (12, 2), (36, 2), (90, 4)])
def test_validation_is_a_share_of_each_class_and_always_the_same(tmp_path, number, held_out):
    pictures = draw_folder(tmp_path / "pictures", train=number)
    splits = load_images(pictures, validation_fraction=0.15)
    of_class = [(labels_of(splits["validation"]) == label).sum() for label in range(3)]
    assert of_class == [held_out] * 3
    again = load_images(pictures, validation_fraction=0.15)
    assert splits["validation"]["image_id"][:] == again["validation"]["image_id"][:]
    assert not set(splits["train"]["image_id"][:]) & set(splits["validation"]["image_id"][:])
    assert len(splits["train"]) + len(splits["validation"]) == number


def test_one_label_a_class_leaves_nothing_to_hold_out(tmp_path):
    pictures = draw_folder(tmp_path / "pictures", train=3)
    for opens in (lambda: load_images(pictures, validation_fraction=0.15), lambda: fit(pictures, dry_run=True)):
        with pytest.raises(ValueError, match="No class .* two labelled images that differ.*Label more images, or"):
            opens()


def test_a_validation_split_without_labels_is_refused_at_once(tmp_path):
    pictures = draw_folder(tmp_path / "pictures", train=12, validation=3)
    validation = pictures / "validation"
    (validation / "circle").rename(validation / "unlabelled")
    for name in ("cross", "square"):
        shutil.move(validation / name, validation / "unlabelled" / name)
    (validation / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match="No image of the split 'validation' has a label.*fit then holds out"):
        fit(pictures, dry_run=True)


def without_labels(root: Path) -> Path:
    """The training images of a folder in `unlabelled`."""
    training = root / "train"
    names = [json.loads(line) for line in (training / "metadata.jsonl").read_text().splitlines()]
    (training / "unlabelled").mkdir()
    for line in names:
        file = Path(line["file_name"])
        shutil.move(training / file, training / "unlabelled" / file.name)
        line["file_name"] = f"unlabelled/{file.name}"
    (training / "metadata.jsonl").write_text("\n".join(map(json.dumps, names)))
    for label in ("circle", "cross", "square"):
        (training / label).rmdir()
    return root


def test_without_labels_there_is_no_baseline(tmp_path, capsys):
    pictures = without_labels(draw_folder(tmp_path / "pictures", train=36, validation=6))
    fit(pictures, dry_run=True, seeds=2)
    said = capsys.readouterr().out
    assert "captions are compared with the names of the classes. There is no baseline." in said
    commands = [line.split() for line in said.splitlines() if line.startswith("  g4i ")]
    assert [words[1] for words in commands] == ["train", "train", "evaluate", "release"]
    assert not any("baseline" in word for words in commands for word in words)


@pytest.mark.slow
def test_a_folder_without_labels_becomes_a_classifier(quick, tmp_path):
    pictures = without_labels(draw_folder(tmp_path / "pictures", train=36, validation=6))
    said = succeed("fit", pictures, {"output_dir": tmp_path / "out", "train_config": quick}).out
    assert "with captions" in said and "without captions" not in said and "difference" not in said
    assert (tmp_path / "out" / "report.html").is_file() and (tmp_path / "out" / "classifier" / "README.md").is_file()


def planned(capsys, *words, **options) -> list[list[str]]:
    """The commands of a dry run."""
    fit(*words, dry_run=True, **options)
    lines = capsys.readouterr().out.splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("  g4i ")]


@pytest.mark.parametrize(
    "captioner",
    [{}, {"captioner": "me/vlm"}, {"captioner": "http://127.0.0.1:9/v1", "captioner_model": "vlm", "minutes": 1}],
    ids=["none", "model", "server"],
)
def test_its_commands_are_understood_and_caption_training_images_alone(folder, tmp_path, captioner, capsys):
    pictures = draw_folder(tmp_path / "plain", captions=False, train=24, test=3) if captioner else folder
    commands = planned(capsys, pictures, output_dir=str(tmp_path / "out"), image_size=32, **captioner)
    assert [words[0] for words in commands] == ["caption"] * bool(captioner) + [
        "train",
        "train",
        "evaluate",
        "release",
    ]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fit.yaml").write_text(f"dataset_name: {pictures}\n")
    for words in commands:
        if words[0] in ("caption", "train"):
            parsed = parse_options(OPTIONS_OF[words[0]], words[1:])
            assert words[0] == "train" or parsed[0].caption_splits == ["train"]
    assert all("test" not in words for words in commands)


@pytest.mark.parametrize("name", ["./pictures", "../here/pictures", "pictures"])
def test_a_relative_folder_stays_the_same_folder_in_the_file(folder, tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    shutil.copytree(folder, tmp_path / "here" / "pictures")
    monkeypatch.chdir(tmp_path / "here")
    made = Fit(*build_options(OPTIONS_OF["fit"], {"dataset_name": name, "image_size": 32}), say=lambda line: None)
    made._write(made._options(made._opened()))
    data = parse_options(OPTIONS_OF["train"], ["--config", str(made.config)])[1]
    assert Path(data.dataset_name).resolve() == tmp_path / "here" / "pictures"


def test_the_same_command_keeps_its_decisions_and_another_decides_again(folder, tmp_path, monkeypatch):
    given = {"dataset_name": str(folder), "output_dir": str(tmp_path / "out"), "minutes": 1, "image_size": 32}
    steps = []
    for seconds, more in ((0.5, {}), (0.1, {}), (0.1, {"seeds": 3}), (0.1, {"minutes": 2})):
        monkeypatch.setattr(TrainingRun, "seconds_per_step", lambda self, seconds=seconds: seconds)
        made = Fit(*build_options(OPTIONS_OF["fit"], given | more), say=lambda line: None)
        made._write(made._options(made._opened()))
        steps.append(yaml.safe_load(made.config.read_text())["max_steps"])
    assert steps == [60, 60, 60, 600]


def test_a_module_of_the_users_own_is_imported_by_every_command_that_trains_or_opens_runs(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("G4I_HF_MODULE", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "students_of_mine.py").touch()
    (tmp_path / "o.yaml").write_text("module: ./students_of_mine.py\nmax_steps: 2\n")
    commands = planned(capsys, folder, train_config=str(tmp_path / "o.yaml"), image_size=32)
    assert len(commands) == 4 and "students_of_mine" in sys.modules
    for *_, option, module in commands:
        assert option == "--module" and Path(module).samefile(tmp_path / "students_of_mine.py")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captioner": "http://127.0.0.1:9/v1"}, "captioner_model"),
        ({"captioner_model": "vlm"}, "give its address with captioner"),
        ({"train_config": {"eval_split": "test"}}, "sets eval_split"),
        ({"train_config": {"learning_rat": 1}}, "unknown option 'learning_rat'.*learning_rate"),
        ({"train_config": {"mixup_alpha": -1}}, "mixup_alpha is -1"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(folder, tmp_path, options, message):
    if "train_config" in options:
        (tmp_path / "o.yaml").write_text(yaml.safe_dump(options["train_config"]))
        options = {"train_config": str(tmp_path / "o.yaml")}
    with pytest.raises(ValueError, match=message):
        fit(folder, output_dir=str(tmp_path / "out"), image_size=32, **options)
    assert not (tmp_path / "out").exists()


def test_the_file_of_choices_says_how_to_repeat_all(folder, tmp_path):
    """With what the file does not hold; what it holds is not given again, as that would win over the file."""
    given = {"dataset_name": str(folder), "caption_column": "told", "seeds": 3, "student": "resnet18", "minutes": 5}
    words = Fit(*build_options(OPTIONS_OF["fit"], given | {"output_dir": str(tmp_path)}))._repeat()
    said = " ".join(words)
    for part in ("--caption_column told", "--seeds 3", f"--train_config {tmp_path}/fit.yaml --overwrite true"):
        assert part in said
    assert "--student" not in said and "--minutes" not in said
    parse_options(OPTIONS_OF["fit"], words[2:])


def test_a_folder_in_place_of_the_classifier_is_said_before_training(folder, quick, tmp_path):
    classifier = tmp_path / "out" / "classifier"
    classifier.mkdir(parents=True)
    (classifier / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no student that was released"):
        fit(folder, output_dir=str(tmp_path / "out"), dry_run=True)
    write_manifest(classifier)
    assert fit(folder, output_dir=str(tmp_path / "out"), dry_run=True) is None


def test_what_is_not_there_or_cannot_be_read_is_said_by_a_dry_run(folder, tmp_path, capsys):
    with pytest.raises(OSError, match=r"text encoder .*nowhere/encoder.* cannot be loaded"):
        fit(folder, text_encoder=str(tmp_path / "nowhere" / "encoder"), dry_run=True)
    embedded = load_images(folder)["train"]
    embedded = embedded.add_column(
        "text_embeds", [[1.0, 0.0]] * len(embedded), feature=List(Value("float16"), length=2)
    )
    embedded.to_parquet(tmp_path / "embedded" / "train.parquet")
    fit(tmp_path / "embedded", text_encoder=str(tmp_path / "nowhere" / "encoder"), dry_run=True)
    pictures = shutil.copytree(folder, tmp_path / "pictures")
    next((pictures / "train").rglob("*.png")).write_bytes(b"no image")
    with pytest.raises(ValueError, match="no image.*--on_bad_images skip|cannot be decoded.*--on_bad_images skip"):
        fit(pictures, dry_run=True)
    capsys.readouterr()
    (tmp_path / "skip.yaml").write_text("on_bad_images: skip")
    fit(pictures, train_config=str(tmp_path / "skip.yaml"), dry_run=True)
    fit(pictures, on_bad_images="skip", dry_run=True)
    assert re.search("g4i evaluate .*--on_bad_images skip", capsys.readouterr().out)


def test_an_unreadable_image_that_is_skipped_is_no_validation_image(tmp_path, capsys):
    pictures = draw_folder(tmp_path / "pictures", train=18, validation=6)
    next((pictures / "validation").rglob("*.png")).write_bytes(b"no image")
    fit(pictures, output_dir=str(tmp_path / "out"), dry_run=True, on_bad_images="skip")
    assert "; 5 validation images." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--num_train_epochs", r"--minutes .*--train_config FILE, .*`num_train_epochs: VALUE`"),
        ("--epochs", "--minutes .*`num_train_epochs: VALUE`"),
        ("--max-steps", "--minutes .*`max_steps: VALUE`"),
        ("--lr", r"command line\. Other options of g4i train: --train_config FILE, .*`learning_rate: VALUE`"),
        ("--batch_size", "--train_config FILE, .*`per_device_train_batch_size: VALUE`"),
        ("--adam_beta1", "--train_config FILE, .*`adam_beta1: VALUE`"),
        ("--minute", "Did you mean '--minutes'"),
    ],
)
def test_an_option_of_train_leads_to_the_file_for_it(word, said):
    with pytest.raises(ValueError, match=said):
        parse_options(OPTIONS_OF["fit"], ["pictures", word, "3"])


def test_another_student_has_no_settings_of_the_default_one(folder, tmp_path):
    (tmp_path / "o.yaml").write_text("student: timm/mobilenetv3_small_050\npretrained: true\n")
    given = {"dataset_name": str(folder), "train_config": str(tmp_path / "o.yaml"), "image_size": 32}
    made = Fit(*build_options(OPTIONS_OF["fit"], given), say=lambda line: None)
    options = made._options(made._opened())
    assert "student_args" not in options and options["learning_rate"] == 1e-4


@pytest.mark.parametrize(
    ("seeds", "said"), [(1, "a single run: .* --seeds 3"), (3, r"95% interval \+\d.* over 3 seeds")]
)
def test_the_difference_has_an_interval_where_there_are_seeds(folder, tmp_path, seeds, said):
    lines = []
    given = {"dataset_name": str(folder), "output_dir": str(tmp_path), "seeds": seeds}
    made = Fit(*build_options(OPTIONS_OF["fit"], given), say=lines.append)
    made._opened()
    for seed in range(seeds):
        for name, accuracy in (("baseline", 0.5), ("with_captions", 0.6 + seed / 100)):
            (tmp_path / f"{name}-{seed}").mkdir()
            found = {"validation_accuracy": accuracy, "validation_suspicious_labels": 2}
            (tmp_path / f"{name}-{seed}" / "all_results.json").write_text(json.dumps(found))
    result = made._finished()
    assert result.gain == pytest.approx(0.1 + (seeds - 1) / 200) and (result.interval is None) == (seeds == 1)
    text = "\n".join(lines)
    assert re.search(said, text)
    # 3 of 6, and as near to 60% as 6 images come: 4 of them
    assert "on 6 validation images" in text and "50.0%  (18.8% to 81.2%)" in text and "(30.0% to 90.3%)" in text
    assert "Captions contradict 2 of these 6 labels.\nTo list the labels of a split that its own captions" in text
    assert f"\n  g4i check {folder} --text_encoder" in text


@pytest.mark.slow
def test_a_folder_becomes_a_classifier_a_report_and_a_file_of_choices(folder, quick, tmp_path):
    words = ({"output_dir": tmp_path / "out", "train_config": quick},)
    said = succeed("fit", folder, *words).out
    assert "a single run" in said and "95% interval over images" in said
    out = tmp_path / "out"
    chosen = yaml.safe_load((out / "fit.yaml").read_text())
    assert chosen["validation_fraction"] == 0.15 and chosen["supervision"] == "auto" and chosen["max_steps"] == 4
    assert (out / "report.html").is_file() and (out / "classifier" / "README.md").is_file()
    from transformers import AutoModelForImageClassification

    assert AutoModelForImageClassification.from_pretrained(out / "classifier").config.num_labels == 3
    for run_folder in ("baseline-0", "with_captions-0"):
        results = json.loads((out / run_folder / "all_results.json").read_text())
        assert "test_accuracy" not in results and results["validation_suspicious_labels"] == 0

    # The same command again trains nothing but a run that is gone
    finished = (out / "baseline-0" / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(out / "with_captions-0")
    assert "holds this very run, finished" in succeed("fit", folder, *words).out
    assert (out / "baseline-0" / "model.safetensors").stat().st_mtime_ns == finished
    assert (out / "with_captions-0" / "model.safetensors").is_file()

    # What it chose can be edited, and its first line says how to repeat all
    text = (out / "fit.yaml").read_text()
    (out / "fit.yaml").write_text(text.replace("max_steps: 4", "max_steps: 3"))
    succeed(*shlex.split(text.splitlines()[0].split("g4i ")[-1]))
    for run_folder in ("baseline-0", "with_captions-0"):
        assert json.loads((out / run_folder / "trainer_state.json").read_text())["global_step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [9, 73, 129])
def test_small_data_sets_become_classifiers(tmp_path, number):
    """The last batch of each epoch has one image, of 32 px, and the default student is a small ResNet."""
    pictures = draw_folder(tmp_path / "pictures", train=number, validation=6)
    config, out = tmp_path / "train.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump({"max_steps": 20, "use_cpu": True, "disable_tqdm": True}))
    result = fit(pictures, train_config=str(config), output_dir=str(out))
    assert number % default_batch_size(number) == 1 and result.gain is not None
    assert (out / "classifier" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_command_that_fails_ends_fit_with_what_to_do(folder, tmp_path):
    wrong = tmp_path / "train.yaml"
    wrong.write_text("max_steps: 4\nimage_size: 32\nlearning_rate: 1.0e+30\nlogging_steps: 1\n")
    done = run("fit", folder, {"output_dir": tmp_path / "out", "train_config": wrong})
    assert done.code == 2 and "NaN or infinite" in done.err
    assert done.errors()[-1].startswith("error: g4i train failed, see above.") and "resumes" in done.errors()[-1]


@pytest.mark.slow
def test_a_captioner_that_wants_a_key_leads_to_the_command_that_takes_one(folder, tmp_path, serve):
    pictures = shutil.copytree(folder, tmp_path / "pictures")
    (pictures / "train" / "metadata.jsonl").unlink()
    server = f"{serve('--token', 'secret').url}/v1"
    done = run("fit", pictures, {"output_dir": tmp_path / "out", "captioner": server, "captioner_model": "tiny"})
    assert done.code == 2 and "api_key_env" in done.err
    assert "run g4i caption yourself, with options such as --api_key_env" in done.errors()[-1]
