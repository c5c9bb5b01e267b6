"""Whether float32 products are rounded to TF32."""

import pytest
import torch

from sharpkit.core.products import set_tf32, without_tf32


@pytest.mark.parametrize(("wanted", "precision"), [(True, "tf32"), (False, "ieee")])
def test_tf32_is_what_was_asked_for(wanted, precision):
    backends = torch.backends
    try:
        set_tf32(wanted)
        assert backends.cuda.matmul.fp32_precision == precision
        assert backends.cudnn.conv.fp32_precision == precision
        assert backends.cudnn.rnn.fp32_precision == precision
    finally:
        set_tf32(False)


@pytest.mark.parametrize("before", [True, False])
def test_it_comes_back_after_exact_products(before):
    backends = torch.backends
    try:
        set_tf32(before)
        with without_tf32():
            assert backends.cudnn.conv.fp32_precision == "ieee"
        assert backends.cudnn.conv.fp32_precision == ("tf32" if before else "ieee")
    finally:
        set_tf32(False)
