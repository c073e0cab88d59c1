"""Changes of what was read: overrides, and jobs varied from one that is loaded."""

import pickle

import pytest

from sim.errors import InputError
from sim.inputs import loader


def test_overrides_extend_names_and_replace_choices():
    t, w, notes = loader.load(
        "dgx-h100",
        "llama3-8b-sft",
        [
            "nodes=4",
            "node.gpu.power_limit=500 W",
            "method.lora.rank=8",
            "precision.fp8.recipe=rowwise",
            "compile=true",
            "activation_checkpointing.selective=op",
            "steps=100",
            "model.layers=4",
            "parallelism.reshard_after_forward=8",
            "topology.name=mine",
            "stack.torch=2.10",
        ],
    )
    assert (t.nodes, t.name, t.node.gpu.power_limit, t.node.gpu.sms) == (4, "mine", 500.0, 132)
    assert (w.method.kind, w.method.rank) == ("lora", 8)
    assert (w.precision.kind, w.precision.recipe) == ("fp8", "rowwise")
    assert w.activation_checkpointing.kind == "selective-op"
    assert (w.steps, w.tokens, w.model.layers) == (100, None, 4)
    assert (w.parallelism.reshard_after_forward, w.stack.torch) == (8, "2.10")
    assert notes.origin("topology.nodes").kind == "override"
    assert notes.origin("workload.sequence_length").kind == "user"
    assert notes.origin("workload.cuda_graphs").kind == "default"


def test_an_index_of_a_list():
    edited = loader.load_topology("mixed-pairs", ["graph.edges[0].bandwidth=100 GB/s"])
    assert edited.graph.edges[0].bandwidth == 100e9
    assert edited.graph.vertices[0].gpu.name == "a100-pcie-80gb"


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": 4},
        {"nodes": "4", "parallelism.replicate": 2},
        {"node.gpus": 4, "node.gpu.power_limit": "500 W"},
        {"model": "llama-3-70b"},
        {"method.lora.rank": 32},
        {"method": {"qlora": {"rank": 4}}},
        {"steps": 10},
        {"global_batch": 64},
        {"precision": "fp8", "compile": True},
        {"offer.price_per_gpu_hour": "9 USD"},
    ],
)
def test_varying_equals_loading(changes):
    varied = loader.prepare("dgx-h100", "llama3-8b-sft").vary(changes).loaded()
    tree_sets = [
        s
        for k, v in changes.items()
        if not isinstance(v, dict)
        for s in [f"{k}={v}".replace("True", "true")]
    ]
    tree_sets += ["method={qlora: {rank: 4}}"] if "method" in changes else []
    whole = loader.load("dgx-h100", "llama3-8b-sft", tree_sets)
    assert varied.topology == whole.topology
    assert varied.workload == whole.workload
    assert varied.notes.warnings == whole.notes.warnings
    assert set(varied.notes.assumed) == set(whole.notes.assumed)


def test_varying_specs_without_files():
    t, w, _ = loader.load("dgx-h100", "llama3-8b-sft")
    prepared = loader.prepare(t, w)
    changed = prepared.vary(
        {"nodes": 3, "micro_batch": 8, "parallelism.wrap": "torchtitan"}
    ).loaded()
    assert (changed.topology.nodes, changed.workload.micro_batch) == (3, 8)
    assert changed.workload.parallelism == w.parallelism.model_copy(update={"wrap": "torchtitan"})
    assert changed.topology.node == t.node


def test_varying_leaves_the_first_alone_and_reports_faults():
    prepared = loader.prepare("dgx-h100", "llama3-8b-sft")
    with pytest.raises(InputError, match="nodes: 0 is not at least 1"):
        prepared.vary({"nodes": 0})
    with pytest.raises(InputError, match="does not divide"):
        prepared.vary({"parallelism.replicate": 3})
    assert prepared.loaded().topology.nodes == 1


def test_what_is_kept_of_one_variation_is_none_of_the_next():
    prepared = loader.prepare("dgx-h100", "llama3-8b-sft")
    seen = []
    for _ in range(2):
        for changes in (
            {"steps": "30"},
            {"tokens": "2e9"},
            {"global_batch": "64"},
            {"gradient_accumulation": "4", "nodes": "2"},
            {"nodes": 2, "parallelism": {"strategy": "fsdp1"}},
            {"nodes": "2", "parallelism.strategy": "ddp"},
            {"nodes": True},
        ):
            try:
                pair = prepared.vary(changes).loaded()
            except InputError as error:
                seen.append(str(error))
                continue
            seen.append((pair.topology, pair.workload, pair.notes.assumed))
            if all(isinstance(value, str) for value in changes.values()):
                sets = [f"{key}={value}" for key, value in changes.items()]
                whole = loader.load("dgx-h100", "llama3-8b-sft", sets)
                assert (pair.topology, pair.workload) == (whole.topology, whole.workload)
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    assert [isinstance(one, str) for one in seen[:half]] == [False] * 6 + [True]


@pytest.mark.parametrize("machine", ["dgx-h100", "oci-bm-gpu-h100-8"])
def test_a_spec_takes_overrides_as_its_file_does(machine):
    whole = loader.load(machine, "llama3-8b-sft", ["nodes=2"])
    again = loader.load(
        loader.load_topology(machine),
        loader.load("dgx-h100", "llama3-8b-sft").workload,
        ["nodes=2"],
    )
    assert again.topology == whole.topology
    assert again.workload == whole.workload


def test_what_changes_gave_stays_with_the_half_and_out_of_other_processes():
    base = loader.prepare("dgx-h100", "llama3-8b-lora")
    bigger = base.vary({"topology.nodes": "2"})
    assert base.vary({"topology.nodes": "2"}).topology is bigger.topology
    sent = pickle.dumps(base)
    assert len(sent) == len(pickle.dumps(loader.prepare("dgx-h100", "llama3-8b-lora")))
    assert pickle.loads(sent).vary({"topology.nodes": "2"}).topology == bigger.topology
