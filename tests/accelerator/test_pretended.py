"""The pretended device refuses what a GPU refuses, allows what it allows, and sees when the host waits."""

import pytest
import torch
from torch import nn

from tests.accelerator.pretended import NAME


@pytest.mark.parametrize(
    "mixture",
    [
        lambda there: there + torch.ones(3),
        lambda there: torch.ones(3).add_(there),
        lambda there: torch.zeros(()).add_(there[0]),
        lambda there: torch.stack([there[0], torch.ones(())]),
        lambda there: torch._foreach_add([there], [torch.ones(3)]),
        lambda there: torch.ones(3)[there.long()],
        lambda there: nn.Linear(3, 2)(there),
        lambda there: there.normal_(generator=torch.Generator()),
        lambda there: torch.randn(3, device=NAME, generator=torch.Generator()),
    ],
)
def test_two_devices_are_not_mixed(device, mixture):
    with pytest.raises(RuntimeError, match=r"one device|generator of the CPU|is on"):
        mixture(torch.ones(3, device=NAME))


def test_numpy_has_no_tensors_of_the_device(device):
    with pytest.raises(TypeError, match="numpy"):
        torch.ones(3, device=NAME).numpy()


@pytest.mark.parametrize(
    "allowed",
    [
        lambda there: there * torch.tensor(2.0),
        lambda there: there * 2,
        lambda there: there[torch.tensor([0, 1, 2])] + 1,
        lambda there: there.copy_(torch.full((3,), 2.0)),
        lambda there: torch.full((3,), 2.0).to(NAME),
        lambda there: there.add_(1),
    ],
)
def test_what_a_gpu_allows_is_allowed_and_computed(device, allowed):
    value = allowed(torch.ones(3, device=NAME))
    assert value.device.type == NAME
    assert device.reads == 0
    assert value.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "read",
    [
        torch.Tensor.item,
        torch.Tensor.cpu,
        bool,
        float,
        lambda there: there.tolist(),
        torch.Tensor.nonzero,
        lambda there: there[there > 0],
        lambda there: torch.equal(there, there),
        lambda there: there.to("cpu"),
        lambda there: torch.zeros(()).copy_(there),
    ],
)
def test_the_host_is_seen_to_wait(device, read):
    there = torch.ones((), device=NAME)
    read(there)
    assert device.reads == 1


def test_a_model_learns_there_what_it_learns_here(device):
    weights = []
    for place in ("cpu", NAME):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))
        x, y = torch.randn(4, 1, 5, 5), torch.tensor([0, 1, 2, 0])
        model.to(place)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            base.zero_grad()
            nn.functional.cross_entropy(model(x.to(place)), y.to(place)).backward()
            base.step()
        weights.append([t.tolist() for t in model.state_dict().values()])
    assert weights[0] == weights[1]
