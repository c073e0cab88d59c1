"""Which layer types make a block: the decoder layer's order, and the kinds of a model's layers."""

from __future__ import annotations

from functools import lru_cache

from sim.blocks import ffn, moe
from sim.blocks.attention import HEADS
from sim.blocks.attention_type import AttentionType
from sim.blocks.delta import DELTA
from sim.blocks.embedding import embedding
from sim.blocks.head import head
from sim.blocks.kda import KDA
from sim.blocks.lightning import LIGHTNING
from sim.blocks.mamba import MAMBA
from sim.blocks.mla import LATENT
from sim.blocks.modules import Position
from sim.blocks.norm import norm
from sim.blocks.ops import Description
from sim.blocks.setting import FULL, Setting
from sim.blocks.short_conv import CONV
from sim.blocks.tape import Tape
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.records import NamedTuple


class BlockKind(NamedTuple):
    """What tells a model's blocks apart.

    Attributes
    ----------
    key : str
        Its name in plans and templates; nobody takes it apart.
    mixture : bool
        Routed experts instead of a dense FFN.
    window : int, optional
        Keys that a query sees at most.
    mixer : str
        What mixes its tokens (`sim.inputs.model.Mixer`).
    network : bool
        It has an FFN.
    state : str
        Of a partly frozen model: ``frozen``, nothing of it is trained, or ``passive``, nor is
        anything below it, so that no gradient passes through it; "" where it is trained.
    wide : bool
        Its products stay in 16 bits, whatever recipe the others have.
    """

    key: str
    mixture: bool = False
    window: int | None = None
    mixer: str = "attention"
    network: bool = True
    state: str = ""
    wide: bool = False

    @property
    def attends(self) -> bool:
        """Whether it has attention, alone or beside another mixer."""
        return "attention" in self.mixer.split("+")


NONE_WIDE = (0, 0)
EMBEDDING, HEAD = BlockKind("embedding"), BlockKind("head")
#: of which a model has the first that takes it
ATTENTIONS = (LATENT, HEADS)
#: in attention's place, by the word of a model's pattern
MIXERS: dict[str, AttentionType] = {
    "delta": DELTA, "mamba": MAMBA, "conv": CONV, "kda": KDA, "lightning": LIGHTNING,
}  # fmt: skip


def attention_of(model: Model) -> AttentionType:
    """The type of attention of a model's layers."""
    return next(kind for kind in ATTENTIONS if kind.takes(model))


def _mix(t: Tape, x: int, kind: BlockKind) -> int:
    """What mixes the tokens of a kind of layer: one, or two side by side."""
    model = t.setting.model
    mixers = (MIXERS.get(word) or attention_of(model) for word in kind.mixer.split("+"))
    with t.training("attention"):
        made = [mixer.play(t, x, kind.window) for mixer in mixers]
    return made[0] if len(made) == 1 else t.add("mixer.add", *made)


def mixers_of(model: Model) -> tuple[AttentionType, ...]:
    """What mixes tokens in some of a model's layers, in attention's place."""
    return tuple(MIXERS[word] for word in model.mixers)


@lru_cache(maxsize=256)
def layer_kinds(
    model: Model, method: Method = FULL, wide: tuple[int, int] = NONE_WIDE
) -> tuple[BlockKind, ...]:
    """The kind of each layer: dense ones of a mixture, sliding ones and mixers are of their own.

    So are those that a method freezes, and below which nothing is trained, and as many at either
    end as `wide` says, whose products stay in 16 bits.
    """
    if any(wide):
        inner = range(wide[0], model.layers - wide[1])
        return tuple(
            kind if i in inner else kind._replace(key=f"{kind.key}.bf16", wide=True)
            for i, kind in enumerate(layer_kinds(model, method))
        )
    if method.kind == "freeze":
        trained, kinds = method.trained_layers(model.layers), []
        flows = "embedding" in method.extra or bool(method.input_require_grads)
        for index, kind in enumerate(layer_kinds(model)):
            flows = flows or index in trained
            state = "" if index in trained else "frozen" if flows else "passive"
            kinds.append(kind._replace(key=f"{kind.key}{'.' * bool(state)}{state}", state=state))
        return tuple(kinds)
    kinds = []
    for index in range(model.layers):
        mixture = model.mixes(index)
        pattern = model.sliding_window_pattern
        mixer, network = model.mixer(index), model.has_network(index)
        slides = (
            "attention" in mixer
            and model.sliding_window
            and (pattern <= 1 or (index + 1) % pattern)
        )
        dense = model.experts and network and not mixture
        key = "layer" + ".dense" * bool(dense) + ".sliding" * bool(slides)
        key += "" if mixer == "attention" else f".{mixer}"
        window = model.sliding_window if slides else None
        kinds.append(BlockKind(key, mixture, window, mixer, network))
    return tuple(kinds)


@lru_cache(maxsize=256)
def block_kinds(
    model: Model, method: Method = FULL, wide: tuple[int, int] = NONE_WIDE
) -> dict[str, BlockKind]:
    """All kinds of a model's blocks under a method by key."""
    return {kind.key: kind for kind in (*layer_kinds(model, method, wide), EMBEDDING, HEAD)}


@lru_cache(maxsize=2048)
def describe(setting: Setting, kind: BlockKind) -> Description:
    """The description of one kind of block, played once for all that read it."""
    setting = setting.in_16_bits if kind.wide else setting
    t = Tape(setting, setting.compiled, learns=not kind.state)
    x = t.tensor(t.stream(setting.model.hidden_size))
    if kind is EMBEDDING:
        with t.training("embedding"):
            embedding(t, x)
    elif kind is HEAD:
        head(t, x)
    else:
        decoder_layer(t, x, kind)
    return t.described()


def decoder_layer(t: Tape, x: int, kind: BlockKind) -> int:
    """Attention and FFN between residual sums, or side by side."""
    model = t.setting.model
    d, four = model.hidden_size, model.norms_per_layer == 4
    if model.one_branch:
        return _one_branch(t, x, kind)
    n = _norm(t, "attention_norm", x, d)
    a = _mix(t, n, kind)
    if model.parallel_block:
        m = _norm(t, "ffn_norm", x, d) if model.norms_per_layer >= 2 else n
        both = t.add("ffn.add", a, _network(t, m, kind))
        return t.add("attention.add", x, both)
    if four:
        a = _norm(t, "post_attention_norm", a, d, Position.POST)
    x = t.add("attention.add", x, a)
    f = _network(t, _norm(t, "ffn_norm", x, d), kind)
    if four:
        f = _norm(t, "post_ffn_norm", f, d, Position.POST)
    return t.add("ffn.add", x, f)


def _network(t: Tape, x: int, kind: BlockKind) -> int:
    """An FFN, or experts."""
    with t.training("ffn"):
        return (moe.mixture if kind.mixture else ffn.feed_forward)(t, x)


def _norm(t: Tape, name: str, x: int, width: int, place: Position = Position.STREAM) -> int:
    """A norm of the layer's own, that is of none of its parts."""
    with t.training("norms"):
        return norm(t, name, x, width, place)


def _one_branch(t: Tape, x: int, kind: BlockKind) -> int:
    """A mixer alone, or an FFN."""
    model = t.setting.model
    n = _norm(t, "attention_norm", x, model.hidden_size)
    if kind.network:
        return t.add("ffn.add", x, _network(t, n, kind))
    return t.add("attention.add", x, _mix(t, n, kind))


def registered(model: Model, norms_first: bool = False) -> dict[str, int]:
    """Where each module of a layer stands as the reference model registers them.

    `norms_first`: before the FFN, as torchtitan does, instead of last.
    """
    norms = ("attention_norm", "post_attention_norm", "ffn_norm", "post_ffn_norm")
    networks = (*ffn.REGISTERED, *moe.REGISTERED)
    after = (*norms, *networks) if norms_first else (*networks, *norms)
    mixers = (name for mixer in mixers_of(model) for name in mixer.registered)
    names = dict.fromkeys((*attention_of(model).registered, *mixers, *after))
    return {name: place for place, name in enumerate(names)}
