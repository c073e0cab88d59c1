"""The input contract: the YAML forms of the design, read into specs of SI values."""

import pytest

from sim.errors import InputError
from sim.inputs import loader
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from tests.clock import least

#: of a block with a gated FFN and softmax attention
SEVEN = ("q", "k", "v", "o", "gate", "up", "down")
TOPOLOGY = """\
name: dgx-h100
nodes: 2
node:
  gpu: h100-sxm-80gb            # catalogue name, or an inline mapping of the same fields
  gpus: 8
  nvlink: {generation: 4, links_per_gpu: 18, fabric: nvswitch, sharp: true}
  pcie: {generation: 5, lanes: 16, gpus_per_switch: 1, nics_per_switch: 1}
  cpu: {sockets: 2, interconnect: 22 GB/s, memory: 2 TB}
  nics: {count: 8, rate: 400 Gb/s}
  storage: {read: 25 GB/s, write: 12 GB/s}
network: {kind: rail-optimized, oversubscription: 1.0, switch_latency: 0.6 us}
offer: {price_per_gpu_hour: 2.95 USD, provider: example, region: eu-central, residency: EU,
        egress_per_gb: 0 USD}
"""
WORKLOAD = """\
name: llama3-8b-sft
model: llama-3.1-8b
method: full
sequence_length: 8192
micro_batch: 2
gradient_accumulation: 4
tokens: 1e9
precision: bf16
optimizer: adamw
parallelism: {strategy: fsdp2, reshard_after_forward: true, replicate: 1}
activation_checkpointing: none
attention: flash2
compile: false
stack: {torch: "2.5", cuda: "12.4", nccl: "2.21"}
data: {workers: 8, bytes_per_token: 4, preprocess_tokens_per_s_per_worker: 2e5}
checkpoint: {interval: 30 min, mode: sharded}
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "t.yaml").write_text(TOPOLOGY)
    (tmp_path / "w.yaml").write_text(WORKLOAD)
    return tmp_path / "t.yaml", tmp_path / "w.yaml"


def job(**keys):
    plain = {"name": "j", "model": "llama-3-8b", "sequence_length": 4096, "tokens": 1e9}
    return loader.load_workload(plain | keys)


def test_the_contract_topology(files):
    t = loader.load_topology(files[0])
    assert (t.name, t.nodes, t.world_size) == ("dgx-h100", 2, 16)
    node = t.node
    assert (node.gpu.name, node.gpu.memory_bandwidth, node.gpu.sms) == (
        "h100-sxm-80gb",
        3.35e12,
        132,
    )
    assert (node.nvlink.generation, node.nvlink.links_per_gpu, node.nvlink.sharp) == (4, 18, True)
    assert (node.pcie.generation, node.pcie.lanes) == (5, 16)
    assert (node.cpu.sockets, node.cpu.interconnect, node.cpu.memory) == (2, 22e9, 2e12)
    assert (node.nics.count, node.nics.rate) == (8, 50e9)
    assert (node.storage.read, node.storage.write) == (25e9, 12e9)
    assert (t.network.kind, t.network.oversubscription) == ("rail-optimized", 1.0)
    assert t.network.switch_latency == 0.6e-6
    assert (t.offer.price_per_gpu_hour, t.offer.residency, t.offer.egress_per_gb) == (
        2.95,
        "EU",
        0.0,
    )


def test_the_contract_workload(files):
    w = loader.load_workload(files[1])
    assert (w.model.layers, w.model.hidden_size, w.model.vocab_size) == (32, 4096, 128256)
    assert (w.sequence_length, w.micro_batch, w.gradient_accumulation, w.tokens) == (
        8192,
        2,
        4,
        1e9,
    )
    assert (w.method.kind, w.precision.kind, w.optimizer) == ("full", "bf16", "adamw")
    assert (w.parallelism.strategy, w.parallelism.reshard_after_forward) == ("fsdp2", True)
    assert (w.activation_checkpointing.kind, w.attention, w.compile) == ("none", "flash2", False)
    assert (w.stack.torch, w.stack.cuda, w.stack.nccl) == ("2.5", "12.4", "2.21")
    assert (w.data.bytes_per_token, w.data.preprocess_tokens_per_s_per_worker) == (4.0, 2e5)
    assert (w.checkpoint.interval, w.checkpoint.mode) == (1800.0, "sharded")


def test_a_version_stays_text_even_without_quotes(tmp_path):
    path = tmp_path / "w.yaml"
    path.write_text(WORKLOAD.replace('torch: "2.5"', "torch: 2.10"))
    assert loader.load_workload(path).stack.torch == "2.10"


def test_every_kind_of_argument(files):
    by_path, _, notes = loader.load(files[0], str(files[1]))
    assert notes.origin("topology.node.nics.rate").place == f"{files[0]}:9:26"
    mapping = {
        "name": "dgx-h100",
        "nodes": 2,
        "node": {
            "gpu": by_path.node.gpu,
            "nvlink": by_path.node.nvlink,
            "gpus": 8,
            "pcie": {"generation": 5},
            "cpu": {"interconnect": "22 GB/s", "memory": "2 TB"},
            "nics": {"rate": "400 Gb/s"},
            "storage": {"read": "25 GB/s", "write": "12 GB/s"},
        },
        "offer": by_path.offer,
    }
    assert loader.load_topology(mapping) == by_path
    assert loader.load_topology(by_path) is by_path
    assert isinstance(loader.load_topology("dgx-a100"), Topology)
    assert isinstance(loader.load_workload("llama3-8b-sft"), Workload)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("full", ("full", 0, (), "none")),
        ("lora", ("lora", 16, SEVEN, "none")),
        ({"lora": {"rank": 8, "targets": "attention"}}, ("lora", 8, ("q", "k", "v", "o"), "none")),
        ({"lora": {"targets": ["v_proj", "q_proj"]}}, ("lora", 16, ("q", "v"), "none")),
        ({"qlora": {"rank": 16}}, ("qlora", 16, SEVEN, "nf4")),
        ({"qlora": {"quantization": "gptq-int4"}}, ("qlora", 16, SEVEN, "gptq-int4")),
    ],
)
def test_methods(value, expected):
    m = job(method=value).method
    assert (m.kind, m.rank, m.targets, m.quantization) == expected


def test_a_model_without_gate_has_no_gate_adapter():
    assert "gate" not in job(model="gpt2", sequence_length=512, method="lora").method.targets


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bf16", ("bf16", "none", "bf16", "fp32")),
        ({"bf16": {"master": "bf16"}}, ("bf16", "none", "bf16", "bf16")),
        ("fp8", ("fp8", "tensorwise", "bf16", "fp32")),
        ({"fp8": {"recipe": "te-delayed"}}, ("fp8", "te-delayed", "bf16", "fp32")),
        (
            {"fp8": {"recipe": "tensorwise", "all_gather": "fp8"}},
            ("fp8", "tensorwise", "fp8", "fp32"),
        ),
    ],
)
def test_precisions(value, expected):
    p = job(precision=value).precision
    assert (p.kind, p.recipe, p.all_gather, p.master) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("none", ("none", 1, None, False)),
        ("full", ("full", 1, None, False)),
        ({"full": {"reentrant": True}}, ("full", 1, None, True)),
        ({"selective": "op"}, ("selective-op", 1, None, False)),
        ({"selective": 2}, ("selective-blocks", 2, None, False)),
        ({"selective": "2"}, ("selective-blocks", 2, None, False)),
        ({"selective": 0.25}, ("selective-blocks", 1, 0.25, False)),
        ({"kind": "selective-blocks", "every": 3}, ("selective-blocks", 3, None, False)),
    ],
)
def test_activation_checkpointing(value, expected):
    c = job(activation_checkpointing=value).activation_checkpointing
    assert (c.kind, c.every, c.fraction, c.reentrant) == expected


def test_other_short_forms():
    assert job(parallelism="zero3").parallelism.strategy == "zero3"
    assert job(checkpoint="none").checkpoint.interval is None
    p = job(parallelism={"strategy": "zero3", "stage3_prefetch_bucket_size": "auto"}).parallelism
    assert p.stage3_prefetch_bucket_size == "auto"
    p = job(parallelism={"strategy": "zero3", "stage3_max_live_parameters": "1e9"}).parallelism
    assert p.stage3_max_live_parameters == 1e9
    inline = job(
        model={"layers": 2, "hidden_size": 64, "heads": 4, "ffn_size": 256, "vocab_size": 100}
    )
    assert (inline.model.kv_heads, inline.model.head_dim) == (4, 16)
    based = job(model={"base": "llama-3-8b", "layers": 4, "name": "short"})
    assert (based.model.layers, based.model.hidden_size, based.model.name) == (4, 4096, "short")


def test_a_gpu_over_a_base():
    t = loader.load_topology(
        "dgx-h100",
        ["node.gpu={base: h100-sxm-80gb, memory_bandwidth: 2.4 TB/s, power_limit: 500 W}"],
    )
    gpu = t.node.gpu
    assert (gpu.memory_bandwidth, gpu.power_limit, gpu.sms) == (2.4e12, 500.0, 132)
    assert gpu.base == "h100-sxm-80gb"


def test_the_accumulation_follows_from_a_global_batch():
    plain = {
        "name": "j",
        "model": "llama-3-8b",
        "sequence_length": 4096,
        "tokens": 1e9,
        "micro_batch": 2,
    }
    loaded = loader.load("dgx-h100", plain | {"global_batch": 128})
    assert loaded.workload.gradient_accumulation == 8  # 128 / (2 x 8 GPUs)


def test_assumed_keys_are_told():
    plain = {"name": "j", "model": "llama-3-8b", "sequence_length": 4096, "tokens": 1e9}
    notes = loader.load("dgx-h100", plain).notes
    lines = notes.assumptions()
    assert "workload.micro_batch = 1" in lines
    assert "workload.attention = flash2" in lines
    assert not [line for line in lines if line.startswith("workload.tokens")]


def test_cheap_enough_for_sweeps():
    loader.load("dgx-h100", "llama3-8b-sft")
    prepared = loader.prepare("dgx-h100", "llama3-8b-sft")

    def vary():
        for nodes in range(1, 41):
            prepared.vary({"nodes": nodes, "parallelism.replicate": 2}).loaded()

    assert least(lambda: loader.load("dgx-h100", "llama3-8b-sft")) < 0.030
    assert least(vary) < 40 * 0.0005


def test_assumed_keys_are_those_with_an_effect():
    lines = loader.load("dgx-h100", "llama3-8b-sft").notes.assumptions()
    assert not [
        line for line in lines if "stage3" in line or line.endswith(("= None", "= ", "= ()"))
    ]
    assert not [
        line for line in lines if line.startswith(("workload.method", "workload.precision.r"))
    ]
    zero = loader.load("dgx-h100", "llama3-8b-zero3").notes.assumptions()
    assert "workload.parallelism.stage3_max_live_parameters = 1e+09" in zero
    assert not [line for line in zero if "reshard" in line]


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ([], []),
        (
            ["optimizer=apollo", "parallelism=ddp"],
            ["workload.optimizer_rank = 128"],
        ),
        (["reference=copy"], ["workload.reference_passes = 1"]),
        (["method=lora", "reference=adapters-off"], ["workload.reference_passes = 1"]),
    ],
)
def test_what_is_of_a_reference_or_a_projection_is_assumed_with_one(sets, told):
    lines = loader.load("dgx-h100", "llama3-8b-sft", sets).notes.assumptions()
    own = ("optimizer_rank", "reference_dtype", "reference_passes")
    assert [line for line in lines if line.split(" = ")[0].endswith(own)] == told


def test_the_beginning_of_a_name_is_a_hint():
    with pytest.raises(InputError, match='did you mean "a100-pcie-40gb" or "a100-pcie-80gb"'):
        loader.load_topology("dgx-h100", ["node.gpu=a100"])


@pytest.mark.parametrize(
    ("setting", "rank", "targets"),
    [
        ("method.rank=64", 64, 7), ("method.targets=[q]", 16, 1), ("method.lora.rank=8", 8, 7),
        ("method={lora: {rank: 4}}", 4, 7),
    ],
)  # fmt: skip
def test_what_is_set_beside_a_form_counts(setting, rank, targets):
    """The file has ``{lora: {rank: 16, targets: all-linear}}``, which won, in silence."""
    method = loader.load("dgx-h100", "llama3-8b-lora", [setting]).workload.method
    assert (method.rank, len(method.targets)) == (rank, targets)


def test_a_key_that_a_form_has_twice(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("model: gpt2\nsequence_length: 512\nmethod: {lora: {rank: 16}, rank: 8}\n")
    with pytest.raises(InputError, match=r"job\.yaml:3:\d+  method\.rank: stands under lora too"):
        loader.load("dgx-h100", path)
