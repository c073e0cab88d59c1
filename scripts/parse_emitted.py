"""Whether the trainers' own parsers take what `export` writes; run by a Python that has them.

python scripts/parse_emitted.py --write FOLDER          # with scaling-sim
OTHER/python scripts/parse_emitted.py --parse FOLDER    # with accelerate, transformers and trl
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

PLANS = {
    "fsdp2": ("dgx-h100", "llama3-8b-sft", ["nodes=2"]),
    "hsdp": ("dgx-h100", "llama3-8b-sft", ["nodes=2", "parallelism.replicate=2"]),
    "fsdp1": ("dgx-a100", "llama3-8b-sft", ["parallelism=fsdp1"]),
    "ddp": ("dgx-h100", "mistral-7b-lora", ["parallelism=ddp"]),
    "zero3": ("dgx-h100", "llama3-8b-zero3", []),
    "qlora": ("dgx-h100", "llama3-70b-qlora", []),
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

    parsers = {"accelerate.yaml": lambda p: load_config_from_file(str(p)), "sft.yaml": arguments}
    counts = dict.fromkeys(parsers, 0)
    for path in sorted(folder.rglob("*")):
        if path.name in parsers:
            parsers[path.name](path)
            counts[path.name] += 1
    for name, count in counts.items():
        print(f"{name}: {count} accepted")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", type=Path)
    options.add_argument("--parse", type=Path)
    given = options.parse_args()
    if given.write:
        write(given.write)
    if given.parse:
        parse(given.parse)


if __name__ == "__main__":
    main()
