"""Training from streams: killed and resumed, on several processes, and what is refused."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from streams import CLASSES, save_parquet, save_webdataset
from students import aligned_model
from tiny_training import Spoil, arguments
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from g4i_hf.data.images import BadRowError
from g4i_hf.data.stream_batches import StreamedImages
from g4i_hf.options import DataArguments, RunArguments
from g4i_hf.training import AlignmentTrainer
from g4i_hf.training.arguments import AlignmentArguments
from g4i_hf.training.callbacks import NonFiniteLoss
from g4i_hf.training.streamed_run import load_streamed

WORKER = Path(__file__).parent / "workers" / "kill_and_resume.py"
SIZES = [9, 1, 14, 6]  # 30 rows: 4 steps an epoch
IN_ARCHIVES = ["--text_embeds_column", "json.vector", "--caption_weight_column", "json.weight", "--max_steps", "12"]
STREAMED = ["--streaming", "true", "--require_labels", "false"]
STREAMED += ["--align_text_bank", "0", "--supervision", "none", "--align_warmup_epochs", "0"]  # others need all rows


def class_file(folder: Path) -> str:
    path = folder / "classes.txt"
    path.write_text("\n".join(CLASSES) + "\n")
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, block, accumulation",
    [("parquet", 5, 1), ("parquet", 0, 3), ("webdataset", 5, 1), ("webdataset", 0, 3), ("at hand", 0, 3)],
)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, kind, block, accumulation):
    """Killed in the middle of an epoch, and resumed from a checkpoint; with workers, also of rows at hand."""
    if kind != "webdataset":
        save_parquet(tmp_path / "data", SIZES)
        more = []
    else:
        save_webdataset(tmp_path / "data", SIZES)
        more = [*IN_ARCHIVES, "--class_names_file", class_file(tmp_path)]
    streamed = [*STREAMED, "--streaming", str(kind != "at hand").lower()]
    more += [*streamed, "--shuffle_buffer_size", str(block), "--gradient_accumulation_steps", str(accumulation)]
    more += ["--max_steps", "12", "--dataloader_num_workers", str(int(accumulation == 3))]
    command = [sys.executable, str(WORKER), str(tmp_path), str(tmp_path / "data"), "step:2", "step:11", "--", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [outcome["killed"] for outcome in found] == [True, True]
    assert [outcome["went_on_from"] for outcome in found] == [False, True]
    for outcome in found:
        assert outcome["resumed"] == 0, outcome["log"]
        assert outcome["same"] == {"model.safetensors": True, "ema.safetensors": True}


@pytest.mark.parametrize("data", ["parquet", "archives"])
def test_labels_of_a_stream_are_checked_as_they_come(data_of, data):
    """Rows 0 to 6, of which the last is unlabelled; the third class is number 2."""
    stream = loaded(data_of[data], max_steps=3)[0]["train"]

    def labels(class_names: list[str], require_labels: bool) -> list[int]:
        images = StreamedImages(stream, pil_to_tensor, class_names=class_names, require_labels=require_labels)
        loader = DataLoader(images, batch_sampler=images.batches(7, shuffle=False), num_workers=1, collate_fn=list)
        return [item["labels"] for item in next(iter(loader))]

    assert labels(CLASSES, False) == [0, 1, 2, 0, 1, 2, -100]
    with pytest.raises(BadRowError, match=r"^The image 'id-6' is unlabelled \((None|-1)\).*--require_labels false"):
        labels(CLASSES, True)
    with pytest.raises(BadRowError, match=r"^The image 'id-2' has the label 2, but there are 2 classes \(0 to 1\)"):
        labels(CLASSES[:2], False)


def test_images_of_a_step_that_is_no_number_are_named(data_of, tmp_path):
    """Five rows a step: the second one ends training."""
    stream = loaded(data_of["parquet"])[0]["train"]
    options = {"train_sampling_strategy": "sequential", "per_device_train_batch_size": 5, "logging_steps": 1}
    options |= {"num_train_epochs": 1, "dataloader_num_workers": 1}
    trainer = AlignmentTrainer(
        aligned_model("timm-resnet", text_embed_dim=8),
        arguments(tmp_path, **options),
        train_dataset=StreamedImages(stream, lambda image: pil_to_tensor(image) / 255),
        callbacks=[Spoil(2, "projector")],
    )
    with pytest.raises(
        NonFiniteLoss, match="In step 2 of 6 the term loss_align.*Its images: id-5, id-6, id-7, id-8, id-9"
    ):
        trainer.train()


# --- What is refused ------------------------------------------------------------------------------------------------

REFUSED = {
    "align_text_bank": {"align_text_bank": 5},
    "align_center": {"align_center": True},
    "supervision": {"supervision": "auto"},
    "label_noise": {"label_noise": "soften"},
    "label_noise_rate": {"label_noise_rate": 0.2},
    "long_tail_factor": {"long_tail_factor": 10.0},
    "label_fraction": {"label_fraction": 0.5},
    "unlabelled": {"unlabelled": "drop"},
    "caption_control": {"caption_control": "shuffle"},
    "repeated_augmentation": {"repeated_augmentation": 3},
    "on_bad_images": {"on_bad_images": "skip"},
    "dataloader_drop_last": {"dataloader_drop_last": True},
    "class_weights": {"class_weights": "balanced"},
    "align_captions": {"align_captions": "all"},
}


@pytest.fixture(scope="module")
def data_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    save_parquet(folder / "parquet", SIZES)
    save_webdataset(folder / "archives", SIZES)
    names = {"text_embeds_column": "json.vector", "class_names_file": class_file(folder)}
    return {
        "parquet": DataArguments(str(folder / "parquet")),
        "archives": DataArguments(str(folder / "archives"), **names),
        "without embeddings": DataArguments(str(folder / "archives"), class_names_file=names["class_names_file"]),
        "without names": DataArguments(str(folder / "archives")),
    }


def loaded(data: DataArguments, **options):
    run = {name: options.pop(name) for name in list(options) if name in RunArguments.__dataclass_fields__}
    args = AlignmentArguments("nowhere", use_cpu=True, report_to="none", **options)
    return load_streamed(RunArguments(streaming=True, require_labels=False, **run), data, args)


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_all_rows_is_refused(data_of, name):
    with pytest.raises(ValueError, match=rf"^{name} is .*stream"):
        loaded(data_of["parquet"], **REFUSED[name])


def test_splits_of_a_stream_are_opened(data_of):
    splits, id2label, dim = loaded(data_of["parquet"])
    assert (splits["train"].num_rows, len(splits["validation"])) == (30, 6)
    assert list(id2label.values()) == CLASSES and dim == 8
    splits, id2label, dim = loaded(data_of["archives"], max_steps=3)
    assert (splits["train"].num_rows, len(splits["validation"])) == (None, 6)
    assert list(id2label.values()) == CLASSES and dim == 8
    assert loaded(data_of["without embeddings"], max_steps=3, align_weight=0)[2] is None


@pytest.mark.parametrize(
    "data, options, message",
    [
        ("without names", {"max_steps": 3}, "Name them in a file"),
        ("without embeddings", {"max_steps": 3}, "align_weight is 0.3, but the stream has no column 'text_embeds'"),
        ("archives", {}, "max_steps is -1, but the number of rows"),
        ("archives", {"max_steps": 3, "save_strategy": "epoch"}, "save_strategy is epoch, but"),
        ("archives", {"max_steps": 3, "align_off_epochs": 1.0}, "align_off_epochs is 1.0, but"),
        ("archives", {"max_steps": 3, "lr_scheduler_type": "timm:cosine"}, "lr_scheduler_type is timm:cosine, which"),
    ],
)
def test_what_a_stream_does_not_tell_is_asked_for(data_of, data, options, message):
    with pytest.raises(ValueError, match=message):
        loaded(data_of[data], **options)


@pytest.mark.parametrize("data", ["parquet", "archives"])
def test_texts_of_a_batch_without_captions_have_the_shape_of_others(data_of, data):
    """Else processes could not exchange them; in JSON it is only known from other rows."""
    stream = loaded(data_of[data], max_steps=3)[0]["train"]
    images = StreamedImages(stream, pil_to_tensor)
    batches = list(islice(images.batches(5, shuffle=False), 1)) + list(islice(images.batches(1, shuffle=False), 1))
    first, alone = (images.__getitems__(batch) for batch in batches)
    assert [item["text_embeds"].shape for item in first + alone] == [(1, 8)] * 6
    assert not alone[0]["caption_weight"].any()
