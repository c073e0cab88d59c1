"""The GPU benchmark imports without PyTorch and says in one line what it lacks."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu import measure_kernels

SCRIPT = Path(__file__).parents[2] / "bench/gpu/measure_kernels.py"


def test_columns_are_those_of_the_tables():
    tables = SCRIPT.parents[2] / "sim/data/measured"
    for name, columns in (
        ("attention_kernels.csv", measure_kernels.ATTENTION_COLUMNS),
        ("kernels_nongemm.csv", measure_kernels.NONGEMM_COLUMNS),
    ):
        header = (tables / name).read_text(encoding="utf-8").splitlines()[0]
        assert tuple(header.split(",")) == columns


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_without_pytorch_it_says_so(tmp_path):
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "-o", str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr == "this script needs PyTorch with CUDA\n"
