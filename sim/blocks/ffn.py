"""Feed-forward networks: gate and up, activation, down; dense here, of experts in `moe`."""

from __future__ import annotations

from collections.abc import Callable

from sim.blocks.linear import linear
from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Map
from sim.blocks.tape import Tape
from sim.blocks.tensor import leave, makes_sums, read_by, summed_tokens

GATED = ("swiglu", "geglu")
#: modules as the reference model registers them
REGISTERED = ("w13", "w1", "w2", "w3", "act")

#: plays the matrix "w1", "w2" or "w3" on a tensor; its output's
Matrix = Callable[[str, int], int]


def feed_forward(t: Tape, x: int) -> int:
    """The dense FFN: ``w1`` gate, ``w3`` up, ``w2`` down; a plain one has ``w1`` up."""
    s, model = t.setting, t.setting.model
    d, f, bias = model.hidden_size, s.split(model.ffn_size), model.bias or model.mlp_bias
    gated = model.ffn in GATED
    fused = gated and model.fused_gate_up
    own = read_by(t, x, *(("w13",) if fused else ("w1", "w3") if gated else ("w1",)))
    makes_sums(t, "w2")
    shapes = {"w1": (d, f), "w3": (d, f), "w13": (d, 2 * f), "w2": (f, d)}
    targets = {"w1": ("gate",) if gated else ("gate", "up"), "w3": ("up",), "w13": ("gate", "up")}

    def play(name: str, read: int) -> int:
        place = Position.OUTPUT if name == "w2" else Position.BRANCH
        source = read if name == "w2" else own(name)
        return linear(
            t, name, source, *shapes[name], place, targets=targets.get(name, ("down",)), bias=bias
        )

    if fused:
        both = play("w13", x)
        if not s.fused_gate:  # halves are views; their gradients are joined
            t.unseen("gate.cat", (), [Map("gate.cat", 4 * t.size(f))])
        return leave(t, play("w2", gate(t, both, both, t.size(f))))
    if gated:
        # two linears read one input, so autograd adds two gradients
        total = [Map("ffn.sum", 3 * s.element * float(summed_tokens(t) * d))]
        made = mlp(t, x, play, float(f), lambda: t.unseen("ffn.sum", (), total, module="w1"))
        return leave(t, made)
    return leave(t, mlp(t, x, play, float(f)))


def mlp(
    t: Tape, x: int, play: Matrix, width: float, joined: Callable[[], None] = lambda: None
) -> int:
    """Activation between matrices; `width` columns a token, `joined` once both have read `x`."""
    size = t.size(width)
    one = play("w1", x)
    if t.setting.model.ffn not in GATED:
        if t.setting.model.ffn == "xielu":
            return play("w2", xielu(t, one, width))
        traffic = t.setting.element * (t.setting.tokens * width)
        out = t.op(
            "gelu", (one,), size, (one,), [Map("gelu", 2 * traffic)], [Map("gelu", 3 * traffic)]
        )
        return play("w2", out)
    two = play("w3", x)
    joined()
    return play("w2", gate(t, one, two, size))


def xielu(t: Tape, x: int, width: float) -> int:
    """xIELU, whose two slopes are trained (Apertus): a square above zero, an exponential below.

    Plain PyTorch, an operation at a time, as it is without its authors' wheel, which no registry
    has: autograd keeps the input, three more tensors and a mask. Of fp32 slopes under autocast some
    of what it makes is fp32.

    Source: transformers 5.24, activations.py, ``XIELUActivation._xielu_python``, its operations
    and what is kept recorded under PyTorch 2.13.
    """
    s = t.setting
    n = s.tokens * width
    t.register("act", OpRole.OTHER, Position.INNER, [("alpha_p", (1,)), ("alpha_n", (1,))])
    if s.compiled:
        forward, backward, kept = 2 * s.element, 3 * s.element, 0.0
    elif s.autocast and not s.frozen:
        forward, backward, kept = 80.0, 188.0, 9.0
    else:
        forward, backward, kept = 28 * s.element + 2, 57 * s.element + 6, 3 * s.element + 1
    launches = (1, 1) if s.compiled else (15, 29)
    return t.op(
        "xielu", (x,), t.size(width), (x,), [Map("xielu", forward * n, launches[0])],
        [Map("xielu", backward * n, launches[1])], extra=kept * n,
        weight_gradient=0.0 if s.frozen else 2 * s.element,
    )  # fmt: skip


def gate(t: Tape, one: int, two: int, size: float) -> int:
    """silu(one) x two. In one kernel, silu is computed again in backward instead of kept."""
    reads = tuple(dict.fromkeys((one, two)))
    if t.setting.fused_gate:
        forward = [Map("gate", 3 * size, 1, "fused")]
        return t.op("gate", reads, size, reads, forward, [Map("gate", 5 * size, 1, "fused")])
    silu = t.op(
        "silu", (one,), size, (one,), [Map("gate.silu", 2 * size)], [Map("gate.silu", 3 * size)]
    )
    return t.op(
        "gate", (silu, two), size, (silu, two),
        [Map("gate.mul", 3 * size)], [Map("gate.mul", 6 * size, 2)],
    )  # fmt: skip
