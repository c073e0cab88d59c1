"""Whether the trainers' own parsers take what `export` writes, and have the names that we say.

python scripts/parse_emitted.py                         # against their own source, fetched by pip
python scripts/parse_emitted.py --write FOLDER          # with scaling-sim
OTHER/python scripts/parse_emitted.py --parse FOLDER    # by one that has accelerate, trl, deepspeed
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Keys = Mapping[str, Any]
Complain = Callable[[Any, Keys], Iterator[str]]
TIME_S = 60.0  # to fetch all of them

PLANS = {
    "fsdp2": ("dgx-h100", "llama3-8b-sft", ["nodes=2"]),
    "hsdp": ("dgx-h100", "llama3-8b-sft", ["nodes=2", "parallelism.replicate=2"]),
    "fsdp1": ("dgx-a100", "llama3-8b-sft", ["parallelism=fsdp1"]),
    "ddp": ("dgx-h100", "mistral-7b-lora", ["parallelism=ddp"]),
    "zero3": ("dgx-h100", "llama3-8b-zero3", []),
    "qlora": ("dgx-h100", "llama3-70b-qlora", []),
    "offload": ("dgx-h100", "llama3-8b-zero3", ["parallelism.offload=all"]),
    "zero2": ("dgx-a100", "llama3-8b-sft", ["parallelism=zero2"]),
    "pipeline": (
        "dgx-h100",
        "llama3-8b-sft",
        ["parallelism.pipeline_parallel=2", "gradient_accumulation=8", "nodes=2"],
    ),
    "context": ("dgx-h100", "llama3-8b-32k", ["parallelism.context_parallel=2"]),
    "tensor": ("dgx-h100", "llama3-8b-sft", ["parallelism.tensor_parallel=2"]),
    "fp8": ("dgx-h100", "llama3-8b-sft-fp8", []),
    "megatron": (
        "dgx-h100",
        "llama3-8b-sft",
        [
            "parallelism={strategy: megatron, tensor_parallel: 2, pipeline_parallel: 2, "
            "pipeline_schedule: interleaved-1f1b}",
            "gradient_accumulation=8",
            "nodes=2",
        ],
    ),
    "mixture": (
        "dgx-h100",
        "llama3-8b-sft",
        [
            "model=mixtral-8x7b",
            "parallelism={strategy: megatron, expert_parallel: 8, context_parallel: 2, "
            "context_parallel_rotation: all-to-all}",
            "nodes=2",
        ],
    ),
    "mixture-whole": (
        "dgx-h100",
        "llama3-8b-sft",
        ["parallelism=megatron", "model=qwen3-30b-a3b", "nodes=2"],
    ),
    "foreach": (
        "dgx-h100",
        "mistral-7b-lora",
        ["parallelism=ddp", "optimizer_implementation=foreach"],
    ),
}


def write(folder: Path) -> None:
    from sim.errors import InputError
    from sim.inputs.loader import load
    from sim.interop.emit import FILES, texts_of

    for name, (machine, job, sets) in PLANS.items():
        topology, workload, _ = load(machine, job, sets)
        for tool in FILES:
            try:
                texts = texts_of(topology, workload, tool)
            except InputError:
                continue
            (folder / f"{name}-{tool}").mkdir(parents=True, exist_ok=True)
            for file, text in texts.items():
                (folder / f"{name}-{tool}" / file).write_text(text)


def check() -> int:
    """Hold every emitted file against the source of its trainer; what cannot be had is skipped."""
    begun, refused = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "plans")
        write(folder)
        for name, (requirements, patterns, complain) in TRAINERS.items():
            from scripts.trainer_schemas import Package, fetch

            files = [p for p in sorted(folder.rglob("*")) if p.name == name]
            try:
                left = TIME_S - (time.monotonic() - begun)
                homes = {fetch(r, Path(scratch, "sources"), left): patterns for r in requirements}
            except (OSError, ValueError) as reason:
                print(f"{name}: skipped, {', '.join(requirements)} not to be had: {reason}")
                continue
            package = Package(homes)
            versions = ", ".join(_version(home) for home in homes)
            told = [f"{p.parent.name}: {c}" for p in files for c in complain(package, _read(p))]
            refused += len(told)
            print(f"{name}: {len(files)} files, {len(told)} complaints by {versions}")
            print("".join(f"    {line}\n" for line in told), end="")
        refused += _check_names(Path(scratch, "sources"), begun)
    return 1 if refused else 0


def _check_names(sources: Path, begun: float) -> int:
    """How many optimizers and attentions of data/trainers.toml their trainers do not have."""
    from scripts.trainer_schemas import Package, fetch
    from sim.inputs.trainer import trainer_named

    refused = 0
    for name, (requirement, patterns) in NAMED_IN.items():
        trainer, theirs = trainer_named(name), _words_of(name)
        ours = {*trainer.optimizers, *trainer.attentions}
        try:
            home = fetch(requirement, sources, TIME_S - (time.monotonic() - begun))
        except (OSError, ValueError) as reason:
            print(f"names of {name}: skipped, {requirement} not to be had: {reason}")
            continue
        package = Package({home: patterns})
        told = [f"{word}: no word of {trainer.title} is known for it" for word in ours - {*theirs}]
        told += [
            f"{word}: {trainer.title} has no {their}"
            for word, their in theirs.items()
            if not package.says(their)
        ]
        refused += len(told)
        print(f"names of {name}: {len(theirs)} words, {len(told)} complaints by {_version(home)}")
        print("".join(f"    {line}\n" for line in told), end="")
    return refused


def _words_of(trainer: str) -> dict[str, str]:
    """Text that stands in a trainer's source where it has an optimizer or attention of ours."""
    from sim.interop.trainers import words

    if trainer == "megatron":
        return {"adamw": "'adam'", "adamw-bf16": "exp_avg_dtype", "sgd": "'sgd'"}
    found = {**words.WRITTEN_ATTENTION, **words.WRITTEN_OPTIMIZERS}
    found |= {f"paged {ours}": theirs for ours, theirs in words.WRITTEN_PAGED.items()}
    return {ours: f'"{theirs}"' for ours, theirs in found.items()}


def _version(home: Path) -> str:
    (archive,) = (p for p in home.iterdir() if p.suffix in {".whl", ".gz"})
    return "-".join(archive.name.removesuffix(".tar.gz").split("-")[:2])


def _read(path: Path) -> Any:
    text = path.read_text()
    if path.suffix == ".sh":
        arguments = text.partition("pretrain_gpt.py")[2]
        return dict.fromkeys(re.findall(r"^ +--([a-z0-9-]+)", arguments, re.M))
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".toml":
        return tomllib.loads(text)
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def _fields(*classes: str) -> Callable[[Any, Keys], Iterator[str]]:
    """Complaints where no class has a key; arguments are parsed into several classes at once."""

    def complain(package: Any, keys: Keys) -> Iterator[str]:
        of = {key: name for name in classes for key in package.fields(name)}
        yield from (f"{key}: no field of {', '.join(classes)}" for key in keys if key not in of)
        for name in classes:
            own = {key: value for key, value in keys.items() if of.get(key) == name}
            yield from package.complaints(name, own)

    return complain


def _accelerate(package: Any, keys: Keys) -> Iterator[str]:
    """Its blocks are defaults of the options of `accelerate launch`."""
    yield from _fields("ClusterConfig")(package, keys)
    for block in ("fsdp_config", "parallelism_config"):
        for key in keys.get(block, {}):
            if not package.says(f'"--{key}"'):
                yield f"{block}.{key}: accelerate launch has no --{key}"


def _deepspeed(package: Any, keys: Keys) -> Iterator[str]:
    blocks = {"zero_optimization": "DeepSpeedZeroConfig", "bf16": "DeepSpeedBF16Config",
              "fp16": "DeepSpeedFP16Config"}  # fmt: skip
    for key, value in keys.items():
        if key in blocks:
            given = {k: v for k, v in value.items() if v != "auto"}  # the trainer resolves it
            yield from package.complaints(blocks[key], given, f"{key}.")
        elif not package.says(f'"{key}"'):
            yield f"{key}: DeepSpeed names no such key"


#: arguments that megatron/training/arguments.py adds itself, which megatron-core does not ship, as
#: Megatron-LM's examples/llama and examples/mixtral have them
_OF_THE_LOOP = frozenset((
    "group-query-attention", "vocab-size", "swiglu", "position-embedding-type",
    "disable-bias-linear", "untie-embeddings-and-output-weights", "max-position-embeddings",
    "seq-length", "micro-batch-size", "global-batch-size", "train-iters", "train-samples",
    "fp8-format", "num-layers-per-virtual-pipeline-stage", "num-experts",
))  # fmt: skip
_OF_CORE = ("ModelParallelConfig", "TransformerConfig", "OptimizerConfig",
            "DistributedDataParallelConfig")  # fmt: skip


def _megatron(package: Any, keys: Keys) -> Iterator[str]:
    """Arguments are fields of megatron-core's configurations, or its training loop's own."""
    known = {field for name in _OF_CORE for field in package.fields(name)}
    for key in keys:
        if key not in _OF_THE_LOOP and key.replace("-", "_") not in known:
            yield f"--{key}: no field of {', '.join(_OF_CORE)}"


#: file -> packages, the files of them that say what is taken, and how one of ours is held to that
TRAINERS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Complain]] = {
    "accelerate.yaml": (("accelerate",), ("config_args.py", "launch.py"), _accelerate),
    "ds_config.json": (
        ("deepspeed",),
        ("runtime/constants.py", "zero/config.py", "zero/offload_config.py", "precision_config.py",
         "runtime/config_utils.py"),
        _deepspeed,
    ),
    "axolotl.yaml": (
        ("axolotl",), ("utils/schemas/**/*.py",), _fields("AxolotlInputConfig")
    ),
    "llamafactory.yaml": (
        ("llamafactory", "transformers"),
        ("transformers/training_args*.py", "hparams/*.py"),
        _fields("ModelArguments", "DataArguments", "TrainingArguments", "FinetuningArguments",
                "GeneratingArguments"),
    ),
    "sft.yaml": (
        ("transformers", "trl"),
        ("transformers/training_args.py", "trainer/*_config.py", "scripts/utils.py"),
        _fields("ScriptArguments", "SFTConfig", "ModelConfig"),
    ),
    "megatron.sh": (
        ("megatron-core",),
        ("core/model_parallel_config.py", "transformer/transformer_config.py",
         "optimizer/optimizer_config.py", "distributed/distributed_data_parallel_config.py"),
        _megatron,
    ),
    # 0.3 takes no TOML any more: its configurations are Python
    "torchtitan.toml": (("torchtitan<0.3",), ("config/job_config.py",), _fields("JobConfig")),
}  # fmt: skip


#: trainer -> the package whose files name what it can be told to take; nanotron's of today is none
NAMED_IN = {
    "huggingface": (
        "transformers",
        ("transformers/training_args.py", "transformers/modeling_utils.py"),
    ),
    "megatron": ("megatron-core", ("core/optimizer/*.py",)),
}


def parse(folder: Path) -> None:
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file
    from transformers import HfArgumentParser
    from trl import ModelConfig, ScriptArguments, SFTConfig

    def arguments(path: Path) -> Any:
        keys = yaml.safe_load(path.read_text())
        keys |= {"output_dir": "out", "use_cpu": True, "report_to": "none"}
        keys |= {"bf16": False, "fp16": False, "torch_compile": False}  # there is no GPU here
        keys.pop("deepspeed", None)  # its package is another
        parser = HfArgumentParser((ScriptArguments, SFTConfig, ModelConfig))
        return parser.parse_dict(keys, allow_extra_keys=False)

    def deepspeed(path: Path) -> Any:
        """As on so many ranks: it checks its batch against them."""
        from deepspeed.runtime import config

        keys = json.loads(path.read_text())
        each = keys["train_micro_batch_size_per_gpu"] * keys["gradient_accumulation_steps"]
        config.dist.get_rank = lambda *_: 0  # no process group is up
        ranks = keys["train_batch_size"] // each
        groups = {"data": lambda _: ranks, "sequence": lambda _: 1}
        mpu = type("Mpu", (), {f"get_{k}_parallel_world_size": f for k, f in groups.items()})
        return config.DeepSpeedConfig(str(path), mpu=mpu())

    parsers: dict[str, Callable[[Path], Any]] = {
        "accelerate.yaml": lambda p: load_config_from_file(str(p)), "sft.yaml": arguments,
    }  # fmt: skip
    if find_spec("deepspeed"):
        parsers["ds_config.json"] = deepspeed
    counts = dict.fromkeys(parsers, 0)
    for path in sorted(folder.rglob("*")):
        if path.name in parsers:
            parsers[path.name](path)
            counts[path.name] += 1
    for name, count in counts.items():
        print(f"{name}: {count} accepted")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", type=Path)
    options.add_argument("--parse", type=Path)
    given = options.parse_args()
    if given.write:
        write(given.write)
    if given.parse:
        parse(given.parse)
    return 0 if given.write or given.parse else check()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
