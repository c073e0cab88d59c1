"""A miniature autograd: which tensors live when, in one block's forward, recompute and backward.

A block's operations name the tensors they read, the one they make, those they save for backward
and the weight gradients they will leave. From that follow, without a rule per method, the bytes
kept between forward and backward and the working set of each.

What it counts as PyTorch does: a saved tensor lives until its last saver has run backward; views
cost nothing; the gradient of a sum is handed on, not copied; a second gradient of a tensor is
added in place; a non-reentrant checkpoint stops recomputing once the last saved tensor is there.
"""

from __future__ import annotations

from sim.blocks.ops import Description, kept_outputs
from sim.records import dataclass


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of one block, in bytes above what lived before it.

    Attributes
    ----------
    saved : float
        Kept from forward to backward.
    forward_peak : float
        Most that lives during forward, of which `saved` and the output stay.
    backward_saved : float
        Share of `saved` still alive at the peak of backward.
    backward_working : float
        All else at that peak: recomputed tensors, gradients of activations (the incoming one left
        out) and weight gradients made so far, if they stay.
    hidden : float
        The block's input or output, and the gradient of it.
    tensors : tuple of (str, float)
        What is saved, by the node that made it.
    """

    saved: float
    forward_peak: float
    backward_saved: float
    backward_working: float
    hidden: float
    tensors: tuple[tuple[str, float], ...]


def footprint(
    described: Description, checkpoint: str = "none", constant: float = 0.0, passing: bool = False
) -> Footprint:
    """Bytes of a block under a checkpoint policy.

    Parameters
    ----------
    described : Description
        The block.
    checkpoint : str
        ``none``, ``full``, ``full-reentrant`` or ``selective-op``.
    constant : float
        Saved whatever the policy (inputs other than the hidden state). [B]
    passing : bool
        A weight's gradient is gone once it is made: a hook has stepped the weight.
    """
    return _Walk(described).footprint(checkpoint, constant, passing)


class _Walk:
    """Forward, recompute and backward of the operations that autograd sees."""

    def __init__(self, described: Description) -> None:
        self.nodes = [op for op in described.ops if op.makes >= 0]
        self.sizes = sizes = described.sizes
        last = {t: i for i, n in enumerate(self.nodes) for t in n.reads}
        done: list[list[int]] = [[] for _ in self.nodes]
        for t, i in last.items():
            if t:
                done[i].append(t)
        # of each: what it makes, bytes for that, scratch and extra, what it is the last to read
        self.forward = [
            (
                n.makes, 0.0 if n.passes and n.makes in n.reads else sizes[n.makes], n.scratch,
                n.extra, read,
            )
            for n, read in zip(self.nodes, done, strict=True)
        ]  # fmt: skip

    def footprint(self, checkpoint: str, constant: float, passing: bool) -> Footprint:
        kept = kept_outputs(self.nodes) if checkpoint == "selective-op" else set()
        saved_by_graph = {t for n in self.nodes for t in n.saves}
        extras = sum([n.extra for n in self.nodes])
        names: list[tuple[str, float]] = []
        if checkpoint != "none":
            names.append(("input", self.sizes[0]))
        if held := saved_by_graph if checkpoint == "none" else kept:
            makers = {op.makes: op.name for op in self.nodes} | {0: "input"}
            names += [(makers[t], self.sizes[t]) for t in sorted(held)]
            names += [
                (f"{n.name}.statistics", n.extra)
                for n in self.nodes
                if n.extra and (checkpoint == "none" or n.makes in kept)
            ]
        if constant:
            names.append(("positions", constant))
        saved = sum(size for _, size in names)
        forward = self._forward(kept if checkpoint != "none" else saved_by_graph, checkpoint)
        alive, working = self._backward(checkpoint, kept, saved_by_graph, constant, extras, passing)
        return Footprint(
            saved=saved,
            forward_peak=forward + constant,
            backward_saved=alive,
            backward_working=working,
            hidden=self.sizes[0],
            tensors=tuple(names),
        )

    def _forward(self, kept: set[int], checkpoint: str) -> float:
        """Peak of forward above the input: outputs live until their last reader unless kept."""
        live = peak = 0.0
        for makes, made, scratch, extra, done in self.forward:
            live += made
            if live + scratch > peak:
                peak = live + scratch
            if checkpoint == "none" or makes in kept:
                live += extra
            for t in done:
                if t not in kept:
                    live -= self.sizes[t]
        return max(peak, live)

    def _backward(
        self,
        checkpoint: str,
        kept: set[int],
        graph: set[int],
        constant: float,
        extras: float,
        passing: bool,
    ) -> tuple[float, float]:
        """Saved bytes alive and working set at the peak of backward."""
        sizes, nodes = self.sizes, self.nodes
        savers: dict[int, int] = {}
        for node in nodes:
            for t in node.saves:
                savers[t] = savers.get(t, 0) + 1
        peak = working = 0.0
        if checkpoint == "none":
            resident = {t: sizes[t] for t in graph}
            alive, extra_alive = sum(resident.values()) + constant, extras
            recomputed_extra = 0.0
        else:
            resident = {t: sizes[t] for t in graph & (kept | {0})}
            # outputs kept but needed by no one are dropped as the recompute reads them, except
            # those it never reaches, which stay to the end
            stop = max(i for i, n in enumerate(nodes) if n.saves)
            unread = {n.makes for n in nodes[stop:]} if checkpoint != "full-reentrant" else set()
            alive = sum(resident.values()) + constant
            alive += sum(sizes[t] for t in kept & unread if t not in resident)
            if 0 not in resident:
                alive += sizes[0]
            extra_alive = sum(n.extra for n in nodes if n.makes in kept)
            recomputed_extra = extras - extra_alive
            working = sum(sizes[t] for t in graph if t not in resident) + recomputed_extra
            dropped = sum(sizes[t] for t in kept - graph - unread)
            # the recompute itself: everything saved so far and what is in flight
            peak = self._forward(graph, "none") - self.sizes[nodes[-1].makes]
            peak += alive + dropped
        alive += extra_alive
        best = (alive, working)
        highest = max(peak, alive + working)
        if peak > alive + working:
            best = (alive, peak - alive)
        outside = sizes[nodes[-1].makes]  # the incoming gradient is counted by the caller
        flow = _Gradients(nodes[-1].makes, outside)
        gradients = 0.0
        for node in reversed(nodes):
            if node.makes not in flow.of:
                continue
            buffer = flow.of.pop(node.makes)
            gradients += node.weight_gradient
            if node.passes:
                flow.holders[buffer] += len(node.reads)
                for t in node.reads:
                    flow.give(t, buffer)
                made = []
            else:
                # the sum into an earlier gradient happens after all of this node's are there
                made = [(t, flow.make(sizes[t])) for t in node.reads]
            now = alive + working + gradients + flow.bytes - outside + node.backward_scratch
            if now > highest:
                highest = now
                best = (alive, now - alive)
            if passing:
                gradients = 0.0
            for t, new in made:
                flow.give(t, new)
            flow.release(buffer)
            for t in node.saves:
                savers[t] -= 1
                if savers[t] == 0:
                    if t in resident:
                        alive -= sizes[t]
                    elif checkpoint != "none":
                        working -= sizes[t]
            if node.extra:
                if checkpoint == "none" or node.makes in kept:
                    alive -= node.extra
                else:
                    working -= node.extra
        return best


class _Gradients:
    """Gradients on their way: buffers that several tensors may hold, gone when none does."""

    __slots__ = ("bytes", "holders", "of", "sizes")

    def __init__(self, tensor: int, size: float) -> None:
        self.of = {tensor: 0}  # buffer of each tensor that has a gradient
        self.sizes, self.holders = [size], [1]
        self.bytes = size

    def make(self, size: float) -> int:
        """A new buffer with one holder."""
        self.sizes.append(size)
        self.holders.append(1)
        self.bytes += size
        return len(self.sizes) - 1

    def release(self, buffer: int) -> None:
        """One holder less."""
        self.holders[buffer] -= 1
        if not self.holders[buffer]:
            self.bytes -= self.sizes[buffer]

    def give(self, tensor: int, buffer: int) -> None:
        """Give a tensor a gradient; a second is added to one of the two that nobody shares."""
        if tensor not in self.of:
            self.of[tensor] = buffer
            return
        first = self.of[tensor]
        if self.holders[first] == 1:
            self.release(buffer)
            return
        self.release(first)
        if self.holders[buffer] == 1:
            self.of[tensor] = buffer
        else:
            self.release(buffer)
            self.of[tensor] = self.make(self.sizes[buffer])
