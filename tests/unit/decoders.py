"""Two layers of well-known decoders."""

from sim.inputs.model import Model

LLAMA = Model(
    name="llama",
    layers=2,
    hidden_size=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    ffn_size=14336,
    vocab_size=128256,
)
MPT = Model(
    name="mpt",
    layers=2,
    hidden_size=2048,
    heads=16,
    kv_heads=16,
    head_dim=128,
    ffn_size=8192,
    ffn="gelu",
    norm="layernorm",
    positions="learned",
    bias=True,
    fused_qkv=True,
    tied_embeddings=True,
    vocab_size=50368,
    max_positions=2048,
)
MIXTRAL = LLAMA.model_copy(update={"experts": 8, "experts_per_token": 2, "expert_ffn_size": 14336})
