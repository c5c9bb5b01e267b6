"""A device that is as strict as an accelerator, and computes on the CPU.

Its tensors refuse what a GPU refuses: operators over two devices, generators of the CPU, numpy. And it counts what
makes the host wait. It is called `meta`, of all devices the one that torch's autograd knows without any hardware. What
kernels, streams and graphs do is not pretended.
"""

from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"

_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
_OF_UNKNOWN_SIZE = {_aten.nonzero.default, _aten.masked_select.default, _aten._unique2.default}


class Pretended(torch.Tensor):
    """A tensor of that device; `here` holds its numbers."""

    is_meta = False

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype, device=NAME
        )

    def __init__(self, here):
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.here = value.here

    def __reduce_ex__(self, protocol):
        return self.here.__reduce_ex__(protocol)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *, force=False):
        raise TypeError("can't convert a tensor of the device to numpy")

    def __array__(self, *_, **__):
        return self.numpy()


class Accelerator(TorchDispatchMode):
    """Makes tensors that are asked for on the device, and counts in `reads` how often the host waited for one."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = _run(function, args, kwargs or {})
        there = any(isinstance(leaf, Pretended) for leaf in tree_leaves((args, kwargs)))
        told = result is not None and not any(isinstance(leaf, Pretended) for leaf in tree_leaves(result))
        if there and (told or function in _OF_UNKNOWN_SIZE):
            self.reads += 1
        return result


class _Made(TorchFunctionMode):
    """Moves there what torch.tensor is asked to make there: of this device it would make a tensor without numbers."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == NAME:
            return function(*args, **{**kwargs, "device": "cpu"}).to(NAME)
        if function is torch.Tensor.new_tensor and isinstance(args[0], Pretended) and "device" not in kwargs:
            return torch.tensor(args[1], dtype=args[0].dtype, **kwargs).to(NAME)
        return function(*args, **kwargs)


@contextmanager
def accelerator() -> Generator[Accelerator]:
    """Be a machine that has the device."""
    module = SimpleNamespace(
        get_rng_state=lambda *_: torch.get_rng_state(),
        set_rng_state=lambda state, *_: torch.set_rng_state(state),
        device_count=lambda: 1,
        current_device=lambda: 0,
        is_available=lambda: True,
    )
    setattr(torch, NAME, module)
    try:
        with _Made(), Accelerator() as mode:
            yield mode
    finally:
        delattr(torch, NAME)


def _run(function, args, kwargs):
    leaves = tree_leaves((args, kwargs))
    there = any(isinstance(leaf, Pretended) for leaf in leaves)
    wanted = kwargs.get("device")
    if function is _aten.copy_.default:
        stays = isinstance(args[0], Pretended)
    else:
        stays = there if wanted is None else torch.device(wanted).type == NAME
    if there:
        _refuse_mixture(function, args, [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)])
    if stays and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{function}: a generator of the CPU draws for another device")
    if stays and wanted is not None:
        kwargs = {**kwargs, "device": "cpu", "pin_memory": False}
    inner_args, inner_kwargs = tree_map(lambda t: t.here if isinstance(t, Pretended) else t, (args, kwargs))
    result = function(*inner_args, **inner_kwargs)
    if not stays:
        return result
    changed = {id(leaf.here): leaf for leaf in leaves if isinstance(leaf, Pretended)}

    def there_again(t):
        if not isinstance(t, torch.Tensor):
            return t
        return changed[id(t)] if id(t) in changed else Pretended(t)

    return tree_map(there_again, result)


def _refuse_mixture(function, args, tensors):
    """Raise what a GPU raises: beside its tensors come only single numbers, in operators that work entry by entry."""
    here = [t for t in tensors if not isinstance(t, Pretended)]
    if function in _COPIES or (function in _INDEXING and isinstance(args[0], Pretended)):
        return
    by_entry = torch.Tag.pointwise in function.tags
    changes_here = function._schema.is_mutable and here and args[0] is here[0]
    if changes_here or any(t.dim() > 0 or not by_entry for t in here):
        raise RuntimeError(f"{function}: expected all tensors to be on one device")
