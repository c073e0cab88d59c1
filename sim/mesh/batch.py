"""How many sequences and tokens a step has: in all, on a rank, in a micro-step."""

from __future__ import annotations

from sim.records import dataclass


@dataclass(frozen=True, slots=True)
class Batch:
    """Counts of one optimizer step.

    Attributes
    ----------
    sequence_length : int
        Tokens of a sequence. [1]
    micro_batch : int
        Sequences that a data-parallel rank takes at a time. [1]
    accumulation : int
        Micro-steps a step. [1]
    cp : int
        Ranks that hold a part of each sequence. [1]
    data_parallel : int
        Ranks (with their context-parallel partners) that read different sequences. [1]
    split : int
        Ranks that split matrices or layers, and so work on the same tokens. [1]
    real_length : float or None
        Tokens of a sequence that are no padding, on average; None: all. [1]
    """

    sequence_length: int
    micro_batch: int
    accumulation: int
    cp: int = 1
    data_parallel: int = 1
    real_length: float | None = None
    split: int = 1

    @property
    def sequences_per_rank(self) -> int:
        """Sequences a step that one data-parallel rank reads."""
        return self.micro_batch * self.accumulation

    @property
    def sequences_per_micro_step(self) -> int:
        """Sequences that all ranks take at a time."""
        return self.micro_batch * self.data_parallel

    @property
    def sequences(self) -> int:
        """Sequences a step: the global batch."""
        return self.sequences_per_rank * self.data_parallel

    @property
    def tokens(self) -> int:
        """Tokens a step, padding not counted."""
        if self.real_length is not None:
            return round(self.sequences * self.real_length)
        return self.sequences * self.sequence_length

    @property
    def tokens_per_rank(self) -> float:
        """Tokens a step that one rank computes, padding not counted."""
        length = self.sequence_length if self.real_length is None else self.real_length
        return self.sequences_per_rank * length / self.cp

    @property
    def tokens_per_gpu(self) -> float:
        """Tokens a step over the number of ranks, padding not counted: what rates are of."""
        return self.tokens_per_rank / self.split

    @property
    def local_length(self) -> int:
        """Tokens of a sequence that one rank holds, the longest part."""
        return -(-self.sequence_length // self.cp)

    @property
    def local_tokens(self) -> int:
        """Tokens that one rank holds in a micro-step."""
        return self.micro_batch * self.local_length

    def accumulated(self, sequences: int, micro_batch: int | None = None) -> tuple[int, int]:
        """Micro-steps that a global batch of `sequences` takes, and sequences left over.

        Of another micro-batch, if one is given.
        """
        return divmod(sequences, (micro_batch or self.micro_batch) * self.data_parallel)
