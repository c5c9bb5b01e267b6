"""Algebra on lists of tensors, against numpy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sharpkit.core import vec

SHAPES = st.lists(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), min_size=1, max_size=4)
NUMBERS = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)


@st.composite
def pairs(draw):
    shapes = draw(SHAPES)
    return [[draw(arrays.arrays(np.float64, shape, elements=NUMBERS)) for shape in shapes] for _ in range(2)]


def tensors(values):
    return [torch.from_numpy(v.copy()) for v in values]


def close(got, wanted):
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g.numpy(), w, rtol=1e-12, atol=1e-9)


@given(pairs(), NUMBERS)
def test_elementwise_operations_are_numpys(pair, alpha):
    a, b = pair
    ta, tb = tensors(a), tensors(b)
    close(vec.add(ta, tb, alpha), [x + alpha * y for x, y in zip(a, b, strict=True)])
    close(vec.sub(ta, tb), [x - y for x, y in zip(a, b, strict=True)])
    close(vec.mul(ta, tb), [x * y for x, y in zip(a, b, strict=True)])
    close(vec.scale(ta, alpha), [alpha * x for x in a])
    close(vec.scale(ta, torch.tensor(alpha)), [alpha * x for x in a])
    close(vec.lerp(ta, tb, 0.3), [0.7 * x + 0.3 * y for x, y in zip(a, b, strict=True)])
    close(ta, a)  # none of these changes its operands
    vec.add_(ta, tb, alpha)
    close(ta, [x + alpha * y for x, y in zip(a, b, strict=True)])
    vec.copy_(ta, tb)
    vec.scale_(ta, alpha)
    close(ta, [alpha * y for y in b])


@given(pairs())
def test_norm_and_dot_are_joint_over_all_tensors(pair):
    a, b = (np.concatenate([x.ravel() for x in v]) for v in pair)
    close([vec.norm(tensors(pair[0]))], [np.linalg.norm(a)])
    close([vec.dot(tensors(pair[0]), tensors(pair[1]))], [a @ b])


@given(pairs())
def test_flatten_and_unflatten_are_inverse(pair):
    flat = vec.flatten(tensors(pair[0]))
    np.testing.assert_array_equal(flat.numpy(), np.concatenate([x.ravel() for x in pair[0]]))
    for back, original in zip(vec.unflatten(flat, tensors(pair[0])), pair[0], strict=True):
        np.testing.assert_array_equal(back.numpy(), original)


def test_unflatten_refuses_another_length():
    with pytest.raises(ValueError, match="the vector has 3 entries, the tensors have 4"):
        vec.unflatten(torch.zeros(3), [torch.zeros(2, 2)])


@pytest.mark.parametrize("reducer", [vec.norm, lambda v: vec.dot(v, v) ** 0.5], ids=["norm", "dot"])
@pytest.mark.parametrize("shape", [(11_000_000,), (3001, 3667), (512, 2400, 3, 3)], ids=["flat", "matrix", "conv"])
def test_float32_norm_of_eleven_million_entries(shape, reducer):
    v = torch.empty(shape).uniform_(generator=torch.Generator().manual_seed(0))
    if len(shape) == 4:
        v = v.to(memory_format=torch.channels_last)
    exact = float(torch.linalg.vector_norm(v.double()))
    assert float(reducer([v])) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_norm_does_not_depend_on_layout_or_stride(layout):
    v = torch.randn(64, 33, 5, 5, generator=torch.Generator().manual_seed(0))
    exact = float(np.linalg.norm(v.double().numpy()))
    assert float(vec.norm([v.to(memory_format=layout)])) == pytest.approx(exact, rel=1e-6)
    assert float(vec.norm([v.transpose(0, 1)])) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_reductions_are_kept_in_float32_or_wider(dtype, wanted):
    assert vec.norm([torch.ones(3, dtype=dtype), torch.ones(2)]).dtype == wanted
    assert float(vec.norm([torch.full((60_000,), 1.0, dtype=torch.float16)])) == pytest.approx(60_000**0.5, rel=1e-5)


def test_the_empty_vector():
    assert float(vec.norm([])) == 0
    assert float(vec.dot([], [])) == 0
    vec.copy_([], [])


def test_keep_if_gives_exact_zeros_even_for_nan():
    v = [torch.tensor([float("nan"), 1.0]), torch.tensor([[float("inf")]])]
    for kept in vec.keep_if(torch.tensor(False), v):
        assert torch.equal(kept, torch.zeros_like(kept))
    assert [k.data_ptr() for k in vec.keep_if(torch.tensor(True), v)] == [t.data_ptr() for t in v]


def test_clone_keeps_the_memory_format_and_detaches():
    original = torch.randn(2, 3, 4, 4, requires_grad=True).to(memory_format=torch.channels_last)
    (copy,) = vec.clone([original])
    assert copy.is_contiguous(memory_format=torch.channels_last)
    assert not copy.requires_grad
    assert copy.data_ptr() != original.data_ptr()
