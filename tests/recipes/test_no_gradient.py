"""Trained parameters that no gradient reaches: they do not move, and masks count them."""

import pytest
import torch
from torch import nn

from tests.core.support import bits, net, numbered, sharp, weights
from tests.recipes.test_frozen import EVERY
from tests.recipes.test_precision_contract import drawing


class WithUnused(nn.Module):
    """A network with a layer that its outputs do not depend on."""

    def __init__(self):
        super().__init__()
        self.unused, self.net = nn.Linear(4, 6).double(), net()

    def forward(self, x):
        return self.net(x)


@EVERY
def test_a_parameter_without_a_gradient_is_not_moved(rule):
    if rule.startswith("sam-on"):
        pytest.skip("has nothing to act on in this network")
    model = WithUnused()
    opt = sharp(rule, model, draw=drawing(torch.float64))
    kept, used = weights(model.unused), weights(model.net)
    for t in range(5):
        opt.step(numbered(seed=t))
    assert bits(weights(model.unused)) == bits(kept)
    assert all(not torch.equal(a, b) for a, b in zip(used, weights(model.net), strict=True))


def test_masks_count_parameters_without_a_gradient_and_a_fisher_mask_takes_them_last():
    model = WithUnused()
    opt = sharp("ssam-f:sparsity=0.6:tm=0:nf=8", model)
    opt.step(numbered())
    mask = dict(
        zip([n for n, _ in model.named_parameters()], opt.state_dict()["memory"]["all/ssam-f.mask"], strict=True)
    )
    total = sum(p.numel() for p in model.parameters())
    live = {n: int(m.sum()) for n, m in mask.items()}
    assert sum(live.values()) == total - round(0.6 * total)  # k of all d, those without a gradient included
    assert live["unused.weight"] == live["unused.bias"] == 0
    # Where k is more than there are entries with a gradient, all of these are perturbed, and the step is SAM's.
    model, twin = WithUnused(), WithUnused()
    twin.load_state_dict(model.state_dict())
    for rule, each in (("ssam-f:sparsity=0.3:tm=0:nf=8:rho=0.2", model), ("sam:rho=0.2", twin)):
        sharp(rule, each).step(numbered())
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=1e-12)


def test_a_dynamic_mask_drops_parameters_without_a_gradient_first():
    """Their |g| is 0, so they are the flattest."""
    model = WithUnused()
    opt = sharp("ssam-d:sparsity=0.5:alpha=0.5:tm=1", model, steps_per_epoch=1, total_steps=1000)
    masks = []
    for t in range(2):
        opt.step(numbered(seed=t))
        masks.append(torch.cat([m.flatten() for m in opt.state_dict()["memory"]["all/ssam-d.mask"]]))
    size = sum(p.numel() for p in model.unused.parameters())
    left = (masks[0] & ~masks[1])[:size].sum()
    total = masks[0].numel()
    moved = round(0.5 * int(masks[0].sum()) * (1 + torch.cos(torch.tensor(torch.pi / 1000)).item()) / 2)
    assert int((masks[0] & ~masks[1]).sum()) <= moved
    assert left == min(int(masks[0][:size].sum()), int((masks[0] & ~masks[1]).sum()))
    assert int(masks[1].sum()) == total - round(0.5 * total)
