"""What the tests of several processes share."""

import pytest


@pytest.fixture(scope="module")
def tmp(tmp_path_factory):
    """A module's folder for what processes return."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def shared(request, tmp_path_factory):
    """A module's folder that is the same in all workers of pytest, for `once`."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if hasattr(request.config, "workerinput") else base
    return root / request.module.__name__.rpartition(".")[2]
