"""Steps of sharded models that were interrupted, and ranks without samples."""

import pytest
from torch.distributed.fsdp import FSDPModule

from sharpkit.core.task import Batch
from sharpkit.errors import UsageError
from tests.core.support import bits, gradient, net, numbered, sharp
from tests.distributed.launch import on_ranks
from tests.distributed.test_sharded import Run, alike, cut, whole

GOES_ON = hasattr(FSDPModule, "reset_iter_state")


def interrupted(comm):
    """Weights where steps raised inside of a forward and of a backward pass, on all ranks, and were taken again."""
    run = Run("sampa", comm)
    run.steps(2, end=2)

    def fail(*_):
        raise ArithmeticError

    for register in (run.model[2].register_forward_pre_hook, run.model[1].register_full_backward_hook):
        handle = register(fail)
        with pytest.raises(ArithmeticError):
            run.steps(2, start=2, end=3)
        handle.remove()
    run.steps(2, start=2)
    return run.found()


@pytest.mark.slow
@pytest.mark.skipif(not GOES_ON, reason="this torch cannot reset an interrupted pass")
def test_a_step_that_raised_leaves_no_trace(tmp):
    expected = Run("sampa")
    expected.steps(2)
    for value in on_ranks(2, interrupted, folder=tmp / "interrupted"):
        alike(value, expected.found())


def lost(comm):
    """What is said where a step raised and torch cannot reset the pass."""
    run = Run("sampa", comm)
    with pytest.MonkeyPatch.context() as patch:
        if GOES_ON:
            patch.delattr(FSDPModule, "reset_iter_state")
        handle = run.model[2].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.steps(2, end=1)
        handle.remove()
        with pytest.raises(UsageError) as caught:
            run.steps(2, end=1)
    return str(caught.value)


@pytest.mark.slow
def test_a_torch_that_cannot_go_on_after_a_step_that_raised_is_told(tmp):
    for said in on_ranks(2, lost, folder=tmp / "lost"):
        assert "was interrupted" in said
        assert "load their last state_dict" in said


def without_samples(comm):
    """The gradient of a batch that is all on rank 0, and the buffers of rank 1."""
    model = cut(net("batch-norm"))
    opt = sharp("sam", model, comm=comm)
    x, y, _ = numbered(3)
    rows = slice(3 if comm.rank == 0 else 0)
    grads = opt.gradient(Batch(x[rows], y[rows], parts=[3, 0]))
    return whole(grads), [b.clone() for b in model.buffers()]


@pytest.mark.slow
def test_a_rank_without_samples_takes_part_and_keeps_its_buffers(tmp):
    model = net("batch-norm")
    x, y, _ = numbered(3)
    expected = gradient(model, x, y)
    before = [b.clone() for b in model.buffers()]
    for grads, buffers in on_ranks(2, without_samples, folder=tmp / "without"):
        alike(grads, expected)
        assert bits(buffers) == bits(before)
