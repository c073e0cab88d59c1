"""What transformers takes for a key that a ``config.json`` leaves out, by kind."""

from __future__ import annotations

#: transformers class defaults: hidden, layers, heads, kv heads, ffn, vocabulary, positions, tied
#: (None: in the file; of kv heads: as many as heads; of ffn: four times hidden)
DEFAULTS: dict[
    str, tuple[int | None, int | None, int | None, int | None, int | None, int | None, int, bool]
] = {
    "llama": (4096, 32, 32, None, 11008, 32000, 2048, False),
    "mistral": (4096, 32, 32, 8, 14336, 32000, 131072, False),
    "mixtral": (4096, 32, 32, 8, 14336, 32000, 131072, False),
    "qwen2": (4096, 32, 32, 32, 22016, 151936, 32768, False),
    "qwen3": (4096, 32, 32, 32, 22016, 151936, 32768, False),
    "qwen3_moe": (2048, 24, 32, 4, 6144, 151936, 32768, False),
    "gpt_oss": (2880, 36, 64, 8, 2880, 201088, 131072, False),
    "deepseek_v2": (4096, 32, 32, None, 11008, 32000, 2048, False),
    "deepseek_v3": (7168, 61, 128, None, 18432, 129280, 4096, False),
    "gemma": (3072, 28, 16, 16, 24576, 256000, 8192, True),
    "gemma2": (2304, 26, 8, 4, 9216, 256000, 8192, True),
    "gemma3_text": (2304, 26, 8, 4, 9216, 262208, 131072, True),
    "gemma4_text": (2304, 30, 8, 4, 9216, 262144, 131072, True),
    "gemma4_unified_text": (2304, 30, 8, 4, 9216, 262144, 262144, True),
    "afmoe": (2048, 32, 16, None, 6144, 200192, 16384, False),
    "gpt2": (768, 12, 12, None, None, 50257, 1024, True),
    "gpt_neox": (6144, 44, 64, None, 24576, 50432, 2048, False),
    "phi": (2048, 24, 32, None, 8192, 51200, 2048, False),
    "phi3": (3072, 32, 32, None, 8192, 32064, 4096, False),
    "mpt": (2048, 24, 16, None, None, 50368, 2048, True),
    "starcoder2": (3072, 30, 24, 2, 12288, 49152, 4096, True),
    "falcon": (4544, 32, 71, None, None, 65024, 2048, True),
    "qwen": (4096, 32, 32, None, 22016, 151936, 8192, False),
    "internlm": (4096, 32, 32, None, 11008, 103168, 2048, False),
    "olmo2": (4096, 32, 32, None, 11008, 50304, 2048, False),
    "olmo3": (4096, 32, 32, None, 11008, 50304, 2048, False),
    "granite": (4096, 32, 32, None, 11008, 32000, 2048, False),
    "granitemoe": (4096, 32, 32, None, 11008, 32000, 2048, False),
    "cohere": (8192, 40, 64, None, 22528, 256000, 8192, True),
    "cohere2": (8192, 40, 64, None, 22528, 256000, 8192, True),
    "smollm3": (2048, 36, 16, 4, 11008, 128256, 32768, True),
    "llama4_text": (5120, 48, 40, 8, 8192, 202048, 131072, False),
    "exaone4": (4096, 32, 32, 32, 16384, 102400, 2048, False),
    "exaone_moe": (4096, 32, 32, 32, 16384, 102400, 2048, False),
    "ernie4_5": (1024, 18, 16, 2, 3072, 103424, 131072, True),
    "ernie4_5_moe": (2560, 28, 20, 4, 12288, 103424, 131072, True),
    "glm": (4096, 40, 32, 2, 13696, 151552, 131072, False),
    "glm4": (4096, 40, 32, 2, 13696, 151552, 131072, False),
    "glm4_moe": (4096, 46, 96, 8, 10944, 151552, 131072, False),
    "glm4_moe_lite": (2048, 47, 20, 20, 10240, 154880, 202752, False),
    "solar_open": (4096, 48, 64, 8, None, 196608, 131072, False),
    "seed_oss": (4096, 64, 80, 8, 27648, 155136, 524288, False),
    "hunyuan_v1_dense": (4096, 32, 32, None, 11008, 290943, 2048, False),
    "hunyuan_v1_moe": (4096, 32, 32, None, 11008, 290943, 2048, False),
    "hy_v3": (4096, 80, 64, 8, 13312, 120832, 131072, False),
    "dots1": (4608, 62, 32, 32, 10944, 152064, 2048, False),
    "minimax": (4096, 32, 32, 8, 14336, 32000, 131072, False),
    "minimax_m2": (3072, 62, 48, 8, 1536, 200064, 196608, False),
    "mistral4": (4096, 36, 32, 32, 12288, 131072, 1048576, False),
    "ministral": (4096, 32, 32, 8, 14336, 32000, 131072, False),
    "ministral3": (4096, 34, 32, 8, 14336, 131072, 262144, False),
    "youtu": (2048, 32, 16, 16, 6144, 128256, 131072, True),
    "olmoe": (2048, 16, 16, None, 2048, 50304, 4096, False),
    "flex_olmo": (4096, 32, 32, None, 11008, 100352, 4096, False),
    "phimoe": (4096, 32, 32, 8, 6400, 32064, 131072, False),
    "granitemoehybrid": (4096, 32, 32, None, 11008, 32000, 2048, False),
    "apertus": (4096, 32, 32, None, 14336, 131072, 65536, False),
    "helium": (2560, 24, 20, 20, 7040, 48000, 4096, False),
    "opt": (768, 12, 12, None, None, 50272, 2048, True),
    "bloom": (None, None, None, None, None, 250880, 2048, True),
    "gptj": (4096, 28, 16, None, None, 50400, 2048, False),
    "gpt_bigcode": (768, 12, 12, None, None, 50257, 1024, True),
    "stablelm": (2560, 32, 32, 32, 6912, 50304, 4096, False),
    "olmo": (4096, 32, 32, None, 11008, 50304, 2048, False),
    "dbrx": (2048, 24, 16, None, None, 32000, 2048, False),
    "qwen2_moe": (2048, 24, 16, 16, 5632, 151936, 32768, False),
    "deepseek": (4096, 30, 32, None, 11008, 102400, 2048, False),
    "nemotron": (6144, 32, 48, None, 24576, 256000, 4096, False),
    "arcee": (2560, 32, 32, None, 18432, 32000, 4096, False),
    "deepseek_v32": (7168, 61, 128, None, 18432, 129280, 4096, False),
    "glm_moe_dsa": (None, None, None, None, None, None, 202752, False),
    "internlm2": (4096, 32, 32, None, 11008, 103168, 2048, False),
    "internlm3": (4096, 32, 32, None, 11008, 128512, 32768, False),
    "exaone": (None, None, None, None, None, 102400, 2048, True),
    "chatglm": (None, None, None, None, None, None, 2048, False),
    "baichuan": (None, None, None, None, None, None, 4096, False),
    "nemotron_h": (4096, 4, 32, 8, 21504, 131072, 4096, False),
    "falcon_h1": (4096, 32, 32, 8, 14336, 128000, 8192, False),
    "bamba": (4096, 32, 32, 8, 14336, 128000, 262144, False),
    "lfm2": (2560, 32, 32, 8, 12288, 65536, 128000, True),
    "lfm2_moe": (2048, 32, 32, 8, 7168, 65536, 128000, True),
    "kimi_linear": (2304, 27, 32, 32, 9216, 163840, 1048576, False),
    "qwen3_next": (2048, 48, 16, 2, 5632, 151936, 32768, False),
    "qwen3_5_text": (4096, 32, 16, 4, 12288, 248320, 32768, False),
    "qwen3_5_moe_text": (2048, 40, 16, 2, 0, 248320, 32768, False),
    "vaultgemma": (2304, 26, 8, 4, 9216, 256000, 8192, True),
    "cwm": (6144, 64, 48, 8, 21504, 128256, 131072, False),
    "iquestcoder": (5120, 80, 40, 8, 27648, 76800, 131072, False),
    "hyperclovax": (4096, 32, 32, None, 11008, 32000, 2048, False),
    "jais2": (3328, 32, 26, None, 26624, 150272, 8192, False),
    "sarvam_moe": (4096, 19, 64, 4, 8192, 262144, 131072, False),
    "granitemoeshared": (4096, 32, 32, None, 11008, 32000, 2048, False),
    "minicpm": (None, None, None, None, None, None, 2048, True),
    "minicpm3": (None, None, None, None, None, None, 2048, True),
    "bailing_moe": (None, None, None, None, None, None, 16384, False),
    "bailing_moe_v2": (None, None, None, None, None, None, 16384, False),
}
#: text decoders of multimodal models that are those of a plain kind
DECODER_OF = {"qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "qwen2_vl_text": "qwen2"}
DECODER_OF |= dict.fromkeys(
    ("qwen2_vl", "qwen2_5_vl", "qwen2_5_vl_text", "qwen2_5_omni_text", "mimo"), "qwen2"
)
DECODER_OF |= {"qwen3_omni_moe_text": "qwen3_moe", "phi3_v": "phi3", "phi4mm": "phi3"}
DECODER_OF |= {"glm4v_text": "glm4", "glm4v_moe_text": "glm4_moe"}
#: kinds that are another by a name of their own
DECODER_OF |= {"kimi_k2": "deepseek_v3", "minimax_text_01": "minimax", "minimax_m1": "minimax"}
#: kinds whose experts transformers never had as modules: one parameter holds all of a matrix's
#: Source: transformers 4.57 and 5.24, modeling_*.py, classes of experts
STACKED = frozenset({
    "gpt_oss", "llama4_text", "dbrx", "granitemoe", "granitemoeshared", "granitemoehybrid",
    "qwen3_vl_moe_text", "qwen3_5_moe_text", "deepseek_v32", "glm_moe_dsa", "glm4_moe_lite",
    "mistral4", "solar_open", "exaone_moe", "hy_v3", "gemma4_text", "afmoe",
})  # fmt: skip
HEAD_DIM = {"qwen3": 128, "gpt_oss": 64, "gemma": 256, "gemma2": 256, "gemma3_text": 256}
HEAD_DIM |= {"llama4_text": 128, "gemma4_text": 256, "gemma4_unified_text": 256}
HEAD_DIM["afmoe"] = 128
HEAD_DIM |= dict.fromkeys(
    ("ernie4_5", "glm", "glm4", "solar_open", "seed_oss", "minimax_m2", "ministral3", "helium"), 128
)
HEAD_DIM |= {"hy_v3": 128, "nemotron_h": 128, "vaultgemma": 256, "cwm": 128, "iquestcoder": 128}
HEAD_DIM["sarvam_moe"] = 64
HEAD_DIM |= dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), 256)
