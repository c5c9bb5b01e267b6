"""Base optimizers: `step` returns the next iterate and updates the moments, `peek` returns it and does not."""

from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


class Base:
    def peek(self, w: Array, g: Array) -> Array:
        return deepcopy(self).step(w, g)


@dataclass
class SGD(Base):
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    m: Array | None = None

    def step(self, w: Array, g: Array) -> Array:
        d = g + self.weight_decay * w
        self.m = d if self.m is None else self.momentum * self.m + d
        return w - self.lr * (d + self.momentum * self.m if self.nesterov else self.m)


@dataclass
class Adam(Base):
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    t: int = 0
    m: Array | float = field(default=0.0)
    v: Array | float = field(default=0.0)

    def step(self, w: Array, g: Array) -> Array:
        self.t += 1
        if self.decoupled:
            w = w * (1 - self.lr * self.weight_decay)
        else:
            g = g + self.weight_decay * w
        (b1, b2), t = self.betas, self.t
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        return w - self.lr * (self.m / (1 - b1**t)) / (np.sqrt(self.v / (1 - b2**t)) + self.eps)
