"""
A checkpoint is whole or is not resumed, knows its data, and survives a full disk. A run folder is resumed, or left
alone: nothing in it is lost without `--overwrite true`, and no two trainings share it.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import make
import numpy as np
import pytest
import torch
from caption_doors import WORKERS
from datasets import Dataset, DatasetDict, Image
from doors import spelled
from loaded import PYTHON, kill, real
from processes import happens
from students import aligned_model, lora_model
from tiny_training import StopAfter, arguments, rows, same
from torch import nn

from g4i_hf.data.dataset import CaptionedImages
from g4i_hf.data.transforms import train_transform
from g4i_hf.options import AugmentationArguments
from g4i_hf.running import main
from g4i_hf.training import AlignmentArguments, AlignmentTrainer
from g4i_hf.training.checkpoint import CheckpointError, OtherDataError, newest_checkpoint
from g4i_hf.training.run_folder import clear_run, open_run, resolved_options, write_options

ROOT = Path(__file__).parent.parent
SAVED = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "per_device_train_batch_size": 4}
STUDENT = '{"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2, "drop_rate": 0.1}'
OPTIONS = {"student": "vit_tiny_patch16_224", "student_args": STUDENT, "image_size": 32, "use_cpu": "true"}
OPTIONS |= SAVED | {"learning_rate": "1e-2", "save_total_limit": 10, "disable_tqdm": "true", "color_jitter": 0.3}
OPTIONS |= {
    "train_crop": "pad",
    "mixup_alpha": 0.2,
    "ema_decay": 0.9,
    "align_loss": "siglip",
    "repeated_augmentation": 2,
}


def split_of(change=lambda rows: rows) -> Dataset:
    embeds = make.unit(np.random.default_rng(0).normal(size=(12, 12)))
    split = make.rows(12, "abcde", caption=[f"caption {number}" for number in range(12)], text_embeds=embeds)
    return Dataset.from_list(change(split.to_list()), features=split.features)


def trainer_of(folder: Path, change=lambda rows: rows, **options) -> AlignmentTrainer:
    transform = train_transform(AugmentationArguments(image_size=48, train_crop="pad"))
    data = CaptionedImages(split_of(change), transform)
    return AlignmentTrainer(aligned_model("vit"), arguments(folder, **SAVED | options), data)


def command(folder: Path, run: Path, **options) -> list[str]:
    return spelled(("train", OPTIONS | {"dataset_name": folder / "data", "output_dir": run} | options))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """`data`, a run of 6 steps by command (`run`) and one from Python (`trainer`); read only."""
    folder = tmp_path_factory.mktemp("trained")
    DatasetDict(train=split_of().cast_column("image", Image())).save_to_disk(folder / "data")
    main(command(folder, folder / "run"))
    trainer_of(folder / "trainer", save_total_limit=10).train()
    return folder


@pytest.fixture
def interrupted(trained, tmp_path) -> Path:
    """The run of the command as a kill left it after its fourth step."""
    run = trained / tmp_path.name
    shutil.copytree(trained / "run", run)
    shutil.rmtree(run / "checkpoint-6")
    for name in ("all_results.json", "model.safetensors", "trainer_state.json"):
        (run / name).unlink()
    return run


def assert_same_weights(run: Path, other: Path) -> None:
    for name in ("model.safetensors", "ema.safetensors"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def changed(rows: list[dict], row: int, **values) -> list[dict]:
    return [{**each, **values} if number == row else each for number, each in enumerate(rows)]


DATA, ORDER = "The data is not what .*trainer was trained on. What differs: ", "in another order: "
# What is said, change of the rows, options
CHANGES = {
    f"{DATA}labels of 1 image. Bring back that data": (lambda rows: changed(rows, 3, label=0), {}),
    f"{DATA}text embeddings of 1 ": (lambda rows: changed(rows, 0, text_embeds=rows[1]["text_embeds"]), {}),
    f"{DATA}contents of 1 image": (lambda rows: changed(rows, 2, image=rows[4]["image"]), {}),
    f"{DATA}the order of the images": (lambda rows: [*rows[1:], rows[0]], {}),
    rf"{ORDER}seed \(42 there, 7 here\)": (list, {"seed": 7}),
    rf"{ORDER}per_device_train_batch_size x processes \(4 there, 6": (list, {"per_device_train_batch_size": 6}),
}


@pytest.mark.parametrize("message", CHANGES)
def test_changed_data_is_refused_by_what_changed(trained, tmp_path, message):
    change, options = CHANGES[message]
    trainer = trainer_of(tmp_path, change, **options)
    with pytest.raises(OtherDataError, match=message):
        trainer.train(resume_from_checkpoint=str(trained / "trainer" / "checkpoint-2"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGES = [
    ("model.safetensors", flip_a_bit, "is not what was written"),
    ("optimizer.pt", lambda path: os.truncate(path, 100), "has 100 bytes of"),
    ("scheduler.pt", Path.unlink, "is missing"),  # Trainer would go on with a fresh one
    ("checkpoint.json", Path.unlink, "which is written last, is missing"),  # a copy that was interrupted
    ("checkpoint.json", lambda path: path.write_text('{"data": {}, "order": {}}'), "damaged"),
]


@pytest.mark.parametrize("name, spoil, told", DAMAGES)
def test_a_damaged_checkpoint_is_left_out(interrupted, caplog, name, spoil, told):
    spoil(interrupted / "checkpoint-4" / name)
    assert newest_checkpoint(interrupted) == str(interrupted / "checkpoint-2")
    assert f"checkpoint-4 is not whole and is left out: {'its ' * (name == 'checkpoint.json')}{name}" in caplog.text
    assert told in caplog.text


def test_a_resume_under_other_versions_says_which_and_records_both(trained, interrupted, caplog):
    file = interrupted / "lineage.json"
    known = json.loads(file.read_text())
    now = known["versions"]["pillow"]
    known["versions"]["pillow"] = "1.1.7"
    file.write_text(json.dumps(known))
    main(command(trained, interrupted))
    assert_same_weights(interrupted, trained / "run")
    assert f"resumes under other versions: pillow (1.1.7 before, {now} now). Its weights can differ" in caplog.text
    assert json.loads(file.read_text())["versions"] == known["versions"] | {"pillow": f"1.1.7, {now}"}


@contextlib.contextmanager
def no_file_larger_than(size: int):
    """The kernel refuses to write on, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(trained, tmp_path):
    shutil.copytree(trained / "trainer" / "checkpoint-2", tmp_path / "checkpoint-2")
    shutil.copy(trained / "trainer" / "data_record.parquet", tmp_path)
    size = (tmp_path / "checkpoint-2" / "optimizer.pt").stat().st_size - 1
    with no_file_larger_than(size), pytest.raises(CheckpointError) as error:
        trainer_of(tmp_path).train(resume_from_checkpoint=True)
    message = str(error.value)
    assert message.startswith("checkpoint-4 could not be written: ") and "MiB are free" in message
    assert f"{tmp_path}/checkpoint-2 (" in message and "is whole: the same command goes on from it" in message
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoint-2", "data_record.parquet"}, "nothing half written takes room"
    trainer = trainer_of(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 6
    ends = pytest.raises(CheckpointError, match="The weights could not be written.*checkpoint-6 .*whole")
    with no_file_larger_than(1000), ends:
        trainer.save_run()


def options_of(folder, **kwargs) -> dict:
    return resolved_options((AlignmentArguments(str(folder), **kwargs),), folder)


def test_tokens_and_what_depends_on_the_machine_are_not_recorded(tmp_path):
    recorded = options_of(tmp_path, hub_token="hf_secret", use_cpu=True)
    assert "hf_secret" not in str(recorded)
    assert not {"hub_token", "use_cpu", "dataloader_pin_memory"} & set(recorded)


def test_a_folder_that_is_no_run_or_another_run_is_left_alone(tmp_path, caplog):
    caplog.set_level("INFO", logger="g4i_hf")
    options = options_of(tmp_path) | {"dataset_name": "one"}
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(ValueError, match="checkpoint-5, but no run of ours.*--overwrite"):
        open_run(tmp_path, options, overwrite=False)
    write_options(tmp_path, options)
    with pytest.raises(ValueError, match="none that is whole; of the newest, checkpoint-5: its checkpoint.json"):
        open_run(tmp_path, options, overwrite=False)
    (tmp_path / "notes.txt").touch()
    assert open_run(tmp_path, options, overwrite=True) == ("fresh", None)
    clear_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"], "a run has not written it"
    write_options(tmp_path, options)
    same = {"dataloader_num_workers": 2, "save_steps": 3, "save_total_limit": 1, "torch_compile": True}
    same |= {"text_encoder_batch_size": 8, "on_bad_images": "skip"}
    assert open_run(tmp_path, options | same, overwrite=False) == ("fresh", None)
    assert "has written no checkpoint: it begins anew" in caplog.text
    for name, value in (("dataset_name", "other"), ("learning_rate", 0.5), ("eval_steps", 5)):
        with pytest.raises(ValueError, match=f"a run with other options: {name} .*there.*--overwrite"):
            open_run(tmp_path, options | {name: value}, overwrite=False)


@pytest.mark.slow
def test_a_second_training_in_the_folder_is_refused(trained, tmp_path, capsys):
    """The lock dies with its process, though the process that reads images may live on for a while."""
    run, long = tmp_path / "run", {"max_steps": 100_000, "dataloader_num_workers": 1}
    with (tmp_path / "log").open("w") as log:
        words = [PYTHON, "-m", "g4i_hf", *command(trained, run, **long)]
        process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log)
    try:
        assert happens((run / "checkpoint-2").exists, process), (tmp_path / "log").read_text()[-3000:]
        for more in ({}, {"overwrite": "true"}):
            with pytest.raises(SystemExit):
                main(command(trained, run, **long | more))
            said = f"error: Another training writes to {run} (process {real(process.pid)}). Wait until"
            assert capsys.readouterr().err.startswith(said)
    finally:
        kill(process)
    main(command(trained, run, **long | {"max_steps": 4, "overwrite": "true"}))
    assert (run / "all_results.json").is_file() and not list(run.glob(".*"))


# --- Killed or stopped, and resumed to the same bits -----------------------------------------------------------------

# What is called, while the second checkpoint is written, when the process ends
MOMENTS = {
    "no average yet": "g4i_hf.training.callbacks:EmaCallback.save",
    "weights written": "g4i_hf.training.trainer:AlignmentTrainer._save_optimizer_and_scheduler",
    "not yet renamed": "g4i_hf.training.saving.finalize_checkpoint",
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_one_process_killed_at_any_moment(trained, tmp_path, capsys, moment):
    run, code = tmp_path / "run", "from g4i_hf.running import main; main(sys.argv[1:])"
    killed = [PYTHON, WORKERS / "deadly.py", MOMENTS[moment], "2", code, *command(trained, run)]
    assert subprocess.run(killed, cwd=trained).returncode == -signal.SIGKILL
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-2"]
    main(command(trained, run))
    assert "Resuming from" in capsys.readouterr().out and not list(run.glob(".tmp*"))
    assert_same_weights(run, trained / "run")


TIMMS = {"optim": "timm:lamb", "layer_decay": 0.7, "weight_decay": 0.1, "warmup_steps": 2}
TIMMS |= {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5}}


@pytest.mark.parametrize(
    ("student", "options", "workers"),
    [
        pytest.param(aligned_model, {}, 2, id="workers"),
        pytest.param(aligned_model, TIMMS, 0, id="timm's optimizer"),
        pytest.param(aligned_model, {"optim": "timm:nadamw"}, 0, id="more than tensors", marks=pytest.mark.slow),
        pytest.param(lora_model, {"ema_decay": 0.5}, 0, id="adapters, average", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path, student, options, workers):
    """
    In the middle of an epoch; dropout draws the same, though workers take from torch's randomness too. The resumed run
    saves at its own steps.
    """
    options = options | SAVED | {"save_steps": 3}

    def trained(run: str, *callbacks, workers: int = workers, resume: bool = False, **more) -> list[dict]:
        torch.manual_seed(0)
        model = student("timm-vit")
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
        args = arguments(tmp_path / run, **options | more, dataloader_num_workers=workers)
        trainer = AlignmentTrainer(model, args, rows(8, classes=3), callbacks=list(callbacks))
        trainer.train(resume or None)
        return [each.state_dict() for each in (trainer.model, trainer.ema and trainer.ema.averaged) if each]

    whole = trained("whole", workers=0)
    trained("parts", StopAfter(3))
    resumed = trained("parts", resume=True, save_steps=5, save_total_limit=3)
    assert all(map(same, resumed, whole)) and len(resumed) == len(whole)
    assert (tmp_path / "parts" / "checkpoint-5").is_dir()
