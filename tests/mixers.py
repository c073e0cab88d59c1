"""Jobs of models with mixers in attention's place, small ones and shipped."""

SMALL = {
    "name": "small", "layers": 4, "hidden_size": 64, "heads": 4, "kv_heads": 2, "head_dim": 16,
    "ffn_size": 64, "vocab_size": 128, "layer_pattern": ("delta", "delta", "delta", "attention"),
    "mixer_heads": 4, "mixer_groups": 2, "mixer_key_dim": 16, "mixer_head_dim": 32,
}  # fmt: skip
#: sizes that a model with one of them has else
STATE = {"mixer_key_dim": 32, "mixer_head_dim": 16, "mixer_chunk": 128, "mixer_conv_bias": True}


def job(model="qwen3-next-80b-a3b", **keys):
    """A job of a few layers on one GPU."""
    keys = {"sequence_length": 4096, "steps": 10, **keys}
    model = model if isinstance(model, dict) else {"base": model, "layers": 4}
    return {"name": "job", "model": model, **keys}
