"""Cross-checks: each finding, what it says and how to be rid of it."""

import pytest

from sim.data import table
from sim.errors import InputError
from sim.inputs import loader
from sim.inputs.architecture import Architecture, facts_of
from sim.inputs.catalogue import gpu
from sim.inputs.recipes import RECIPES
from sim.inputs.versions import older, versions

H100 = "dgx-h100"
JOB = {"name": "j", "model": "llama-3-8b", "sequence_length": 4096, "tokens": 1e9}
V100 = {
    "name": "v100",
    "node": {
        "gpu": "v100-sxm-32gb",
        "gpus": 8,
        "pcie": {"generation": 3},
        "nvlink": {"generation": 2, "links_per_gpu": 6, "fabric": "nvswitch"},
    },
}
OWN_GPU = {
    "name": "x200", "architecture": "hopper", "sms": 132, "memory": "96 GB",
    "memory_bandwidth": "4 TB/s", "peak_bf16": "1200 TFLOP/s", "power_limit": "700 W",
}  # fmt: skip
GPU = {"id": "a", "kind": "gpu", "gpu": "a100-pcie-80gb"}


def link(a, b, **more):
    return {"source": a, "target": b, "kind": "pcie", "bandwidth": "24 GB/s"} | more


def graph(*vertices, edges=(), **more):
    return {"name": "g", "graph": {"vertices": list(vertices), "edges": list(edges)}} | more


def node(gpu, **more):
    return {"name": "t", "node": {"gpu": gpu, "gpus": 8, "pcie": {"generation": 4}} | more}


ERRORS = [
    # links that the fabric has no figures of
    (node("h100-sxm-80gb", pcie={"generation": 7}), {}, "no figures of PCIe 7; write 1 to 6"),
    (
        node(
            {"base": "h100-sxm-80gb", "nvlink_generation": 6},
            nvlink={"generation": 6, "links_per_gpu": 18},
        ),
        {},
        "no figures of NVLink 6; write 1 to 5",
    ),
    (
        node("h100-sxm-80gb", nvlink={"generation": 4, "links_per_gpu": 0}),
        {},
        "0 is not at least 1; write fabric: none",
    ),
    # a GPU that lacks what is asked of it
    ("dgx-a100", {"precision": "fp8"}, "precision: a100-sxm-80gb has no FP8"),
    (V100, {"attention": "sdpa"}, "precision: v100-sxm-32gb has no BF16; write fp16"),
    (V100, {"precision": "fp16", "attention": "flash2"}, "FlashAttention-2 needs Ampere"),
    (
        node("mi210-64gb", gpus=1),
        {"attention": "cudnn"},
        "cuDNN attention needs NVIDIA's Ampere or newer, not mi210-64gb; write sdpa",
    ),
    ("dgx-a100", {"attention": "flash3"}, "FlashAttention-3 runs on Hopper only"),
    (node("l40s-pcie-48gb", nvlink={"generation": 3, "links_per_gpu": 12}), {}, "has no NVLink"),
    (node(OWN_GPU, nvlink={"generation": 4, "links_per_gpu": 18}), {}, "add nvlink_generation: 4"),
    (node("a100-sxm-80gb", nvlink={"generation": 3, "links_per_gpu": 18}), {}, "18 links a GPU"),
    (node("a100-sxm-80gb", nvlink={"generation": 4, "links_per_gpu": 12}), {}, "has NVLink 3"),
    (
        node("a100-sxm-80gb", nvlink={"generation": 3, "links_per_gpu": 12, "sharp": True}),
        {},
        "cannot reduce in the switch",
    ),
    (
        node(
            "h100-pcie-80gb",
            nvlink={"generation": 4, "links_per_gpu": 12, "fabric": "nvswitch"},
        ),
        {},
        "joined by bridges",
    ),
    (
        node(
            "h100-pcie-80gb",
            gpus=7,
            nvlink={"generation": 4, "links_per_gpu": 12, "fabric": "pairs"},
        ),
        {},
        "7 GPUs make no pairs",
    ),
    # software
    (H100, {"stack": {"cuda": "11.7"}}, "h100-sxm-80gb needs CUDA 11.8 or newer; stack says 11.7"),
    (
        H100,
        {"precision": {"fp8": {"recipe": "te-delayed"}}, "stack": {"cuda": "11.8"}},
        "CUDA 12.0",
    ),
    (H100, {"attention": "flash3", "stack": {"cuda": "12.2"}}, "flash3 needs CUDA 12.3"),
    (H100, {"stack": {"torch": "2.3"}}, "fsdp2 needs PyTorch 2.4 or newer; stack says 2.3"),
    (H100, {"stack": {"nccl": "2.14"}}, "NCCL 2.15"),
    (H100, {"attention": "cudnn", "stack": {"torch": "2.4"}}, "cudnn needs PyTorch 2.5"),
    ("dgx-b200", {"stack": {"cuda": "12.4"}}, "b200-sxm-180gb needs CUDA 12.8"),
    (node("b300-sxm-288gb"), {"stack": {"cuda": "12.8"}}, "b300-sxm-288gb needs CUDA 12.9"),
    (
        V100,
        {"precision": "fp16", "attention": "sdpa", "stack": {"cuda": "13.0"}},
        "CUDA 13.0 dropped volta",
    ),
    # what must divide
    (H100, {"parallelism": {"replicate": 3}}, "3 does not divide 8 GPUs; divisors are 1, 2, 4, 8"),
    (H100, {"parallelism": {"context_parallel": 5}}, "5 does not divide 8 GPUs"),
    (H100, {"parallelism": {"shard": 3}}, "shard 3 x replicate 1 is not 8 GPUs; write 8"),
    (H100, {"parallelism": {"reshard_after_forward": 3}}, "write true, false or one of 2, 4"),
    (
        H100,
        {"parallelism": {"strategy": "zero3", "zero_hpz_partition_size": 3}},
        "3 does not divide",
    ),
    (H100, {"parallelism": {"context_parallel": 8}, "sequence_length": 4100}, "4100 tokens cannot"),
    (
        "l40s-8",
        {
            "parallelism": {"context_parallel": 8, "context_parallel_kind": "ulysses"},
            "model": "mpt-125m",
            "sequence_length": 2048,
        },
        "12 heads cannot be divided",
    ),
    (H100, {"global_batch": 100, "micro_batch": 3}, "write 96 or 120"),
    (H100, {"global_batch": 64, "gradient_accumulation": 3}, "write 8, or leave it out"),
    # knobs of another strategy
    (H100, {"parallelism": {"stage3_max_live_parameters": 2e9}}, "it belongs to zero3"),
    (H100, {"parallelism": {"strategy": "fsdp1", "reshard_after_forward": False}}, "shard-grad-op"),
    (H100, {"parallelism": {"strategy": "zero3", "replicate": 2}}, "zero_hpz_partition_size"),
    (H100, {"parallelism": {"strategy": "fsdp1", "wrap": "linear"}}, "block+root or peft"),
    (H100, {"parallelism": {"wrap": "peft"}}, "block+root or torchtitan or linear"),
    (H100, {"parallelism": {"strategy": "ddp", "checkpoint_wrapper": "outside"}}, "no such knob"),
    (H100, {"parallelism": {"strategy": "zero2", "offload": "all"}}, "offloads the optimizer only"),
    (
        H100,
        {"parallelism": {"strategy": "zero3", "reduce_dtype": "bf16"}},
        "communication_data_type",
    ),
    (H100, {"parallelism": {"strategy": "ddp", "offload": "all"}}, "ddp cannot offload"),
    (H100, {"parallelism": {"strategy": "zero2", "offload": "all"}}, "offloads the optimizer only"),
    (H100, {"parallelism": {"offload": "all", "offload_device": "nvme"}}, "zero3 can"),
    # the job
    (H100, {"steps": 10}, "tokens and steps both say"),
    (H100, {"checkpoint": {"interval": "0 s"}}, 'write "checkpoint: none"'),
    (H100, {"model": "gpt2", "sequence_length": 2048}, "its positions are a table"),
    (H100, {"method": {"lora": {"rank": 0}}}, "trains nothing"),
    (H100, {"method": {"lora": {"rank": 9999}}}, "more than the hidden size 4096"),
    (H100, {"method": {"lora": {"quantization": "nf4"}}}, "write qlora"),
    (
        H100,
        {"precision": {"fp8": {"recipe": "rowwise", "all_gather": "fp8"}}},
        "rowwise has no FP8 all-gather",
    ),
    (H100, {"activation_checkpointing": {"selective": 33}}, "every 33-th of 32 blocks is none"),
    (H100, {"sequence_length": 10**9}, "more than any job has"),
    (H100, {"model": {"base": "llama-3-8b", "kv_heads": 5}}, "32 heads cannot share 5"),
    # the machine
    ({"name": "x"}, {}, "has neither node, node_groups nor graph"),
    (node("a100-pcie-80gb") | {"nodes": 2}, {}, "2 nodes, but the node has no nics"),
    (node("a100-pcie-80gb", pcie={"generation": 9}), {}, "there are no figures of PCIe 9"),
    (node("a100-pcie-80gb", pcie={"generation": 4, "lanes": 12}), {}, "12 lanes make no link"),
    (node("a100-pcie-80gb") | {"network": {"oversubscription": 0.5}}, {}, "0.5 is less than 1"),
    (
        node("a100-pcie-80gb") | {"network": {"switch_latency": "2 s"}},
        {},
        "2 s is more than any machine",
    ),
    (node({"base": "a100-pcie-80gb", "memory": "80 MB"}), {}, "80 MB is less than any machine"),
    (node("a100-pcie-80gb", gpus=5000), {}, "5000 is more than any machine"),
    # explicit graphs
    (graph(GPU, GPU | {"id": "b"}), {}, "is disconnected: no way between a and b"),
    (graph(GPU, GPU | {"id": "b"}, edges=[link("a", "b", directed=True)]), {}, "is disconnected"),
    (graph(GPU, edges=[link("a", "z")]), {}, '"z" is no vertex'),
    (graph(GPU, edges=[link("a", "a")]), {}, "joins a vertex to itself"),
    (graph(GPU, GPU), {}, '"a" is there twice'),
    (graph({"id": "c", "kind": "cpu"}), {}, "no vertex is a GPU"),
    (graph({"id": "a", "kind": "gpu"}), {}, "name it here, or in the topology's gpu"),
    (graph(GPU, nodes=2), {}, "nodes has no meaning beside a graph"),
    (graph(GPU) | node("a100-pcie-80gb"), {}, "exclude one another"),
]


@pytest.mark.parametrize(("topology", "keys", "says"), ERRORS, ids=[e[2][:40] for e in ERRORS])
def test_errors(topology, keys, says):
    job = JOB | keys
    with pytest.raises(InputError) as caught:
        loader.load(topology, job)
    assert says in str(caught.value)


WARNINGS = [
    (H100, {"sequence_length": 16384}, "positions"),
    (H100, {"precision": "fp8"}, "fp8-eager"),
    (H100, {"parallelism": {"offload": "optimizer"}}, "offload"),
    (H100, {"stack": {"nccl": "2.16"}}, "no-nvls"),
    (H100, {"parallelism": {"context_parallel": 4}, "sequence_length": 4100}, "ring-balance"),
    (
        node("h100-sxm-80gb", gpus=16, nvlink={"generation": 4, "links_per_gpu": 18}),
        {},
        "nvswitch-size",
    ),
    (node("a100-pcie-80gb", nics={"rate": "400 Gb/s"}, pcie={"generation": 3}), {}, "nic-slot"),
    (node("a100-pcie-80gb", pcie={"generation": 5}), {}, "pcie-slower-gpu"),
    (node("a100-pcie-80gb", pcie={"generation": 4, "gpus_per_switch": 3}), {}, "pcie-switches"),
]


@pytest.mark.parametrize(("topology", "keys", "code"), WARNINGS, ids=[w[2] for w in WARNINGS])
def test_warnings(topology, keys, code):
    notes = loader.load(topology, JOB | keys).notes
    (found,) = [w for w in notes.warnings if w.code == code]
    assert found.path.startswith(("topology.", "workload."))
    assert found.message


def test_the_plain_case_has_no_findings():
    assert loader.load(H100, JOB).notes.warnings == ()
    assert loader.load("gcp-a2-megagpu-16g", JOB).notes.warnings == ()  # 16 GPUs, and it exists


def test_a_fault_is_at_its_key(tmp_path):
    path = tmp_path / "w.yaml"
    path.write_text("name: j\nmodel: llama-3-8b\nsequence_length: 8\ntokens: 1B\nprecision: fp8\n")
    with pytest.raises(InputError) as caught:
        loader.load("dgx-a100", path)
    (fault,) = caught.value.faults
    assert (fault.source, fault.line, fault.column) == (str(path), 5, 12)


def test_a_job_without_length_is_told():
    job = {k: v for k, v in JOB.items() if k != "tokens"}
    (told,) = loader.load(H100, job).notes.warnings
    assert told.code == "no-job-length"
    (told,) = loader.load(H100, job, ["epochs=3"]).notes.warnings
    assert "3 epochs of how many samples?" in told.text
    (told,) = loader.load(H100, job, ["epochs=3", "steps=9"]).notes.warnings
    assert (told.code, told.path) == ("epochs", "workload.epochs")
    (told,) = loader.load(H100, job, ["epochs=3", "samples=900"]).notes.warnings
    assert (told.code, "each counts as" in told.text) == ("lengths", True)


def test_the_shipped_graph_is_connected_and_has_its_gpu():
    topology = loader.load_topology("mixed-pairs")
    assert topology.world_size == 4
    assert {v.gpu.name for v in topology.graph.vertices if v.kind == "gpu"} == {"a100-pcie-80gb"}


@pytest.mark.parametrize(
    ("have", "need", "expected"),
    [
        ("11.7", "11.8", True),
        ("11.8", "11.8", False),
        ("12.0", "11.8", False),
        ("2.10", "2.9", False),
        ("2.4.1+cu121", "2.4", False),
        ("2", "2.1", True),
        ("nightly", "2.4", False),
        ("v2.3", "2.4", True),
    ],
)
def test_versions_compare(have, need, expected):
    assert older(have, need) is expected


def test_every_minimum_has_a_source():
    for group in versions().values():
        entries = group if isinstance(group, list) else group.values()
        assert all(entry["source"] for entry in entries)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"activation_checkpointing": {"none": {"offload": True}}}, "no block inputs to send"),
    ],
)
def test_method_errors(keys, says):
    with pytest.raises(InputError, match=says):
        loader.load(H100, JOB | keys)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"data": {"packing": False}}, "nothing says how long samples are"),
        ({"data": {"packing": False, "mean_length": 1024}}, "% is padding or waiting"),
        ({"data": {"mean_length": 8192}}, "are cut to 4096"),
        (
            {
                "stack": {"torch": "2.7", "cuda": "12.4", "nccl": "2.21"},
                "parallelism": {"context_parallel": 16, "context_parallel_kind": "ulysses"},
            },
            "8 key-value heads are repeated for 16 ranks",
        ),
    ],
)
def test_method_warnings(keys, says):
    loaded = loader.load(H100, JOB | keys, ["nodes=2"])
    assert any(says in w.message for w in loaded.notes.warnings)


def test_a_single_switch_is_not_oversubscribed_even_on_one_node():
    """Else the scaling curve of a sound run would meet it first."""
    with pytest.raises(InputError, match="no uplinks to oversubscribe; write"):
        loader.load("pcie4-a100-16", "mistral-7b-lora", ["network.oversubscription=4.0"])


def test_hopper_alone_has_flash3_and_a_stranger_takes_its_constants():
    hopper, ada = gpu("h100-sxm-80gb"), gpu("l40s-pcie-48gb")
    assert facts_of(hopper).attention == ("flash3",)
    assert facts_of(ada) == Architecture("l40s", True, 8, 1, ())
    stranger = facts_of(hopper.model_copy(update={"architecture": "rubin"}))
    assert (stranger.constants, stranger.known, stranger.attention) == ("h100", False, ())
    assert set(table("architectures")["architecture"]) == set(versions()["architecture"])


def test_software_that_nobody_wrote_is_as_new_as_the_gpus_need():
    """A file without a stack, as trainers' are, was refused on Blackwell for versions of ours."""
    found = loader.load("dgx-b200", JOB)
    stack = found.workload.stack
    assert (stack.torch, stack.cuda, stack.nccl) == ("2.7", "12.8", "2.25")
    assert "cuda=12.8" in " ".join(found.notes.assumptions())
    for name in ("b300-sxm-288gb", "gb300-288gb"):  # sm_103
        later = loader.load(node(name), JOB).workload.stack
        assert (later.torch, later.cuda, later.nccl) == ("2.7", "12.9", "2.25")
    assert loader.load(node("rtx-5090-32gb", gpus=1), JOB).workload.stack.cuda == "12.8"
    newer = loader.load("dgx-b200", JOB | {"stack": {"torch": "2.9"}}).workload.stack
    assert (newer.torch, newer.cuda) == ("2.9", "12.8")


def test_software_that_nobody_wrote_is_as_new_as_a_recipe_needs():
    """On a GPU without it the advice was to raise CUDA, for a recipe that it cannot run."""
    blocks = loader.load("dgx-h100", JOB | {"precision": {"fp8": {"recipe": "te-blockwise"}}})
    needs = versions()["feature"][RECIPES["te-blockwise"].feature]
    assert blocks.workload.stack.cuda == needs["cuda"] == "12.9"
    with pytest.raises(InputError, match="te-nvfp4 does not run on h100"):
        loader.load("dgx-h100", JOB | {"precision": "nvfp4"})
    with pytest.raises(InputError, match="needs CUDA"):
        loader.load("dgx-b200", JOB | {"precision": "nvfp4", "stack": {"cuda": "12.4"}})
    assert loader.load("dgx-h100", JOB).workload.stack.torch == "2.5"


def test_attention_that_nobody_wrote_runs_on_gpus_before_ampere():
    assert loader.load(V100, JOB | {"precision": "fp16"}).workload.attention == "sdpa"
    assert loader.load("dgx-a100", JOB).workload.attention == "flash2"
