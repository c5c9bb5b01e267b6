"""Products with curvature matrices against dense matrices in double precision."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, TensorDataset

from sharpkit.core.task import Supervised
from sharpkit.diagnostics.curvature.matrices import Curvature
from sharpkit.diagnostics.curvature.spectrum import sliced
from sharpkit.diagnostics.problem import opened
from sharpkit.errors import DivergedError, InputError, UsageError
from tests.core.support import bits
from tests.diagnostics.support import NETS, dense, flat_function, net, samples, uneven


def matrix_of(problem, kind="hessian", **options):
    operator = Curvature(problem, kind, **options)
    identity = torch.eye(problem.size, dtype=problem.dtype)
    return torch.stack([operator.product(column) for column in identity]), operator


@pytest.mark.parametrize("kind", NETS)
def test_the_hessian_is_the_dense_one(kind):
    model, (x, y) = net(kind), samples(kind)
    expected = dense(model, x, y)
    with opened(model, F.cross_entropy, uneven(x, y)) as problem:
        matrix, operator = matrix_of(problem)
        assert "3 of 3" in operator.how
        torch.testing.assert_close(matrix, expected, rtol=1e-10, atol=1e-10)
        anew = Curvature(problem, memory_bytes=0)
        for i in (0, problem.size // 2):
            column = anew.product(torch.eye(problem.size, dtype=torch.float64)[i])
            torch.testing.assert_close(column, expected[i], rtol=1e-10, atol=1e-10)
        assert ", 0 of" in anew.how


def test_the_dense_hessian_is_that_of_differences():
    model, (x, y) = net("cnn").eval(), samples()
    of, at = flat_function(model, lambda call: F.cross_entropy(call(x), y))
    slope, steps = torch.func.grad(of), 1e-5 * torch.eye(len(at), dtype=at.dtype)
    differences = torch.stack([(slope(at + step) - slope(at - step)) / 2e-5 for step in steps])
    torch.testing.assert_close(dense(model, x, y), differences, rtol=1e-7, atol=1e-8)


def test_some_graphs_are_kept_when_not_all_fit():
    model, (x, y) = net("mlp"), samples(count=40)
    batches = uneven(x, y, (10, 10, 10, 10))
    with opened(model, F.cross_entropy, batches) as problem:
        whole = Curvature(problem)
        whole.product(torch.ones(problem.size, dtype=torch.float64))
        matrix, operator = matrix_of(problem, memory_bytes=int(0.8 * whole.graph_bytes))
    assert 0 < int(operator.how.split()[1]) < int(operator.how.split()[3])
    assert operator.graph_bytes <= 0.8 * whole.graph_bytes
    torch.testing.assert_close(matrix, dense(model, x, y), rtol=1e-10, atol=1e-10)


def test_losses_of_many_kinds():
    model, (x, _) = net("mlp"), samples()
    targets = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with opened(model, F.mse_loss, uneven(x, targets)) as problem:
        matrix, _ = matrix_of(problem)
    torch.testing.assert_close(matrix, dense(model, x, targets, F.mse_loss), rtol=1e-10, atol=1e-10)


def jacobian(model, x):
    of, at = flat_function(model.eval(), lambda call: call(x))
    with sdpa_kernel(SDPBackend.MATH):  # vmap warns of the others
        return jacrev(of)(at)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "attention"])
def test_gauss_newton_is_the_sandwich(kind):
    model, (x, y) = net(kind), samples(kind)
    with opened(model, F.cross_entropy, uneven(x, y)) as problem:
        matrix, _ = matrix_of(problem, "ggn")
    rows = jacobian(model, x)
    p = model(x).softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nip,nij,njq->pq", rows, middle, rows) / len(x)
    torch.testing.assert_close(matrix, expected, rtol=1e-10, atol=1e-10)


def test_the_empirical_fisher_matrix_is_the_mean_of_outer_products():
    model, (x, y) = net("cnn"), samples()
    with opened(model, F.cross_entropy, uneven(x, y)) as problem:
        matrix, _ = matrix_of(problem, "fisher")
    of, at = flat_function(model.eval(), lambda call: F.cross_entropy(call(x), y, reduction="none"))
    grads = jacrev(of)(at)
    torch.testing.assert_close(matrix, grads.T @ grads / len(x), rtol=1e-10, atol=1e-10)


def test_parameters_by_name_and_weight_decay():
    model, (x, y) = net("cnn"), samples()
    with opened(model, F.cross_entropy, [(x, y)], params=r"^0\.|bias") as problem:
        matrix, _ = matrix_of(problem, weight_decay=0.25)
        names = problem.names
    assert names == tuple(n for n, _ in model.named_parameters() if n.startswith("0.") or "bias" in n)
    sizes = [(n in names, p.numel()) for n, p in model.named_parameters()]
    chosen = torch.tensor([flag for flag, size in sizes for _ in range(size)])
    expected = dense(model, x, y)[chosen][:, chosen] + 0.25 * torch.eye(int(chosen.sum()))
    torch.testing.assert_close(matrix, expected, rtol=1e-10, atol=1e-10)


def test_training_mode_of_batch_norm_is_the_mean_over_the_batches():
    model, (x, y) = net("cnn"), samples()
    before = bits(model.state_dict())
    with opened(model, F.cross_entropy, uneven(x, y), bn_mode="train") as problem:
        matrix, _ = matrix_of(problem)
    assert bits(model.state_dict()) == before
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    expected = sum(len(b) / 20 * dense(model, a, b) for a, b in uneven(x, y))
    torch.testing.assert_close(matrix, expected, rtol=1e-9, atol=1e-9)


def test_finite_differences_of_a_smooth_loss_are_near_and_say_how_near():
    model, (x, y) = net("mlp"), samples()
    with opened(model, F.cross_entropy, uneven(x, y)) as problem:
        matrix, operator = matrix_of(problem, products="fd")
    exact = dense(model, x, y)
    assert float((matrix - exact).norm() / exact.norm()) < 1e-6
    assert "finite differences" in operator.how


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


def test_without_a_second_derivative_differences_are_taken_and_told():
    class Layer(nn.Module):
        def forward(self, x):
            return Once.apply(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), Layer(), nn.Linear(4, 3)).double()
    x, y = samples()
    with opened(model, F.cross_entropy, [(x, y)]) as problem:
        _, operator = matrix_of(problem)
        assert any("finite differences" in note for note in operator.notes)
        with pytest.raises(InputError, match="no second derivative"):
            matrix_of(problem, products="autograd")


def test_the_model_comes_back_as_it_was():
    model, (x, y) = net("cnn"), samples()
    model.float().train()
    state, storage = bits(model.state_dict()), [p.data_ptr() for p in model.parameters()]
    with opened(model, F.cross_entropy, [(x.float(), y)], dtype=torch.float64) as problem:
        assert problem.dtype == torch.float64
        matrix_of(problem)
    assert model.training
    assert bits(model.state_dict()) == state
    assert [p.data_ptr() for p in model.parameters()] == storage
    assert all(p.grad is None for p in model.parameters())


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


def test_the_lead_is_the_gradient_of_the_mean_loss():
    x, y = samples("cnn")
    model = net("cnn").eval()
    expected = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with opened(model, F.cross_entropy, uneven(x, y)) as problem:
        lead = Curvature(problem).lead()
    torch.testing.assert_close(lead, torch.cat([g.flatten() for g in expected]), rtol=1e-10, atol=1e-13)
    with opened(model, F.cross_entropy, uneven(x, y), bn_mode="train") as problem:
        Curvature(problem).lead()
        assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_what_is_random_is_refused():
    x, y = samples()
    model = nn.Sequential(nn.Flatten(), Noise(), nn.Linear(16, 3)).double()
    with pytest.raises(InputError, match="evaluated again"), opened(model, F.cross_entropy, [(x, y)]):
        pass

    class Augmented:
        def __iter__(self):
            yield x + 0.1 * torch.randn_like(x), y

    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    with pytest.raises(InputError, match="evaluated again"), opened(plain, F.cross_entropy, Augmented()):
        pass


def test_a_shuffled_loader_is_the_same_data():
    x, y = samples()
    loader = DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True)
    with opened(net("mlp"), F.cross_entropy, loader) as problem:
        assert problem.samples == 20


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"params": "nothing"}, UsageError),
        ({"params": "("}, UsageError),
        ({"bn_mode": "other"}, UsageError),
    ],
)
def test_misuse(options, error):
    with pytest.raises(error), opened(net("mlp"), F.cross_entropy, [samples()], **options):
        pass


def test_a_diverged_model_and_no_data_are_refused():
    model = net("mlp")
    with pytest.raises(UsageError, match="no batch"), opened(model, F.cross_entropy, []):
        pass
    model[1].weight.data.fill_(math.nan)
    with pytest.raises(DivergedError), opened(model, F.cross_entropy, [samples()]):
        pass


def test_a_task_and_tied_parameters():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), layer, nn.Tanh(), layer, nn.Linear(4, 3)).double()
    x, y = samples()
    with opened(model, Supervised(model, F.cross_entropy), [(x, y)]) as problem:
        matrix, _ = matrix_of(problem)
    assert matrix.shape[0] == 16 * 4 + 4 + 16 + 4 + 12 + 3
    of = lambda w: F.cross_entropy(functional_call(model, {"1.weight": w}, (x,)), y)  # noqa: E731
    block = jacrev(torch.func.grad(of))(model[1].weight.detach()).reshape(64, 64)
    torch.testing.assert_close(matrix[:64, :64], block, rtol=1e-10, atol=1e-10)


def test_refined_is_the_same_matrix_in_more_terms():
    model, (x, y) = net("cnn"), samples("cnn")
    with opened(model, F.cross_entropy, [(x, y)]) as problem:
        operator = Curvature(problem, finer=sliced(problem, pieces=4))
        vector = torch.randn(problem.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        whole = operator.product(vector)
        assert len(list(operator.terms(lambda wanted=True: vector))) == 1
        with operator.refined():
            torch.testing.assert_close(operator.product(vector), whole, rtol=1e-10, atol=1e-12)
            shares = [term.share for term in operator.terms(lambda wanted=True: vector)]
        assert shares == [0.25] * 4
        assert len(list(operator.terms(lambda wanted=True: vector))) == 1
        assert operator.how == "autograd, 1 of 1 graphs kept, 2 batch norms folded"
