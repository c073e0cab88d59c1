"""Kernels, operators, waits and module calls of real modelling code, a layer and the rest.

Every model runs with two layers and with three: the difference is a layer, what two layers leave
over is embedding, final norm, head and loss. Counts do not depend on widths.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import torch
from counting import GEMM, Watch, again, counted, nodes

PHASES = ("forward", "recompute", "backward")
HIDDEN, HEADS, KV, FFN, VOCABULARY, LENGTH, EXPERTS, RANK = 32, 4, 2, 64, 96, 12, 8, 4

COMMON: dict[str, Any] = {
    "hidden_size": HIDDEN, "num_attention_heads": HEADS, "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}  # fmt: skip
GATED = {"num_key_value_heads": KV, "intermediate_size": FFN}
#: name: (configuration class, model class, its own keys, key of the depth, adapted projections)
MODELS: dict[str, tuple[str, str, dict[str, Any], str, list[str]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", COMMON | GATED, "", ["q_proj", "v_proj"]),
    "mistral": ("MistralConfig", "MistralForCausalLM", COMMON | GATED, "", ["q_proj", "v_proj"]),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", COMMON | GATED, "", ["q_proj", "v_proj"]),
    "mixtral": (
        "MixtralConfig", "MixtralForCausalLM",
        COMMON | GATED | {"num_local_experts": EXPERTS, "num_experts_per_tok": 2}, "",
        ["q_proj", "v_proj"],
    ),
    "gpt_bigcode": (
        "GPTBigCodeConfig", "GPTBigCodeForCausalLM",
        {"n_embd": HIDDEN, "n_head": HEADS, "n_inner": FFN, "vocab_size": VOCABULARY,
         "n_positions": 64, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
        "n_layer", ["c_attn", "c_proj"],
    ),
    "gemma": (
        "GemmaConfig", "GemmaForCausalLM", COMMON | GATED | {"head_dim": 8}, "",
        ["q_proj", "v_proj"],
    ),
    "gemma2": (
        "Gemma2Config", "Gemma2ForCausalLM", COMMON | GATED | {"head_dim": 8}, "",
        ["q_proj", "v_proj"],
    ),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", COMMON | GATED | {"pad_token_id": 0}, "",
             ["qkv_proj"]),
    "phi": ("PhiConfig", "PhiForCausalLM", COMMON | GATED, "", ["q_proj", "v_proj"]),
    "falcon": (
        "FalconConfig", "FalconForCausalLM",
        COMMON | {"alibi": False, "parallel_attn": True, "multi_query": True, "bias": False}, "",
        ["query_key_value"],
    ),
    "gpt_neox": (
        "GPTNeoXConfig", "GPTNeoXForCausalLM",
        COMMON | {"intermediate_size": FFN, "use_parallel_residual": True}, "",
        ["query_key_value"],
    ),
    "gpt2": (
        "GPT2Config", "GPT2LMHeadModel",
        {"n_embd": HIDDEN, "n_head": HEADS, "n_inner": FFN, "vocab_size": VOCABULARY,
         "n_positions": 64, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
        "n_layer", ["c_attn"],
    ),
}  # fmt: skip


def build(name: str, layers: int, attention: str) -> Any:
    """A tiny model of a class, in bf16."""
    import transformers

    kind, model, own, depth, _ = MODELS[name]
    config = getattr(transformers, kind)(
        **own, **{depth or "num_hidden_layers": layers}, use_cache=False
    )
    config._attn_implementation = attention
    torch.manual_seed(0)
    made = getattr(transformers, model)._from_config(
        config, attn_implementation=attention, torch_dtype=torch.bfloat16
    )
    return made


def stack(model: Any) -> Any:
    """The list of decoder layers."""
    found = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    return next(m for m in found if type(m[0]).__name__.endswith(("Layer", "Block")))


def prepare(case: dict[str, Any], layers: int) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model of a case, ready for a step, and its batch."""
    name = case["model"]
    model = build(name, layers, case["attention"])
    if case["method"] == "lora":
        from peft import LoraConfig, get_peft_model

        targets = MODELS[name][4]
        how = LoraConfig(r=RANK, lora_alpha=16, lora_dropout=case["dropout"],
                         target_modules=targets, task_type="CAUSAL_LM")  # fmt: skip
        model = get_peft_model(model, how, autocast_adapter_dtype=case["adapter_dtype"] == "fp32")
    if case["master"] == "fp32":
        model = model.float()
    model.train()
    kind = case["checkpointing"]
    if kind != "none":
        if case["method"] == "lora":
            model.enable_input_require_grads()  # as PEFT and the Trainer do
        model.gradient_checkpointing_enable({"use_reentrant": kind == "reentrant"})
    tokens = torch.arange(case["batch"] * LENGTH).reshape(case["batch"], LENGTH) % VOCABULARY
    mask = torch.ones_like(tokens)
    if case["padding"]:
        mask[0, -3:] = 0
    return model, {"input_ids": tokens, "attention_mask": mask, "labels": tokens}


def play(case: dict[str, Any], layers: int) -> tuple[Watch, int]:
    """One step, counted; and the nodes of its graph."""
    model, batch = prepare(case, layers)
    watch = Watch()
    again(watch, stack(model))
    cast = torch.autocast("cpu", torch.bfloat16, enabled=case["autocast"])
    with counted(watch):
        watch.phase = "forward"
        with cast:
            loss = model(**batch).loss
        watch.phase = ""
        graph = nodes(loss)
        watch.phase = "backward"
        loss.backward()
        watch.phase = ""
    return watch, graph


def split(two: Counter[str], three: Counter[str]) -> tuple[Counter[str], Counter[str]]:
    """A layer, and what is there whatever the depth."""
    layer = Counter({k: three[k] - two[k] for k in three | two if three[k] != two[k]})
    rest = Counter({k: two[k] - 2 * layer[k] for k in three | two if two[k] != 2 * layer[k]})
    if any(v < 0 for v in layer.values()):
        msg = f"no constant layer: {layer} {rest}"
        raise RuntimeError(msg)
    return layer, rest


def record(case: dict[str, Any]) -> dict[str, Any]:
    """Counts of a layer and of the rest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        two, nodes_two = play(case, 2)
        three, nodes_three = play(case, 3)
    found: dict[str, Any] = {"layer": {}, "rest": {}}
    for phase in PHASES:
        layer, rest = split(two.kernels.get(phase, Counter()), three.kernels.get(phase, Counter()))
        per = three.operators[phase] - two.operators[phase]
        calls = three.modules[phase] - two.modules[phase]
        for key, names, operators, modules in (
            ("layer", layer, per, calls),
            ("rest", rest, two.operators[phase] - 2 * per, two.modules[phase] - 2 * calls),
        ):
            waits = {
                where: three.waits[phase, where] - two.waits[phase, where]
                if key == "layer"
                else 3 * two.waits[phase, where] - 2 * three.waits[phase, where]
                for p, where in three.waits
                if p == phase
            }
            if not operators:
                continue
            found[key][phase] = {
                "kernels": sum(names.values()),
                "gemms": sum(v for k, v in names.items() if f"aten::{k}" in GEMM),
                "operators": operators,
                "modules": modules,
                "waits": {k: v for k, v in sorted(waits.items()) if v},
                "names": dict(sorted(names.items())),
            }
    per = nodes_three - nodes_two
    found["layer"]["nodes"], found["rest"]["nodes"] = per, nodes_two - 2 * per
    return found


def cases() -> list[dict[str, Any]]:
    """What is recorded."""
    plain: dict[str, Any] = {
        "model": "llama", "attention": "flash_attention_2", "method": "full", "adapter_dtype": "",
        "dropout": 0.0, "master": "bf16", "autocast": False, "checkpointing": "none",
        "padding": False, "batch": 2,
    }  # fmt: skip
    found = []
    for model in MODELS:
        own = plain | {"model": model}
        lora = own | {"method": "lora", "adapter_dtype": "fp32", "dropout": 0.1}
        for kind in ("none", "nonreentrant", "reentrant"):
            found.append(own | {"checkpointing": kind})
        found.append(lora | {"checkpointing": "nonreentrant"})
        found.append(own | {"attention": "eager" if model == "gemma2" else "sdpa"})
    lora = plain | {"method": "lora", "adapter_dtype": "fp32", "dropout": 0.1}
    found += [
        lora,
        lora | {"dropout": 0.0},
        lora | {"adapter_dtype": "bf16"},
        lora | {"adapter_dtype": "bf16", "dropout": 0.0},
        lora | {"checkpointing": "reentrant"},
        lora | {"autocast": True},
        lora | {"autocast": True, "adapter_dtype": "bf16"},
        plain | {"autocast": True, "master": "fp32"},
        plain | {"autocast": True, "master": "fp32", "checkpointing": "nonreentrant"},
        plain | {"autocast": True, "master": "fp32", "checkpointing": "reentrant"},
        plain | {"attention": "eager"},
        plain | {"padding": True},
        plain | {"padding": True, "checkpointing": "nonreentrant"},
        plain | {"batch": 1},
    ]
    return found
