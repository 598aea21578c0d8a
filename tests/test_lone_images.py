"""Batches of a single image: refused before training where BatchNorm cannot train on them."""

import copy

import pytest
import torch
from students import aligned_model
from test_trainer import TEXT_DIM, arguments, rows, train

from g4i_hf.data.sampler import GlobalBatchSampler
from g4i_hf.training import AlignmentTrainer
from g4i_hf.training.lone_images import smallest_batch

REMEDY = "a batch of a single image.*--per_device_train_batch_size.*--dataloader_drop_last true"
BATCH = {"num_train_epochs": 1, "per_device_train_batch_size": 4}


@pytest.mark.parametrize("num_rows", range(1, 14))
@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_smallest_batch_is_that_of_the_samplers(num_rows, num_processes, drop_last):
    samplers = [
        GlobalBatchSampler(num_rows, 2, num_processes=num_processes, process_index=process, drop_last=drop_last)
        for process in range(num_processes)
    ]
    sizes = [len(batch) for sampler in samplers for batch in sampler]
    assert smallest_batch(samplers[0]) == min(sizes, default=2)


@pytest.mark.parametrize("weight", [0, 0.3])
def test_a_last_batch_of_one_is_refused_before_training(tmp_path, weight):
    model = aligned_model("vit", text_embed_dim=TEXT_DIM, projector_norm="batch")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=REMEDY):
        train(tmp_path, model, rows(9), align_weight=weight, **BATCH)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    trainer = train(tmp_path, model, rows(9), align_weight=weight, dataloader_drop_last=True, **BATCH)
    assert trainer.state.global_step == 2


@pytest.mark.parametrize("shorter", [{"max_steps": 2}, {"num_train_epochs": 0.5}])
def test_training_that_never_reaches_the_last_batch_is_not_refused(tmp_path, shorter):
    model = aligned_model("vit", text_embed_dim=TEXT_DIM, projector_norm="batch")
    assert train(tmp_path, model, rows(9), **BATCH | shorter).state.global_step == 2
    with pytest.raises(ValueError, match=REMEDY):
        train(tmp_path, model, rows(9), **BATCH | shorter | {"per_device_train_batch_size": 1})


def test_a_student_that_can_train_on_one_image_is_left_as_it_is(tmp_path):
    model = aligned_model("timm-resnet", text_embed_dim=TEXT_DIM)  # its maps have several pixels
    trainer = AlignmentTrainer(model, arguments(tmp_path, **BATCH), train_dataset=rows(9))
    drawing = model.student.register_forward_pre_hook(lambda *_: (torch.rand(1), None)[1])  # as dropout does
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    trainer.get_train_dataloader()
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    drawing.remove()
    trainer.train()
    assert trainer.state.global_step == 3


def test_no_image_is_read_for_a_student_that_normalises_over_no_batch(tmp_path):
    class Counted(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    read = []
    model = aligned_model("vit", text_embed_dim=TEXT_DIM)
    AlignmentTrainer(model, arguments(tmp_path, **BATCH), train_dataset=Counted(rows(9))).get_train_dataloader()
    assert not read


def test_a_student_with_maps_of_one_pixel_is_refused(tmp_path):
    model = aligned_model("timm-resnet", text_embed_dim=TEXT_DIM)
    data = [row | {"pixel_values": row["pixel_values"][:, :16, :16]} for row in rows(9)]
    with pytest.raises(ValueError, match=REMEDY):
        train(tmp_path, model, data, **BATCH)
