"""What `scripts/parse_emitted.py` holds emitted files to: fields read from a trainer's source."""

import pytest

from scripts.parse_emitted import TRAINERS
from scripts.trainer_schemas import Package
from sim.errors import InputError
from sim.inputs.loader import load
from sim.interop.emit import texts_of

SOURCE = '''
class Base(BaseModel):
    steps: int = 0
class Shard(BaseModel):
    kind: Literal["full", "part"] | None = Field(default=None)
    version: int = Field(validation_alias=AliasChoices("fsdp_version", "version"))
class Config(Base, Mixin):
    """The whole."""
    shard: Shard | None = None
    dtype: Literal["bf16", "fp16"] = "bf16"
    free: str | Literal["auto"] = "auto"
    quoted: "Shard | None" = None
'''


@pytest.fixture
def package(tmp_path):
    (tmp_path / "config.py").write_text(SOURCE)
    return Package({tmp_path: ("config.py",)})


def test_fields_of_bases_aliases_and_nested_classes(package):
    assert set(package.fields("Config")) == {"steps", "shard", "dtype", "free", "quoted"}
    assert set(package.fields("Shard")) == {"kind", "version", "fsdp_version"}
    right = {"steps": 3, "shard": {"kind": "full", "fsdp_version": 2}, "free": "x"}
    assert list(package.complaints("Config", right)) == []


def test_what_a_class_does_not_take(package):
    wrong = {"step": 3, "shard": {"kind": "half"}, "dtype": "fp8", "quoted": {"king": "full"}}
    assert list(package.complaints("Config", wrong)) == [
        "step: Config has no such field",
        "shard.kind: 'half' is none of ('full', 'part')",
        "dtype: 'fp8' is none of ('bf16', 'fp16')",
        "quoted.king: Shard has no such field",
    ]


def test_a_file_of_an_unknown_key_is_complained_of(tmp_path):
    (tmp_path / "job_config.py").write_text(
        "class JobConfig:\n    job: Job\nclass Job:\n    a: int\n"
    )
    package = Package({tmp_path: ("job_config.py",)})
    complain = TRAINERS["torchtitan.toml"][2]
    assert list(complain(package, {"job": {"a": 1}})) == []
    assert list(complain(package, {"job": {"b": 1}, "jobs": {}})) == [
        "jobs: no field of JobConfig", "job.b: Job has no such field",
    ]  # fmt: skip


def test_axolotl_cannot_shard_fsdp1_otherwise_than_in_full():
    """axolotl 0.19's FSDPConfig has neither sharding_strategy nor a prefetch, and drops them."""
    topology, workload, _ = load("dgx-a100", "llama3-8b-sft", ["parallelism=fsdp1"])
    assert "sharding_strategy" not in texts_of(topology, workload, "axolotl")["axolotl.yaml"]
    part = ["parallelism=fsdp1", "parallelism.sharding_strategy=shard-grad-op"]
    topology, workload, _ = load("dgx-a100", "llama3-8b-sft", part)
    with pytest.raises(InputError, match=r"cannot say parallelism\.sharding_strategy"):
        texts_of(topology, workload, "axolotl")
    assert "SHARD_GRAD_OP" in texts_of(topology, workload, "accelerate")["accelerate.yaml"]
