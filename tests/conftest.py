"""Settings of the whole suite."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine takes longer: no test fails by the clock. A run judges a commit: the same commit
# gets the same examples. New ones are looked for by --hypothesis-profile=search.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", _UNTIMED)
settings.register_profile("suite", _UNTIMED, derandomize=True)
settings.load_profile("suite")

# The day that tests are as of (2026-11-29): prices in them do not age.
os.environ["SOURCE_DATE_EPOCH"] = "1795910400"

# A caller's terminal is none of a test's: how wide it is, and whether it shows colours.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "SCALING_SIM_TRACEBACK"):
    os.environ.pop(_name, None)

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


# Where tests run, and whose files they run: what a verb writes beside its input lands here.
_CHECKOUT = Path(__file__).parents[1]
_WATCHED = [_CHECKOUT / name for name in (".", "docs/examples", "topologies", "workloads")]
_BEFORE = pytest.StashKey[set]()


@pytest.fixture(autouse=True)
def _no_store_beside_the_code():
    """The test that keeps a sweep where it runs is named, not only found at the end."""
    before = set(_CHECKOUT.glob("*.sqlite"))
    yield
    assert set(_CHECKOUT.glob("*.sqlite")) <= before, "write stores to tmp_path"


def _files():
    return {
        entry.path for folder in _WATCHED for entry in os.scandir(folder)
        if not entry.name.startswith((".", "__"))
    }  # fmt: skip


def pytest_sessionstart(session):
    session.config.stash[_BEFORE] = _files()


def pytest_sessionfinish(session):
    """Tests write to their own folders: what they leave here answers for the next run."""
    left = _files() - session.config.stash[_BEFORE]
    if left and not hasattr(session.config, "workerinput"):  # one process judges the whole run
        print(f"\ntests left {', '.join(sorted(left))}")
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def compiled():
    """What numba compiles once after an installation, 11 s, is no part of what a test takes."""
    from sim.inputs.loader import load
    from sim.step.run import run_step

    found = load("dgx-h100", "llama3-8b-sft", ["model.layers=2"])
    run_step(found.topology, found.workload, engine="compiled")
