"""Models of other libraries by name: `torchvision:NAME` and `timm:NAME`, without pretrained weights, and `hf:DIR`.

The libraries are imported when one of their models is asked for, never before.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from functools import partial

from torch import nn

from sharpkit.errors import InputError, UsageError, one_line
from sharpkit.libraries import imported
from sharpkit.models.huggingface import huggingface, is_hugging_face


def from_library(name: str) -> Callable[[tuple[int, ...], int], nn.Module] | None:
    """Return the builder that `torchvision:NAME`, `timm:NAME` or `hf:DIR` stands for; None for any other name."""
    if is_hugging_face(name):
        return partial(huggingface, name)
    library, colon, model = name.partition(":")
    build = {"torchvision": torchvision, "timm": timm}.get(library)
    return partial(build, model) if colon and build else None


def torchvision(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a classification model of torchvision, in its ImageNet form.

    Args:
        name: What torchvision calls it, such as `resnet50`.
        shape: (C, H, W) of one image; torchvision's models have three channels.
        classes: Outputs.

    Raises:
        UsageError: If torchvision has no such model, or the images have not three channels.
        InputError: If torchvision is missing or does not work.
    """
    models = imported("torchvision", f"the model torchvision:{name}").models
    # With `module` only those of classification; detectors and the like return no logits.
    _known(name, models.list_models(module=models), "torchvision")
    if len(shape) != 3 or shape[0] != 3:
        raise UsageError(
            f"the model torchvision:{name} needs images of 3 channels (3, H, W), the data have shape {shape}",
            "use a model of timm, or one of `sharpkit ls models`",
        )
    return _built(f"torchvision:{name}", shape, partial(models.get_model, name, weights=None, num_classes=classes))


def timm(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a model of timm, for images of any number of channels.

    Args:
        name: What timm calls it, such as `vit_small_patch16_224`.
        shape: (C, H, W) of one image; models of a fixed size, such as transformers, are built for it.
        classes: Outputs.

    Raises:
        UsageError: If timm has no such model, or the inputs are no images.
        InputError: If timm is missing or does not work, or the model cannot be built for such images.
    """
    library = imported("timm", f"the model timm:{name}")
    if not library.is_model(name):
        _known(name, library.list_models(), "timm")
    if len(shape) != 3:
        raise UsageError(
            f"the model timm:{name} needs images (C, H, W), the data have shape {shape}", "use --model mlp"
        )
    known = library.get_pretrained_cfg(name)
    size = {"img_size": shape[1:]} if known is not None and known.fixed_input_size else {}
    create = partial(library.create_model, name, pretrained=False, num_classes=classes, in_chans=shape[0], **size)
    return _built(f"timm:{name}", shape, create)


def _known(name: str, names: Iterable[str], library: str) -> None:
    """Refuse a name that the library does not have."""
    every = list(names)
    if name not in every:
        close = difflib.get_close_matches(name, every, n=1)
        hint = f"did you mean {library}:{close[0]}?" if close else f"see the names in {library}'s documentation"
        raise UsageError(f"{library} has no classification model {name!r}", hint)


def _built(name: str, shape: tuple[int, ...], create: Callable[[], nn.Module]) -> nn.Module:
    try:
        return create()
    except Exception as error:
        told = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{name} cannot be built for images {shape}: {told}", "give another --model") from error
