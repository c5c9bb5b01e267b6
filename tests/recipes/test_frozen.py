"""Parameters that are frozen, unfrozen and added in the middle of a run, in every recipe."""

import copy
from functools import cache

import pytest
import torch
from torch.nn import functional as F

from sharpkit import RECIPES
from sharpkit.errors import UsageError
from tests.core.support import bits, everything, net, numbered, sharp, weights
from tests.recipes.test_precision_contract import drawing

UNIONS = [
    *("sampa+vasso:rho=0.1", "sampa+bisam-tanh:rho=0.1", "sampa+msam:m=2:rho=0.1", "msam+vasso:m=2:rho=0.1"),
    *("sampa+mesa:start=-1", "looksam+vasso:rho=0.1:k=3", "ae-looksam+ssam-d", "sampa+ssam-f:sparsity=0.6:rho=0.1"),
    *("ssam-f:structure=filter", "ssam-d:structure=filter", "ssam-d:structure=tensor", "ssam-d:structure=2:4"),
    *("ssam-f:mask=random", "sam-on+ssam-f:rho=0.1", "sampa:y_step=plain", "sampa:lam=0", "looksam:k=2:scope=tensor"),
]
EVERY = pytest.mark.parametrize("rule", [*RECIPES, *UNIONS])


def recipe(rule):
    """The recipe and a network that it has something to act on in, whichever layers are frozen."""
    kind = "batch-norm" if {"sam-on"} & set(rule.split(":")[0].split("+")) else "mlp"
    return rule, kind


class Seen:
    """The values of some parameters at every forward pass, whatever wraps it."""

    def __init__(self, model, params):
        self.params, self.values = params, []
        model.register_forward_pre_hook(lambda *_: self.values.append([p.detach().clone() for p in self.params]))


def built(rule, kind, model=None, **options):
    model = net(kind) if model is None else model
    return model, sharp(rule, model, draw=drawing(torch.float64), **options)


@EVERY
def test_a_frozen_parameter_is_seen_at_its_own_value_and_stays_there(rule):
    rule, kind = recipe(rule)
    model, opt = built(rule, kind)
    for t in range(3):
        opt.step(numbered(seed=t))
    model[0].requires_grad_(False)
    frozen = list(model[0].parameters())
    kept, momentum = [p.detach().clone() for p in frozen], bits([opt.base.state[p] for p in frozen])
    seen = Seen(model, frozen)
    others = weights(model[-1])
    for t in range(3, 9):
        report = opt.step(numbered(seed=t))
        assert report.loss.isfinite()
    assert len(seen.values) >= 6
    assert all(bits(values) == bits(kept) for values in seen.values)
    assert bits([p.detach() for p in frozen]) == bits(kept)
    assert bits([opt.base.state[p] for p in frozen]) == momentum
    assert all(not torch.equal(a, b) for a, b in zip(others, weights(model[-1]), strict=True))


@EVERY
def test_a_parameter_that_is_unfrozen_is_trained_again(rule):
    rule, kind = recipe(rule)
    model, opt = built(rule, kind)
    for t, flag in enumerate([True, True, False, False, True, True, True, True]):
        model[0].requires_grad_(flag)
        before = weights(model[0])
        opt.step(numbered(seed=t))
        moved = [not torch.equal(a, b) for a, b in zip(before, weights(model[0]), strict=True)]
        assert moved == [flag, flag]
    assert all(p.isfinite().all() for p in model.parameters())


@EVERY
def test_the_last_layer_may_be_frozen_in_place_of_the_first(rule):
    """As many tensors, of other shapes: what is remembered of the one must not be taken for that of the other."""
    rule, kind = recipe(rule)
    model, opt = built(rule, kind)
    for t, (first, last) in enumerate([(True, False), (True, False), (False, True), (False, True), (True, True)]):
        model[0].requires_grad_(first)
        model[-1].requires_grad_(last)
        before = [weights(model[0]), weights(model[-1])]
        opt.step(numbered(seed=t))
        for layer, flag, old in zip((model[0], model[-1]), (first, last), before, strict=True):
            assert all(torch.equal(a, b) != flag for a, b in zip(old, weights(layer), strict=True))


SETS = [(True, True), (True, True), (False, True), (False, True), (True, True), (True, False), (True, True)]


def freeze(model, flags):
    model[0].requires_grad_(flags[0])
    model[-1].requires_grad_(flags[1])


@cache
def straight(rule):
    """States before every step of a run with a changing set of parameters, and at its end."""
    rule, kind = recipe(rule)
    model, opt = built(rule, kind)
    states = []
    for t, flags in enumerate(SETS):
        states.append(copy.deepcopy((model.state_dict(), opt.state_dict())))
        freeze(model, flags)
        torch.manual_seed(t)
        opt.step(numbered(seed=t))
    return states, everything(model, opt)


@EVERY
@pytest.mark.parametrize("order", ["frozen before it is built", "frozen after it is loaded"])
def test_a_resumed_run_is_the_same_run_whenever_parameters_were_frozen(rule, order):
    states, end = straight(rule)
    for start in (1, 2, 3, 4, 5, 6):
        _, kind = recipe(rule)
        model = net(kind, seed=9)
        model.load_state_dict(states[start][0])
        if order == "frozen before it is built":
            freeze(model, SETS[start])
        _, opt = built(rule, kind, model)
        opt.load_state_dict(copy.deepcopy(states[start][1]))
        for t in range(start, len(SETS)):
            freeze(model, SETS[t])
            torch.manual_seed(t)
            opt.step(numbered(seed=t))
        assert everything(model, opt) == end


# -------------------------------------------------------- plain implementations over names, without a memory of others


def value(model, named, x, y):
    return F.cross_entropy(torch.func.functional_call(model, named, (x,)), y)


def slope(model, w, names, batch, loss=value):
    """The gradient of the loss at weights by name, by those that are trained."""
    leaves = {n: p.detach().clone().requires_grad_(n in names) for n, p in w.items()}
    grads = torch.autograd.grad(loss(model, leaves, *batch[:2]), [leaves[n] for n in names])
    return dict(zip(names, grads, strict=True))


def unit(v):
    return torch.sqrt(sum((t**2).sum() for t in v.values()))


def moved(w, v, scale):
    return {n: p + scale * v[n] if n in v else p for n, p in w.items()}


def sampa(model, w, sets, lr, rho=0.3, lam=0.2):
    q = before = None
    for t, names in enumerate(sets):
        batch = numbered(seed=t)
        if q is None:
            u = q = slope(model, w, names, batch)
        else:
            q = {n: q.get(n, torch.zeros_like(w[n])) for n in names}
            h = slope(model, moved(w, q, rho / (unit(q) + 1e-12)), names, before)
            q = slope(model, moved(w, q, -lr), names, batch)
            u = {n: (1 - lam) * h[n] + lam * q[n] for n in names}
        w, before = moved(w, u, -lr), batch
        yield w


def vasso(model, w, sets, lr, rho=0.3, theta=0.4):
    d = {}
    for t, names in enumerate(sets):
        batch = numbered(seed=t)
        g = slope(model, w, names, batch)
        d = {n: (1 - theta) * d.get(n, g[n]) + theta * g[n] for n in names}
        w = moved(w, slope(model, moved(w, d, rho / (unit(d) + 1e-12)), names, batch), -lr)
        yield w


def looksam(model, w, sets, lr, rho=0.3, k=3, alpha=0.7):
    v = {}
    for t, names in enumerate(sets):
        batch = numbered(seed=t)
        g = slope(model, w, names, batch)
        v = {n: v.get(n, torch.zeros_like(w[n])) for n in names}
        if t % k == 0:
            u = slope(model, moved(w, g, rho / (unit(g) + 1e-12)), names, batch)
            along = sum((g[n] * u[n]).sum() for n in names) / unit(g) ** 2
            v = {n: u[n] - along * g[n] for n in names}
        else:
            u = {n: g[n] + alpha * unit(g) / unit(v) * v[n] for n in names}
        w = moved(w, u, -lr)
        yield w


def mesa(model, w, sets, lr, lam=0.3, tau=5.0, decay=0.6):
    average = {}
    for t, names in enumerate(sets):
        batch = numbered(seed=t)
        average = {n: average.get(n, w[n]) for n in names}
        with torch.no_grad():
            said = torch.func.functional_call(model, {**w, **average}, (batch[0],))

        def loss(model, named, x, y, said=said):
            z = torch.func.functional_call(model, named, (x,))
            p, log_q = F.softmax(said / tau, 1), F.log_softmax(z / tau, 1)
            return F.cross_entropy(z, y) + lam * tau**2 * (p * (p.log() - log_q)).sum(1).mean()

        w = moved(w, slope(model, w, names, batch, loss), -lr)
        average = {n: decay * average[n] + (1 - decay) * w[n] for n in names}
        yield w


def ssam_f(model, w, sets, lr, rho=0.3, sparsity=0.6):
    """With tm = 0 the mask is made at the first step, and again where the parameters are others than before."""
    made = None
    for t, names in enumerate(sets):
        x, y, _ = batch = numbered(seed=t)
        if made != names:
            single = [slope(model, w, names, (x[i : i + 1], y[i : i + 1])) for i in range(len(x))]
            fisher = torch.cat([(sum(s[n] ** 2 for s in single) / len(x)).flatten() for n in names])
            k = len(fisher) - round(sparsity * len(fisher))
            chosen = torch.sort(fisher, descending=True, stable=True).indices[:k]
            flat = torch.zeros_like(fisher).index_fill_(0, chosen, 1.0)
            pieces = flat.split([w[n].numel() for n in names])
            mask, made = {n: m.view(w[n].shape) for n, m in zip(names, pieces, strict=True)}, names
        g = slope(model, w, names, batch)
        eps = {n: mask[n] * g[n] / (unit(g) + 1e-12) for n in names}
        w = moved(w, slope(model, moved(w, eps, rho), names, batch), -lr)
        yield w


PLAIN = {
    "sampa:rho=0.3": sampa,
    "sampa:rho=0.3:y_step=plain": sampa,
    "vasso:rho=0.3:theta=0.4": vasso,
    "looksam:rho=0.3:k=3:alpha=0.7": looksam,
    "mesa:decay=0.6:start=-1": mesa,
    "ssam-f:rho=0.3:sparsity=0.6:tm=0:nf=8": ssam_f,
}


@pytest.mark.parametrize("rule", PLAIN)
def test_steps_are_those_of_the_parameters_that_are_trained(rule):
    """Entries of those that were frozen are forgotten, and those that join begin anew."""
    model, twin = net(), net()
    order = [n for n, _ in model.named_parameters()]
    off = [(), (), ("0.weight",), ("0.weight",), ("0.weight", "2.bias"), (), (), ("2.weight",), ()]
    sets = [[n for n in order if n not in gone] for gone in off]
    opt = sharp(rule, model, torch.optim.SGD(model.parameters(), lr=0.1))
    start = {n: p.detach().clone() for n, p in twin.named_parameters()}
    for t, expected in enumerate(PLAIN[rule](twin, start, sets, 0.1)):
        for n, p in model.named_parameters():
            p.requires_grad_(n in sets[t])
        opt.step(numbered(seed=t))
        for n, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), expected[n], rtol=0, atol=1e-10)


@pytest.mark.parametrize("rule", PLAIN)
def test_a_parameter_group_that_is_added_joins(rule):
    model, twin = net(), net()
    names = [n for n, _ in model.named_parameters()]
    sets = [[n for n in names if t >= 3 or n.startswith("2")] for t in range(6)]
    opt = sharp(rule, model, torch.optim.SGD(model[2].parameters(), lr=0.1))
    start = {n: p.detach().clone() for n, p in twin.named_parameters()}
    for t, expected in enumerate(PLAIN[rule](twin, start, sets, 0.1)):
        if t == 3:
            opt.base.add_param_group({"params": list(model[0].parameters())})
        opt.step(numbered(seed=t))
        for n, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), expected[n], rtol=0, atol=1e-10)


def test_a_group_with_a_radius_of_its_own_is_refused_when_it_is_added():
    model = net()
    opt = sharp("sam", model, torch.optim.SGD(model[2].parameters(), lr=0.1))
    opt.step(numbered())
    opt.base.add_param_group({"params": list(model[0].parameters()), "rho": 0.3})
    with pytest.raises(UsageError, match=r"parameter group 1 has rho=0\.3"):
        opt.step(numbered())


def test_all_parameters_frozen_is_refused_and_leaves_everything():
    model, opt = built("sampa", "mlp")
    opt.step(numbered())
    before = everything(model, opt)
    model.requires_grad_(False)
    with pytest.raises(UsageError, match="no parameter of the base optimizer is trainable any more"):
        opt.step(numbered())
    model.requires_grad_(True)
    assert everything(model, opt) == before


@pytest.mark.parametrize("rule", ["ssam-d:sparsity=0.6:tm=0", "ssam-d:sparsity=0.6:tm=0:structure=2:4"])
def test_a_dynamic_mask_keeps_what_is_live_and_has_k_entries(rule):
    model, opt = built(rule.replace("0.6", "0.5"), "mlp")
    seen = []
    for t, flag in enumerate([True, True, False, False, True]):
        model[0].requires_grad_(flag)
        opt.step(numbered(seed=t))
        memory = opt.state_dict()["memory"]
        seen.append(dict(zip(memory["all/ssam-d.names"], memory["all/ssam-d.mask"], strict=True)))
        total = sum(p.numel() for p in model.parameters() if p.requires_grad)
        live = sum(int(m.sum()) for m in seen[-1].values())
        if "2:4" not in rule:
            assert live == total - round(0.5 * total)
    whole, few, again = seen[1], seen[2], seen[4]
    assert set(few) == {"2.weight", "2.bias"}
    assert bits(whole) == bits(seen[0])
    assert bits(few) == bits(seen[3])
    for name, m in few.items():
        assert not (m & ~again[name]).any() or "2:4" in rule
    kept = sum(int((whole[n] & few[n]).sum()) for n in few)
    assert kept == min(sum(int(whole[n].sum()) for n in few), sum(int(m.sum()) for m in few.values()))
