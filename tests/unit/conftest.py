"""Fixtures that several files of tests take."""

import pytest

from tests.unit.serving import Server


@pytest.fixture(scope="module")
def server():
    made = Server()
    yield made
    made.close()
