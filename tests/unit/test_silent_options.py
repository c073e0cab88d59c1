"""Options that nothing takes are refused or told: none is taken without a word."""

from collections import Counter

import pytest

from bench.silent.options import alone, of_options, unasked

JOB = ("dgx-h100", "llama3-8b-lora")
WEEK = ("plan", "dgx-h100", "jobs.yaml")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", *JOB, "--seed", "3"), "nothing is drawn without jitter; say how much with"),
        ((*WEEK, "--on-time", "90%"), "ask for them by --smallest"),
        (("explain", "flash3", "--set", "nodes=2"), "flash3 takes no --set"),
        (("need", "gpus", *JOB, "--set", "nodes=2"), "2 changes nothing: how many is the question"),
        (("collective", "dgx-h100", "--zip"), "there is none; vary two keys"),
        (
            ("collective", "dgx-h100", "--nccl-path", "symmetric"),
            "symmetric is in NCCL 2.27 and newer, not in 2.21; write --nccl 2.27 too",
        ),
        (
            ("collective", "dgx-h100", "broadcast", "--nccl-path", "symmetric", "--nccl", "2.28"),
            "symmetric changes nothing here: broadcast is as plain at each of its sizes",
        ),
        (
            ("collective", "dgx-h100", "broadcast", "--nccl-path", "symmetric", "--nccl", "2.28",
             "--vary", "nodes=1,2"),
            "symmetric changes nothing here: broadcast is as plain at each of its sizes",
        ),
        (("sweep", *JOB, "--vary", "nodes=1,2", "--zip"), "there is one; vary two keys"),
        (
            ("sweep", *JOB, "--vary", "nodes=1,2", "-j", "2", "--workers", "2"),
            "say one of processes and workers",
        ),
        (("study", "--list", "h100-vs-a100"), "study: of a study that is run"),
        (
            ("diagnose", *JOB, "--confusion", "--baseline", "step_time_s=9", "--log", "train.log"),
            "--log, --baseline: of a diagnosis; leave out --confusion",
        ),
        (("trace", *JOB, "--format", "csv", "--ranks", "3"), "--ranks: of a timeline"),
        (
            ("trace", *JOB, "--stages", "--slow", "rank:3=0.5", "--cut"),
            "--slow, --all-micro-steps: of a timeline; a chart of stages",
        ),
        (("validate", "memory", "--misses", "3"), "--misses: of single rows"),
        (("validate", "collectives", "--plots", "drawn"), "--plots: of training runs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_an_option_that_would_do_nothing_is_refused(arguments, says):
    """Each changed nothing, and nothing said so."""
    found = alone(list(arguments))
    assert (found.code, found.out) == (2, "")
    assert says in " ".join(found.err.split())


def test_a_price_file_that_nothing_is_rented_at_is_told():
    """A row without a date comes after those that have one, and a file may lack the machine."""
    found = alone(["run", "dgx-a100", JOB[1], "--prices", "own.csv", "--no-scaling"])
    assert "own.csv has no offer of nodes of a100-sxm-80gb as dgx-a100 has" in found.out
    taken = alone(["run", *JOB, "--prices", "own.csv", "--no-scaling"])
    assert "own-prices" not in taken.out
    assert "(mine" in taken.out
    both = alone(["compare", "dgx-a100", *JOB, "--prices", "own.csv"]).out
    assert "own.csv has no offer of nodes of a100-sxm-80gb as dgx-a100 has" in both
    assert "dgx-h100 keeps its own price; --offer cheapest takes an offer's" in both


def test_no_option_is_silent():
    """Of what `bench.silent options` asks of every verb: those of some that answer soon."""
    verbs = frozenset({"collective", "need", "prices", "explain", "init", "posttrain"})
    found = list(of_options(verbs))
    assert [one for one in found if one.how == "silent"] == []
    assert Counter(one.how for one in found)["moved"] > 30


def test_every_option_is_asked():
    """A new one is, or says why it cannot be."""
    assert unasked() == set()
