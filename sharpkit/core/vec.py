"""Algebra on lists of tensors, aligned with the trainable parameters, as if they were one vector.

Everything here stays on the device: no function reads a value back to the host. Of sharded tensors the shards that are
here are worked on; norms and inner products are those of all shards, the same on every rank.
"""

# torch._foreach_* is what torch.optim itself is built on; there is no public name for it.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sharpkit.core.shards import is_sharded, local, of_all_ranks, spread

Vec = list[Tensor]

_ROW = 1024
_LARGE = 64 * _ROW
_CACHED = 2**17  # entries of a vector that stay in a cache beside those of some others


def clone(v: Sequence[Tensor]) -> Vec:
    """Copy every tensor, detached, in its own memory format."""
    parts = local(v)
    copies = [torch.empty_like(t, requires_grad=False) for t in parts]
    with torch.no_grad():
        copy_(copies, parts)
    return spread(copies, v)


def copy_(target: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    """Copy `source` into `target` bit for bit."""
    if target:
        torch._foreach_copy_(local(target), local(source))


def add(a: Sequence[Tensor], b: Sequence[Tensor], alpha: float = 1.0) -> Vec:
    """Return a + alpha b."""
    return spread(torch._foreach_add(local(a), local(b), alpha=alpha), a)


def add_(a: Sequence[Tensor], b: Sequence[Tensor], alpha: float = 1.0) -> None:
    """Add alpha b to a in place."""
    torch._foreach_add_(local(a), local(b), alpha=alpha)


def sub(a: Sequence[Tensor], b: Sequence[Tensor]) -> Vec:
    """Return a - b."""
    return spread(torch._foreach_sub(local(a), local(b)), a)


def mul(a: Sequence[Tensor], b: Sequence[Tensor]) -> Vec:
    """Return the elementwise product."""
    return spread(torch._foreach_mul(local(a), local(b)), a)


def scale(v: Sequence[Tensor], factor: float | Tensor) -> Vec:
    """Return factor * v; a tensor factor is a scalar that may stay on the device."""
    return spread(torch._foreach_mul(local(v), factor), v)


def scale_(v: Sequence[Tensor], factor: float | Tensor) -> None:
    """Multiply v by a factor in place; a tensor factor is a scalar that may stay on the device."""
    torch._foreach_mul_(local(v), factor)


def lerp(a: Sequence[Tensor], b: Sequence[Tensor], weight: float) -> Vec:
    """Return (1 - weight) a + weight b."""
    return spread(torch._foreach_lerp(local(a), local(b), weight), a)


def addcmul_(a: Sequence[Tensor], b: Sequence[Tensor], c: Sequence[Tensor], alpha: float) -> None:
    """Add alpha b c to a in place, entry by entry."""
    torch._foreach_addcmul_(local(a), local(b), local(c), value=alpha)


def addcdiv_(a: Sequence[Tensor], b: Sequence[Tensor], c: Sequence[Tensor], alpha: float) -> None:
    """Add alpha b / c to a in place, entry by entry."""
    torch._foreach_addcdiv_(local(a), local(b), local(c), value=alpha)


def maximum_(a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    """Replace every entry of a by that of b where it is larger."""
    torch._foreach_maximum_(local(a), local(b))


def sqrt_(v: Sequence[Tensor]) -> None:
    """Replace every entry by its square root."""
    torch._foreach_sqrt_(local(v))


def shift_(v: Sequence[Tensor], number: float) -> None:
    """Add a number to every entry in place."""
    torch._foreach_add_(local(v), number)


def blocks(*vectors: Sequence[Tensor]) -> Iterator[tuple[Vec, ...]]:
    """Yield views of the same entries of several aligned vectors, block by block, in each all of them once.

    On a CPU a block is what its caches hold, so that a chain of operations reads memory once and not once an
    operation; elsewhere there is one block. The views are of the shards that are here.
    """
    here = [local(v) for v in vectors]
    if not here[0] or here[0][0].device.type != "cpu":
        yield tuple(here)
        return
    held: list[Sequence[Tensor]] = []
    count = 0
    for tensors in zip(*here, strict=True):
        first = tensors[0]
        rows = max(1, _CACHED * first.shape[0] // max(1, first.numel())) if first.dim() else 1
        for pieces in zip(*(t.split(rows) if t.dim() else (t,) for t in tensors), strict=True):
            held.append(pieces)
            count += pieces[0].numel()
            if count >= _CACHED:
                yield tuple(list(v) for v in zip(*held, strict=True))
                held, count = [], 0
    if held:
        yield tuple(list(v) for v in zip(*held, strict=True))


def weighted_sum(vectors: Sequence[Vec], weights: Sequence[float]) -> Vec:
    """Return sum_i weights_i v_i; a single vector of weight 1 is returned as it is."""
    if len(vectors) == 1 and weights[0] == 1:
        return vectors[0]
    total = scale(vectors[0], weights[0])
    for v, weight in zip(vectors[1:], weights[1:], strict=True):
        add_(total, v, alpha=weight)
    return total


def zeros_like(v: Sequence[Tensor]) -> Vec:
    """Return zeros of the same shapes, types and devices."""
    return spread([torch.zeros_like(t) for t in local(v)], v)


def accumulation_dtype(v: Sequence[Tensor]) -> torch.dtype:
    """Return the type that reductions over v are kept in: float32, or wider where v is."""
    wide = any(t.dtype == torch.float64 for t in v)
    return torch.float64 if wide else torch.float32


def norm(v: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm over all tensors jointly, a 0-dim tensor of at least float32.

    On the CPU torch adds the squares of a tensor one after the other in float32, which is off by 4e-4 at 11
    million entries; long tensors are therefore reduced in rows of 1024 first, which costs no extra pass.
    """
    dtype = accumulation_dtype(v)
    if not v:
        return torch.zeros((), dtype=dtype)
    home = v[0].device
    pieces: Vec = []
    for t in local(v):
        if t.device.type == "cpu" and t.dtype != torch.float64 and t.numel() >= _LARGE:
            pieces += _row_norms(t)
        else:
            pieces.append(t)
    parts = torch._foreach_norm(pieces, 2, dtype=dtype)
    joint: Tensor = torch.linalg.vector_norm(torch.stack([p.to(home) for p in parts]))
    return torch.linalg.vector_norm(of_all_ranks(joint, v[0])) if is_sharded(v[0]) else joint


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the inner product over all tensors jointly, a 0-dim tensor of at least float32."""
    dtype = accumulation_dtype(a)
    if not a:
        return torch.zeros((), dtype=dtype)
    home = a[0].device
    products = torch._foreach_mul(local(a), local(b))
    joint = torch.stack([p.sum(dtype=dtype).to(home) for p in products]).sum()
    return of_all_ranks(joint, a[0]).sum() if is_sharded(a[0]) else joint


def projection(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return <a, b> / ||b||^2, the coefficient of a's projection onto b; 0 where b is zero."""
    squared = dot(b, b)
    return torch.where(squared > 0, dot(a, b) / squared, 0.0)


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return <a, b> / (||a|| ||b||), a 0-dim tensor; 0 where one of them is zero."""
    lengths = norm(a) * norm(b)
    return torch.where(lengths > 0, dot(a, b) / lengths, 0.0)


def keep_if(condition: Tensor, v: Sequence[Tensor]) -> Vec:
    """Return v where the 0-dim condition holds and exact zeros where not, even if v holds NaN.

    On the CPU the branch is free; elsewhere the choice stays on the device.
    """
    if condition.device.type == "cpu":
        return list(v) if bool(condition) else zeros_like(v)
    return spread([torch.where(condition.to(t.device), t, 0.0) for t in local(v)], v)


def flatten(v: Sequence[Tensor]) -> Tensor:
    """Return one contiguous vector with all entries, in the tensors' order."""
    return torch.cat([t.detach().reshape(-1) for t in v])


def unflatten(flat: Tensor, like: Sequence[Tensor]) -> Vec:
    """Cut a flat vector into the shapes of `like`.

    Raises:
        ValueError: If the number of entries differs.
    """
    sizes = [t.numel() for t in like]
    if flat.numel() != sum(sizes):
        raise ValueError(f"the vector has {flat.numel()} entries, the tensors have {sum(sizes)}")
    return [part.reshape(t.shape) for part, t in zip(flat.split(sizes), like, strict=True)]


def _row_norms(t: Tensor) -> Vec:
    """Reduce a long tensor to norms of its rows, which have the same joint norm."""
    if t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last):
        t = t.permute(0, 2, 3, 1)
    flat = t.reshape(-1)
    whole = flat.numel() - flat.numel() % _ROW
    rows: Tensor = torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1, dtype=torch.float32)
    return [rows, flat[whole:]] if whole < flat.numel() else [rows]
