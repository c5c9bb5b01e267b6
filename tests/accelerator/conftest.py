"""Every test works in a folder of its own and leaves torch as it was."""

import pytest

from tests.accelerator.pretended import accelerator


@pytest.fixture(autouse=True)
def _alone(alone, many_runs):
    pass


@pytest.fixture
def device():
    """A machine that has the pretended device."""
    with accelerator() as mode:
        yield mode
