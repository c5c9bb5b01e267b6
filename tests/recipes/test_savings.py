"""What a recipe says it leaves out is not computed: weight gradients, samples, passes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sharpkit import SharpnessAware
from tests.core.support import batch, net, sharp
from tests.reference import base as numpy_base
from tests.reference import reference
from tests.reference.problems import PROBLEMS, flat

STEPS = 8


def computed(rule, kind="batch-norm"):
    """Whether each parameter's gradient was computed, pass by pass, in one step."""
    model = net(kind)
    passes = []
    for name, p in model.named_parameters():
        p.register_hook(lambda g, name=name: passes[-1].add(name))
    model.register_forward_pre_hook(lambda *_: passes.append(set()))
    report = sharp(rule, model).step(batch())
    return [name for name, _ in model.named_parameters()], passes, report


@pytest.mark.parametrize(
    ("norm", "kept"), [("only", {"1.weight", "1.bias"}), ("except", {"0.weight", "0.bias", "3.weight", "3.bias"})]
)
def test_sam_on_climbs_without_the_other_weight_gradients(norm, kept):
    names, passes, report = computed(f"sam-on:norm={norm}")
    assert passes == [kept, set(names)]
    assert report.gradients == 2


@pytest.mark.parametrize("rule", ["gnp+sam-on", "gsam+sam-on", "ae-sam+sam-on:lam1=-9:lam2=-9", "vasso+sam-on"])
def test_who_needs_the_whole_clean_gradient_gets_it(rule):
    names, passes, _ = computed(rule)
    assert passes == [set(names), set(names)]


@pytest.mark.parametrize(("seed", "steps"), [(0, STEPS), (1, STEPS), (2, STEPS), (0, 30)])
@pytest.mark.parametrize("problem", ["mlp", "batch-norm", "layer-norm"])
def test_esam_follows_its_reference_with_the_tensors_that_it_drew(problem, seed, steps):
    """Before any pass, one draw a tensor from the rule's own stream; long runs have draws that keep every tensor."""
    problem = PROBLEMS[problem]()
    count = len(list(problem.model.parameters()))
    stream = torch.Generator().manual_seed(seed)
    kept = [(torch.rand(count, generator=stream) < 0.6).tolist() for _ in range(steps)]
    assert not all(map(all, kept))
    assert steps == STEPS or any(map(all, kept))
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    expected = reference("esam").trajectory(problem, numpy_base.SGD(**options), steps, rho=0.3, gamma=0.7, kept=kept)
    base = torch.optim.SGD(problem.model.parameters(), **options)
    opt = SharpnessAware(problem.model, base, "esam:rho=0.3:gamma=0.7", loss=problem.loss, seed=seed)
    path = [flat(problem.model)]
    for t in range(steps):
        opt.step(problem.batch(t))
        path.append(flat(problem.model))
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-10)


def test_esam_leaves_out_tensors_and_samples():
    names, passes, report = computed("esam:beta=0.5:gamma=0.25")
    climbed, looked, descended = passes
    assert climbed < set(names)
    assert looked == set()
    assert descended == set(names)
    assert (report.forward_samples, report.backward_samples, report.gradients) == (8 + 8 + 2, 8 + 2, 1.25)


def test_esam_with_everything_kept_is_sam():
    ends = []
    for rule in ("esam:rho=0.2:beta=1:gamma=1", "sam:rho=0.2"):
        model = net("dropout")
        opt = sharp(rule, model)
        torch.manual_seed(0)
        for t in range(4):
            assert opt.step(batch(seed=t)).gradients == 2
        ends.append(flat(model))
    assert np.array_equal(*ends)


def test_esam_takes_the_first_of_samples_that_rise_alike():
    """All samples are the same one."""
    model = net("mlp")
    x, y = (t[:1].repeat(8, *[1] * (t.dim() - 1)) for t in batch())
    report = sharp("esam:gamma=0.5:beta=1", model).step((x, y))
    assert report.backward_samples == 8 + 4


@pytest.mark.parametrize("rule", ["ss-sam:p=0", "looksam:k=1000", "ae-sam:lam1=9:lam2=9", "ae-looksam:lam1=9:lam2=9"])
def test_a_step_that_is_not_perturbed_costs_one_gradient(rule):
    model = net("batch-norm")
    opt = sharp(rule, model)
    opt.step(batch(seed=0))
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    report = opt.step(batch(seed=1))
    assert (len(passes), report.forward_samples, report.backward_samples, report.perturbed) == (1, 8, 8, False)


@pytest.mark.parametrize("rule", ["ssam-f:sparsity=0.6", "ssam-d:sparsity=0.6:tm=0"])
@pytest.mark.parametrize("structure", ["filter", "tensor"])
def test_masks_by_filter_or_tensor_climb_without_the_rest(rule, structure):
    """Beside gnp, which wants the whole clean gradient, the same mask takes the same steps."""
    torch.manual_seed(0)
    made = [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 3)]
    model = nn.Sequential(*made).double()
    x, y = torch.randn(8, 2, 6, 6, dtype=torch.float64), torch.arange(8) % 3
    ends, flops = [], []
    for text in (f"{rule}:structure={structure}", f"{rule}:structure={structure}+gnp"):
        name, _, settings = text.removesuffix("+gnp").partition(":")
        union = f"{name}+gnp:gnp.alpha=1:" if text.endswith("+gnp") else f"{name}:"
        own = copy.deepcopy(model)
        opt = sharp(f"{union}{settings}:rho=0.5", own)
        opt.step((x, y))  # the mask is made
        with FlopCounterMode(display=False) as counter:
            for _ in range(2):
                opt.step((x, y))
        ends.append(own.state_dict())
        flops.append(counter.get_total_flops())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)
    assert flops[0] < flops[1]


def test_two_gradients_at_one_point_come_from_one_forward_pass():
    report = sharp("gnp+bisam-log:rho=0.1", net()).step(batch())
    assert (report.forward_samples, report.backward_samples, report.gradients) == (16, 24, 3)
