"""Runs on a CUDA device: as on a CPU, compiled or not, replayed from graphs or not, in half precision or not."""

import pytest
import torch

from sharpkit import RECIPES
from sharpkit.data.augment import Augment, Normalise
from sharpkit.data.samples import Samples
from sharpkit.engine.session import build
from tests.engine import support
from tests.engine.support import small

DEVICE = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

STEPS = 12  # two epochs, each with a smaller last batch
UNIONS = ("sampa+asam", "ae-sam+ssam-f", "msam+vasso:rho=0.1")


def trained(folder, **options):
    """Return a session after its steps, with the losses that they reported."""
    torch._dynamo.reset()
    session = build(small(folder, val_frac=0.0, lr=0.01, **{"device": DEVICE, **options}))
    session.model.train()
    reports = []
    for epoch in range(STEPS // session.steps_per_epoch):
        reports += [session.optimizer.step((b.inputs, b.targets, b.indices)) for b in session.loader.epoch(epoch)]
    return session, torch.stack([report.loss for report in reports]).cpu(), reports


def same(first, second, atol):
    """Compare weights and losses."""
    for a, b in zip(first[0].model.state_dict().values(), second[0].model.state_dict().values(), strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=0, atol=atol)
    torch.testing.assert_close(first[1], second[1], rtol=0, atol=atol)


@pytest.fixture
def still(monkeypatch, tmp_path):
    """A folder for models without dropout, whose masks differ from device to device."""
    monkeypatch.setattr(support, "MODEL", support.MODEL.replace("Dropout(0.4)", "Dropout(0.0)"))
    return tmp_path


@pytest.mark.parametrize("opt", ["sgd", "sam", "sampa", "asam"])
def test_a_gpu_takes_the_steps_of_a_cpu(still, opt):
    same(trained(still, opt=opt, device="cpu"), trained(still, opt=opt), atol=2e-3)


@pytest.mark.parametrize("opt", [*RECIPES, *UNIONS])
def test_passes_that_are_replayed_are_those_of_compiled_code(tmp_path, opt):
    """With dropout, too: graphs take the random state that the step sets. No pass is left out of the graphs."""
    torch._dynamo.utils.counters.clear()
    replayed = trained(tmp_path, opt=opt, compile=True, cuda_graphs=True)
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0
    same(trained(tmp_path, opt=opt, compile=True), replayed, atol=1e-4)
    outputs = [report.outputs for report in replayed[2]]
    assert all(bool(out.isfinite().all()) for out in outputs)
    assert len({out.data_ptr() for out in outputs}) == len(outputs)


@pytest.mark.parametrize("graphs", [False, True])
def test_radius_and_rate_compile_nothing_anew(tmp_path, graphs):
    options = {"compile": True, "cuda_graphs": graphs, "rho_sched": "with-lr", "opt": "sam"}
    session, _, _ = trained(tmp_path, **options)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert before > 0
    for batch in session.loader.epoch(5):
        session.scheduler.step()
        session.optimizer.step((batch.inputs, batch.targets, batch.indices))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


@pytest.mark.parametrize("opt", ["sampa", "sampa+asam"])
def test_two_streams_take_the_steps_of_one(still, opt):
    same(trained(still, opt=opt), trained(still, opt=opt, sampa_streams=True), atol=1e-4)


@pytest.mark.parametrize("opt", [*RECIPES, *UNIONS])
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_is_near_single(still, opt, amp):
    """Gates by norms and masks by ranks may decide otherwise, so only the first loss and finiteness are sure."""
    session, losses, reports = trained(still, opt=opt, amp=amp)
    _, plain, _ = trained(still, opt=opt)
    assert losses.isfinite().all()
    assert all(bool(p.isfinite().all()) for p in session.model.parameters())
    torch.testing.assert_close(losses[0], plain[0], rtol=0, atol=0.03)
    assert {p.dtype for p in session.model.parameters()} == {torch.float32}
    assert sum(report.dropped for report in reports) <= (0 if amp == "bf16" else 3)


def test_batches_are_made_on_the_device_and_are_those_of_a_cpu():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 16, 16), generator=generator, dtype=torch.uint8)
    here = Samples(pixels, torch.arange(64) % 3, torch.arange(64), Normalise((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    there = here.to(torch.device(DEVICE))
    plan = [(torch.arange(32), 5), (torch.arange(32, 64), 6)]
    augment = Augment("cutout", pad=2, flip=True, cutout=4)
    for a, b in zip(here.batches(plan, augment), there.batches(plan, augment), strict=True):
        assert b.inputs.device.type == DEVICE
        torch.testing.assert_close(a.inputs, b.inputs.cpu(), rtol=0, atol=1e-6)
        assert torch.equal(a.targets, b.targets.cpu())
