"""Trainers of pairs and of scores: the rows that a sample is, and what of a step is left out."""

from __future__ import annotations

from sim.inputs.translation import Sample
from sim.inputs.tree import Leaf, Place
from sim.interop.trainers.keys import Keys
from sim.records import NamedTuple

_FREE = "no reference is run"
_BEFORE = "the reference is run before training, a forward of every sample once"
_ANOTHER = "a reference of another model is not modelled: taken as a copy of what is trained"
_COPY = "the reference is a copy of the model"
_HEAD = (
    "a score is no vocabulary: the head's products are counted all the same (a few per cent), its "
    "logits are not"
)
_ROLLOUTS = (
    "rollouts are not read: an update alone, of the longest rows; posttrain has the rest, of a "
    "workload with post_training"
)
#: trainers that generate what they learn from
ROLLED = ("grpo", "rloo", "ppo", "online", "nash", "xpo")


class _Step(NamedTuple):
    """What a sample of a kind of trainer is."""

    rows: int  # with a gradient
    left: str = ""  # what is not modelled
    scores: bool = False  # a head of one or a few columns
    passes: int = 0  # forwards without gradients, of a frozen reference or as long as its


#: TRL's collators, LLaMA-Factory's `PairwiseDataCollatorWithPadding`: a pair is two rows of a batch
_STEPS = {
    "dpo": _Step(2, passes=1), "ipo": _Step(2, passes=1),
    # of the reference, and of both models for its KL term: TRL 1.16, `forward` and
    # `compute_ref_log_probs` of trainer/kto_trainer.py
    "kto": _Step(1, passes=3),
    "gkd": _Step(1, "the teacher's pass and its copy, and what is generated, are not counted"),
    "orpo": _Step(2), "cpo": _Step(2), "simpo": _Step(2),
    "rm": _Step(2, _HEAD, scores=True), "reward": _Step(2, _HEAD, scores=True),
    "scores": _Step(1, _HEAD, scores=True),
    **dict.fromkeys(ROLLED, _Step(1, _ROLLOUTS)),
    "embeddings": _Step(
        2, "an anchor and a positive are taken as two rows of a sample, and the head's products "
        "are counted though there is none", scores=True,
    ),
}  # fmt: skip


def of_key(keys: Keys, kind: str, name: str, said: str = "") -> None:
    """`of_kind`, of what a key says; what is none of them is told to be taken as a plain step."""
    if not of_kind(keys, kind, keys.place(name), name):
        keys.matters(f"{said or kind} is not modelled: taken as a plain step", name)


def of_kind(keys: Keys, kind: str, place: Place, theirs: str) -> bool:
    """Say how many rows a sample of a kind of trainer is, and what of its step is left out.

    The first that a job's files name counts: a second one changes nothing.

    Parameters
    ----------
    keys : Keys
        Of the file.
    kind : str
        ``dpo``, ``orpo``, ``reward`` and their like; ``scores`` of a classifier.
    place : Place
        Where the kind is written.
    theirs : str
        As what.

    Returns
    -------
    bool
        Whether the kind is known here.
    """
    step, job = _STEPS.get(kind.lower()), keys.job
    if step is None:
        return False
    if job.sample is not None:
        return True
    written = keys.text(theirs) if isinstance(keys.branch.entries.get(theirs), Leaf) else ""
    passes, own, before = _passes(keys, step.passes)
    job.sample = Sample(step.rows, place, theirs, written, passes, own, before)
    if step.scores:
        job.take("loss", "fused-linear", place, theirs, written)
    if step.left:
        job.skip(place, theirs, step.left, True)
    return True


def _passes(keys: Keys, usual: int) -> tuple[int, bool, bool]:
    """Forwards of a reference in a micro-step, whether it is a model of its own, or run before.

    A file may have the passes made before, which leaves a model of its own where it is, or do
    without.
    """
    if keys.flag("reference_free") and usual:
        keys.leave(_FREE, "reference_free")
        return 0, False, False
    own = bool(usual) and keys.has("ref_model")
    if own and keys.text("ref_model") != keys.job.text_at("model"):
        keys.matters(_ANOTHER, "ref_model")
    elif own:
        keys.leave(_COPY, "ref_model")
    if keys.flag("precompute_ref_log_probs") and usual:
        keys.leave(_BEFORE, "precompute_ref_log_probs")
        return 0, own, True
    return usual, own, False
