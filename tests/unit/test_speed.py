"""Guards against slips of an order of magnitude, in CPU time; `python -m bench` has the targets."""

import subprocess
import sys

import pytest

from sim.inputs.loader import prepare
from sim.step.step import step
from tests.clock import least


def test_a_configuration_of_a_sweep_takes_milliseconds():
    pair = prepare("dgx-h100", "llama3-70b-full", ["nodes=2", "gradient_accumulation=1"])
    lengths = iter(range(2048, 65536, 64))

    def another():
        varied = pair.vary({"sequence_length": next(lengths)}).loaded()
        step(varied.topology, varied.workload, engine="compiled")

    another()
    assert least(another) < 0.1  # 5 to 8 ms


def last_line(code: str, *, check: bool = True) -> str:
    """What a process of its own prints last."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=check)
    return done.stdout.splitlines()[-1]


HEAVY = ("numba", "simpy", "networkx", "scipy", "pandas", "pydantic")
#: of libraries that are needed, what is not: `numpy.unique` and `importlib.resources` take them
PARTS = ("numpy.ma", "tempfile", "zipfile")


@pytest.mark.parametrize(
    "asked",
    [
        "run dgx-h100 llama3-8b-sft",
        "memory dgx-h100 llama3-8b-sft",
        "size llama3-8b-sft --gpus 8 --gpu h100",
    ],
)
def test_a_plain_question_needs_neither_numba_nor_the_graph_library(asked):
    code = (
        f"import sys; sys.argv = ['scaling-sim', *{asked.split()}];"
        "from sim.cli import main; main();"
        f"print([m for m in {HEAVY + PARTS} if m in sys.modules])"
    )
    assert last_line(code) == "[]"


def test_what_a_process_leaves_is_not_collected():
    code = (  # handlers run last first: this one after those of `main`
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 10_000))\n"
        "sys.argv = ['scaling-sim', '--version']\n"
        "from sim.cli import main\n"
        "main()\n"
    )
    assert last_line(code) == "True"


@pytest.mark.parametrize(("verb", "every"), [("--version", 2_000_000), ("serve", 200_000)])
def test_verbs_that_end_hardly_look_for_rubbish(verb, every):
    """`validate` took half a second to look through a million objects, nearly all of which stay."""
    code = (
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(gc.get_threshold()[0]))\n"
        f"sys.argv = ['scaling-sim', '{verb}', '--limit', 'none']\n"
        "from sim.cli import main\n"
        "main()\n"
    )
    assert last_line(code, check=False) == str(every)


def test_a_part_of_validate_reads_no_rows_of_others():
    code = (
        "import atexit, sys\n"
        "from sim.published.rows import training_rows\n"
        "atexit.register(lambda: print(training_rows.cache_info().misses))\n"
        "sys.argv = ['scaling-sim', 'validate', 'collectives']\n"
        "from sim.cli import main\n"
        "main()\n"
    )
    assert last_line(code) == "0"
