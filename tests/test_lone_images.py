"""Batches of a single image: refused before training where a BatchNorm of vectors cannot train on them."""

import copy

import pytest
import torch
from students import aligned_model
from test_trainer import TEXT_DIM, rows, train
from torch import nn

from g4i_hf.data.dataset import GlobalBatchSampler
from g4i_hf.training.train_batches import check_batches_of_one

REMEDY = "a batch of a single image.*--per_device_train_batch_size.*--dataloader_drop_last true"
BATCH = {"num_train_epochs": 1, "per_device_train_batch_size": 4}


@pytest.mark.parametrize("num_rows", range(1, 14))
@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_what_is_refused_are_the_samplers_with_a_batch_of_one(num_rows, num_processes, drop_last):
    samplers = [
        GlobalBatchSampler(num_rows, 2, num_processes=num_processes, process_index=process, drop_last=drop_last)
        for process in range(num_processes)
    ]
    is_refused = False
    try:
        check_batches_of_one(nn.BatchNorm1d(2), samplers[0], len(samplers[0]))
    except ValueError:
        is_refused = True
    assert is_refused == (1 in [len(batch) for sampler in samplers for batch in sampler])
    check_batches_of_one(nn.LayerNorm(2), samplers[0], len(samplers[0]))


def test_a_last_batch_of_one_is_refused_before_training(tmp_path):
    model = aligned_model("vit", text_embed_dim=TEXT_DIM, projector_norm="batch")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=REMEDY):
        train(tmp_path, model, rows(9), **BATCH)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    trainer = train(tmp_path, model, rows(9), dataloader_drop_last=True, **BATCH)
    assert trainer.state.global_step == 2


@pytest.mark.parametrize("shorter", [{"max_steps": 2}, {"num_train_epochs": 0.5}])
def test_training_that_never_reaches_the_last_batch_is_not_refused(tmp_path, shorter):
    model = aligned_model("vit", text_embed_dim=TEXT_DIM, projector_norm="batch")
    assert train(tmp_path, model, rows(9), **BATCH | shorter).state.global_step == 2
    with pytest.raises(ValueError, match=REMEDY):
        train(tmp_path, model, rows(9), **BATCH | shorter | {"per_device_train_batch_size": 1})


def test_a_student_that_can_train_on_one_image_is_not_refused(tmp_path):
    model = aligned_model("timm-resnet", text_embed_dim=TEXT_DIM)  # its maps have several pixels
    assert train(tmp_path, model, rows(9), **BATCH).state.global_step == 3
