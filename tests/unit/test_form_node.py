"""What a node leaves out and its GPU decides."""

import pytest

import sim
from sim.errors import InputError
from sim.inputs.loader import load, load_topology


def machine(tmp_path, node):
    path = tmp_path / "machine.yaml"
    path.write_text(f"node: {{{node}}}\n", encoding="utf-8")
    return str(path)


def node_of(tmp_path, text):
    return load_topology(machine(tmp_path, text)).node


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("gpu: h100-sxm-80gb, gpus: 8", (4, 18, "nvswitch", True)),
        ("gpu: h100-sxm-80gb", (4, 18, "nvswitch", True)),
        ("gpu: h100-sxm-80gb, gpus: 4", (4, 18, "mesh", False)),
        ("gpu: a100-sxm-40gb, gpus: 8", (3, 12, "nvswitch", False)),
        ("gpu: v100-sxm-32gb, gpus: 4", (2, 6, "mesh", False)),
        ("gpu: v100-sxm-32gb, gpus: 8, nvlink: {fabric: nvswitch}", (2, 6, "nvswitch", False)),
        ("gpu: {base: h100-sxm-80gb, nvlink_links: 8}, gpus: 8", (4, 8, "nvswitch", True)),
        ("gpu: a100-sxm-80gb, gpus: 8, nvlink: {fabric: mesh}", (3, 12, "mesh", False)),
        ("gpu: a100-pcie-80gb, gpus: 8, nvlink: {fabric: pairs}", (3, 12, "pairs", False)),
        ("gpu: rtx-3090-24gb, gpus: 2, nvlink: {}", (3, 4, "pairs", False)),  # a bridge
        ("gpu: mi300x-192gb, gpus: 8", (4, 7, "mesh", False)),
        ("gpu: mi325x-256gb, gpus: 4", (4, 7, "mesh", False)),
        ("gpu: mi250x-128gb, gpus: 8", (3, 7, "mesh", False)),
        ("gpu: mi210-64gb, gpus: 2, nvlink: {fabric: pairs}", (3, 3, "pairs", False)),
        ("gpu: mi210-64gb, gpus: 4, nvlink: {fabric: mesh}", (3, 3, "mesh", False)),
    ],
)
def test_boards_of_gpus_and_keys_left_out(tmp_path, text, links):
    link = node_of(tmp_path, text).nvlink
    assert (link.generation, link.links_per_gpu, link.fabric, link.sharp) == links


@pytest.mark.parametrize(
    "text",
    [
        "gpu: h100-sxm-80gb, gpus: 1",
        "gpu: a100-pcie-80gb, gpus: 8",  # its bridges are bought apart
        "gpu: a40-pcie-48gb, gpus: 4",
        "gpu: h100-sxm-80gb, gpus: 8, nvlink: null",
        "gpu: mi300x-192gb, gpus: 16",  # seven links reach no fifteen
        "gpu: gb200-186gb, gpus: 4",  # a rack of 72, or a part of it
        "gpu: gh200-96gb, gpus: 4",
    ],
)
def test_no_nvlink_is_supposed(tmp_path, text):
    assert node_of(tmp_path, text).nvlink is None


def test_links_of_a_gpu_that_has_none_are_told_once(tmp_path):
    for links in ("{fabric: pairs}", "{generation: 3, links_per_gpu: 4, fabric: pairs}"):
        with pytest.raises(InputError, match="l40s-pcie-48gb has no NVLink") as caught:
            load(machine(tmp_path, f"gpu: L40S, gpus: 2, nvlink: {links}"), "llama3-8b-lora")
        assert len(caught.value.faults) == 1
    none = node_of(tmp_path, "gpu: L40S, gpus: 2, nvlink: {fabric: none}").nvlink
    assert none.fabric == "none"


def test_a_board_left_out_is_the_one_written(tmp_path):
    text = "gpu: H100, gpus: 8, pcie: {generation: 5, lanes: 16}, nics: {count: 8, rate: 400 Gb/s}"
    nvlink = "nvlink: {generation: 4, links_per_gpu: 18, fabric: nvswitch, sharp: true}"
    short = node_of(tmp_path, "gpu: H100, nics: {count: 8, rate: 400 Gb/s}")
    assert short == node_of(tmp_path, f"{text}, {nvlink}")
    assert node_of(tmp_path, f"{text}, nvlink: none").nvlink.fabric == "none"
    mesh = node_of(tmp_path, "gpu: mi300x, gpus: 8, nvlink: {fabric: mesh}")
    assert node_of(tmp_path, "gpu: mi300x, gpus: 8") == mesh


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("gpu: v100-sxm-32gb, gpus: 8", True),  # a DGX-1 or a DGX-2
        ("gpu: h100-sxm-80gb, nvlink: null", True),
        ("gpu: h100-sxm-80gb, nvlink: none", False),
        ("gpu: h100-sxm-80gb", False),
        ("gpu: a100-pcie-80gb", False),
        ("gpu: v100-sxm-32gb, gpus: 1", False),
        ("gpu: mi300x-192gb, gpus: 16", True),
        ("gpu: mi300x-192gb, gpus: 8, nvlink: null", True),
        ("gpu: mi300x-192gb, gpus: 8", False),
        ("gpu: gb200-186gb, gpus: 4", True),
        ("gpu: gh200-96gb, gpus: 4", True),
        ("gpu: gh200-96gb, gpus: 1", False),
    ],
)
def test_board_gpus_over_pcie_alone_are_warned_of(tmp_path, text, warned):
    stack = ["stack.torch=2.7", "stack.cuda=12.8", "stack.nccl=2.26"] * ("gb200" in text)
    notes = load(
        machine(tmp_path, text), "mistral-7b-lora", ["precision=fp16", "attention=sdpa", *stack]
    ).notes
    assert ("nvlink-unsaid" in {w.code for w in notes.warnings}) is warned


def test_the_slot_is_its_gpus(tmp_path):
    pcie = node_of(tmp_path, "gpu: a40-pcie-48gb, gpus: 4").pcie
    assert (pcie.generation, pcie.lanes, pcie.gpus_per_switch) == (4, 16, 1)
    assert node_of(tmp_path, "gpu: A40, pcie: {lanes: 8}").pcie.lanes == 8


def test_what_is_lent_is_said_and_has_its_origin(tmp_path):
    path = machine(tmp_path, "gpu: h100-sxm-80gb, gpus: 2")
    assumed = {a.path: a.value for a in load(path, "llama3-8b-lora").notes.assumed}
    assert assumed["topology.node.nvlink.fabric"] == "mesh"
    assert assumed["topology.node.pcie.generation"] == 5
    rows = {row["path"]: row for row in sim.config(path, "llama3-8b-lora").records()}
    assert rows["topology.node.nvlink.links_per_gpu"]["origin"] == "catalogue"


def test_a_faulty_gpu_is_told_once(tmp_path):
    with pytest.raises(InputError) as told:
        load_topology(machine(tmp_path, "gpu: nonsense, gpus: 8, gpuz: 3"))
    paths = [fault.path for fault in told.value.faults]
    assert sorted(paths) == ["node.gpu", "node.gpuz"]


def test_a_sweep_over_gpus_of_a_node_is_as_single_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counts = [1, 2, 8]
    swept = sim.sweep("h100-x1", "llama3-8b-lora", vary={"node.gpus": counts})
    times = [row["step_time_s"] for row in swept.records()]
    alone = [
        sim.simulate("h100-x1", "llama3-8b-lora", overrides=[f"node.gpus={n}"]).step.time_s
        for n in counts
    ]
    assert times == pytest.approx(alone, rel=1e-12)


def test_what_one_gpu_makes_of_a_job_is_not_kept_for_more(tmp_path):
    """Nothing is said of parallelism: one GPU shards nothing, several take the default."""
    job = {"model": "llama-3.1-8b", "micro_batch": 1, "sequence_length": 2048}
    store = tmp_path / "s.sqlite"
    swept = sim.sweep("h100-x1", job, vary={"node.gpus": [1, 8, 1]}, store=store).records()
    alone = [
        sim.simulate("h100-x1", job, overrides=[f"node.gpus={n}"], scaling=False, fixes=False)
        for n in (1, 8, 1)
    ]
    times = [row["step_time_s"] for row in swept]
    assert times == pytest.approx([a.step.time_s for a in alone], rel=1e-9)


def test_what_a_gpu_of_a_base_leaves_to_it_is_said():
    """A data sheet's line or two over a catalogue GPU: the rest is the base's, and stands there."""
    machine = {"name": "m", "node": {"gpu": {"name": "rtx-4070", "base": "RTX 4090"}, "gpus": 1}}
    node = machine["node"]
    node["gpu"] |= {"memory": "11.6 GiB", "memory_bandwidth": "504 GB/s", "sms": 46}
    found = sim.simulate(machine, "mistral-7b-lora", scaling=False, fixes=False)
    left = "what rtx-4070 does not say: architecture, power_limit, peak_bf16, peak_fp16 of"
    assert any(text.startswith(f"{left} rtx-4090-24gb") for text in found.borrowed)
    (said,) = [w for w in found.warnings if w.code == "peaks"]
    assert "SMs and clock are 36 % of its: in proportion 59.4 TFLOP/s" in said.message
    node["gpu"] |= {"peak_bf16": "58.3 TFLOP/s", "boost_clock": "2.475 GHz"}
    found = sim.simulate(machine, "mistral-7b-lora", scaling=False, fixes=False)
    assert not [w for w in found.warnings if w.code == "peaks"]
    # a what-if of a GPU of the catalogue under its own name says nothing
    found = sim.simulate(
        "rtx-4090-x1", "mistral-7b-lora",
        overrides=["node.gpu={base: rtx-4090-24gb, memory_bandwidth: 2 TB/s}"],
        scaling=False, fixes=False,
    )  # fmt: skip
    assert not any("does not say" in text for text in found.borrowed)


def test_a_name_and_a_memory_are_the_card_of_that_memory():
    """An A100 of 40 GB is the catalogue's; where there is none, what another lends is said."""

    def gpu(**written):
        return load_topology({"name": "m", "node": {"gpu": written, "gpus": 1}}).node.gpu

    assert gpu(name="A100", memory="40 GB").base == "a100-sxm-40gb"  # was no GPU
    assert gpu(name="H100", memory="94 GB").base == "h100-nvl-94gb"  # was H100 SXM
    assert gpu(name="H100", memory="79 GiB").borrowed == ""
    bigger = gpu(name="H100 SXM", memory="94 GB")
    assert bigger.base == "h100-sxm-80gb"
    assert bigger.borrowed.startswith("architecture, memory_bandwidth, sms, power_limit, peak")
    assert "of h100-sxm-80gb, a card of 79.6 GiB; of about 94 GB is h100-" in bigger.borrowed
    assert "h100-nvl-94gb" in bigger.borrowed
    assert gpu(name="RTX 4090", memory="48 GB").borrowed.endswith("a card of 23.6 GiB")


def test_what_an_rtx_blackwell_of_ones_own_is_lent():
    gpu = {
        "name": "mine", "architecture": "blackwell", "compute_capability": 12.0, "sms": 48,
        "memory": "11.6 GiB", "memory_bandwidth": "672 GB/s", "power_limit": "250 W",
        "peak_bf16": "61.7 TFLOP/s",
    }  # fmt: skip
    machine = {"name": "m", "node": {"gpu": gpu, "gpus": 1}}
    assert load_topology(machine).node.gpu.borrowed.endswith("of l40s-pcie-48gb")
