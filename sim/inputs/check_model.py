"""Checks of a model alone: shapes that no transformer can have."""

from __future__ import annotations

from sim.inputs.finding import Finding, Findings, fault, warning
from sim.inputs.model import Model
from sim.inputs.workload import Workload

DEEPEST = 2_000  # layers, of which models have up to 1,000; so many take 0.7 GiB to add up
_WIDEST = 10_000_000  # columns, rows and experts
_SIZES = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "vocab_size")
#: tokens whose scores a thread block of a scan still holds rows of; models have 64 to 256
_LONGEST_CHUNK = 1024
_MIXER_SIZES = (
    "mixer_heads", "mixer_groups", "mixer_key_dim", "mixer_head_dim", "mixer_conv", "mixer_chunk",
)  # fmt: skip
_NUMBERS = (  # that may be none
    "ffn_size", "max_positions", "experts", "experts_per_token", "shared_experts",
    "expert_ffn_size", "dense_layers", "kv_lora_rank", "q_lora_rank", "rope_head_dim", "v_head_dim",
    *_MIXER_SIZES,
)  # fmt: skip


def findings(m: Model) -> Findings:
    """Every finding about a model."""
    for note in m.notes:
        yield warning("model-notes", "workload", "model", f"{m.name}: {note}")
    wrong = list(_sizes(m))
    yield from wrong
    if not wrong:  # what follows divides by them
        yield from _attention(m)
        yield from _mixture(m)
        yield from _pattern(m)


def _wrong(code: str, key: str, message: str, hint: str = "") -> Finding:
    return fault(code, "workload", f"model.{key}", message, hint)


def _sizes(m: Model) -> Findings:
    windowed = () if m.sliding_window is None else ("sliding_window",)
    least = dict.fromkeys((*_SIZES, *windowed, "sliding_window_pattern", "norms_per_layer"), 1)
    for key, smallest in (least | dict.fromkeys(_NUMBERS, 0)).items():
        value = getattr(m, key)
        if value < smallest:
            yield _wrong("model-size", key, f"{value} is not at least {smallest}")
        elif value > (most := DEEPEST if key == "layers" else _WIDEST) and key != "max_positions":
            message = f"{value} is more than any model has; at most {most:,} are simulated"
            yield _wrong("absurd", key, message)
    if not 0.0 < m.rope_fraction <= 1.0:
        message = f"{m.rope_fraction:g} of a head's columns cannot be turned"
        yield _wrong("model-size", "rope_fraction", message, "write 1 for all, 0.5 for half")
    dense = not m.experts or m.dense_layers > 0 or m.mixture_every > 1
    if dense and m.ffn_size == 0:
        message = "the FFN of dense layers has no columns"
        yield _wrong("model-size", "ffn_size", message, "write the intermediate size")


def _attention(m: Model) -> Findings:
    for key, shared in (("kv_heads", m.kv_heads), ("global_kv_heads", m.global_kv_heads or 1)):
        if m.heads % shared:
            message = f"{m.heads} heads cannot share {shared} key-value heads"
            yield _wrong("model-heads", key, message, "write a divisor of heads")
    own = m.global_kv_heads or m.global_head_dim or m.values_are_keys
    if own and (m.kv_lora_rank or m.fused_qkv or not m.sliding_window):
        message = "layers without a window have heads of their own beside others with one alone,"
        key, hint = "global_head_dim", "leave out global_kv_heads, global_head_dim, values_are_keys"
        yield _wrong("model-heads", key, f"{message} of separate q, k and v", hint)
    turned = m.rope_head_dim or int(round(m.head_dim * m.rope_fraction, 6))
    if m.positions == "rope" and turned % 2:
        key = "rope_head_dim" if m.rope_head_dim else "head_dim"
        message = f"RoPE turns columns in pairs, and {turned} are odd"
        yield _wrong("model-heads", key, message, "write an even number")
    if m.kv_lora_rank and not (0 < m.rope_head_dim < m.head_dim and m.v_head_dim > 0):
        message = "latent attention needs rope_head_dim below head_dim, and v_head_dim"
        hint = "DeepSeek has rope_head_dim: 64, head_dim: 192, v_head_dim: 128"
        yield _wrong("model-latent", "kv_lora_rank", message, hint)
    if m.kv_lora_rank and m.kv_heads != m.heads:
        message = f"latent attention has keys for each of its {m.heads} heads, not {m.kv_heads}"
        yield _wrong("model-heads", "kv_heads", message, "leave it out")


def _pattern(m: Model) -> Findings:
    """Mixers in attention's place."""
    if len(m.layer_pattern) > m.layers:
        message = f"{len(m.layer_pattern)} words for {m.layers} layers: those behind are of none"
        path, hint = "model.layer_pattern", "write a word a layer, or fewer"
        yield warning("model-mixers", "workload", path, message, hint)
    if m.one_branch != ("ffn" in m.layer_pattern):
        key, message = "layer_pattern", "layers that are an FFN alone are of one branch, and others"
        hint = "write one_branch: true, and ffn where a layer is one"
        yield _wrong("model-mixers", key, f"{message} are not", hint)
    if m.attention_gate and (m.fused_qkv or m.kv_lora_rank):
        message = "attention's gate comes from a projection of queries alone"
        yield _wrong("model-mixers", "attention_gate", message, "leave out fused_qkv")
    if not m.mixers:
        return
    if m.parallel_block or m.norms_per_layer != 2:
        key = "parallel_block" if m.parallel_block else "norms_per_layer"
        message = (
            f"mixers ({', '.join(m.mixers)}) stand behind one norm, before the FFN and its norm"
        )
        yield _wrong("model-mixers", key, message, "leave it out")
    for key in _MIXER_SIZES if m.mixers != ("conv",) else ("mixer_conv",):
        if (value := getattr(m, key)) < 1:
            message = f"{value} is not at least 1, and {' and '.join(m.mixers)} layers need it"
            yield _wrong("model-mixers", key, message)
    if m.mixers != ("conv",) and m.mixer_chunk > 0 and not 16 <= m.mixer_chunk <= _LONGEST_CHUNK:
        message = f"scans run by chunks of 16 to {_LONGEST_CHUNK:,} tokens, not of {m.mixer_chunk}"
        yield _wrong("model-mixers", "mixer_chunk", message, "write 64, or 256 for Mamba-2")
    alike = [word for word in m.mixers if word in ("kda", "lightning")]
    pairs = (("mixer_groups", "mixer_heads"), ("mixer_key_dim", "mixer_head_dim"))
    for key, other in pairs if alike else ():
        if 0 < (value := getattr(m, key)) != (wanted := getattr(m, other)):
            message = f"{value} is not the {wanted} of {other}, and {alike[0]} layers have as many"
            yield _wrong("model-mixers", key, message, f"write {wanted}")
    if m.mixer_groups > 0 and m.mixer_heads % m.mixer_groups:
        message = f"{m.mixer_heads} heads cannot share {m.mixer_groups} groups"
        yield _wrong("model-mixers", "mixer_groups", message, "write a divisor of mixer_heads")


def _mixture(m: Model) -> Findings:
    if not m.experts:
        return
    if not 0 < m.experts_per_token <= m.experts:
        message = f"{m.experts_per_token} of {m.experts} experts a token"
        yield _wrong("model-experts", "experts_per_token", message)
    if m.expert_ffn_size < 1:
        message = "the experts have no columns"
        hint = "write the intermediate size of one of them"
        yield _wrong("model-size", "expert_ffn_size", message, hint)
    if m.dense_layers >= m.layers:
        message = f"{m.dense_layers} dense of {m.layers} layers leave no mixture"
        yield _wrong("model-size", "dense_layers", message, "write fewer, or experts: 0")
    if not 0 < m.mixture_every <= m.layers:
        message = f"a mixture every {m.mixture_every} of {m.layers} layers is none"
        yield _wrong("model-size", "mixture_every", message, "write 1, or 2 for every second")


def of_job(w: Workload) -> Findings:
    """Whether a job's rows and its attention are what a model was made for."""
    yield from _positions(w)
    yield from _softcap(w)


def _positions(w: Workload) -> Findings:
    m = w.model
    if not 0 < m.max_positions < w.sequence_length or m.positions in ("alibi", "none"):
        return
    message = (
        f"{w.sequence_length} is more than {m.name} was made for ({m.max_positions} positions)"
    )
    if m.positions == "learned":
        hint = "its positions are a table; a longer sequence has no entry there"
        yield fault("positions", "workload", "sequence_length", message, hint)
    else:
        hint = "time and memory are right; quality needs RoPE scaling"
        yield warning("positions", "workload", "sequence_length", message, hint)


def _softcap(w: Workload) -> Findings:
    """Kernels without a softcap of scores compute another model.

    Source: transformers 5.24, integrations/sdpa_attention.py, and modeling_gemma2.py
    (``_supports_sdpa``); FlashAttention 2.6 on has one, Transformer Engine's choice none.
    """
    kernels = {"sdpa": "PyTorch's attention", "cudnn": "cuDNN's attention",
               "te": "Transformer Engine's attention", "flash1": "FlashAttention 1"}  # fmt: skip
    if "scores" not in w.model.softcaps or w.attention not in kernels:
        return
    message = (
        f"{kernels[w.attention]} has no softcap of scores, which {w.model.name} has: another model"
        " is trained, or (transformers 5) the job refused"
    )
    yield warning("softcap", "workload", "attention", message, "write flash2, or eager")
