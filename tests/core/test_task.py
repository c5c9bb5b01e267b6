"""Batches and the one definition of the loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sharpkit import Batch, Supervised
from sharpkit.core.randomness import capture
from sharpkit.core.task import as_task
from sharpkit.errors import UsageError
from tests.core.support import batch, bits, net, sharp


@given(st.integers(1, 40), st.data())
def test_split_is_a_partition_into_parts_of_nearly_equal_size(size, data):
    pieces = data.draw(st.integers(1, size))
    whole = Batch(torch.arange(size), torch.arange(size) * 2, torch.arange(size) * 3)
    parts = whole.split(pieces)
    assert len(parts) == pieces
    assert {part.size for part in parts} <= {size // pieces, -(-size // pieces)}
    for column in ("inputs", "targets", "indices"):
        assert torch.equal(torch.cat([getattr(part, column) for part in parts]), getattr(whole, column))


@pytest.mark.parametrize(("size", "pieces"), [(7, 3), (8, 2), (3, 4), (1, 2), (9, 5)])
def test_split_cuts_as_tensor_split_does(size, pieces):
    parts = Batch(torch.arange(size), torch.arange(size)).split(pieces)
    expected = [part.tolist() for part in torch.arange(size).tensor_split(min(size, pieces))]
    assert [part.inputs.tolist() for part in parts] == [part.targets.tolist() for part in parts] == expected


def test_select_takes_rows_of_every_tensor_of_a_tree():
    tree = {"a": torch.arange(6.0), "b": [torch.arange(12).view(6, 2), (torch.arange(6), "label")]}
    picked = Batch(tree, torch.arange(6), torch.arange(10, 16)).select(torch.tensor([4, 0]))
    assert picked.inputs["a"].tolist() == [4, 0]
    assert picked.inputs["b"][0].tolist() == [[8, 9], [0, 1]]
    assert picked.inputs["b"][1][0].tolist() == [4, 0]
    assert picked.inputs["b"][1][1] == "label"
    assert picked.targets.tolist() == [4, 0]
    assert picked.indices.tolist() == [14, 10]
    assert picked.size == 2


def test_pack_is_a_copy_that_unpacks_to_the_same_batch(tmp_path):
    x, y = batch()
    original = Batch({"x": x.clone()}, y, torch.arange(8), randomness=capture(torch.device("cpu")))
    torch.save(original.pack(), tmp_path / "batch.pt")
    packed = original.pack()
    original.inputs["x"].zero_()  # a loader may reuse its memory
    for restored in (Batch.unpack(packed), Batch.unpack(torch.load(tmp_path / "batch.pt", weights_only=True))):
        assert torch.equal(restored.inputs["x"], x)
        assert torch.equal(restored.targets, y)
        assert torch.equal(restored.indices, torch.arange(8))
        assert bits(restored.randomness) == bits(original.randomness)


@pytest.mark.parametrize("given_as", [tuple, list, lambda parts: Batch(*parts)], ids=["tuple", "list", "Batch"])
def test_a_step_takes_tuples_lists_and_batches(given_as):
    outputs = sharp("sgd", net()).step(given_as(batch())).outputs
    assert torch.equal(outputs, net()(batch()[0]))


@pytest.mark.parametrize("wrong", [torch.zeros(3), (torch.zeros(3),), "text", {"inputs": 1}])
def test_a_step_refuses_anything_else(wrong):
    with pytest.raises(UsageError, match=rf"step\(\) was given {type(wrong).__name__}, allowed are"):
        sharp("sgd", net()).step(wrong)


@pytest.mark.parametrize("inputs", [torch.tensor(1.0), "text", []])
def test_a_batch_without_a_sample_axis_is_refused(inputs):
    with pytest.raises(UsageError, match="samples along the first axis"):
        _ = Batch(inputs, torch.zeros(1)).size


def test_a_loss_that_ignores_the_reduction_is_refused():
    x, y = batch()
    for loss in (lambda o, t, reduction: F.cross_entropy(o, t), lambda o, t, reduction: torch.ones(3)):
        with pytest.raises(UsageError, match=r'allowed is \(B,\).*reduction="none"'):
            sharp("sam", net(), loss=loss).step((x, y))


def test_losses_with_more_axes_are_averaged_over_them():
    x, _ = batch()
    targets = torch.randn(8, 3, dtype=torch.float64)
    task = Supervised(net(), F.mse_loss)
    outputs = task.outputs(Batch(x, targets))
    expected = ((outputs - targets) ** 2).sum(1) / 3
    torch.testing.assert_close(task.losses(outputs, Batch(x, targets)), expected, rtol=1e-14, atol=0)


def test_a_dict_of_inputs_is_given_as_keyword_arguments():
    class Sum(nn.Module):
        def forward(self, left, right):
            return left - right

    left, right = torch.ones(2, 3), torch.full((2, 3), 3.0)
    assert torch.equal(Supervised(Sum(), F.mse_loss).outputs(Batch({"right": right, "left": left}, None)), -2 * left)


def test_an_object_with_outputs_and_losses_is_the_task_itself():
    task = Supervised(net(), F.cross_entropy)
    assert as_task(net(), task) is task
    with pytest.raises(UsageError, match="loss is str"):
        as_task(net(), "cross_entropy")
