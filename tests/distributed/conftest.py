"""What the tests of several processes share."""

import pytest


@pytest.fixture(scope="module")
def tmp(tmp_path_factory):
    """A folder for what the processes of a module's tests return."""
    return tmp_path_factory.mktemp("ranks")
