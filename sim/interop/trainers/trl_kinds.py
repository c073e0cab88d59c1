"""Which of TRL's trainers a command or a file is for: what is started, then keys of one alone."""

from __future__ import annotations

import re

from sim.inputs.translation import Aside, Begun, Translation
from sim.inputs.tree import Place
from sim.interop.trainers import preferences
from sim.interop.trainers.keys import Keys

_STARTED = re.compile(
    r"(?:\btrl +|-m +trl\.scripts\.)(?P<command>\w+)"
    r"|(?<![\w./-])(?:[\w.-]*/)*(?P<script>[\w-]+)\.py\b"
)
_KINDS = frozenset({"sft", "dpo", "orpo", "cpo", "kto", "reward", "rm", "gkd", *preferences.ROLLED})
#: keys that one trainer alone has (TRL 1.16's configurations, and those before it)
_OF_ONE = {
    "kto": ("desirable_weight", "undesirable_weight"),
    "gkd": ("teacher_model_name_or_path", "lmbda", "seq_kd"),
    "grpo": ("num_generations", "use_vllm", "reward_funcs", "num_iterations", "scale_rewards"),
    "cpo": ("cpo_alpha", "simpo_gamma"),
    "dpo": ("reference_free", "rpo_alpha", "f_divergence_type", "ld_alpha", "use_weighting"),
    "reward": ("center_rewards_coefficient",),
}
#: keys of pairs that others have as well
_OF_SEVERAL = ("beta", "precompute_ref_log_probs", "max_prompt_length", "max_completion_length")
_UNDECIDED = (
    "DPO, ORPO, CPO, KTO, GRPO and GKD have it, and nothing says which this is: taken as a plain "
    "step of a row a sample; name the command beside it (trl dpo --config FILE)"
)


def command(text: str, name: str) -> Begun | None:
    """What the first command of a script that names a trainer starts.

    Parameters
    ----------
    text, name : str
        Commands, and their file.

    Returns
    -------
    Begun or None
        By TRL's subcommand or module (``trl dpo``), or by a script's name (``run_dpo.py``).
    """
    for number, line in enumerate(text.splitlines(), 1):
        for match in () if line.lstrip().startswith("#") else _STARTED.finditer(line):
            own, words = match["command"], re.split("[_-]", match["script"] or "")
            kind = own or next((word for word in words if word in _KINDS), "")
            if "online" in words:
                kind = "online"
            if kind == "sft" and not own:  # whose script need not be TRL's
                return None
            if kind in _KINDS:
                return Begun(kind, Place(name, number), match[0])
    return None


def of_keys(keys: Keys) -> Begun | None:
    """The trainer that a file's keys are for, or the one that was started with them."""
    if keys.job.begun is not None:
        return keys.job.begun
    for kind, names in _OF_ONE.items():
        if keys.has(*names):
            return Begun(kind, keys.place(*names), keys.named(*names))
    rolled = "max_completion_length"  # beside max_length it is of pairs, in older TRLs
    if keys.has(rolled) and not keys.has("max_length"):
        return Begun("grpo", keys.place(rolled), rolled)
    return None


def rolls(begun: Begun | None) -> bool:
    """Whether a trainer's rows are prompts and completions that it generates."""
    return begun is not None and begun.kind in preferences.ROLLED


def tell(keys: Keys, begun: Begun | None) -> None:
    """Rows of a sample of a trainer, and what is left out; of none that is known, that it is not.

    Parameters
    ----------
    keys : Keys
        Of the file.
    begun : Begun or None
        Its trainer.
    """
    if begun is None:
        if keys.has(*_OF_SEVERAL):
            keys.seen.update(_OF_SEVERAL)
            keys.job.undecided = Aside(
                keys.place(*_OF_SEVERAL), keys.named(*_OF_SEVERAL), _UNDECIDED, True
            )
    else:
        preferences.of_kind(keys, begun.kind, begun.place, begun.theirs)
        if not rolls(begun):
            keys.leave("a part of max_length", "max_prompt_length max_completion_length")


def told_by_command(keys: Keys) -> None:
    """As `tell`, of what a command started, once its files are read: they may have left it open."""
    job: Translation = keys.job
    if job.begun is not None and job.text_at("trainer") == "huggingface":
        tell(keys, job.begun)
