"""What a log says besides its figures: causes that NCCL's and trainers' lines name or deny."""

import json

import pytest
from click.testing import CliRunner

from sim.calibration.causes import CAUSES
from sim.cli import group
from sim.interop.log_says import _TELLS, heard_in

#: two nodes of eight H100 whose NCCL found no InfiniBand, and the trainer's own lines
SOCKETS = """\
n0:100:100 [0] NCCL INFO NET/IB : No device found.
n0:100:100 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.1<0>
n0:100:100 [0] NCCL INFO Using network Socket
n0:100:240 [0] NCCL INFO Channel 00/0 : 8[0] -> 0[0] [receive] via NET/Socket/0
[titan] step: 10  loss:  4.1  memory: 61.2GiB(77.1%)  tps: 2,500  mfu: 13.4%
[titan] step: 20  loss:  4.0  memory: 61.2GiB(77.1%)  tps: 2,500  mfu: 13.4%
"""
RDMA = """\
n0:100:100 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [1]mlx5_1:1/IB [RO]; OOB eth0:10.0.0.1<0>
n0:100:100 [0] NCCL INFO Using network IBext_v8
n0:100:240 [0] NCCL INFO Channel 00/0 : 8[0] -> 0[0] [receive] via NET/IB/0(8)/GDRDMA
n0:100:240 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM
"""


@pytest.mark.parametrize(
    ("text", "named", "denied"),
    [
        (SOCKETS, {"tcp", "slow-sockets"}, set()),
        (RDMA, set(), {"tcp", "slow-sockets"}),
        (RDMA.replace("/0(8)/GDRDMA", "/0"), {"no-gpudirect"}, {"tcp", "slow-sockets"}),
        ("x NCCL INFO Channel 00 : 0[0] -> 1[1] via SHM/direct/direct", {"host-path"}, set()),
        ("NCCL INFO NCCL_P2P_DISABLE set by environment to 1", {"host-path"}, set()),
        ("[WARNING] [stage3.py:1949:step] 3 pytorch allocator cache flushes since last step. this "
         "happens when there is high memory pressure", {"allocator"}, set()),
        ("[titan] WARNING - 3 CUDA memory allocation retries.", {"allocator"}, set()),
        ("[titan] WARNING - 0 CUDA memory allocation retries.", set(), set()),
        ("Using RTX 4000 series which doesn't support faster communication speedups. Ensuring P2P "
         "and IB communications are disabled.", {"host-path"}, set()),
        ("n0:1:1 [0] NCCL INFO NCCL_IB_DISABLE set by environment to 1.", {"tcp", "slow-sockets"},
         set()),
        (RDMA.replace(" [1]mlx5_1:1/IB", ""), {"one-nic"}, {"tcp", "slow-sockets"}),
        ("n0:1:1 NCCL INFO NET/IB : Using mlx5_0:1/RoCE mlx5_1:1/RoCE [RO]", set(),
         {"tcp", "slow-sockets"}),  # a launcher's tags are taken off, and these with them
        ("\t\tLnkSta:\tSpeed 16GT/s (ok), Width x8 (downgraded)", {"host-path"}, set()),
        ("\t\tLnkSta:\tSpeed 2.5GT/s (downgraded), Width x16 (ok)", set(), set()),  # while idle
        ("        HW Thermal Slowdown               : Active\n", {"power", "straggler"}, set()),
        ("        HW Thermal Slowdown               : Not Active\n", set(), set()),
        ("UserWarning: This DataLoader will create 64 worker processes in total. Our suggested max "
         "number of worker in current system is 12", {"data"}, set()),
        ("UserWarning: 1Torch was not compiled with flash attention.",
         {"older-attention", "eager-attention"}, set()),
        ("W0101 torch._dynamo hit config.recompile_limit (8)", {"not-compiled"}, set()),
        ("`use_cache=True` is incompatible with gradient checkpointing", {"recompute"}, set()),
        (SOCKETS + RDMA, {"tcp", "slow-sockets"}, set()),  # two runs in one log deny nothing
        ("loss: 1.0", set(), set()),
    ],
)  # fmt: skip
def test_lines_that_name_and_deny_causes(text, named, denied):
    heard = heard_in(text)
    assert {key for h in heard for key in h.causes} == named
    assert {key for h in heard for key in h.denied} == denied


def test_causes_that_lines_name_are_there():
    keys = {cause.key for cause in CAUSES}
    assert {key for tell in _TELLS for key in (*tell.causes, *tell.denied)} <= keys


def asked(log, *more):
    job = ["diagnose", "dgx-h100", "llama3-8b-sft", "--set", "nodes=2", "--log", "-", *more]
    done = CliRunner().invoke(group, job, input=log)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_log_that_names_sockets_is_believed():
    """Of the figure alone, attention that is not fused comes first."""
    said = asked(SOCKETS)
    assert "its log says: NCCL goes between nodes over sockets (line 2)" in " ".join(said.split())
    assert json.loads(asked(SOCKETS, "--json"))["causes"][0]["key"] == "tcp"
    alone = asked("\n".join(SOCKETS.splitlines()[-2:]), "--json")
    assert json.loads(alone)["causes"][0]["key"] == "eager-attention"


def test_a_log_that_lists_one_nic_of_eight():
    """8B under ZeRO-3 on two nodes, four micro-steps: all channels go through one NIC of 400 Gb/s.

    By hand: a node takes in 15/16 of 16.1 GB for each of two gathers and a reduce-scatter of a
    micro-step, 4 x 3 x 15.1 GB / 45 GB/s = 4.0 s, beside which 2.9 s of kernels are hidden.
    """
    log = RDMA.splitlines()[0].replace(" [1]mlx5_1:1/IB", "")
    sets = ("parallelism=zero3", "sequence_length=4096", "micro_batch=1", "gradient_accumulation=4")
    more = [word for one in sets for word in ("--set", one)]
    found = json.loads(asked(log, "--measured", "step_time_s=4.2", *more, "--json"))
    first = found["causes"][0]
    assert first["key"] == "one-nic"
    assert first["probability"] > 0.9


def test_a_log_without_a_rate_beside_a_figure():
    found = json.loads(asked(RDMA, "--measured", "tokens_per_s_per_gpu=2500", "--json"))
    assert found["heard"] == [{"says": "NCCL goes between nodes by RDMA", "line": 1}]
    odds = {c["key"]: c["probability"] for c in found["causes"]}
    assert odds["tcp"] < 0.03
