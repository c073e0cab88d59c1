"""Import of matrices and NCCL XML: own fixtures by value, others' files read or refused."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.commands.topo import command
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.fabric.paths import printed_class
from sim.inputs import catalogue
from sim.inputs.loader import load_topology
from sim.interop import nccl_xml, nvidia_smi
from sim.interop.topology import MAX_BYTES, import_topology

DATA = Path(__file__).parents[1] / "data" / "topo"
EXAMPLES = Path(__file__).parents[2].parent / "shared" / "users" / "examples"


def imported(tmp_path, file, gpu, nic="200 Gb/s", **options):
    found = import_topology(file, gpu, nic, **options)
    path = tmp_path / "out.yaml"
    path.write_text(found.yaml)
    return load_topology(path), found.assumed


def test_matrix_with_trimmed_rows_and_a_management_nic(tmp_path):
    topology, assumed = imported(tmp_path, DATA / "four-a100-trimmed.txt", "a100-sxm-80gb")
    node = topology.node
    assert (node.gpus, node.nvlink.fabric, node.nvlink.links_per_gpu) == (4, "nvswitch", 12)
    assert (node.pcie.gpus_per_switch, node.pcie.nics_per_switch) == (2, 1)
    assert (node.nics.count, node.nics.rate) == (2, 25e9)
    assert node.cpu.sockets == 2
    assert any("1 of 3 NICs left out" in line for line in assumed)


def test_matrix_of_uneven_sockets_is_a_graph(tmp_path):
    topology, _ = imported(tmp_path, DATA / "six-pcie-spaces.txt", "a100-pcie-80gb")
    fabric = compile_fabric(topology)
    # four GPUs within PXB are one switch; old SOC is SYS
    assert [printed_class(fabric.shapes[0], 0, r) for r in range(6)] == [
        "X",
        "PIX",
        "PIX",
        "PIX",
        "SYS",
        "SYS",
    ]
    assert fabric.rank_classes().tolist() == [0, 0, 0, 0, 1, 1]


def test_matrix_of_uneven_nvlinks_is_a_graph(tmp_path):
    topology, _ = imported(tmp_path, DATA / "uneven-nvlink.txt", "a100-sxm-80gb")
    assert topology.graph is not None
    fabric = compile_fabric(topology)
    assert printed_class(fabric.shapes[0], 0, 1) == "NV2"
    assert printed_class(fabric.shapes[0], 0, 2) == "NV1"
    assert fabric.route(0, 3).path == "NVB"  # through a neighbour


def test_matrix_pasted_from_a_terminal(tmp_path):
    # underlined header, bond names, NICs numbered against the GPUs
    plain = """\t\x1b[4mGPU0\tGPU1\tmlx5_bond_0\tibp1s0\tCPU Affinity\tNUMA Affinity\x1b[0m
GPU0\t X \tSYS\tSYS\tPIX\t0-7\t0
GPU1\tSYS\t X \tPIX\tSYS\t8-15\t1
mlx5_bond_0\tSYS\tPIX\t X \tSYS
ibp1s0\tPIX\tSYS\tSYS\t X
"""
    path = tmp_path / "pasted.txt"
    path.write_text(plain)
    topology, _ = imported(tmp_path, path, "a100-pcie-80gb")
    assert topology.node.nics.count == 2
    assert topology.node.pcie.nics_per_switch == 1


def test_dump(tmp_path):
    topology, assumed = imported(tmp_path, DATA / "dump.xml", "a100-sxm-80gb", nic=None)
    node = topology.node
    assert (node.gpus, node.nvlink.links_per_gpu, node.pcie.generation) == (4, 12, 4)
    assert (node.nics.count, node.nics.rate) == (2, 25e9)
    assert (node.cpu.vendor, node.cpu.interconnect) == ("amd", 108e9)  # three xGMI links
    assert any("2 virtual interfaces" in line for line in assumed)


def test_ranks_follow_the_dump(tmp_path):
    # the file lists NUMA node 1 first; ranks 0 and 1 are on 0
    text = (DATA / "dump.xml").read_text().replace("0x068000", "0x030200")
    text = text.replace("fffffff:ff:ff.0", "0000:81:00.0")
    path = tmp_path / "direct.xml"
    path.write_text(text)
    host = nccl_xml.read(path.read_bytes(), "x", catalogue.gpu("a100-sxm-80gb"))
    assert host.gpus == ["pcie0", "pcie0", "pcie1", "pcie1"]
    assert host.switches == ["cpu0", "cpu1"]
    assert host.nvlinks == {(0, 2): 12, (1, 2): 12, (2, 3): 12}


@pytest.mark.parametrize(
    ("gpu", "count", "links"),
    [
        ("h100-sxm-80gb", 8, {"fabric": "nvswitch", "links_per_gpu": 18}),
        ("h100-sxm-80gb", 4, {"fabric": "mesh", "links_per_gpu": 18}),
        ("a100-sxm-80gb", 4, {"fabric": "mesh", "links_per_gpu": 12}),
        ("v100-sxm-32gb", 16, {"fabric": "nvswitch", "links_per_gpu": 6}),
        ("a100-pcie-80gb", 4, None),
    ],
)
def test_a_seed_has_the_links_of_the_board_that_a_topology_of_that_gpu_has(
    tmp_path, gpu, count, links
):
    """A board of four joins each to each; one of eight has NVSwitches."""
    path = tmp_path / "seed.xml"
    path.write_text("<system><cpu>" + "<pci class='0x030200'/>" * count + "</cpu></system>")
    topology, assumed = imported(tmp_path, path, gpu)
    found = topology.node.nvlink
    assert any("seed" in text for text in assumed)
    if links is None:
        assert found is None
        return
    assert {key: getattr(found, key) for key in links} == links
    if count <= 8:
        written = load_topology({"name": "m", "node": {"gpu": gpu, "gpus": count}}).node.nvlink
        assert (written.fabric, written.links_per_gpu) == (found.fabric, found.links_per_gpu)


LAUGHS = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>
<system version="1"><cpu numaid="&c;"/></system>"""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LAUGHS, "DOCTYPE"),
        ('<!DOCTYPE system SYSTEM "file:///etc/hostname"><system/>', "DOCTYPE"),
        ("<system>&x;</system>", "not XML"),
        ("<system><cpu></system>", "not XML"),
        ("<a>" * 100 + "</a>" * 100, "levels"),
        ("<system>" + "<cpu/>" * 30_000 + "</system>", "elements"),
        ("<system>" + "<cpu/>" * 100 + "</system>", "no GPU"),
        ("<graphs version='1'/>", "channel graphs"),
        ("<html></html>", "starts with <system>"),
        ("<system version='1'><cpu numaid='0'><pci busid='1'/></cpu></system>", "no class"),
        (
            "<system><cpu><pci class='0x030200'><gpu dev='0' rank='0'>"
            "<nvlink target='x' count='-3'/></gpu></pci></cpu></system>",
            "NVLinks",
        ),
        ("<system><cpu>" + "<pci class='0x030200'/>" * 100 + "</cpu></system>", "at most 64"),
        ("", "empty"),
        ("hello\n", "no header line"),
        ("\x00\x01binary", "not text"),
        ("\tGPU0\tGPU1\nGPU0\t X \tOK\nGPU1\tOK\t X \n", "topo -p2p"),
        ("\tGPU0\tGPU1\nGPU0\t X \tPIX\nGPU1\tSYS\t X \n", "the other way"),
        ("\tGPU0\tGPU1\nGPU0\t X \tPIX\nGPU1\tPIX\n", "1 of 2 cells"),
        ("\tGPU0\tGPU1\nGPU0\tPIX\tPIX\nGPU1\tPIX\t X \n", "X off the diagonal"),
        ("\tGPU0\tGPU1\n", "neither row"),
        ("\tGPU0\tGPU2\nGPU0\t X \tPIX\nGPU2\tPIX\t X \n", "numbered"),
        ("\tGPU0\tGPU1\nGPU0\t X \tNV99\nGPU1\tNV99\t X \n", "NV99"),
        ("\tGPU0\tGPU1\nGPU0\t X \tfoo\nGPU1\tPIX\t X \n", "no path class"),
    ],
)
def test_refused_with_a_reason(tmp_path, content, reason):
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(InputError, match=reason):
        import_topology(path, "a100-sxm-80gb", "200 Gb/s")


def test_refused_before_reading(tmp_path):
    big = tmp_path / "big.xml"
    big.write_bytes(b"<" * (MAX_BYTES + 1))
    with pytest.raises(InputError, match="larger than 4 MB"):
        import_topology(big, "a100-sxm-80gb")
    with pytest.raises(InputError, match="is a folder"):
        import_topology(tmp_path, "a100-sxm-80gb")
    with pytest.raises(InputError, match="no such file"):
        import_topology(tmp_path / "none", "a100-sxm-80gb")
    with pytest.raises(InputError, match="no GPU 'x'"):
        import_topology(DATA / "dump.xml", "x")
    with pytest.raises(InputError, match="--nic"):
        import_topology(DATA / "dump.xml", "a100-sxm-80gb", "400")


def test_gpu_without_nvlink_contradicts_the_matrix():
    with pytest.raises(InputError, match="NV12"):
        import_topology(DATA / "four-a100-trimmed.txt", "l40s-pcie-48gb")


@settings(max_examples=150)
@given(st.data())
def test_damaged_files_are_read_or_refused(data):
    name = data.draw(st.sampled_from(sorted(p.name for p in DATA.iterdir())))
    content = bytearray((DATA / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            del content[place : place + data.draw(st.integers(1, 80))]
        if not content:
            return
    gpu = catalogue.gpu("a100-sxm-80gb")
    reader = nccl_xml if name.endswith("xml") else nvidia_smi
    try:
        host = reader.read(bytes(content), name, gpu)
    except InputError:
        return
    assert len(host.gpus) >= 1


# file, GPU, what comes of it: shorthand, graph, or the reason of a refusal
OTHERS = [
    ("nvidia_smi_topo/aws-2gpu-pix.txt", "a10g-pcie-24gb", "shorthand"),
    ("nvidia_smi_topo/hgx-a100-8gpu-4nic-nv12.txt", "a100-sxm-80gb", "graph"),
    ("nvidia_smi_topo/hgx-h200-8gpu-12nic-nv18.txt", "h200-sxm-141gb", "shorthand"),
    ("nvidia_smi_topo/l40s-4gpu-pix-node.txt", "l40s-pcie-48gb", "shorthand"),
    ("nvidia_smi_topo/mock-4gpu-nv12-2nic.txt", "a100-sxm-80gb", "shorthand"),
    ("nvidia_smi_topo/pcie-6gpu-uneven-numa.txt", "a100-pcie-80gb", "shorthand"),
    ("nvidia_smi_topo/pcie-8gpu-pix-phb-sys-no-affinity.txt", "a100-pcie-80gb", "shorthand"),
    ("nvidia_smi_topo/princeton-h100-8gpu-6nic-empty-affinity.txt", "h100-sxm-80gb", "graph"),
    ("nvidia_smi_topo/stas-2gpu-nv2.txt", "a100-pcie-80gb", "shorthand"),
    ("nvidia_smi_topo/stas-2gpu-phb.txt", "rtx-4090-24gb", "shorthand"),
    ("nvidia_smi_topo/stas-h100-8gpu-nv18-affinity2.txt", "h100-sxm-80gb", "shorthand"),
    ("nvidia_smi_topo/stas-h100-8gpu-nv18-spaces.txt", "h100-sxm-80gb", "shorthand"),
    ("nccl_topo_xml/aws-g5.48xl-topo.xml", "a10g-pcie-24gb", "no class"),
    ("nccl_topo_xml/aws-p4d-24xl-topo.xml", "a100-sxm-40gb", "shorthand"),
    ("nccl_topo_xml/aws-p4de-24xl-topo.xml", "a100-sxm-80gb", "shorthand"),
    ("nccl_topo_xml/azure-ncv4-graph.xml", "a100-pcie-80gb", "channel graphs"),
    ("nccl_topo_xml/azure-ncv4-topo.xml", "a100-pcie-80gb", "shorthand"),
    ("nccl_topo_xml/azure-ndv2-topo.xml", "v100-sxm-32gb", "graph"),
    ("nccl_topo_xml/azure-ndv5-topo.xml", "h100-sxm-80gb", "shorthand"),
    ("nccl_topo_xml/rtx4090x4-epyc-dump.xml", "rtx-4090-24gb", "graph"),
]


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="other people's files are not shipped")
@pytest.mark.parametrize(("file", "gpu", "outcome"), OTHERS)
def test_files_of_others(tmp_path, file, gpu, outcome):
    path = EXAMPLES / file
    if outcome not in ("shorthand", "graph"):
        with pytest.raises(InputError, match=outcome):
            import_topology(path, gpu, "400 Gb/s")
        return
    topology, _ = imported(tmp_path, path, gpu, nic="400 Gb/s")
    assert ("graph" if topology.graph is not None else "shorthand") == outcome
    fabric = compile_fabric(topology)
    assert fabric.bandwidth(fabric.ring_load(range(fabric.n_ranks))) > 0
    if path.suffix == ".txt":
        _same_nvlink_and_sockets(path, fabric)


def _same_nvlink_and_sockets(path, fabric):
    """What is imported shows the NV and PIX cells that were read."""
    rows = [line.split() for line in path.read_text().splitlines() if line.startswith("GPU")]
    rows = [r for r in rows if "X" in r]
    for i, row in enumerate(rows):
        for j in range(len(rows)):
            cell = row[1 + j]
            if cell.startswith("NV") or cell in ("PIX", "PHB", "NODE", "SYS"):
                mine = printed_class(fabric.shapes[0], i, j)
                assert mine == cell or {mine, cell} == {"PHB", "NODE"}


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="other people's files are not shipped")
def test_every_file_of_others_is_in_the_table():
    there = {
        f"{folder}/{p.name}"
        for folder in ("nvidia_smi_topo", "nccl_topo_xml")
        for p in (EXAMPLES / folder).iterdir()
    }
    assert there == {file for file, _, _ in OTHERS}


def test_command(tmp_path):
    out = tmp_path / "machine.yaml"
    arguments = ["import", str(DATA / "dump.xml"), "--gpu", "a100-sxm-80gb", "-o", str(out)]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert "assumed: 2 virtual interfaces" in done.output
    assert compile_fabric(load_topology(out)).n_ranks == 4


MATRIX = (DATA / "four-a100-trimmed.txt").read_text()
LISTED = "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)\nGPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-2)\n"
TABLE = "|   0  NVIDIA A100-SXM4-40GB          On  | 00000000:07:00.0 Off |\n"


@pytest.mark.parametrize("beside", [LISTED, TABLE, "Product Name   : NVIDIA A100-SXM4-40GB\n"])
def test_the_gpu_that_stands_beside_the_matrix(tmp_path, beside):
    path = tmp_path / "m.txt"
    path.write_text(beside + MATRIX)
    found = import_topology(path, nic_rate="200 Gb/s")
    assert "gpu: a100-sxm-40gb" in found.yaml
    assert not any("does not name it" in line for line in found.assumed)


def test_a_superchip_brings_its_own_cpu(tmp_path):
    path = tmp_path / "gb200.txt"
    rows = "".join(
        f"GPU{i}\t"
        + "\t".join(" X " if i == j else "NV18" for j in range(4))
        + f"\t0-71\t{i // 2}\n"
        for i in range(4)
    )
    path.write_text("\tGPU0\tGPU1\tGPU2\tGPU3\tCPU Affinity\tNUMA Affinity\n" + rows)
    topology, assumed = imported(tmp_path, path, "gb200-186gb")
    assert (topology.node.cpu.vendor, topology.node.cpu.sockets) == ("arm", 2)
    assert not any("Intel" in line for line in assumed)


def test_the_gpu_by_its_nvlinks():
    """NV4 to each of three, or NV12 to all: 12 links, as of an A100 SXM alone."""
    found = import_topology(DATA / "four-a100-trimmed.txt")
    assert "gpu: a100-sxm-80gb" in found.yaml
    assert found.assumed[0] == (
        "GPU a100-sxm-80gb, by its 12 NVLinks: the file does not name it (--gpu for a100-sxm-40gb)"
    )
    assert "gpu: a100-sxm-80gb" in import_topology(DATA / "dump.xml").yaml


@pytest.mark.parametrize(("text", "told"), [
    (MATRIX.replace("NV12", "NV18"), "by its NVLinks one of b200-sxm-180gb, .*h100-sxm-80gb"),
    (MATRIX.replace("NV12", "SYS"), r"does not name its GPU; add it, such as h100-sxm-80gb"),
    ('<system><cpu numaid="0"><pci class="0x030200"/></cpu></system>', "such as h100-sxm-80gb"),
    (LISTED + "GPU 2: NVIDIA H100 PCIe (UUID: GPU-3)\n" + MATRIX, "names several GPUs"),
    ("GPU 0: NVIDIA A999 (UUID: GPU-1)\n" + MATRIX, "'NVIDIA A999', which the catalogue has not"),
    ("nothing", "no header line with GPU0"),
])  # fmt: skip
def test_a_gpu_that_nothing_tells(tmp_path, text, told):
    path = tmp_path / "m.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        import_topology(path)


def test_nvidia_smi_is_said_on_the_command_line():
    called = CliRunner().invoke(command, ["import", "--nvidia-smi", str(DATA / "dump.xml")])
    assert isinstance(called.exception, InputError)
    assert "no header line with GPU0" in str(called.exception)
    found = CliRunner().invoke(
        command, ["import", "--nvidia-smi", str(DATA / "four-a100-trimmed.txt")]
    )
    assert (found.exit_code, "gpu: a100-sxm-80gb" in found.output) == (0, True)


def test_topo_import_keeps_a_file_that_is_there(tmp_path):
    """A machine that was imported is edited by hand then: only --force writes over it."""
    matrix = DATA / "four-a100-trimmed.txt"
    target = tmp_path / "machine.yaml"
    asked = ["import", str(matrix), "--gpu", "a100-sxm-80gb", "-o", str(target)]
    assert CliRunner().invoke(command, asked).exit_code == 0
    first = target.read_text(encoding="utf-8")
    target.write_text("mine", encoding="utf-8")
    again = CliRunner().invoke(command, asked)
    assert "is there already; name another file, or add --force" in str(again.exception)
    assert target.read_text(encoding="utf-8") == "mine"
    assert CliRunner().invoke(command, [*asked, "--force"]).exit_code == 0
    assert target.read_text(encoding="utf-8") == first


def test_slices_are_said_to_be_left_out(tmp_path):
    """What `nvidia-smi -L` lists below a GPU that is cut."""
    path = tmp_path / "m.txt"
    sliced = LISTED.replace("GPU-1)\n", "GPU-1)\n  MIG 3g.20gb     Device  0: (UUID: MIG-1)\n")
    for text, told in ((LISTED + MATRIX, 0), (sliced + MATRIX, 1)):
        path.write_text(text)
        notes = import_topology(path).assumed
        assert sum("slices (MIG) are left out" in note for note in notes) == told
    path.write_text((sliced + MATRIX).replace("A100-SXM4-40GB", "A100-SXM4-80GB"))
    assert any("{base: a100-sxm-80gb, ...}" in note for note in import_topology(path).assumed)
