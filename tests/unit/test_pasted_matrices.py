"""Matrices of `nvidia-smi topo -m` as launchers, terminals and web pages leave them; bridges."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sim import collective
from sim.errors import InputError
from sim.interop.topology import import_topology

GPUS = [f"GPU{i}" for i in range(8)]
NICS = [f"NIC{i}" for i in range(4)]


def cell(a, b):
    """Eight cards, bridged in pairs, each pair with a NIC behind its switch; two sockets."""
    if a == b:
        return " X "
    one, two = (int(n[3:]) // (2 if n in GPUS else 1) for n in (a, b))
    if one == two:
        return "NV12" if a in GPUS and b in GPUS else "PIX"
    return "NODE" if one // 2 == two // 2 else "SYS"


def matrix(names=(*GPUS, *NICS), cell=cell):
    behind = ["CPU Affinity", "NUMA Affinity", "GPU NUMA ID"]
    lines = ["\t".join(["", *names, *behind])]
    for a in names:
        half = int(a in GPUS[4:])
        tail = [f"{32 * half}-{32 * half + 31}", str(half), "N/A"] if a in GPUS else []
        lines.append("\t".join([a, *(cell(a, b) for b in names), *tail]))
    return "\n".join([*lines, "", "Legend:", "", "  X    = Self", "  NV#  = Bonded NVLinks", ""])


def broken(text, width):
    """As a terminal of so many columns breaks lines."""
    lines = [line.expandtabs(8) for line in text.splitlines()]
    parts = [[x[i : i + width] for i in range(0, max(1, len(x)), width)] for x in lines]
    return "\n".join(piece for pieces in parts for piece in pieces)


def before(tag):
    return lambda text: "\n".join(tag + line for line in text.splitlines())


FORMS = {
    "crlf": lambda text: text.replace("\n", "\r\n"),
    "spaces": lambda text: text.replace("\t", "   "),
    "underlined": lambda text: "\x1b[4m" + text.replace("\n", "\x1b[0m\n", 1),
    "srun": before("0: "),
    "mpirun": before("[1,0]<stdout>:"),
    "compose": before("worker-1  | "),
    "quoted": before("> "),
    "page": lambda text: "Mine:\n```\n" + text + "```\n",
    "kubectl": lambda text: "\n".join(
        f"2025-01-02T10:00:{i:02}.5Z {line}" for i, line in enumerate(text.splitlines())
    ),
    "table": lambda text: "\n".join(
        f"| {' | '.join(cell.strip() for cell in line.split(chr(9)))} |"
        for line in text.splitlines()
        if "\t" in line
    ),
    "80 columns": lambda text: broken(text, 80),
    "100 columns": lambda text: broken(text, 100),
}


def imported(path: Path, text: str, gpu: str, encoding: str = "utf-8"):
    path.write_bytes(text.encode(encoding))
    found = import_topology(path, gpu, "200 Gb/s", "m")
    return found.yaml


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path, form):
    whole = imported(tmp_path / "m.txt", matrix(), "h100-nvl-94gb")
    node = YAML(typ="safe").load(whole)["node"]
    assert node["nvlink"] == {"generation": 4, "links_per_gpu": 12, "fabric": "pairs"}
    assert (node["pcie"]["gpus_per_switch"], node["nics"]["count"]) == (2, 4)
    assert imported(tmp_path / "m.txt", FORMS[form](matrix()), "h100-nvl-94gb") == whole


def test_redirected_by_powershell(tmp_path):
    whole = imported(tmp_path / "m.txt", matrix(), "h100-nvl-94gb")
    assert imported(tmp_path / "m.txt", matrix(), "h100-nvl-94gb", "utf-16") == whole


def bridged(*pairs):
    names = [name for pair in pairs for name in pair]
    rows = sorted({*names, *GPUS[:3]})
    return matrix(
        rows, lambda a, b: " X " if a == b else "NV12" if tuple(sorted((a, b))) in pairs else "PHB"
    )


@pytest.mark.parametrize(
    ("pairs", "gpus"),
    [
        ([("GPU0", "GPU1")], 3),  # a third card without a bridge
        ([("GPU0", "GPU3"), ("GPU1", "GPU2")], 4),  # neighbours that are not numbered so
    ],
)
def test_bridges_that_are_not_pairs_in_order(tmp_path, pairs, gpus):
    """A graph, whose bridges carry what bridges of these cards do (NVIDIA/nccl-tests issue 194)."""
    text = imported(tmp_path / "m.txt", bridged(*pairs), "h100-pcie-80gb")
    edges = [e for e in YAML(typ="safe").load(text)["graph"]["edges"] if e["kind"] == "nvlink"]
    assert [(e["source"], e["target"]) for e in edges] == [(a.lower(), b.lower()) for a, b in pairs]
    assert text.count("kind: gpu}") == gpus
    assert {e["bandwidth"] for e in edges} == {"143.376 GB/s"}


def test_a_bridged_pair_is_as_fast_in_a_graph(tmp_path):
    """115 to 116 GB/s measured."""
    path = tmp_path / "m.yaml"
    path.write_text(imported(tmp_path / "m.txt", bridged(("GPU0", "GPU1")), "h100-pcie-80gb"))
    rows = collective(str(path), op="all_reduce", ranks=2).costs
    assert max(row.busbw_bytes_per_s for row in rows) == pytest.approx(116e9, rel=0.1)


def test_a_matrix_that_lacks_columns_of_its_rows(tmp_path):
    """Cut off at the right, not broken: the cells are missing."""
    cut = "\n".join(line[:40] for line in matrix().expandtabs(8).splitlines())
    with pytest.raises(InputError, match="is the table cut off"):
        imported(tmp_path / "m.txt", cut, "h100-nvl-94gb")


def test_the_matrix_of_another_tool(tmp_path):
    text = "===== ROCm System Management Interface =====\n     GPU0  GPU1\nGPU0 0     15\n"
    with pytest.raises(InputError, match="rocm-smi's, which is not read"):
        imported(tmp_path / "m.txt", text, "mi300x")
