"""A rate of steps, samples or tokens from the log that a trainer leaves.

    key_and_number, how = read_log("train.log")

Launchers' tags, colours and carriage returns may stand anywhere; JSON lines, dicts and tables are
read alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from statistics import median

from sim.errors import InputError
from sim.inputs.tree import STDIN, stdin_bytes
from sim.interop.evidence import LAUNCHERS_TAG, MAX_TEXT, checked, read_bytes, text_of
from sim.records import NamedTuple

_NUMBER = r"([0-9][0-9,]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)([KMG]?)(?![0-9])"
_SAYS = r"[\"\']?(?: *[:=]) *[\"\']?"  # between a name and its number
_SUFFIX = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
_WARM = 0.2  # of a log's figures that are left out: it warms up first
_FEW = 5  # of so few none is left out


def _said(name: str) -> str:
    """Its number; begun by a letter, which `re` looks for faster than for what is not before it."""
    return rf"{name[0]}(?<![\w/]{name[0]}){name[1:]}{_SAYS}{_NUMBER}"


class _Rate(NamedTuple):
    """What a log may say: whose it is, the key it is a figure of, how it is found, in what unit."""

    name: str
    key: str  # of sim.calibration.figures.KEYS
    pattern: str | Callable[[str], list[float]]
    unit: float = 1.0


_BAR = re.compile(
    r"[0-9]{1,3}%\|[^|\r\n]{0,400}\|\s*[0-9]+/([0-9]+) \[[^\]\r\n]{0,60}?, *([0-9.]+) ?(s/it|it/s)"
)
_BARE = re.compile(r"(?<![0-9])([0-9][0-9.]{0,29}) ?(s/it|it/s)")
#: what bars before and between training are labelled
_ASIDE = re.compile(
    r"load|download|fetch|\bmap\b|token|convert|filter|pack|generat|eval|valid|test|sav|resolv"
    r"|dropping|prepar|compil|shard|sanity",
    re.IGNORECASE,
)


def _bars(text: str) -> list[float]:
    """Seconds a step of the bar of training: the first that is not labelled as another's."""
    of_total: dict[str, list[float]] = {}
    labelled, behind = False, 0
    for bar in _BAR.finditer(text):
        before = text[behind : bar.start()].replace("\r", "\n")  # not what stands before one bar
        behind = bar.end()
        if _ASIDE.search(before, before.rfind("\n") + 1):
            labelled = True
        else:
            of_total.setdefault(bar[1], []).append(_seconds(bar[2], bar[3]))
    if of_total:
        return next(iter(of_total.values()))
    return [] if labelled else [_seconds(rate, unit) for rate, unit in _BARE.findall(text)]


def _seconds(rate: str, unit: str) -> float:
    value = _float(rate)
    if unit == "s/it":
        return value
    return 1.0 / value if value else math.nan


#: LitGPT's line of a micro-step: which one, of which step, how long, and whether that ends with it
_ITER = re.compile(
    r"iter ([0-9]{1,9}) step ([0-9]{1,9})(?! [0-9])[^\r\n]{0,200}?"
    r"iter time: ([0-9]{1,9}\.?[0-9]{0,9}) ?ms( \((?:optimizer\.)?step\))?"
)


def _litgpt(text: str) -> list[float]:
    """Milliseconds of LitGPT's steps: of the micro-step that ends one and those before it.

    Of as many as its number has for each step, each as long as most that end none.
    """
    lines = _ITER.findall(text)
    ends = [line for line in lines if line[3] and int(line[1])]
    before = [float(line[2]) for line in lines if not line[3]]
    found = []
    for micro, step, milliseconds, _ in ends:
        last = float(milliseconds)
        others = round(int(micro) / int(step)) - 1
        found.append(last + max(0, others) * (median(before) if before else last))
    return found


#: verl's step: tokens of all rollouts, and how long the update that trained on them took
_ROLLED = re.compile(r"perf/total_num_tokens:([0-9.]+)")
_UPDATED = re.compile(r"timing_s/update_actor:([0-9.]+)")


def _verl(text: str) -> list[float]:
    """Tokens a second of verl's updates, of all GPUs; rollouts and their passes are beside."""
    found = []
    for line in text.splitlines():
        tokens, update = _ROLLED.search(line), _UPDATED.search(line)
        if tokens and update:
            found.append(float(tokens[1]) / (_float(update[1]) or math.nan))
    return found


#: transformers' bar in a notebook: steps done, and the time since the first
_NOTEBOOK = re.compile(
    r"\[ *([0-9]{1,9})/[0-9]{1,9} (?:([0-9]{1,4}):)?([0-9]{1,2}):([0-9]{2})"
    r"(?: < [0-9:?]{1,12}, [0-9.]{1,9} it/s)?, Epoch"
)
#: Unsloth's banner, and what its notebooks print at the end
_STEPS = re.compile(r"Total steps = ([0-9,]{1,12})")
_SPENT = re.compile(r"([0-9.]{1,12}) seconds used for training")


def _notebook(text: str) -> list[float]:
    """Seconds a step, of the last bar of a notebook."""
    bars = [bar for bar in _NOTEBOOK.findall(text) if int(bar[0]) > 1]
    if not bars:
        return []
    done, hours, minutes, seconds = bars[-1]
    return [(int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)) / (int(done) - 1)]


def _unsloth(text: str) -> list[float]:
    """Seconds a step of a whole run."""
    steps, spent = _STEPS.search(text), _SPENT.search(text)
    if not steps or not spent:
        return []
    return [_float(spent[1]) / (int(steps[1].replace(",", "") or 0) or math.nan)]


#: DeepSpeed's `wall_clock_breakdown`, of a whole step (those of micro-steps are called otherwise)
_PARTS = re.compile(
    r"time \(ms\) \| (?:fwd|forward): ([0-9.]{1,15}) \| (?:bwd|backward): ([0-9.]{1,15}) \|"
    r"[^\r\n]{0,200}?\bstep: ([0-9.]{1,15})"
)


def _deepspeed(text: str) -> list[float]:
    """Milliseconds of forward, backward and step together."""
    return [sum(map(_float, parts)) for parts in _PARTS.findall(text)]


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # two dots
        return math.nan


#: mmengine's line of training, from which a figure is read
_ENGINE = r"(?:Iter|Epoch)\(train\)[^\r\n]{0,200}?"
#: the plainest first
_RATES = (
    _Rate("torchtitan's tps", "tokens_per_s_per_gpu", _said(r"t(?:ps|hroughput\(tps\))")),
    _Rate("InternEvo's or XTuner's tgs", "tokens_per_s_per_gpu",
          _said(r"tgs(?: \(tokens/gpu/second\))?")),
    _Rate("tokens_per_second_per_gpu, as torchtune and axolotl say",
          "tokens_per_s_per_gpu", _said(r"tokens_per_sec(?:ond)?_per_gpu")),
    _Rate("axolotl's tokens/train_per_sec_per_gpu", "tokens_per_s_per_gpu",
          _said("tokens/train_per_sec_per_gpu")),
    _Rate("Composer's throughput/device/tokens_per_sec", "tokens_per_s_per_gpu",
          _said(r"throughput/device/tokens_per_sec(?:ond)?")),
    _Rate("OLMo's throughput/device/TPS", "tokens_per_s_per_gpu",
          _said(r"throughput/device/TPS(?: \(actual avg\))?")),
    _Rate("fms-fsdp's current token per gpu per sec", "tokens_per_s_per_gpu",
          _said("current token per gpu per sec")),
    _Rate("Composer's throughput/tokens_per_sec", "tokens_per_s",
          _said("throughput/tokens_per_sec(?:ond)?")),
    _Rate("Composer's throughput/batches_per_sec", "it_per_s",
          _said("throughput/batches_per_sec")),
    _Rate("MaxText's Tokens/s/device or picotron's Tokens/s/GPU", "tokens_per_s_per_gpu",
          _said("Tokens/s/(?:device|GPU)")),
    _Rate("torchtitan's or Lingua's wps", "tokens_per_s_per_gpu", rf"\bwps: +{_NUMBER}"),
    _Rate("NeMo AutoModel's tps", "tokens_per_s_per_gpu", rf"\btps [0-9.,]+\({_NUMBER}/gpu\)"),
    _Rate("open-instruct's per_device_tps", "tokens_per_s_per_gpu", _said("per_device_tps")),
    _Rate("verl's total_num_tokens over timing_s/update_actor", "tokens_per_s", _verl),
    _Rate("prime-rl's Throughput", "tokens_per_s", rf"\| Throughput: {_NUMBER} tokens/s \|"),
    _Rate("fairseq's wps", "tokens_per_s", rf"\bwps{_SAYS}{_NUMBER}[\"\']?, *[\"\']?ups\b"),
    _Rate("nanochat's tok/sec", "tokens_per_s", _said("tok/sec")),
    _Rate("llm.c's tok/s", "tokens_per_s", rf"\| {_NUMBER} tok/s\b"),
    _Rate("LLaMA-Factory's throughput", "tokens_per_s",
          _said("throughput") + r"[\"\']?, *[\"\']total_tokens"),
    _Rate("LLaMA-Factory's throughput", "tokens_per_s",
          r"[\"\']epoch[\"\']: *[0-9.]+, *" + r"[\"\']" + _said("throughput")),
    _Rate("Megatron's elapsed time per iteration", "step_time_s",
          _said(r"elapsed[ _]time[ _]per[ _]iteration[ _](?:\(ms\)|ms)"), 1e-3),
    _Rate("NeMo's train_step_timing", "step_time_s", _said("train_step_timing in s")),
    _Rate("verl's train/time", "step_time_s", _said(r"train/time\(s\)")),
    _Rate("DeepSpeed's iter time", "step_time_s", _said(r"iter time \(s\)")),
    _Rate("nanoGPT's time of an iteration", "step_time_s",
          rf"\biter [0-9]+: loss [0-9.]+, time {_NUMBER} ?ms", 1e-3),
    _Rate("LitGPT's iter time", "step_time_s", _litgpt, 1e-3),
    _Rate("XTuner's tokens_per_sec", "tokens_per_s_per_gpu",
          rf"{_ENGINE}\btokens_per_sec: {_NUMBER}"),
    _Rate("XTuner's (mmengine's) time of a micro-step", "s_per_micro_step",
          rf"{_ENGINE}\btime: {_NUMBER}"),
    _Rate("LitGPT's iter time", "s_per_micro_step", rf"\biter time: {_NUMBER} ?ms", 1e-3),
    _Rate("NeMo RL's policy_training", "step_time_s", rf"\bpolicy_training: {_NUMBER} ?s\b"),
    _Rate("NeMo RL's total step time", "step_time_s", rf"\bTotal step time: {_NUMBER} ?s\b"),
    _Rate("DeepSpeed's CurrSamplesPerSec", "samples_per_s", _said("CurrSamplesPerSec")),
    _Rate("DeepSpeed's fwd, bwd and step", "step_time_s", _deepspeed, 1e-3),
    _Rate("ms-swift's train_speed", "it_per_s", _said(r"train_speed\(iter/s\)")),
    _Rate("ms-swift's train_speed", "s_per_it", _said(r"train_speed\(s/it\)")),
    _Rate("Hugging Face's train_steps_per_second", "it_per_s",  # of three decimals: two digits
          rf"train_steps_per_second{_SAYS}(?=0\.[1-9]|[1-9]){_NUMBER}"),
    _Rate("a notebook's bar", "s_per_it", _notebook),
    _Rate("a progress bar's time a step", "s_per_it", _bars),
    _Rate("Unsloth's seconds over its steps", "s_per_it", _unsloth),
    _Rate("Hugging Face's train_samples_per_second", "samples_per_s",
          _said("train_samples_per_second")),
    _Rate("Hugging Face's train_steps_per_second", "it_per_s", _said("train_steps_per_second")),
    _Rate("verl's MFU of the actor", "mfu", _said("perf/mfu/actor")),
    _Rate("verl's train/mfu", "mfu", _said("train/mfu")),
    _Rate("a log's MFU", "mfu", rf"\bmfu(?:\(%\))?{_SAYS}{_NUMBER} ?%", 1e-2),
    _Rate("a log's MFU", "mfu", _said("mfu")),
    _Rate("a log's MFU", "mfu", _said(r"mfu\(%\)"), 1e-2),
)  # fmt: skip
_TAG = re.compile(LAUNCHERS_TAG)
#: numbers as numpy and torch print them
_BOXED = re.compile(r"\b(?:np\.(?:float|int)[0-9]{2}|tensor)\(([0-9.eE+-]{1,30})[^()\n]{0,40}\)")
#: a line of the summary that Weights & Biases prints
_SUMMARY = re.compile(r"^wandb: +([\w./()-]+) +([0-9][^\s]*)\s*$", re.MULTILINE)


def read_log(path: str) -> tuple[str, str]:
    """A figure, as ``key=number``, of a trainer's log, and how it was read (see `rate_in`).

    Raises
    ------
    InputError
        It cannot be read, or says no rate.
    """
    text, source = log_text(path)
    return rate_in(text, source)


def log_text(path: str) -> tuple[str, str]:
    """A log's text without its launcher's tags, and what to call it in faults.

    Parameters
    ----------
    path : str
        The log, gzip or plain, or ``-`` for standard input.

    Raises
    ------
    InputError
        It cannot be read.
    """
    if path == "-":
        source, data = STDIN, checked(stdin_bytes(MAX_TEXT), MAX_TEXT, STDIN)
    else:
        source, data = path, read_bytes(path, MAX_TEXT)
    text = _BOXED.sub(r"\1", _TAG.sub("", text_of(data, source)))
    return _SUMMARY.sub(r"\1: \2", text), source


def rate_in(text: str, source: str) -> tuple[str, str]:
    """Of the first kind of figure that a log has, the median of those after it warmed up.

    Raises
    ------
    InputError
        It says no rate.
    """
    for kind in _RATES:
        pattern = kind.pattern
        values = _numbers(pattern, text) if isinstance(pattern, str) else pattern(text)
        values = [v for v in values if v > 0.0 and math.isfinite(v)]
        if not values:
            continue
        kept = values[int(_WARM * len(values)) :] if len(values) > _FEW else values
        figure = median(kept) * kind.unit
        return (
            f"{kind.key}={figure:.6g}",
            f"{kind.name}, the median of {len(kept)} of {len(values)}",
        )
    kinds = len({kind.name for kind in _RATES})
    message = (
        f"says no rate in any of {kinds} ways that are known here (tokens, samples or steps a"
        " second, seconds a step, MFU); give the figure itself: --measured 12.5s/it"
    )
    raise InputError.single(source, message)


def _numbers(pattern: str, text: str) -> list[float]:
    found = re.findall(pattern, text)
    return [float(number.replace(",", "")) * _SUFFIX[suffix] for number, suffix in found]
