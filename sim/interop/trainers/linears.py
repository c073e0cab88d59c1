"""Names of linear layers in transformers' code, as files of adapters write them."""

from __future__ import annotations

from sim.errors import InputError
from sim.inputs.model import IN_PROJECTIONS, LINEARS, Model
from sim.inputs.models import repository
from sim.inputs.workload import Workload

_Names = dict[str, str]
_PLAIN: _Names = {name: f"{name}_proj" for name in LINEARS[:7]}
#: models of short convolutions (LFM2) have names of their own for all but q, k and v
_LFM2 = {"o": "out_proj", "gate": "w1", "down": "w2", "up": "w3"}


def _fused(qkv: str, o: str, up: str, down: str, gate: str = "") -> _Names:
    return {**dict.fromkeys("qkv", qkv), "o": o, "gate": gate, "up": up, "down": down}


#: of matrices that hold several of ours: Phi-3 (modeling_phi3.py), GLM-4, Granite 4's FFN; without
#: gates GPT-NeoX, Falcon and BLOOM, GPT-2 and GPTBigCode, MPT; InternLM2
_PHI = _PLAIN | dict.fromkeys("qkv", "qkv_proj") | {"gate": "gate_up_proj", "up": "gate_up_proj"}
_GLM = _PLAIN | {"gate": "gate_up_proj", "up": "gate_up_proj"}
_GRANITE = _PLAIN | {"gate": "input_linear", "up": "input_linear", "down": "output_linear"}
_NEOX = _fused("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
_GPT2 = _fused("c_attn", "c_proj", "c_fc", "c_proj")
_MPT = _fused("Wqkv", "out_proj", "up_proj", "down_proj")
_INTERNLM2 = _fused("wqkv", "wo", "w3", "w2", gate="w1")


def _names(model: Model) -> _Names | None:
    """Names of a model's linear layers; None where they are not known here."""
    if "conv" in model.mixers:
        return _PLAIN | _LFM2
    if not (model.fused_qkv or model.fused_gate_up):
        return _PLAIN
    if model.experts:
        return None
    if model.fused_gate_up:
        apart = _GLM if model.rope_fraction < 1.0 else _GRANITE
        return _PHI if model.fused_qkv else apart
    if model.ffn != "gelu":
        return None if model.qkv_bias else _INTERNLM2  # Qwen 1's w2 is another one's w1
    if model.parallel_block or model.embedding_norm:
        return _NEOX
    if model.positions == "learned":  # llm-foundry's shapes are in no repository
        return _GPT2 if repository(model) != model.name else None
    return _MPT


def written_targets(workload: Workload) -> list[str]:
    """Names of the linear layers that a job adapts, as transformers' code has them.

    Raises
    ------
    InputError
        A mixer, or matrices of several projections, whose names are not known.
    """
    model, option = workload.model, "--emit"
    modules = _names(model)
    if modules is None:
        message = f"names of {model.name}'s linear layers in transformers' code are not written"
        raise InputError.single(option, f"{message}; train it in full, or name them yourself")
    found: list[str] = []
    for target in workload.method.targets:
        if target in modules:
            found.append(modules[target])
        elif strange := {"kda", "lightning"} & set(model.mixers):
            message = f"names of projections of {min(strange)} layers are not written"
            raise InputError.single(option, f"{message}; adapt attention and the FFN alone")
        elif target == "in_proj" and "delta" in model.mixers:
            found += IN_PROJECTIONS[2:] if model.mixer_split else IN_PROJECTIONS[:2]
        else:
            found.append(target)
    return list(dict.fromkeys(found))


def adapted(workload: Workload) -> tuple[str, ...]:
    """Targets of a job, all of those whose matrix one of them is a part of.

    An adapter beside such a matrix serves them all, whichever is named.
    """
    named = set(workload.method.targets)
    for fused, parts in (
        (workload.model.fused_qkv, {"q", "k", "v"}),
        (workload.model.fused_gate_up, {"gate", "up"}),
    ):
        if fused and named & parts:
            named |= parts
    return tuple(name for name in workload.model.linears if name in named)
