"""Words that other tools and people use for ours: read as meant, or led to the right key."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

#: other tools' words for values, without case and punctuation; each is exactly one of ours
_VALUES = {
    "bfloat16": "bf16", "torchbfloat16": "bf16", "float16": "fp16", "half": "fp16",
    "torchfloat16": "fp16", "float32": "fp32", "single": "fp32", "torchfloat32": "fp32",
    "float8": "fp8",
    "flashattention2": "flash2", "flashattn2": "flash2", "fa2": "flash2", "flash": "flash2",
    "flashattention1": "flash1", "flashattn1": "flash1", "fa1": "flash1",
    "flashattention": "flash2", "flashattn": "flash2", "flashattention3": "flash3",
    "flashattn3": "flash3", "fa3": "flash3",
    "adamwtorchfused": "adamw", "adamwbnb8bit": "adamw-8bit", "adamw8bit": "adamw-8bit",
    "deepspeedzero1": "zero1", "deepspeedzero2": "zero2", "deepspeedzero3": "zero3",
    "zerostage1": "zero1", "zerostage2": "zero2", "zerostage3": "zero3",
    "distributeddataparallel": "ddp", "fullyshard": "fsdp2",
}  # fmt: skip
#: words that are no value of ours, and what to write for them
_MEANT = {
    "hsdp": "it is fsdp2 with replicate: write {strategy: fsdp2, replicate: NODES}",
    "hybridshard": "it is fsdp2 with replicate: write {strategy: fsdp2, replicate: NODES}",
    "fsdp": "write fsdp2 (fully_shard) or fsdp1 (FullyShardedDataParallel)",
    "fullshard": "write fsdp2, or {strategy: fsdp1, sharding_strategy: full-shard}",
    "zero": "write zero1, zero2 or zero3",
    "deepspeed": "write zero1, zero2 or zero3",
    "adamwtorch": "write adamw, with optimizer_implementation: foreach",
    "pagedadamw8bit": "write adamw-8bit, with optimizer_paged: true",
    "pagedadamw32bit": "write adamw, with optimizer_paged: true",
    "flexattention": "write flash2: it is the nearest kernel",
    "xformers": "write flash1: it is the nearest kernel",
    **dict.fromkeys(
        ("trl", "axolotl", "llamafactory", "msswift", "swift"),
        "write huggingface, whose trainer it runs",
    ),
    "unsloth": "write huggingface, with fused_kernels: all, loss: fused-linear and adapters: fused",
}
_LIBRARIES = "runs neither CUDA nor ROCm, of which all kernels and collectives here are"
_SHARED = "shares its memory with the host, which is not modelled"
_RADEON = "has none of the matrix units and libraries of AMD's Instinct, which are modelled"
#: accelerators that are asked for and not modelled
_OTHERS = tuple((re.compile(pattern, re.IGNORECASE), why) for pattern, why in (
    (r"\btpu|\bv5[ep]\b|trillium|ironwood|gaudi|habana|\bhpu|trainium|inferentia|\btrn\d|\binf\d"
     r"|ascend|\b910[abc]|\bnpu|\barc\b|\bmax 1[15][05]0\b|ponte|cerebras|\bipu\b", _LIBRARIES),
    (r"\bapple\b|\bm[1-9](?: (?:pro|max|ultra))?$|\bmps\b", _LIBRARIES),
    (r"\bgb10\b|dgx spark|jetson|\borin\b|\bthor\b|strix|ai max", _SHARED),
    (r"radeon|\brx ?\d{3,4}", _RADEON),
    (r"\bmig\b|\b\dg\.\d+gb",
     "a slice is a GPU of one's own: 3g.20gb is {base: a100-sxm-40gb, sms: 42, peak_bf16: "
     "121 TFLOP/s, memory: 19.5 GiB, memory_bandwidth: 777 GB/s}"),
))  # fmt: skip
#: nvidia-smi's name of a GH200 has its CPU's memory, of a B300 how it is cooled
_VENDOR = frozenset({"nvidia", "tesla", "geforce", "amd", "instinct", "quadro", "gpu", "ada",
                     "generation", "graphics", "blackwell", "server", "workstation",
                     "edition", "480gb", "ac"})  # fmt: skip
_MEMORY_KIND = re.compile(r"hbm\w*|gddr\w*")
_SIZE = re.compile(r"\d+gb")
#: words that tell apart what is otherwise called alike: an RTX 5000 is Turing, an RTX 5000 Ada not
_TELLING = frozenset({"ada", "pro", "super", "ti"})
_AMPERE = re.compile(r"\ba\d{4}\b")  # an RTX A6000 is none of Ada


def folded(word: str) -> str:
    """A word without case and punctuation."""
    return re.sub(r"[-_. ]", "", word.lower())


def value_of(word: str, values: Collection[object]) -> str | None:
    """The one of some values that a word means, or None."""
    known = {folded(str(v)): str(v) for v in values}
    bare = folded(word)
    found = known.get(bare) or _VALUES.get(bare)
    return found if found in {str(v) for v in values} else None


def meant(word: str) -> str:
    """What to write for a word that is no value of ours; "" where nothing is known of it."""
    return _MEANT.get(folded(word), "")


def gpu_named(word: str, names: Iterable[str]) -> str | None:
    """The catalogue's name of a GPU as people and nvidia-smi call it, or None.

    ``H100``, ``A100 80GB``, ``NVIDIA A100-SXM4-80GB``, ``RTX 4090``: every word must be one of the
    catalogue's name, and what there tells it from another must be said: a generation, ``Ti``, a
    kind of memory, or a size that it alone has. Where only the form is open, it is SXM, as of a
    card of that name most are.
    """
    said, kinds, names = _words(word), _kinds(word), list(names)
    if "sxm" in said and any(kinds & _kinds(n) for n in _having(_chip(said) - {"sxm"}, names)):
        return gpu_named(re.sub(r"sxm\d?", "", word.lower()), names)  # its name has no form
    having = [
        n for n in _having(said - _VENDOR, names) if not ("ada" in said and _AMPERE.search(n))
    ]
    fitting = [n for n in having if said >= _TELLING & set(n.split("-")) and kinds >= _kinds(n)]
    of_kind = [n for n in _having(_chip(said), names) if kinds & _kinds(n)]
    if of_kind:
        fitting = [n for n in fitting if n in of_kind]
    elif not fitting and len(having) == 1 and any(_SIZE.fullmatch(w) for w in said):
        other = "quadro" in said or (kinds and _kinds(having[0]))  # Turing's, another's memory
        fitting = [] if other else having
    if len(fitting) > 1:  # "RTX 6000 Ada": a vendor's word tells two apart
        fitting = _nearest(said, fitting)
    if len(fitting) > 1:
        fitting = [n for n in fitting if "sxm" in n.split("-")] or fitting
    return fitting[0] if len(fitting) == 1 else None


def no_gpu(word: str) -> str:
    """Why an accelerator that people name is none that is modelled; "" where nothing is known."""
    return next((why for pattern, why in _OTHERS if pattern.search(word)), "")


def gpus_meant(word: str, names: Iterable[str]) -> list[str]:
    """Names of GPUs that begin with a word, or have all that it says: ``a100``, ``A100 80GB``."""
    names = list(names)
    having = _having(_words(word) - _VENDOR, names)
    return [n for n in names if n.startswith(word.lower()) or n in having]


def gpus_like(word: str, names: Iterable[str]) -> list[str]:
    """Names of GPUs that share most words with one that is none of them: ``Tesla V100``."""
    told = _words(word) - _VENDOR
    chip = {w for w in told if re.search(r"[a-z]\d|^\d{4}", w)}
    alike = [n for n in names if chip & set(n.split("-"))]
    return _nearest(told, alike)


def _having(words: set[str], names: Iterable[str]) -> list[str]:
    """Those of some names that have all of some words, of which there are any."""
    return [n for n in names if words and words <= set(n.split("-"))]


def _chip(said: set[str]) -> set[str]:
    """Words of a GPU's name, its vendor's and its size left out."""
    return {w for w in said - _VENDOR if not _SIZE.fullmatch(w)}


def _kinds(word: str) -> set[str]:
    """The kinds of memory that a name says."""
    return set(_MEMORY_KIND.findall(word.lower()))


def _words(word: str) -> set[str]:
    """The words of a GPU's name, as the catalogue writes them; no kind of memory."""
    text = re.sub(r"(?<=\d)\s*(?:gib|gb|(?<=\b\d\d)g)\b", "gb", word.lower())  # 80G, not A10G
    text = re.sub(r"\brtx(?=a?\d)", "rtx ", text)  # RTX4090
    text = re.sub(r"(?<=\d)ti\b", " ti", re.sub(r"(?<=4090) d\b", "d", text))
    words = {re.sub(r"^sxm\d$", "sxm", w) for w in re.split(r"[-_\s/]+", text) if w}
    return {w for w in words if not _MEMORY_KIND.fullmatch(w)}


def _nearest(words: set[str], names: list[str]) -> list[str]:
    """Those of some names that have most of some words."""
    shared = [len(words & set(n.split("-"))) for n in names]
    return [n for n, count in zip(names, shared, strict=True) if count == max(shared)]
