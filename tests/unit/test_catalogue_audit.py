"""The catalogue against arithmetic that shares no code with it: parameters, peaks, memory."""

import csv
import re
import tomllib
from pathlib import Path

import pytest

from sim.blocks.parameters import count_parameters
from sim.inputs import catalogue
from sim.inputs.models import resolve_model

ROOT = Path(__file__).parents[2]
MODELS = {p.stem: p for p in sorted((ROOT / "sim" / "data" / "models").glob("*.toml"))}
FACTS = ROOT.parent / "shared" / "facts" / "gpus.csv"

#: totals of the safetensors indices and model cards of the released weights
RELEASED = {
    "llama-13b": 13_015_864_320, "llama-65b": 65_285_660_672, "llama-2-70b": 68_976_648_192,
    "code-llama-34b": 33_743_970_304, "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824, "tinyllama-1.1b": 1_100_048_384, "mistral-7b": 7_241_732_096,
    "mixtral-8x22b": 140_620_634_112, "mistral-nemo-12b": 12_247_782_400,
    "mistral-small-24b": 23_572_403_200, "qwen-7b": 7_721_324_544, "qwen2-72b": 72_706_203_648,
    "qwen2.5-0.5b": 494_032_768, "qwen2.5-1.5b": 1_543_714_304, "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-14b": 14_770_033_664, "qwen2.5-32b": 32_763_876_352, "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200, "qwen3-32b": 32_762_123_264, "qwen3-235b-a22b": 235_093_634_560,
    "gemma-7b": 8_537_680_896, "gemma-2-2b": 2_614_341_888, "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952, "gemma-3-270m": 268_098_176, "phi-3-mini": 3_821_079_552,
    "phi-4": 14_659_507_200, "smollm2-135m": 134_515_008, "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384, "falcon-7b": 6_921_720_704, "yi-6b": 6_061_035_520,
    "olmo-2-7b": 7_298_617_344, "gpt-neox-20b": 20_554_567_680, "command-r7b": 8_028_033_024,
    "command-a": 111_057_580_032, "glm-4-9b-0414": 9_400_279_040, "qwen2-vl-2b": 1_543_714_304,
    "pixtral-12b": 12_247_782_400, "olmoe-1b-7b": 6_919_161_856, "phi-3.5-moe": 41_873_153_344,
    "dbrx": 131_596_523_520, "opt-1.3b": 1_315_758_080, "opt-6.7b": 6_658_473_984,
    "apertus-8b": 8_053_338_176,
    "opt-13b": 12_853_473_280, "bloom-7b1": 7_069_016_064, "gpt-j-6b": 6_050_882_784,
    # less a CLIP ViT-L/14-336 (303,507,456), two projections of its 1,024 columns, and a new line
    "llava-1.5-7b": 7_063_427_072 - 303_507_456 - 20_979_712,
    "llava-v1.6-mistral-7b": 7_566_747_648 - 303_507_456 - 20_979_712 - 4_096,
    "orpheus-3b": 3_300_867_072,
    # the index has a bias of each expert of a mixture too, which no gradient trains
    "dots.llm1": 142_774_381_696 - 61 * 128,
}  # fmt: skip
#: billions, as model cards and the hub round them
ROUNDED = {
    "llama-4-maverick": "401", "command-r-08-2024": "32.3", "command-r-plus": "103.8",
    "moonlight-16b-a3b": "16.0", "glm-4-32b-0414": "32.6", "ministral-3-3b": "3.4",
    "ministral-3-14b": "13.5", "seed-coder-8b": "8.3", "ernie-4.5-0.3b": "0.36",
    "ling-lite": "16.8", "ling-mini-2.0": "16.26", "ling-flash-2.0": "103",
    "exaone-4.0-1.2b": "1.28", "minicpm4-8b": "8.19", "minicpm3-4b": "4.07", "internlm3-8b": "8.8",
    "eurollm-9b": "9.15", "salamandra-7b": "7.77", "bielik-11b-v2": "11.2",
    "llama-3.1-minitron-4b-width": "4.51", "mistral-nemo-minitron-8b": "8.41",
    "qwen1.5-14b": "14.2", "qwen1.5-32b": "32.5", "qwen1.5-moe-a2.7b": "14.3",
    "nemotron-nano-12b-v2": "12.31", "minimax-text-01": "456",
    "glm-5": "743",  # 744 with its indexers' 0.73
}  # fmt: skip


def parameters(keys: dict) -> int:
    """Numbers in the weights of a decoder, from the sizes in its file."""
    d, layers, tall = keys["hidden_size"], keys["layers"], keys["norm"] == "layernorm"
    bias = keys.get("bias", False)
    norm = d * (2 if tall and (bias or keys.get("norm_bias")) else 1)
    total = keys["vocab_size"] * d * (1 if keys.get("tied_embeddings") else 2)
    total += keys["vocab_size"] * keys.get("head_bias", False)
    total += keys["max_positions"] * d * (keys["positions"] == "learned")
    total += norm  # the last one
    total += norm * keys.get("embedding_norm", False)
    pattern, alone = keys.get("layer_pattern", ["attention"]), keys.get("one_branch", False)
    words = [pattern[i % len(pattern)] for i in range(layers)]
    networks = words.count("ffn") if alone else layers
    dense, every = keys.get("dense_layers", 0), keys.get("mixture_every", 1)
    dense = networks - (networks - dense) // every if "experts" in keys else networks
    every_n = keys.get("sliding_window_pattern", 1)
    whole = [not keys.get("sliding_window") or (every_n > 1 and not (i + 1) % every_n)
             for i in range(layers)]  # fmt: skip
    total += sum(mixer(keys | wide(keys, w), word) for word, w in zip(words, whole, strict=True))
    total += layers * (1 if alone else keys.get("norms_per_layer", 2)) * norm
    total += dense * forward(keys, keys["ffn_size"])
    if "experts" in keys:
        e, f = keys["experts"], keys["expert_ffn_size"]
        mixture = e * forward(keys, f) + d * e + e * keys.get("router_bias", False)
        mixture += forward(keys, f * keys["shared_experts"]) if "shared_experts" in keys else 0
        mixture += d * keys.get("shared_expert_gate", False)
        total += (networks - dense) * mixture
    return total


def wide(keys: dict, whole: bool) -> dict:
    """Heads of a layer that sees all positions, where they are others."""
    own = {"kv_heads": keys.get("global_kv_heads"), "head_dim": keys.get("global_head_dim")}
    alone = {"one_kv": True} if keys.get("values_are_keys") else {}
    return {k: v for k, v in own.items() if v} | alone if whole else {}


def mixer(keys: dict, word: str) -> int:
    """Of what mixes the tokens of one layer."""
    d, wide = keys["hidden_size"], keys.get("mixer_conv", 4)
    if word == "delta":
        h, g = keys["mixer_heads"], keys["mixer_groups"]
        k, v = g * keys["mixer_key_dim"], h * keys["mixer_head_dim"]
        own = wide * (2 * k + v) + 2 * h + keys["mixer_head_dim"]  # convolution, decays, norm
        return d * (2 * k + 2 * v + 2 * h) + v * d + own
    if word.startswith("mamba"):
        inner, bias = keys["mixer_heads"] * keys["mixer_head_dim"], keys.get("mixer_conv_bias", 0)
        columns = inner + 2 * keys["mixer_groups"] * keys["mixer_key_dim"]
        own = columns * (wide + bias) + 3 * keys["mixer_heads"]
        own += inner * keys.get("mixer_norm", True)
        total = d * (inner + columns + keys["mixer_heads"]) + inner * d + own
        return total + (attention(keys) if "attention" in word else 0)
    if word == "kda":
        inner, size = keys["mixer_heads"] * keys["mixer_head_dim"], keys["mixer_head_dim"]
        own = wide * 3 * inner + inner + keys["mixer_heads"] + size  # convolution, decays, norm
        return 4 * d * inner + 2 * (d + inner) * size + d * keys["mixer_heads"] + own
    if word == "lightning":
        inner = keys["mixer_heads"] * keys["mixer_head_dim"]
        return 5 * d * inner + inner  # q, k, v, gate and output; the norm
    if word == "conv":
        return 3 * d * d + d * d + wide * d
    return 0 if word == "ffn" else attention(keys)


def attention(keys: dict) -> int:
    """Of one layer: projections, and norms of queries and keys."""
    d, h, kv, size = keys["hidden_size"], keys["heads"], keys["kv_heads"], keys["head_dim"]
    bias = keys.get("bias", False)
    if "kv_lora_rank" in keys:  # latent attention: down, norm, up
        r, rope, v = keys["kv_lora_rank"], keys["rope_head_dim"], keys["v_head_dim"]
        low = keys.get("q_lora_rank")
        q = d * low + low + low * h * size if low else d * h * size
        return q + d * (r + rope) + r + r * h * (size - rope + v) + h * v * d
    total = d * (h + (1 if "one_kv" in keys else 2) * kv) * size + h * size * d
    total += d * h * size * keys.get("attention_gate", False)
    total += (h + 2 * kv) * size * (bias or keys.get("qkv_bias", False))
    total += d * keys.get("output_bias", bias)
    total += h * keys.get("attention_sinks", False)
    if keys.get("qk_norm_whole"):
        total += (h + kv) * size
    elif keys.get("qk_norm"):
        total += 2 * size
    return total


def forward(keys: dict, f: int) -> int:
    """Of one feed-forward of width f."""
    d, gated = keys["hidden_size"], keys["ffn"] in ("swiglu", "geglu")
    bias = keys.get("mlp_bias", keys.get("bias", False))
    slopes = 2 * (keys["ffn"] == "xielu")
    return (3 if gated else 2) * d * f + bias * ((2 if gated else 1) * f + d) + slopes


@pytest.mark.parametrize("name", MODELS)
def test_a_model_counts_what_its_sizes_say(name):
    keys = tomllib.loads(MODELS[name].read_text(encoding="utf-8"))
    assert count_parameters(resolve_model(name)).total == parameters(keys)


@pytest.mark.parametrize("name", RELEASED)
def test_a_model_counts_what_was_released(name):
    assert count_parameters(resolve_model(name)).total == RELEASED[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_a_model_counts_what_its_card_rounds(name):
    said = ROUNDED[name]
    digits = len(said.partition(".")[2])
    assert f"{count_parameters(resolve_model(name)).total / 1e9:.{digits}f}" == said


#: dense 16-bit FLOP of an SM (a CU) and clock: products of its tensor cores, twice
PER_CLOCK = {
    "a100": 2048, "a30": 2048, "a800": 2048, "v100": 1024, "t4": 1024, "a10g": 512, "a10": 1024,
    "a40": 1024, "rtx-a": 1024, "rtx-3090": 512, "rtx-4090": 512, "rtx-5090": 512, "l40s": 1024,
    "l40": 512, "l4": 1024, "rtx-6000-ada": 1024, "rtx-pro-6000": 1024, "h20-": 1024, "h": 4096,
    "gh200": 4096, "b": 8192, "gb": 8192, "mi250x": 1024, "mi210": 1024, "mi3": 2048, "mi35": 4096,
    "l20": 512, "rtx-4080": 512, "rtx-5080": 512, "rtx-3080": 512, "rtx-2080": 512,
    "rtx-8000": 1024, "rtx-4000": 1024, "rtx-5000": 1024, "rtx-3060": 512, "rtx-4060": 512,
    "rtx-4070": 512, "rtx-5070": 512, "rtx-5060": 512, "titan-rtx": 1024, "rtx-3070": 512,
    "rtx-4500-ada": 1024,
}  # fmt: skip


@pytest.mark.parametrize("name", catalogue.gpu_names())
def test_a_peak_is_units_times_clock(name):
    gpu = catalogue.gpu(name)
    kind = max((key for key in PER_CLOCK if name.startswith(key)), key=len)
    # data sheets round, and count with a lower clock where power or the tensor cores set one
    share = gpu.peak_fp16 / (gpu.sms * PER_CLOCK[kind] * gpu.boost_clock)
    assert 0.86 < share < 1.002, share
    lanes = gpu.peak_fp32 / (gpu.sms * 2 * gpu.boost_clock)  # FP32 lanes of an SM, at its clock
    assert 0.85 < lanes / min((64, 128), key=lambda n: abs(lanes - n)) < 1.12


#: int8 over 16-bit: twice where both add up at full rate. GeForce halves what 16 bits add up in
#: fp32, CDNA 2 has one rate for both, Blackwell Ultra left int8 out for fp4
INT8 = {r"rtx-\d0[5-9]0": 4, r"mi2": 1, r"g?b300": None}


@pytest.mark.parametrize("name", catalogue.gpu_names())
def test_int8_is_dense_too(name):
    gpu = catalogue.gpu(name)
    times = next((n for kind, n in INT8.items() if re.match(kind, name)), 2)
    if gpu.peak_int8 and times:
        assert gpu.peak_int8 == pytest.approx(times * gpu.peak_fp16, rel=0.02)


#: rows of the facts sheet -> the catalogue's names
SHEET = {
    "A100-40GB SXM4": "a100-sxm-40gb", "A100-80GB SXM4": "a100-sxm-80gb",
    "A100-80GB PCIe": "a100-pcie-80gb", "H100-80GB SXM5": "h100-sxm-80gb",
    "H100-80GB PCIe": "h100-pcie-80gb", "H100 NVL (94GB)": "h100-nvl-94gb",
    "H200 SXM": "h200-sxm-141gb", "H20 (96GB)": "h20-sxm-96gb", "H800 SXM": "h800-sxm-80gb",
    "A800 SXM": "a800-sxm-80gb", "L40S": "l40s-pcie-48gb", "L4": "l4-pcie-24gb",
    "A10G": "a10g-pcie-24gb", "V100 SXM2 32GB": "v100-sxm-32gb", "B200 SXM": "b200-sxm-180gb",
    "B300 SXM": "b300-sxm-288gb", "GB200 (per GPU)": "gb200-186gb", "RTX 4090": "rtx-4090-24gb",
    "MI250X (2 GCD)": "mi250x-128gb", "MI300X": "mi300x-192gb",
}  # fmt: skip


@pytest.mark.skipif(not FACTS.exists(), reason="the facts sheet is not part of the package")
def test_gpus_are_those_of_the_facts_sheet():
    with FACTS.open(encoding="utf-8") as file:
        rows = {row["gpu"]: row for row in csv.DictReader(file)}
    assert set(SHEET) == set(rows)
    columns = {
        "SMs_or_CUs": ("sms", 1.0), "bf16_fp16_dense": ("peak_fp16", 1e12),
        "fp32_TFLOPs": ("peak_fp32", 1e12), "fp8_dense": ("peak_fp8", 1e12),
        "hbm_GBs": ("memory_bandwidth", 1e9), "hbm_GiB_usable_nvidia_smi": ("memory", 2**30),
        "TDP_W": ("power_limit", 1.0), "nvlink_links": ("nvlink_links", 1.0),
    }  # fmt: skip
    wrong = []
    for sheet, name in SHEET.items():
        gpu = catalogue.gpu(name)
        for column, (key, unit) in columns.items():
            said = re.search(r"[\d.]+", rows[sheet][column])
            value = getattr(gpu, key)
            bridged = key == "nvlink_links" and ("PCIe" in sheet or "NVL" in sheet)  # in pairs
            if said is None or bridged:
                continue
            if value is None or abs(value / unit - float(said[0])) > 0.01 * float(said[0]):
                wrong.append((name, key, value and value / unit, rows[sheet][column]))
    assert wrong == []
