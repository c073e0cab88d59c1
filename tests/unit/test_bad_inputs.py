"""Whatever a person feeds in: a list of faults with places, never a traceback, always quickly."""

import io

import pytest

from sim.errors import InputError
from sim.inputs import loader
from tests.clock import within

GOOD = """\
name: box
nodes: 2
node:
  gpu: h100-sxm-80gb
  gpus: 8
  nvlink: {generation: 4, links_per_gpu: 18, fabric: nvswitch, sharp: true}
  pcie: {generation: 5}
  nics: {count: 8, rate: 400 Gb/s}
"""
JOB = """\
name: job
model: llama-3-8b
sequence_length: 4096
tokens: 1e9
"""


def faults_of(topology, workload=None, sets=()):
    with pytest.raises(InputError) as caught:
        loader.load(
            topology,
            workload or {"model": "llama-3-8b", "name": "j", "sequence_length": 8, "tokens": "1B"},
            sets,
        )
    assert caught.value.exit_code == 2
    return caught.value.faults


@pytest.fixture
def write(tmp_path):
    def put(text, name="topo.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return put


def test_good_text_loads(write):
    spec = loader.load(write(GOOD), write(JOB, "job.yaml"))
    assert spec.topology.world_size == 16
    assert spec.topology.node.nics.rate == 50e9


def test_all_faults_of_both_files_come_at_once(write):
    topology = write(
        "name: box\nnodes: 0\nnode:\n  gpu: h100-sxm-80gp\n  gpus: 8.5\n  nvlonk: {}\n"
        "  pcie: {generation: 5, lanes: yes}\n  nics: {count: 8, rate: 400}\n"
    )
    workload = write(
        "name: j\nmodel: llama-9-8b\nseq_len: 8\ncompile: on\ntokens: 1e9x\n", "job.yaml"
    )
    told = [
        str(f).replace(topology, "T").replace(workload, "W") for f in faults_of(topology, workload)
    ]
    assert sorted(told) == [
        "T:2:8  nodes: 0 is not at least 1",
        'T:4:8  node.gpu: "h100-sxm-80gp" is no GPU of the catalogue; '
        'did you mean "h100-sxm-80gb"?',
        "T:5:9  node.gpus: 8.5 is not a whole number",
        'T:6:3  node.nvlonk: unknown key; did you mean "nvlink"?',
        'T:7:32  node.pcie.lanes: "yes" is not a whole number',
        'T:8:26  node.nics.rate: 400 has no unit; write for example "400 Gb/s"',
        "W:2:8  model: 'llama-9-8b' is not in the catalogue; did you mean \"llama-3-8b\"? "
        "If not, give its config.json or its shape",
        'W:3:1  seq_len: unknown key; did you mean "sequence_length"?',
        'W:4:10  compile: "on" is not true or false; write true',
        'W:5:9  tokens: "1e9x" is no count; write a number such as 1e9 or 1B',
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("gpus: 8", "gpus: 010", 5, "leading zero"),
        ("gpus: 8", "gpus: 0o10", 5, "decimal"),
        ("gpus: 8", "gpus: 0x8", 5, "decimal"),
        ("gpus: 8", "gpus: 1:30", 5, "colon"),
        ("gpus: 8", "gpus: 1_6", 5, "underscores"),
        ("gpus: 8", "gpus: true", 5, "whole number"),
        ("gpus: 8", "gpus:", 5, "empty"),
        ("gpus: 8", "gpus: [8]", 5, "a list of 1 is not a whole number"),
        ("gpus: 8", "gpus: {n: 8}", 5, "a mapping of n is not a whole number"),
        ("gpus: 8", "gpus: 99999999999999999999999", 5, "whole number"),
        ("gpus: 8", "gpus: 8\n  gpus: 4", 6, "written twice; first in line 5"),
        ("sharp: true", "sharp: yes", 6, "write true"),
        ("sharp: true", "sharp: 'true'", 6, "write true"),
        ("rate: 400 Gb/s", "rate: 400 GT/s", 8, "lane"),
        ("rate: 400 Gb/s", "rate: -1 Gb/s", 8, "not more than 0"),
        ("rate: 400 Gb/s", "rate: .inf", 8, "quantity"),
        ("rate: 400 Gb/s", "rate: !!float 4", 8, "tag"),
        ("gpu: h100-sxm-80gb", "gpu: {base: h100-sxm-80gb, power: 5 W}", 4, "unknown key"),
        ("gpu: h100-sxm-80gb", "gpu: {base: nope}", 4, "no GPU of the catalogue"),
        ("pcie: {generation: 5}", "pcie: 5", 7, "no mapping"),
        ("name: box", "name: box\n<<: {nodes: 3}", 2, "merge keys"),
        ("name: box", "- name: box", 2, "not YAML"),
        ("name: box", "name: *box", 1, "stands for nothing"),
        ("name: box", "name: box\n? [a, b]\n: c", 2, "a key must be a text"),
        ("  gpus: 8", "\tgpus: 8", 5, "not YAML"),
    ],
)
def test_traps(write, old, new, line, says):
    assert old in GOOD
    found = faults_of(write(GOOD.replace(old, new)))
    assert any(f.line == line and says in f.message for f in found), [str(f) for f in found]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"null\n", "is empty"),
        (b"\x7fELF\x00\x01\x02", "binary"),
        (b"name: caf\xe9\n", "not UTF-8"),
        ("name: x\n".encode("utf-16"), "UTF-16"),
        (b"just a text\n", "no mapping"),
        (b"[1, 2]\n", "no mapping"),
        (b"a: b: c\n", "not YAML"),
        (b"a: {b: c\n", "not YAML"),
        (b"%FOO\n---\na: 1\n---\nb: 2\n", "second document"),
        (b"name: \x01\n", "not YAML"),
        (b"@x: 1\n", "not YAML"),
        (b"[" * 100_000, "nested deeper"),
        (b"{a: " * 50_000, "nested deeper"),
    ],
)
def test_files_that_are_no_topology(write, content, says):
    with within(2.0):
        found = faults_of(write(content))
    assert any(says in f.message for f in found), [str(f) for f in found]


def test_byte_order_mark_is_no_fault(write):
    assert loader.load_topology(write(b"\xef\xbb\xbf" + GOOD.encode())).name == "box"


def test_position_of_a_wrong_byte(write):
    (fault,) = faults_of(write(b"name: x\nnode: \xff\n"))
    assert (fault.line, fault.column) == (2, 7)


def test_alias_bomb(write):
    rows = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for before, after in zip("abcdefgh", "bcdefghi", strict=True):
        rows.append(f"{after}: &{after} [" + ", ".join([f"*{before}"] * 10) + "]")
    with within(2.0):
        found = faults_of(write("\n".join(rows)))
    assert any("aliases expand" in f.message for f in found)


def test_alias_of_itself(write):
    assert any("stands for nothing" in f.message for f in faults_of(write("name: &a [*a]\n")))


def test_aliases_are_read(write):
    text = GOOD.replace("name: box", "name: &n box").replace(
        "gpus: 8", "gpus: 8\n  storage: &s {read: 1 GB/s}"
    )
    assert loader.load_topology(write(text)).node.storage.read == 1e9


def test_huge_file(tmp_path):
    path = tmp_path / "huge.yaml"
    with path.open("wb") as stream:
        stream.truncate(100_000_000)
    with within(0.5):
        found = faults_of(str(path))
    assert "larger than 4 MB" in found[0].message


def test_endless_device():
    assert "larger than 4 MB" in faults_of("/dev/zero")[0].message


def test_folder_missing_and_odd_names(tmp_path):
    assert "is a folder" in faults_of(str(tmp_path))[0].message
    assert "no such file" in faults_of(str(tmp_path / "no.yaml"))[0].message
    assert "no file name" in faults_of("a\0b/c.yaml")[0].message
    assert "is empty" in faults_of("")[0].message
    assert 'did you mean "dgx-h100"' in faults_of("dgx-h10")[0].message
    assert "is a workload, not a topology" in faults_of("llama3-8b-sft")[0].message
    assert "no path" in faults_of(5)[0].message
    assert "cannot be read" in faults_of("x" * 5000 + "/y")[0].message


def test_standard_input(monkeypatch):
    class Stdin:
        buffer = io.BytesIO(GOOD.encode())

    monkeypatch.setattr("sys.stdin", Stdin())
    assert loader.load_topology("-").name == "box"
    assert "only one" in faults_of("-", "-")[0].message


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        (
            {"name": "x", "node": {"gpu": "h100-sxm-80gb", "pcie": {"generation": 5.5}}},
            "whole number",
        ),
        (
            {"name": "x", "node": {"gpu": "h100-sxm-80gb", "pcie": {"generation": True}}},
            "whole number",
        ),
        ({"name": 5, "node": {}}, "not a text"),
        ({1: 2}, "not a text"),
        ({"name": "x", "nodes": float("nan")}, "whole number"),
        ({"name": "x", "network": {"switch_latency": 6e-7}}, "has no unit"),
        ({"name": "x", "network": {"oversubscription": float("inf")}}, "finite"),
        ({"name": "x", "network": object()}, "no mapping"),
        ({}, "has neither node"),
    ],
)
def test_python_mappings(mapping, says):
    found = faults_of(mapping)
    assert any(says in f.message for f in found), [str(f) for f in found]


def test_a_mapping_that_holds_itself():
    mapping = {"name": "x"}
    mapping["node"] = mapping
    assert "nested deeper" in faults_of(mapping)[0].message


def test_the_wrong_kind_of_spec():
    workload = loader.load_workload("llama3-8b-sft")
    assert "is a Workload, not a topology" in faults_of(workload)[0].message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("nodes", "write key=value"),
        ("=4", "write key=value"),
        ("nodes=", "no value"),
        ("nodess=4", 'did you mean "nodes"'),
        ("gpus=4", 'did you mean "node.gpus"'),
        ("name=x", "topology.name or workload.name"),
        ("node..gpus=4", "not of the form"),
        ("node.gpus[0]=4", "not a whole number"),
        ("node.gpus={a: ", "not YAML"),
        ("node.nics.rate=400", "no unit"),
        ("workload.sources[3]=x", "no index"),
        ("sequence_length=1:30", "colon"),
        ("topology.foo=1", "unknown key"),
    ],
)
def test_overrides(override, says):
    found = faults_of(
        "dgx-h100",
        {"model": "llama-3-8b", "name": "j", "sequence_length": 8, "tokens": 1e9, "sources": ["a"]},
        [override],
    )
    assert any(says in f.message for f in found), [str(f) for f in found]


@pytest.mark.parametrize("digits", ["\u00b2", "9" * 5000])
@pytest.mark.parametrize(
    ("machine", "job", "says"),
    [
        ((), ("activation_checkpointing.selective={0}",), 'is not "op"'),
        ((), ("data.sequence_lengths=[1, 2]", "data.sequence_lengths.{0}=3"), "is no index"),
        (("node={{gpu: h100-sxm-80gb, gpus: '{0}'}}",), (), "is not a whole number"),
    ],
)
def test_digits_that_make_no_count_are_told(machine, job, says, digits):
    """Both were internal errors, of superscripts and of more digits than Python converts."""
    with pytest.raises(InputError, match=says):
        loader.load("dgx-h100", "llama3-8b-sft", [x.format(digits) for x in (*machine, *job)])
