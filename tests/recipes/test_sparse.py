"""The masks of SSAM-F and SSAM-D: how many entries, which ones, when they change, and what is made of them."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpkit.errors import UsageError
from tests.core.support import drawn, net, numbered, sharp
from tests.recipes.sparse import Vector, shapes, steps, total
from tests.reference.ssam_f import units

SPARSE = pytest.mark.parametrize("recipe", ["ssam-f", "ssam-f:mask=random", "ssam-d"])
WHOLE = ("filter", "tensor")


def live(sparsity, d, dtype=torch.float64, rule="ssam-f:mask=random"):
    model = Vector(d, dtype)
    opt = sharp(f"{rule}:sparsity={sparsity}", model, loss=total)
    opt.step((torch.ones(1, d, dtype=dtype), None))
    return int(drawn(opt, model).sum())


# ---------------------------------------------------------------------- how many


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sparsity", "k"), [(0.5, 5586981), (0.8, 2234792), (0.9, 1117396), (0.95, 558698), (0.98, 223479), (0.99, 111740)]
)
def test_the_live_entries_of_a_resnet_18(sparsity, k):
    """By rounding, where truncation would give 111 739 at 0.99."""
    assert live(sparsity, 11_173_962, torch.float32) == k


@pytest.mark.parametrize("rule", ["ssam-f", "ssam-f:mask=random", "ssam-d"])
@pytest.mark.parametrize(
    ("sparsity", "d", "k"), [(0.9, 10, 1), (0.9, 1000, 100), (0.7, 10, 3), (0.99, 100, 1), (0.0, 7, 7), (1.0, 7, 0)]
)
def test_exact_multiples_are_not_cut_off(rule, sparsity, d, k):
    """As int(d (1 - s)) would: int(10 * (1 - 0.9)) is 0."""
    assert live(sparsity, d, rule=rule) == k


@SPARSE
@pytest.mark.parametrize("sparsity", [0.1, 0.2, 0.5, 0.8, 0.95])
def test_the_live_count_stays_the_same(recipe, sparsity):
    """Also where few entries are dead, fewer than half the live ones."""
    model = net()
    counts = [int(m.sum()) for _, m, _ in steps(f"{recipe}:sparsity={sparsity}", model, 12)]
    assert counts == [51 - round(sparsity * 51)] * 12


@SPARSE
@pytest.mark.parametrize("structure", WHOLE)
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_whole_units_stay_within_the_budget(recipe, structure, sparsity):
    model = net()
    unit, k = units(shapes(model), structure), 51 - round(sparsity * 51)
    for _, mask, eps in steps(f"{recipe}:structure={structure}:sparsity={sparsity}:rho=0.3", model, 9):
        alive = np.bincount(unit, mask)
        assert ((alive == 0) | (alive == np.bincount(unit))).all()
        assert 0 < mask.sum() <= k
        assert np.linalg.norm(eps) == pytest.approx(0.3, rel=1e-9)  # the norm is taken inside


@SPARSE
def test_where_nothing_fits_the_smallest_unit_is_taken(recipe):
    model = net()
    (_, mask, _), *_ = steps(f"{recipe}:structure=tensor:sparsity=0.98", model, 1)
    assert mask.sum() == 3  # of 24, 6, 18 and 3 entries, where 1 is allowed


@SPARSE
def test_two_of_every_four_are_kept(recipe):
    """Rows of 4, and rows of 6: four and two; tensors of one axis are kept whole."""
    model = net()
    for _, mask, _ in steps(f"{recipe}:structure=2:4", model, 9):
        first, bias, second, last = np.split(mask, np.cumsum([24, 6, 18]))
        assert first.reshape(6, 4).sum(1).tolist() == [2] * 6
        assert second.reshape(3, 6)[:, :4].sum(1).tolist() == [2] * 3
        assert second.reshape(3, 6)[:, 4:].sum(1).tolist() == [1] * 3
        assert bias.all()
        assert last.all()


@SPARSE
@pytest.mark.parametrize("sparsity", [0.4, 0.9])
def test_two_of_four_is_half(recipe, sparsity):
    with pytest.raises(UsageError, match="sparsity"):
        sharp(f"{recipe}:structure=2:4:sparsity={sparsity}", net()).step(numbered())


@pytest.mark.parametrize("setting", ["sparsity=-0.1", "sparsity=1.1", "tm=-1", "rho=-1", "structure=row"])
@pytest.mark.parametrize("recipe", ["ssam-f", "ssam-d"])
def test_values_out_of_range_are_refused(recipe, setting):
    with pytest.raises(UsageError, match=setting.split("=")[0]):
        sharp(f"{recipe}:{setting}", net())


# ---------------------------------------------------------------------- what is kept of them


@SPARSE
@pytest.mark.parametrize("structure", ["element", "2:4"])
def test_the_perturbation_is_a_part_of_sams(recipe, structure):
    """So its length is rho ||m * g|| / ||g||."""
    for g, mask, eps in steps(f"{recipe}:structure={structure}:rho=0.3", net(), 6):
        np.testing.assert_allclose(eps, 0.3 * mask * g / np.linalg.norm(g), rtol=0, atol=1e-12)
        shorter = np.linalg.norm(mask * g) / np.linalg.norm(g)
        assert 0 < shorter < 1
        assert np.linalg.norm(eps) == pytest.approx(0.3 * shorter, rel=1e-9)


@pytest.mark.parametrize("recipe", ["ssam-f", "ssam-d"])
@pytest.mark.parametrize("structure", ["element", "2:4", "filter", "tensor"])
def test_masks_are_kept_no_larger_than_they_need_to_be(recipe, structure):
    model = net()
    opt = sharp(f"{recipe}:structure={structure}", model)
    opt.step(numbered())
    mask = opt.state_dict()["memory"][f"all/{recipe}.mask"]
    assert {m.dtype for m in mask} == {torch.bool}
    kept = [tuple(m.shape) for m in mask]
    full = [tuple(p.shape) for p in model.parameters()]
    if structure == "filter":
        assert [kept[0], kept[2]] == [(6, 1), (3, 1)]
    else:
        assert kept == ([()] * 4 if structure == "tensor" else full)


# ---------------------------------------------------------------------- when they change


@SPARSE
@pytest.mark.parametrize(("tm", "refreshed"), [(0, set()), (1, {3, 6, 9}), (2, {6}), (3, {9}), (5, set())])
def test_masks_change_with_the_epoch_and_at_no_other_time(recipe, tm, refreshed):
    masks = [m for _, m, _ in steps(f"{recipe}:tm={tm}", net(), 12, steps_per_epoch=3, total_steps=12)]
    assert {t for t in range(1, 12) if not np.array_equal(masks[t - 1], masks[t])} == refreshed


def test_random_masks_are_the_seeds():
    masks = [next(steps("ssam-f:mask=random", net(), 1, seed=seed))[1] for seed in (0, 0, 1)]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


# ---------------------------------------------------------------------- ties


@pytest.mark.parametrize("structure", ["element", "filter", "tensor"])
def test_of_equal_scores_the_first_in_the_parameters_order_is_kept(structure):
    """A loss without a gradient makes all scores zero."""
    model = net()
    loss = lambda outputs, targets, reduction: 0 * outputs.sum(1)  # noqa: E731
    opt = sharp(f"ssam-f:structure={structure}", model, loss=loss)
    opt.step(numbered())
    mask = drawn(opt, model)
    k = {"element": 25, "filter": 24, "tensor": 24}[structure]  # no other unit fits into the one that is left
    assert mask[:k].all()
    assert mask.sum() == k


# ---------------------------------------------------------------------- which entries are one filter


@SPARSE
@pytest.mark.parametrize("groups", [1, 2])
def test_a_filter_of_a_transposed_convolution_is_what_makes_one_output(recipe, groups):
    torch.manual_seed(0)
    layer = nn.ConvTranspose1d(4, 6, 2, groups=groups)
    model = nn.Sequential(nn.Unflatten(1, (4, 1)), layer, nn.Flatten(), nn.Linear(12, 3)).double()
    opt = sharp(f"{recipe}:structure=filter:rho=0.3", model)
    for t in range(2):
        opt.step(numbered(seed=t))
    mask = torch.tensor(drawn(opt, model)[: layer.weight.numel()]).reshape(groups, 4 // groups, 6 // groups, 2)
    kept = mask.any(3).any(1)
    assert torch.equal(kept, mask.all(3).all(1))
    assert 0 < int(kept.sum()) < 6
