"""What the methods that count epochs share: identities with those that do not, resuming, and what they must be told."""

import pytest
import torch
from torch.nn import functional as F

from sharpkit.errors import UsageError
from tests.core.support import batch, bits, everything, net, numbered, sharp

BASES = {
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01),
}
KINDS = ["mlp", "batch-norm", "dropout"]


def end(rule, kind, base="momentum", steps=10):
    """The model's state after some steps in float32, as bytes; an epoch is four of them."""
    model = net(kind, dtype=torch.float32)
    opt = sharp(rule, model, BASES[base](model.parameters()))
    torch.manual_seed(1)
    for t in range(steps):
        opt.step(numbered(8 - t % 4, seed=t, dtype=torch.float32))
    return bits(model.state_dict())


WHOLE = [
    *("ssam-f", "ssam-f:mask=random", "ssam-f:structure=filter", "ssam-f:structure=tensor:tm=2", "ssam-f:tm=0"),
    *("ssam-d", "ssam-d:drop=sharp", "ssam-d:structure=filter", "ssam-d:tm=0"),
]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", WHOLE)
def test_a_mask_of_everything_is_sam_bit_for_bit(rule, kind, base):
    assert end(f"{rule}:sparsity=0:rho=0.2", kind, base) == end("sam:rho=0.2", kind, base)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["ssam-f", "ssam-f:mask=random", "ssam-d", "ssam-d:tm=0:drop=random"])
def test_a_mask_of_nothing_is_the_base_optimizer_bit_for_bit(rule, kind, base):
    assert end(f"{rule}:sparsity=1:rho=0.2", kind, base) == end("sgd", kind, base)


SILENT = [
    *("saf:lam=0:start=0:lag=1", "saf", "saf:start=2:lag=1", "saf:start=0:lag=3"),
    *("mesa:lam=0:start=0", "mesa", "mesa:start=2"),
]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", SILENT)
def test_a_loss_that_is_weightless_or_not_there_yet_is_the_base_optimizer_bit_for_bit(rule, kind, base):
    """Epochs 0, 1 and 2 are run; adding starts after `start`, and needs what was recorded `lag` epochs before."""
    assert end(rule, kind, base) == end("sgd", kind, base)


@pytest.mark.parametrize("rule", ["saf:start=0:lag=1", "saf:start=1:lag=1", "saf:start=0:lag=2", "mesa:start=0"])
def test_once_it_is_there_it_is_felt(rule):
    assert end(rule, "mlp") != end("sgd", "mlp")
    assert end(rule, "mlp", steps=4) == end("sgd", "mlp", steps=4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sam+saf:rho=0.2:lam=0:start=0:lag=1", "sam:rho=0.2"),
        ("sam+saf:rho=0:start=0:lag=1", "saf:start=0:lag=1"),
        ("sam+mesa:rho=0.2:lam=0:start=0", "sam:rho=0.2"),
        ("sampa+mesa:rho=0.2:mesa.lam=0:start=0", "sampa:rho=0.2"),
        ("sampa+ssam-f:rho=0.2:sparsity=0", "sampa:rho=0.2"),
        ("msam+saf:rho=0.2:m=1:start=0:lag=1", "sam+saf:rho=0.2:start=0:lag=1"),
    ],
)
def test_unions_come_apart(one, other):
    assert end(one, "dropout") == end(other, "dropout")


RESUMED = [
    *("ssam-f", "ssam-f:mask=random:tm=2", "ssam-f:structure=filter:tm=0", "ssam-d", "ssam-d:drop=random:tm=2"),
    *("saf:start=0:lag=1", "saf:start=0:lag=2", "mesa:start=0:decay=0.5", "sam+saf:start=0:lag=1"),
    *("sampa+ssam-f:rho=0.2", "sampa+mesa:start=0:decay=0.5:rho=0.2"),
]


@pytest.mark.parametrize("stop", [2, 4, 6, 9])
@pytest.mark.parametrize("rule", RESUMED)
def test_a_run_goes_on_in_the_middle_of_an_epoch(rule, stop, tmp_path):
    def steps(opt, first, last):
        for t in range(first, last):
            torch.manual_seed(t)  # the global stream is the caller's to restore
            opt.step(numbered(seed=t, dtype=torch.float32))

    model = net("dropout", dtype=torch.float32)
    opt = sharp(rule, model)
    steps(opt, 0, stop)
    torch.save({"model": model.state_dict(), "optimizer": opt.state_dict()}, tmp_path / "ckpt.pt")
    steps(opt, stop, 13)

    resumed = net("dropout", seed=9, dtype=torch.float32)
    again = sharp(rule, resumed)
    state = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    resumed.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    steps(again, stop, 13)
    assert everything(resumed, again) == everything(model, opt)


@pytest.mark.parametrize("place", ["forward", "base"])
@pytest.mark.parametrize("rule", ["ssam-f", "ssam-d", "saf:lag=1:start=0", "mesa:start=0:decay=0.5"])
def test_a_step_that_raises_leaves_nothing_behind(rule, place):
    """Neither a mask, nor a record, nor a teacher that has moved."""
    model = net("batch-norm")
    opt = sharp(rule, model)
    for t in range(4):  # the next step is the first of an epoch
        opt.step(numbered(seed=t))
    before = everything(model, opt)
    if place == "forward":
        model[-1].register_forward_hook(lambda *_: 1 / 0)
    else:
        opt.base.step = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        opt.step(numbered(seed=4))
    assert everything(model, opt) == before


@pytest.mark.parametrize(
    ("rule", "missing"),
    [
        *(("ssam-f", "steps_per_epoch"), ("ssam-d", "steps_per_epoch"), ("ssam-d", "total_steps")),
        *(("saf", "steps_per_epoch"), ("saf", "samples"), ("mesa", "steps_per_epoch")),
    ],
)
def test_what_must_be_known_is_asked_for_at_construction(rule, missing):
    with pytest.raises(UsageError, match=rf"needs {missing}, which was not given .*{missing}="):
        sharp(rule, net(), **{missing: None})


@pytest.mark.parametrize("rule", ["ssam-f", "saf", "mesa"])
def test_a_closure_is_refused(rule):
    model = net()
    opt = sharp(rule, model)
    before = everything(model, opt)
    x, y = batch()
    with pytest.raises(UsageError, match=rf"the rule {rule} needs (batch|indices), which was not given"):
        opt.step(lambda: F.cross_entropy(model(x), y))
    assert everything(model, opt) == before
