"""What is minimised where the targets are numbers, and which rules it is refused for."""

import numpy as np
import pytest
import torch

from sharpkit import RECIPES, SharpnessAware
from sharpkit.core.task import Supervised
from sharpkit.data.dataset import Dataset
from sharpkit.data.samples import Samples
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.evaluate import evaluate
from sharpkit.engine.objective import check_rule, loss_of, squared_error
from sharpkit.errors import UsageError
from sharpkit.recipes.grammar import parse


def dataset(classes):
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) if classes == 1 else torch.arange(12) % classes
    part = Samples(x, y, torch.arange(12))
    return Dataset("d", part, part, classes, metrics=("pearson", "spearman") if classes == 1 else ("acc",))


def test_numbers_have_the_squared_error():
    z, y = np.array([[1.0], [-2.0], [0.5]]), np.array([0.5, -1.0, 2.0])
    found = squared_error(torch.tensor(z), torch.tensor(y), reduction="none")
    np.testing.assert_allclose(found, (z[:, 0] - y) ** 2, rtol=0, atol=1e-15)
    assert loss_of(dataset(1)) is squared_error


def test_classes_have_the_cross_entropy_with_its_smoothing():
    z, y = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64), torch.tensor([2])
    log = np.log(np.exp(z.numpy()) / np.exp(z.numpy()).sum())
    expected = -(0.7 * log[0, 2] + 0.3 * log[0].mean())
    assert float(loss_of(dataset(3), 0.3)(z, y)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_smoothing_over_the_others_is_their_cross_entropy_and_its_gradient(classes, smoothing):
    """The oracle is sum_k -q_k log p_k with q = 1 - s for the label and s / (K - 1) for the others, and p - q."""
    generator = np.random.default_rng(classes)
    z, labels = generator.normal(size=(5, classes)), generator.integers(classes, size=5)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    q = np.full((5, classes), smoothing / (classes - 1))
    q[np.arange(5), labels] = 1 - smoothing
    logits = torch.tensor(z, requires_grad=True)
    loss = loss_of(dataset(classes), smoothing, "others")(logits, torch.tensor(labels))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(-(q * np.log(p)).sum(1).mean()), abs=1e-12)
    np.testing.assert_allclose(logits.grad.numpy(), (p - q) / 5, rtol=0, atol=1e-12)


def test_smoothing_beyond_the_uniform_distribution_is_refused():
    with pytest.raises(UsageError, match=r"smoothing is 0.6 over the other classes, allowed are at most 0.5 of 2"):
        loss_of(dataset(2), 0.6, "others")


def test_smoothing_over_the_others_needs_smoothing():
    with pytest.raises(UsageError, match="smoothing-over is others and smoothing is 0"):
        TrainConfig(smoothing_over="others")


def test_smoothing_of_numbers_is_refused():
    with pytest.raises(UsageError, match=r"smoothing is 0.1, and the targets of d are numbers.*leave --smoothing out"):
        loss_of(dataset(1), 0.1)


@pytest.mark.parametrize("name", RECIPES)
def test_rules_that_compare_classes_are_refused_for_numbers(name):
    rule, refused = parse(name), name.startswith(("bisam", "saf", "mesa"))
    check_rule(rule, dataset(2))
    if refused:
        with pytest.raises(UsageError, match=f"{name} compares the probabilities of classes"):
            check_rule(rule, dataset(1))
    else:
        check_rule(rule, dataset(1))


def test_a_step_of_sam_on_numbers_is_the_one_by_hand():
    """Linear regression: g(w) = 2 X'(X w - y) / n, w - lr g(w + rho g / |g|)."""
    data = dataset(1)
    model = torch.nn.Linear(3, 1, bias=False).double()
    x, y = data.train.inputs.numpy(), data.train.targets.numpy()
    w = model.weight.detach().numpy()[0].copy()

    def gradient(w):
        return 2 * x.T @ (x @ w - y) / len(y)

    g = gradient(w)
    expected = w - 0.1 * gradient(w + 0.05 * g / np.linalg.norm(g))
    opt = SharpnessAware(model, torch.optim.SGD(model.parameters(), lr=0.1), "sam:rho=0.05", loss=loss_of(data))
    opt.step((data.train.inputs, data.train.targets))
    np.testing.assert_allclose(model.weight.detach().numpy()[0], expected, rtol=0, atol=1e-12)


def test_numbers_are_judged_by_correlations_and_have_no_accuracy():
    data, model = dataset(1), torch.nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -4.0, 1.0]]))
    score = evaluate(model, Supervised(model, squared_error), data.test, data.metrics)
    assert score.named == {"pearson": pytest.approx(1, abs=1e-12), "spearman": pytest.approx(1, abs=1e-12)}
    assert score.accuracy != score.accuracy
    assert score.main == pytest.approx(1, abs=1e-12)
    assert score.loss == pytest.approx(float(data.test.targets.square().mean()), rel=1e-12)
