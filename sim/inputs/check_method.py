"""Checks of how a workload trains: adapters, quantised bases, a part of the layers."""

from __future__ import annotations

from sim.inputs.finding import Findings, fault, warning
from sim.inputs.strategy import strategy_of
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Workload
from sim.quantities import counted


def findings(w: Workload) -> Findings:
    """Every finding about a training method."""
    m = w.method
    if m.kind == "full":
        return
    if m.kind == "freeze":
        yield from _partly_frozen(w)
        return
    if m.rank < 1:
        yield fault(
            "lora-rank", "workload", "method.rank", "a rank of 0 trains nothing", "write 8 to 64"
        )
    if m.rank > w.model.hidden_size:
        message = f"rank {m.rank} is more than the hidden size {w.model.hidden_size}"
        yield fault("lora-rank", "workload", "method.rank", message, "write 8 to 64")
    if m.kind == "lora" and m.quantization not in ("none", "int8"):
        message = "a base of 4 bits is qlora"
        yield fault("lora-quantized", "workload", "method.quantization", message, "write qlora")
    if m.kind == "qlora" and m.quantization == "int8":
        message = "a base of 8 bits is lora"
        yield fault("lora-quantized", "workload", "method.quantization", message, "write lora")
    if m.kind == "qlora" and m.quantization == "none":
        message = "qlora without quantization is lora"
        yield fault("qlora-plain", "workload", "method.quantization", message, "write lora, or nf4")
    if not m.targets:
        message = f"{w.model.name} has none of the layers named"
        yield fault("lora-targets", "workload", "method.targets", message, 'write "all-linear"')
    yield from _out_of_mamba(w)
    if m.gptq_kernels in ("exllama", "marlin"):
        message = f"{m.gptq_kernels} has no backward, so nothing trains through it"
        yield fault("gptq-kernels", "workload", "method.gptq_kernels", message, "write triton")
    if m.gptq_kernels is not None and m.quantization != "gptq-int4":
        message = f"{m.gptq_kernels} unpacks GPTQ weights; these are {m.quantization}"
        hint = "leave it out, or write quantization: gptq-int4"
        yield fault("gptq-kernels", "workload", "method.gptq_kernels", message, hint)
    if m.quantization == "int8":
        yield from _int8(w)
    if m.prepare_kbit and m.quantization not in ("nf4", "int8"):
        message = f"prepare_kbit leaves a model with quantization {m.quantization} as it is"
        yield fault("prepare-kbit", "workload", "method.prepare_kbit", message, "leave it out")
    if m.dora:
        yield from _dora(w)
    if m.kind == "qlora" and w.precision.low:
        kind = w.precision.kind.upper()
        message = f"a 4-bit base is dequantised to bf16; no library multiplies it in {kind} on top"
        yield warning("qlora-fp8", "workload", "precision", message, "write bf16")


def _out_of_mamba(w: Workload) -> Findings:
    """What PEFT adapts nothing of: its fused kernels read the weight and pass the layer by.

    Source: PEFT 0.21.2, tuners/tuners_utils.py, `_check_lora_target_modules_mamba`: of Falcon-H1,
    whose blocks have both mixers, and of Nemotron-H, whose layers have one branch.
    """
    model, named = w.model, w.method.targets
    mixers = set(model.mixers)
    theirs = "mamba+attention" in model.layer_pattern or (model.one_branch and "mamba" in mixers)
    if theirs and "out_proj" in named and not trainer_of(w).own_adapters:
        rest = ", ".join(name for name in model.linears if name in named and name != "out_proj")
        message = f"PEFT (0.21) refuses an adapter on out_proj of {model.name}"
        hint = f"write targets: [{rest}]" if rest else "name others"
        yield warning("peft-mamba", "workload", "method.targets", message, hint)


def _partly_frozen(w: Workload) -> Findings:
    m, model = w.method, w.model
    trained, path = m.trained_layers(model.layers), "method.layers"
    beyond = [n for n in m.layers if n >= model.layers]
    if beyond:
        message = f"{model.name} has layers 0 to {model.layers - 1}, not {beyond[0]}"
        yield fault("freeze-layers", "workload", path, message, f"write {model.layers - 1} or less")
    elif len(set(m.layers)) < len(m.layers):
        twice = next(n for n in m.layers if m.layers.count(n) > 1)
        yield fault(
            "freeze-layers", "workload", path, f"layer {twice} stands twice", "write it once"
        )
    elif not m.extra and not (trained and m.modules):
        message = "nothing is trained"
        yield fault("freeze-layers", "workload", path, message, "write method: {freeze: {last: 2}}")
    for key, count in (("last", m.last), ("first", m.first)):
        if count > model.layers:
            message, hint = (
                f"{model.name} has {model.layers} layers",
                f"write {model.layers} or less",
            )
            yield fault("freeze-layers", "workload", f"method.{key}", message, hint)
    said = [min(m.first, model.layers), min(m.last, model.layers), len(m.layers)]
    if not beyond and (twice_said := sum(said) - len(trained)) > 0:
        message = (
            f"first, last and layers name {counted(twice_said, 'layer')} of {model.name} twice,"
            f" which counts once: {len(trained)} of {model.layers} are trained"
        )
        hint = "write fewer of one of them"
        yield warning("freeze-layers", "workload", "method", message, hint)
    ends = {"embedding", "head"} & set(m.extra)
    if model.tied_embeddings and len(ends) == 1:
        message = f"embedding and head of {model.name} are one table"
        hint = "write both, or neither"
        yield fault("freeze-tied", "workload", "method.extra", message, hint)
    if w.parallelism.wrap == "peft":
        message = "adapters are wrapped apart, and there are none"
        path = "parallelism.wrap"
        yield fault("freeze-wrap", "workload", path, message, "write block+root")
    if w.precision.low:
        message = f"{w.precision.kind.upper()} is not modelled of a partly frozen model"
        yield fault("freeze-precision", "workload", "precision", message, "write bf16")


def _int8(w: Workload) -> Findings:
    strategy = strategy_of(w)
    if strategy.gathers_blocks:
        message = (
            f"{strategy.name} does not shard weights of LLM.int8(), whose scales are no tensors"
        )
        yield fault("int8", "workload", "method.quantization", message, "write nf4, or ddp")
    if w.model.experts:
        message = "a mixture's experts in 8 bits are not modelled"
        yield fault("int8", "workload", "method.quantization", message, "write nf4")
    if w.method.adapters == "fused":
        message = "fused adapters read weights of 4 or 16 bits"
        yield fault("int8", "workload", "method.adapters", message, "write eager")


def _dora(w: Workload) -> Findings:
    m = w.method
    faults = (
        (m.adapters == "fused", "fused adapters have no lengths to train", "adapters: eager"),
        (m.quantised and m.quantization != "nf4",
         f"DoRA of {m.quantization} is not modelled", "quantization: nf4"),
        (bool(w.model.experts) and bool({"gate", "up", "down"} & set(m.targets)),
         "DoRA of a mixture's experts is not modelled", "targets: [q, k, v, o]"),
    )  # fmt: skip
    for wrong, message, hint in faults:
        if wrong:
            yield fault("dora", "workload", "method.dora", message, f"write {hint}, or dora: false")
    if w.compile:
        message = "its kernels are counted one by one, though a compiler fuses them"
        yield warning("dora", "workload", "method.dora", message, "write compile: false")
