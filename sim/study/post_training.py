"""Post-training step by step: generation, log-probabilities, rewards, update, weights handed over.

On the same GPUs one after the other, or generation on GPUs of its own, beside the update of the
batch before where the job allows that. Training is the step model's own, with as many micro-steps
as the rollouts' tokens fill; passes without gradient are its forward's kernels, or the gathers that
they wait for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sim.blocks.parameters import count_parameters
from sim.blocks.setting import FULL
from sim.cost.collectives import plan_collective
from sim.cost.nccl.communicator import Nccl, constants
from sim.errors import InfeasibleError, InputError
from sim.fabric.fabric import compile_fabric
from sim.inputs.arguments import Argument
from sim.inputs.checks import check
from sim.inputs.loader import Loaded, load
from sim.inputs.post_training import PostTraining
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import SampleLengths, Workload
from sim.job.basis import terms_of
from sim.quantities import gib
from sim.result.idle import with_default
from sim.step.step import StepReport, step
from sim.study.generation import (
    Engine,
    completions,
    forward_s,
    least,
    prefill_s,
    rollout_s,
)
from sim.study.post_trained import PostTrainingPart, PostTrainingReport, Rollout
from sim.units import DTYPE_BYTES, HOUR_S

_MOST = 1_000_000  # rollouts of a step; published ones have tens of thousands
DRAWS = 16  # of the lengths, for the spread of step times
_BF16 = DTYPE_BYTES["bf16"]


_ASSUMED = (
    "decoding is priced by the model's own kernels and the HBM rate, with 1 ms a step beside them; "
    "no engine was measured",
    "an engine runs no speculative decoding and never recomputes a sequence it had to evict",
)


def post_training(
    topology: Argument, workload: Argument, sets: Sequence[str] = ()
) -> PostTrainingReport:
    """A step of a job's `post_training` on a machine.

    Raises
    ------
    InputError
        The workload says nothing of post-training, or something that cannot be.
    InfeasibleError
        Training, or an engine, does not fit.
    """
    loaded = load(topology, workload, sets)
    t, w = loaded.topology, loaded.workload
    if w.post_training is None:
        hint = "add post_training: {algorithm: grpo, prompts: 128, samples: 8}"
        raise InputError.single(w.name, f"the job has no rollouts; {hint}", "post_training")
    _check(t, w, w.post_training)
    found = _PhaseJob(t, w, w.post_training).report()
    return replace(found, idle=tuple(_idle(loaded, found)))


def _idle(loaded: Loaded, found: PostTrainingReport) -> Iterator[str]:
    """Keys of the job that were set on the command line and whose default gives the same step."""
    for path in loaded.notes.given:
        side, _, key = path.partition(".")
        if side != "workload" or loaded.notes.origin(path).kind != "override":
            continue
        other = with_default(loaded.workload, key.split("."))
        if other is None or other == loaded.workload or other.post_training is None:
            continue
        try:
            again = _PhaseJob(loaded.topology, other, other.post_training).report()
        except (InputError, InfeasibleError):
            continue
        if again == found:
            yield key


def _check(t: Topology, w: Workload, asked: PostTraining) -> None:
    """Faults that only a machine and both lengths together show."""
    longest = asked.prompt_length + asked.completion.maximum
    if w.sequence_length < longest:
        message = (
            f"{w.sequence_length} tokens do not hold a prompt of {asked.prompt_length} and a "
            f"completion of {asked.completion.maximum}; write {longest} or more"
        )
        raise InputError.single(w.name, message, "sequence_length")
    if asked.completion.mean > asked.completion.maximum:
        message = f"a mean of {asked.completion.mean:g} is beyond {asked.completion.maximum}"
        raise InputError.single(w.name, message, "post_training.completion.mean")
    rollouts = asked.prompts * (1 if asked.algorithm == "dpo" else asked.samples)
    if rollouts > _MOST:
        message = f"{rollouts:g} rollouts are more than any step has ({_MOST:g}); check the number"
        raise InputError.single(w.name, message, "post_training.prompts")
    own = asked.generation.gpus
    if own is None or asked.algorithm == "dpo":
        if asked.generation.overlap:
            message = "the same GPUs cannot generate and train at once; say generation.gpus"
            raise InputError.single(w.name, message, "post_training.generation.overlap")
        return
    if own >= t.world_size:
        message = f"{own} of {t.world_size} GPUs leave none to train on"
        raise InputError.single(w.name, message, "post_training.generation.gpus")
    if t.nodes > 1 and own % t.gpus_per_node:
        message = f"{own} GPUs are no whole nodes of {t.gpus_per_node}"
        raise InputError.single(w.name, message, "post_training.generation.gpus")


def _part_of(topology: Topology, gpus: int) -> Topology:
    """So many GPUs of the machine: whole nodes, or some of one."""
    if gpus == topology.world_size:
        return topology
    if topology.node is None or topology.graph is not None:
        message = "GPUs of their own are modelled on machines of equal nodes"
        raise InputError.single(topology.name, message, "post_training.generation.gpus")
    if gpus % topology.gpus_per_node == 0:
        return topology.model_copy(update={"nodes": gpus // topology.gpus_per_node})
    node = topology.node.model_copy(update={"gpus": gpus})
    return topology.model_copy(update={"node": node, "nodes": 1})


class _PhaseJob:
    """One job on one machine."""

    def __init__(self, topology: Topology, workload: Workload, asked: PostTraining) -> None:
        self.topology, self.asked = topology, asked
        self.generates = asked.algorithm != "dpo"
        own = asked.generation.gpus if self.generates else None
        self.split = own is not None
        self.generators = own or topology.world_size
        self.trainers = topology.world_size - (own or 0)
        self.machine = _part_of(topology, self.trainers)
        self.sequences = asked.prompts * (asked.samples if self.generates else 2)
        self.draws = [
            completions(asked.completion.mean, asked.completion.maximum, self.sequences, seed)
            for seed in range(DRAWS)
        ]
        self.tokens = self.sequences * asked.prompt_length + sum(map(sum, self.draws)) / DRAWS
        self.workload = self._training(workload)
        found = [f for f in check(self.machine, self.workload) if f.error]
        if found:
            raise InputError.single(workload.name, found[0].message, found[0].path)
        self.fabric = compile_fabric(topology)
        self.nccl = Nccl.of(workload.stack)
        self.weights = _BF16 * count_parameters(workload.model, FULL).total

    def _training(self, w: Workload) -> Workload:
        """The update as a training job: rows packed full of rollouts."""
        p, asked = w.parallelism, self.asked
        rows = self.tokens / w.sequence_length
        ranks = self.trainers // p.sharing
        steps = math.ceil(rows / (max(1, ranks) * w.micro_batch * asked.updates))
        mean = self.tokens / self.sequences
        longest = asked.prompt_length + asked.completion.maximum
        said = SampleLengths.model_construct(mean=mean, maximum=longest)
        data = w.data.model_copy(update={"sequence_lengths": said, "packing": True})
        return w.model_copy(
            update={
                "data": data, "gradient_accumulation": max(1, steps), "global_batch": None,
                "post_training": None, "reference": "none",
            }
        )  # fmt: skip

    def report(self) -> PostTrainingReport:
        """The step, with whatever engine is fastest."""
        trained = step(self.machine, self.workload)
        needed, room = self._needed(trained), trained.memory.capacity_bytes
        if needed > room:
            message = f"training needs {gib(needed)} of {gib(room)} on a GPU"
            raise InfeasibleError(message)
        updates = self._updates(trained)
        if not self.generates:
            return self._said(trained, None, updates, [0.0] * DRAWS, 0.0)
        engines = self._engines(trained)
        if not engines:
            message = (
                f"no engine on {self.generators} GPUs holds the weights and the cache of "
                f"{least(self.sequences)} sequences"
            )
            raise InfeasibleError(message)
        one = []
        for engine, offloaded in engines:
            rollout, parts, times = self._generated(engine, 1)
            found = self._said(trained, rollout, parts, times, offloaded)
            one.append((found.step_s, times[0]))  # the quicker engine where training decides
        engine, offloaded = engines[one.index(min(one))]
        return self._said(trained, *self._generated(engine, DRAWS), offloaded)

    # what does not depend on the engine

    def _beside(self, trained: StepReport) -> float:
        """Of a GPU, what models beside the policy keep: a frozen copy's shard, a critic. [B]"""
        copy = self.weights / self.trainers if self.asked.reference else 0.0
        critic = trained.memory.by_moment["save"] if self.asked.algorithm == "ppo" else 0.0
        return copy + critic

    def _needed(self, trained: StepReport) -> float:
        return trained.memory.needed_bytes + self._beside(trained)

    def _updates(self, trained: StepReport) -> list[PostTrainingPart]:
        asked, where = self.asked, "training" if self.split else "all"
        one = self._pass_s()
        parts = []
        if self.generates and asked.old_log_probs:
            parts.append(PostTrainingPart("old log-probabilities", one, where))
        if asked.reference:
            parts.append(PostTrainingPart("reference log-probabilities", one, where))
        if asked.algorithm == "ppo":
            parts.append(PostTrainingPart("values", one, where))
        if asked.reward > 0.0:
            parts.append(PostTrainingPart("rewards", asked.reward, where))
        update = asked.updates * trained.breakdown.time_s
        parts.append(PostTrainingPart("update", update, where))
        if asked.algorithm == "ppo":
            parts.append(PostTrainingPart("update of the critic", update, where))
        return parts

    def _pass_s(self) -> float:
        """All rollouts once through the model without gradient. [s]"""
        w = self.workload
        micro_steps = w.gradient_accumulation * self.asked.updates
        kernels = forward_s(w, self.topology.first_gpu)
        gathers = 0.0
        if strategy_of(w).gathers_blocks:
            group = range(self.trainers)
            gathers = plan_collective(
                self.fabric, "all_gather", group, self.weights, self.nccl
            ).time_s
        return micro_steps * max(kernels, gathers)

    def _engines(self, trained: StepReport) -> list[tuple[Engine, float]]:
        """Engines worth a look, with the bytes of a GPU that training moves to the host."""
        asked, found = self.asked, []
        state = trained.memory.by_moment["save"] + self._beside(trained)
        state = 0.0 if self.split else state
        local = min(self.topology.gpus_per_node, self.generators)
        sizes = [1 << n for n in range(local.bit_length()) if local % (1 << n) == 0]
        if asked.generation.tensor_parallel is not None:
            sizes = [asked.generation.tensor_parallel]
        outs = [False, True] if asked.offload is None else [asked.offload]
        for size in sizes:
            if local % size or self.workload.model.heads % size:
                continue
            for out in outs if state else [False]:
                engine = Engine(
                    self.topology, self.workload, asked.generation, size, 0.0 if out else state
                )
                each = -(-self.sequences // (self.generators // engine.tensor))
                if self._held(engine) >= least(each):
                    found.append((engine, state if out else 0.0))
        return found

    def _held(self, engine: Engine) -> int:
        """Sequences at a time: what of the cache a half-done completion takes, on average."""
        mean = self.tokens / self.sequences - self.asked.prompt_length
        return engine.holds(self.asked.prompt_length + 0.5 * mean)

    # what does

    def _generated(
        self, engine: Engine, draws: int
    ) -> tuple[Rollout, list[PostTrainingPart], list[float]]:
        """How it generates, its parts of the step, and generation by draw. [s]"""
        asked, engines = self.asked, self.generators // engine.tensor
        held, where = self._held(engine), "generation" if self.split else "all"
        times, tails = [], []
        for lengths in self.draws[:draws]:
            each = [
                rollout_s(engine, lengths[i::engines], asked.prompt_length, held)
                for i in range(engines)
            ]
            times.append(max(each))
            tails.append(max(each) - min(each))
        middle = sorted(range(draws), key=times.__getitem__)[draws // 2]
        prompts = -(-asked.prompts // engines)
        first = prefill_s(engine, prompts, asked.prompt_length)
        made = sum(self.draws[middle])
        rollout = Rollout(
            engines, engine.tensor, self.generators, held, made / times[middle],
            max(self.draws[middle]), tails[middle], engine.weights_bytes, engine.cache_bytes,
            engine.resident_bytes,
        )  # fmt: skip
        parts = [
            PostTrainingPart("prefill", first, where),
            PostTrainingPart("generation", times[middle], where),
        ]
        return rollout, parts, times

    def _handed_over_s(self, rollout: Rollout) -> float:
        """New weights from the trainers' shards to every engine. [s]"""
        total = 0.0
        if self.trainers > 1 and strategy_of(self.workload).gathers_blocks:
            total += plan_collective(
                self.fabric, "all_gather", range(self.trainers), self.weights, self.nccl
            ).time_s
        if self.split:
            local = self.topology.gpus_per_node
            heads = range(self.trainers, self.topology.world_size, max(1, min(local, rollout.gpus)))
            total += plan_collective(
                self.fabric, "broadcast", (0, *heads), self.weights, self.nccl
            ).time_s
        return total

    def _moved_s(self, offloaded: float) -> float:
        """Training state to the host and back. [s]"""
        node = self.topology.node
        if not offloaded or node is None:
            return 0.0
        lane: float = constants("links")["pcie"][str(node.pcie.generation)]["copy"]
        return 2.0 * offloaded / (lane * node.pcie.lanes)

    def _said(
        self, trained: StepReport, rollout: Rollout | None, parts: list[PostTrainingPart],
        times: list[float], offloaded: float,
    ) -> PostTrainingReport:  # fmt: skip
        where = "training" if self.split else "all"
        if rollout is not None:
            parts = [*parts, *self._updates(trained)]
            if moved := self._moved_s(offloaded):
                parts.append(PostTrainingPart("training state to the host and back", moved, where))
            parts.append(
                PostTrainingPart("weights to the engines", self._handed_over_s(rollout), "all")
            )
        middle = next((p.seconds for p in parts if p.name == "generation"), 0.0)
        steps = sorted(
            self._step_s([replace(p, seconds=p.seconds + (t - middle) * (p.name == "generation"))
                          for p in parts])
            for t in times
        )  # fmt: skip
        p10, median, p90 = (steps[round(q * (len(steps) - 1))] for q in (0.1, 0.5, 0.9))
        shares = tuple(replace(p, share=p.seconds / median) for p in parts)
        terms = terms_of(self.topology.offer)
        hourly = terms.price_per_gpu_hour_usd * self.topology.world_size if terms else None
        placement = "split" if self.split else "colocated" if rollout else "training only"
        return PostTrainingReport(
            self.workload.name, self.asked.algorithm, placement, self.topology.world_size,
            self.trainers, self.asked.generation.overlap, shares, median, p10, p90,
            self.tokens / median, rollout,
            self._needed(trained), trained.memory.capacity_bytes, offloaded,
            hourly * median / HOUR_S if hourly is not None else None, self.workload.steps,
            _ASSUMED if rollout else (),
        )  # fmt: skip

    def _step_s(self, parts: Sequence[PostTrainingPart]) -> float:
        """One after the other; GPUs of their own side by side where the job allows it. [s]"""
        if not self.asked.generation.overlap:
            return math.fsum(p.seconds for p in parts)
        lanes = {
            on: math.fsum(p.seconds for p in parts if p.on == on)
            for on in ("training", "generation", "all")
        }
        return max(lanes["training"], lanes["generation"]) + lanes["all"]
