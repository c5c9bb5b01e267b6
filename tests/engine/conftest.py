"""Every test of the engine works in a folder of its own, leaves torch as it was, and trains quickly."""

import pytest


@pytest.fixture(autouse=True)
def _alone(alone, many_runs):
    pass
