"""The network of 102,000 parameters that `hessian.py` and `landscape.py` look at, and its training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def network() -> nn.Module:
    """Return four convolutions with batch norm and a read-out."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate([(1, 40), (40, 40), (40, 80), (80, 80)]):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        if i == 1:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(80, 10))


def trained(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """Return a network after some epochs of SGD."""
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            base.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            base.step()
    model.zero_grad(set_to_none=True)
    return model.eval()
