"""The mean of squared per-sample gradients, and the mask that SSAM-F makes of it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit import Batch, Supervised
from sharpkit.core.fisher import squared_gradients
from sharpkit.core.layers import NotLayerwiseError, layerwise
from tests.core.support import bits, drawn, net, numbered, sharp
from tests.reference.ssam_f import largest, units


class Tied(nn.Module):
    """An embedding whose weights are also those of the last layer, and a parameter that takes no part."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.hidden = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.norm(self.hidden(self.embedding(x).mean(1))) @ self.embedding.weight.T


class Reader(nn.Module):
    """Words, of which 0 fills up, and their places, which are looked up once for all texts, as transformers do."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(5, 3, padding_idx=0), nn.Embedding(9, 3)
        self.norm, self.hidden, self.head = nn.LayerNorm(3), nn.Linear(3, 4), nn.Linear(4, 5)

    def forward(self, x):
        h = self.norm(self.words(x) + self.places(torch.arange(x.shape[1])[None]))
        return self.head(torch.tanh(self.hidden(h)).square().mean(1))


class Choosing(nn.Module):
    """A path that depends on the data, which no vectorised map can follow."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.left(x) if float(x.sum()) > 0 else self.right(x)


def images(dropout=0.5):
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(dropout), nn.MaxPool2d(2)),
        *(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 3)),
    )


def pixels(size=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 2, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (size,), generator=generator)


def words():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(5, (6, 4), generator=generator), torch.randint(5, (6,), generator=generator)


MODELS = {
    "mlp": (lambda: net("mlp"), numbered),
    "batch-norm": (lambda: net("batch-norm"), numbered),
    "dropout": (lambda: net("dropout"), numbered),
    "images": (images, pixels),
    "steady": (lambda: images(0.0), pixels),
    "tied": (Tied, words),
    "reader": (Reader, words),
    "choosing": (Choosing, numbered),
}


def made(kind):
    build, data = MODELS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().double()
    for name, buffer in model.named_buffers():  # other statistics than those that a new layer has
        if "running" in name:
            buffer.add_(torch.linspace(0.1, 0.5, len(buffer)))
    return model, data()[:2]


def looped(model, x, y, training=False):
    """One sample after the other, by plain autograd on a copy."""
    model = copy.deepcopy(model).train(training)
    params = list(model.parameters())
    sums = [torch.zeros_like(p) for p in params]
    for i in range(len(y)):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        for total, g in zip(sums, torch.autograd.grad(loss, params, allow_unused=True), strict=True):
            total += 0 if g is None else g.detach() ** 2
    return [total.detach() / len(y) for total in sums], model


@pytest.mark.parametrize("kind", MODELS)
def test_squares_are_those_of_a_loop_over_the_samples(kind):
    model, (x, y) = made(kind)
    before, modes = bits(model.state_dict()), [m.training for m in model.modules()]
    got = squared_gradients(model, Supervised(model, F.cross_entropy), list(model.parameters()), Batch(x, y))
    torch.testing.assert_close(got, looped(model, x, y)[0], rtol=0, atol=1e-12)
    assert bits(model.state_dict()) == before
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert not any(g.requires_grad for g in got)


def test_embeddings_are_squared_from_one_pass_over_all_texts():
    """Several places of a text have the same word, some are filled up, and the places are looked up once."""
    model, (x, y) = made("reader")
    x[0], x[1, 2:] = 3, 0
    model.eval()
    got = layerwise(model, Supervised(model, F.cross_entropy), list(model.parameters()), Batch(x, y))
    torch.testing.assert_close([g / len(y) for g in got], looped(model, x, y)[0], rtol=0, atol=1e-12)
    assert bits(got[0][0]) == bits(torch.zeros(3, dtype=torch.float64))
    model.words.scale_grad_by_freq = True
    with pytest.raises(NotLayerwiseError):
        layerwise(model, Supervised(model, F.cross_entropy), list(model.parameters()), Batch(x, y))


def test_squares_of_some_parameters():
    model, (x, y) = made("images")
    params = list(model.parameters())
    some = squared_gradients(model, Supervised(model, F.cross_entropy), params[2:5], Batch(x, y))
    torch.testing.assert_close(some, looped(model, x, y)[0][2:5], rtol=0, atol=1e-12)


def test_a_layer_that_is_in_evaluation_mode_stays_there():
    model, (x, y) = made("images")
    model[1].eval()
    squared_gradients(model, Supervised(model, F.cross_entropy), list(model.parameters()), Batch(x, y))
    opt = sharp("ssam-f", model)
    opt.step((x, y))
    assert [m.training for m in model] == [i != 1 for i in range(len(model))]


@pytest.mark.parametrize("kind", ["batch-norm", "dropout"])
def test_the_mask_leaves_statistics_and_random_masks_as_sam_does(kind):
    """Only the clean pass moves the one and draws the other."""
    ends = []
    for rule in ("ssam-f", "sam"):
        model = net(kind)
        torch.manual_seed(5)
        sharp(rule, model).step(numbered())
        ends.append((bits(list(model.buffers())), bits(torch.get_rng_state()), model.training))
    assert ends[0] == ends[1]


def kept(opt, model, squares, sparsity=0.5):
    """The mask of the optimizer, and the one that the squares lead to."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    score = torch.cat([s.flatten() for s in squares]).numpy()
    d = len(score)
    mask = largest(score, units(shapes, "element"), d - round(sparsity * d), np.ones(d, dtype=bool))
    return drawn(opt, model), mask


def test_the_mask_is_of_the_statistics_before_the_step():
    model, (x, y) = made("images")
    expected = looped(model, x, y)[0]
    opt = sharp("ssam-f:sparsity=0.8", model)
    opt.step((x, y))
    mask, own = kept(opt, model, expected, 0.8)
    assert np.array_equal(mask, own)


def test_the_official_mask_is_of_training_mode_and_moves_statistics():
    """One sample after the other, before the clean pass, which moves them once more."""
    model, (x, y) = made("steady")
    squares, after = looped(model, x, y, training=True)
    after(x)
    opt = sharp("ssam-f:fisher_mode=official", model)
    opt.step((x, y))
    assert int(model[1].num_batches_tracked) == len(y) + 1
    torch.testing.assert_close(list(model.buffers()), list(after.buffers()), rtol=0, atol=1e-12)
    assert np.array_equal(*kept(opt, model, squares))
    assert not np.array_equal(*kept(opt, model, looped(*made("steady")[:1], x, y)[0]))


def test_a_part_of_the_batch_makes_the_mask_and_is_counted():
    model = net("mlp")
    x, y, numbers = numbered()
    expected = looped(model, x[:6], y[:6])[0]
    opt = sharp("ssam-f:nf=6", model)
    reports = [opt.step((x, y, numbers))]
    assert np.array_equal(*kept(opt, model, expected))
    reports += [opt.step(numbered(seed=t)) for t in range(1, 5)]
    assert [r.gradients for r in reports] == [2.75, 2, 2, 2, 2.75]
    assert [r.critical for r in reports] == [2.75, 2, 2, 2, 2.75]
    assert [r.forward_samples for r in reports] == [22, 16, 16, 16, 22]


def test_samples_may_come_from_elsewhere():
    """As many as nf says, drawn with the optimizer's own stream."""
    x, y, _ = numbered(20, seed=7)
    asked = []

    def draw(count, generator):
        asked.append((count, isinstance(generator, torch.Generator)))
        return Batch(x[:count], y[:count])

    model = net("mlp")
    expected = looped(model, x[:12], y[:12])[0]
    opt = sharp("ssam-f:nf=12", model, draw=draw)
    reports = [opt.step(numbered(seed=0))]
    assert np.array_equal(*kept(opt, model, expected))
    reports += [opt.step(numbered(seed=t)) for t in range(1, 5)]
    assert asked == [(12, True)] * 2
    assert [r.gradients for r in reports] == [3.5, 2, 2, 2, 3.5]
    assert [r.forward_samples for r in reports] == [28, 16, 16, 16, 28]
