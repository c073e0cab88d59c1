"""Fixtures that several files of tests take."""

import pytest

from tests.unit.browser import WITHOUT, chromium
from tests.unit.serving import Server


@pytest.fixture(scope="module")
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="session")
def browser():
    """A Chromium that starts, or the test is skipped; looked for when the first one asks."""
    if chromium() is None:
        pytest.skip(WITHOUT)
