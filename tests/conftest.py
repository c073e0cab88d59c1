"""Settings of the whole suite."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine takes longer: no test fails by the clock. CI judges a commit: the same commit
# gets the same examples. At a desk, new ones are looked for.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("suite", _UNTIMED)
settings.register_profile("ci", _UNTIMED, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "suite")

# The day that tests are as of (2026-11-29): prices in them do not age.
os.environ["SOURCE_DATE_EPOCH"] = "1795910400"

# A shell starts what it puts in the background, and nohup what it runs, with Ctrl-C ignored, and so
# would the processes be that our tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _interrupts_of_its_own():
    """A test that calls `sim.cli.main` leaves Ctrl-C to end the process, which tests share."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if signal.getsignal(signal.SIGINT) is not before:
        signal.signal(signal.SIGINT, before)
