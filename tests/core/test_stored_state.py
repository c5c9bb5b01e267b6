"""State from another process: what torch's optimizers take is taken, and what would step wrongly is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from sharpkit import RECIPES, SharpnessAware
from sharpkit.errors import InputError
from tests.core.support import bits

SETTINGS = {"Adafactor": {"lr": 0.05}, "SGD": {"lr": 0.1, "momentum": 0.9}}
NAMES = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "ASGD", "Rprop",
         "Adafactor")  # fmt: skip
OF_ANOTHER_KIND = {("NAdam", "Adam"), ("NAdam", "AdamW")}
"""Pairs that torch loads and steps although they are two methods: NAdam's product of momenta is passed over."""


def made(name, params):
    return getattr(torch.optim, name)(params, **SETTINGS.get(name, {"lr": 0.01}))


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def batch(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randn(8, 4, generator=generator, dtype=torch.float64), torch.randint(3, (8,))
    return inputs.to(dtype), targets * 0 + torch.randint(3, (8,), generator=generator)


def sharp(model, base, rule="sam"):
    return SharpnessAware(model, base, rule, loss=F.cross_entropy, total_steps=20, steps_per_epoch=2, samples=8)


def saved(name, rule="sgd"):
    """A network after three steps, and the state of its optimizer."""
    model = network()
    opt = sharp(model, made(name, model.parameters()), rule)
    for seed in range(3):
        opt.step(batch(seed))
    return model, opt.state_dict()


def plain_steps(name, model, stored, attach=lambda _: None):
    """Two steps of torch alone after its own loading: the oracle."""
    model = copy.deepcopy(model)
    base = made(name, model.parameters())
    attach(base)
    base.load_state_dict(copy.deepcopy(stored))
    for seed in (7, 8):
        base.zero_grad()
        inputs, targets = batch(seed)
        F.cross_entropy(model(inputs), targets).backward()
        base.step()
    return list(model.parameters())


def our_steps(name, model, state, attach=lambda _: None):
    """The same by `SharpnessAware` with a rule that does not perturb."""
    model = copy.deepcopy(model)
    base = made(name, model.parameters())
    attach(base)
    opt = sharp(model, base, "sgd")
    opt.load_state_dict(state)
    for seed in (7, 8):
        opt.step(batch(seed))
    return list(model.parameters())


def assert_same(ours, torchs):
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "attach", [lambda _: None, lambda base: CosineAnnealingLR(base, 10)], ids=["bare", "scheduler"]
)
def test_a_state_steps_on_as_torchs_own_does_with_a_scheduler_attached_later_too(name, attach):
    model, state = saved(name)
    assert_same(our_steps(name, model, state, attach), plain_steps(name, model, state["base"], attach))


def test_a_schedulers_keys_stay_where_the_stored_state_has_none():
    model, state = saved("SGD")
    base = made("SGD", model.parameters())
    OneCycleLR(base, max_lr=0.5, total_steps=10)
    keys = {key: base.param_groups[0][key] for key in ("initial_lr", "max_lr", "base_momentum")}
    sharp(model, base, "sgd").load_state_dict(state)
    assert {key: base.param_groups[0][key] for key in keys} == keys
    assert base.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("named_there", [False, True])
@pytest.mark.parametrize("named_here", [False, True])
def test_names_of_parameters_may_be_on_one_side_only(named_there, named_here):
    model = network()
    there = sharp(model, made("Adam", model.named_parameters() if named_there else model.parameters()), "sgd")
    there.step(batch(0))
    twin = copy.deepcopy(model)
    base = made("Adam", twin.named_parameters() if named_here else twin.parameters())
    here = sharp(twin, base, "sgd")
    here.load_state_dict(there.state_dict())
    assert ("param_names" in base.param_groups[0]) == named_here
    there.step(batch(1))
    here.step(batch(1))
    assert_same(list(twin.parameters()), list(model.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_options_that_another_torch_lacks_or_adds_are_no_other_optimizer(name):
    model, state = saved(name)
    older = copy.deepcopy(state)
    for option in ("foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay"):
        older["base"]["param_groups"][0].pop(option, None)
    newer = copy.deepcopy(state)
    newer["base"]["param_groups"][0]["of_the_future"] = 1
    expected = plain_steps(name, model, state["base"])
    assert_same(our_steps(name, model, older), expected)
    assert_same(our_steps(name, model, newer), expected)


@pytest.mark.parametrize("there", NAMES)
def test_the_state_of_another_optimizer_is_refused_where_torch_would_fail_or_mix_two_methods(there):
    model, state = saved(there)
    failures = []
    for here in NAMES:
        try:
            expected = plain_steps(here, model, state["base"])
        except Exception:
            expected = None
        twin = copy.deepcopy(model)
        base = made(here, twin.parameters())
        opt = sharp(twin, base, "sgd")
        before, refusal, ours = bits(opt.state_dict()), "of another base optimizer", None
        try:
            opt.load_state_dict(state)
            ours = our_steps(here, model, state)
        except InputError as error:
            refusal = str(error)
        assert "of another base optimizer" in refusal
        assert "\n" not in refusal
        assert ours is not None or bits(opt.state_dict()) == before
        if (there, here) in OF_ANOTHER_KIND:
            expected = None
        if (ours is None) != (expected is None):
            failures.append(here)
        elif ours is not None:
            assert_same(ours, expected)
    assert not failures


def test_moments_of_another_shape_are_refused():
    model, state = saved("Adam")
    state["base"]["state"][0]["exp_avg"] = torch.zeros(2, 2)
    with pytest.raises(InputError, match=r"exp_avg of parameter 0 has shape \(2, 2\), the parameter \(5, 4\)"):
        sharp(model, made("Adam", model.parameters()), "sgd").load_state_dict(state)


STATEFUL = ("sampa", "vasso", "looksam:k=3", "ae-looksam", "mesa", "saf", "ssam-d", "sampa+mesa")


def stepped(model, opt, seeds, dtype):
    for seed in seeds:
        opt.step((*batch(seed, dtype), torch.arange(8)))


@pytest.mark.parametrize("rule", STATEFUL)
def test_rule_state_takes_the_type_of_the_parameters(rule):
    low = network(torch.float32)
    there = sharp(low, made("SGD", low.parameters()), rule)
    stepped(low, there, range(4), torch.float32)
    high = network(torch.float64)
    high.load_state_dict(low.state_dict())
    here = sharp(high, made("SGD", high.parameters()), rule)
    here.load_state_dict(there.state_dict())
    stored = there.state_dict()["memory"]

    def kinds(tree):
        if isinstance(tree, torch.Tensor):
            yield tree.dtype
        elif isinstance(tree, dict | list | tuple):
            for value in tree.values() if isinstance(tree, dict) else tree:
                yield from kinds(value)

    raised = [torch.float64 if kind == torch.float32 else kind for kind in kinds(stored)]
    assert list(kinds(here.state_dict()["memory"])) == raised
    stepped(low, there, range(4, 7), torch.float32)
    stepped(high, here, range(4, 7), torch.float64)
    for a, b in zip(high.parameters(), low.parameters(), strict=True):
        torch.testing.assert_close(a, b.double(), rtol=1e-4, atol=1e-5)


def test_the_types_of_an_earlier_version_are_told_by_its_vectors():
    low = network(torch.float32)
    there = sharp(low, made("SGD", low.parameters()), "sampa")
    stepped(low, there, range(2), torch.float32)
    state = there.state_dict()
    del state["dtypes"]
    high = network(torch.float64)
    here = sharp(high, made("SGD", high.parameters()), "sampa")
    here.load_state_dict(state)
    assert here.state_dict()["memory"]["0/sampa.batch"]["inputs"].dtype == torch.float64


@pytest.mark.parametrize("rule", [name for name in RECIPES if name != "ssam-f"])
def test_a_state_of_the_same_type_comes_back_bit_for_bit(rule):
    model = network()
    opt = sharp(model, made("Adam", model.parameters()), rule)
    stepped(model, opt, range(4), torch.float64)
    twin = copy.deepcopy(model)
    again = sharp(twin, made("Adam", twin.parameters()), rule)
    again.load_state_dict(opt.state_dict())
    assert bits(again.state_dict()) == bits(opt.state_dict())
    stepped(model, opt, range(4, 7), torch.float64)
    stepped(twin, again, range(4, 7), torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
