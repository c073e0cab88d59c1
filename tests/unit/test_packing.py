"""Samples and padding: steps of a job with and without packing."""

import pytest

from sim.inputs.models import resolve_model
from sim.inputs.workload import Data, Workload
from sim.job.basis import job_steps

MODEL = resolve_model("llama-3.1-8b")


@pytest.mark.parametrize(
    ("packing", "mean", "steps", "tokens"),
    [
        (True, None, 125, 8000 * 4096),
        (True, 1024, 32, 8000 * 1024),
        (False, 1024, 125, 8000 * 1024),
        (False, None, 125, 8000 * 4096),
        (True, 8192, 125, 8000 * 4096),
    ],
)
def test_steps_of_samples(packing, mean, steps, tokens):
    """8 ranks x 8 rows of 4096 a step: packed rows hold four samples of 1024."""
    job = Workload(
        name="w", model=MODEL, sequence_length=4096, micro_batch=8, samples=8000,
        data=Data(packing=packing, mean_length=mean),
    )  # fmt: skip
    assert job_steps(job, 8) == (steps, tokens)


def test_steps_of_tokens():
    """A million real tokens take four times the steps where three quarters are padding."""
    job = Workload(name="w", model=MODEL, sequence_length=4096, tokens=8 * 4096 * 100)
    padded = job.model_copy(update={"data": Data(packing=False, mean_length=1024)})
    assert job_steps(job, 8)[0] == 100
    assert job_steps(padded, 8)[0] == 400
