"""Reads a tree into a spec class: types, units and bounds from the class, all faults collected.

The annotations of the spec classes are the schema.  `Binder.read` walks a class and a tree side by
side; short forms such as ``method: {lora: {rank: 16}}`` are put into the shape of their class first
(`sim.inputs.forms`).  What the class has and the tree lacks is recorded as assumed.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from sim import units
from sim.errors import Fault
from sim.inputs.base import Spec
from sim.inputs.fields import BOUNDS, Alternative, FieldPlan, plan_of, wanted
from sim.inputs.spoken import meant, value_of
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree
from sim.records import dataclass

S = TypeVar("S", bound=Spec)

_LENGTH = re.compile(r"(\d{1,6})\s*([kKM])\Z")
_WHOLE = re.compile(r"[+-]?(?:0|[1-9]\d*)\Z")
_BOOL_WORDS = {
    "yes": "true",
    "on": "true",
    "y": "true",
    "no": "false",
    "off": "false",
    "n": "false",
}
_NULLS = ("", "~", "null", "Null", "NULL")
_CUTOFF = 0.6


Form = Callable[["Binder", Tree, str], "Branch | Spec | None"]
"""Puts a short form into the shape of its class: a table, a finished spec, or None (faulty)."""


class Misread(Exception):
    """A scalar that is not what its field wants; carries the message."""


class Assumption(NamedTuple):
    """A key left out, and the default it took."""

    path: str
    value: Any


@dataclass(slots=True)
class Binder:
    """One reading of one or two files: where faults, origins and assumptions are gathered.

    It knows a class by its fields alone; `sim.inputs.reader.Reader` adds the short forms.
    """

    forms: typing.ClassVar[Mapping[str, Form]] = {}

    folder: Path | None = None  # relative paths in the file start here
    faults: list[Fault] = field(default_factory=list)
    assumed: list[Assumption] = field(default_factory=list)
    given: dict[str, Place] = field(default_factory=dict)  # path -> where its value was written
    quiet: bool = False  # catalogue entries record neither

    def fault(self, place: Place, path: str, message: str) -> None:
        """Record a fault."""
        self.faults.append(place.fault(path, message))

    def read(self, cls: type[S], tree: Tree, path: str) -> S | None:
        """A spec of `cls`, or None after recording why not."""
        if isinstance(tree, Leaf) and isinstance(tree.value, cls):
            self.given[path] = tree.place
            return tree.value
        form = self.forms.get(cls.__name__)
        if form is not None:
            shaped = form(self, tree, path)
            if shaped is None or isinstance(shaped, Spec):
                return cast("S | None", shaped)
            tree = shaped
        if not isinstance(tree, Branch):
            keys = ", ".join(list(plan_of(cls))[:4])
            self.fault(tree.place, path, f"{described(tree)} is no mapping of {keys}, ...")
            return None
        return self.read_table(cls, tree, path)

    def read_table(self, cls: type[S], table: Branch, path: str) -> S | None:
        """A spec of `cls` from a mapping of its own fields."""
        plan = plan_of(cls)
        before = len(self.faults)
        values: dict[str, Any] = {}
        misspelt = []
        for key, sub in table.entries.items():
            where = f"{path}.{key}" if path else key
            known = plan.get(key)
            if known is None:
                place = table.keys.get(key, sub.place)
                below = "" if _MISNOMERS.get(key) in plan else _below(key, plan)
                hint = f'; did you mean "{below}"?' if below else did_you_mean(key, plan)
                misspelt.append(hint)
                self.fault(place, where, "unknown key" + hint)
            else:
                if isinstance(sub, Leaf) and _is_null(sub):
                    sub = Leaf(None, table.keys.get(key, sub.place))  # "key:" ends a line too late
                values[key] = self.value(known, sub, where)
        for key, known in plan.items():
            if key in table.entries:
                continue
            where = f"{path}.{key}" if path else key
            if known.required:
                if not any(f'"{key}"' in hint for hint in misspelt):
                    self.fault(table.place, where, "is missing")
            elif not self.quiet:
                self.assumed.append(Assumption(where, known.default))
        if len(self.faults) > before:
            return None
        return cls.model_construct(**values)

    def partial(self, cls: type[Spec], table: Branch, keys: typing.Iterable[str]) -> dict[str, Any]:
        """Some top-level fields of `cls`, a key that is left out taking its default."""
        plan = plan_of(cls)
        values: dict[str, Any] = {}
        for key in keys:
            sub, known = table.entries.get(key), plan.get(key)
            if known is None:
                assert sub is not None
                self.fault(sub.place, key, "unknown key" + did_you_mean(key, plan))
            elif sub is not None:
                values[key] = self.value(known, sub, key)
            elif known.required:
                self.fault(table.place, key, "is missing")
            else:
                self.assumed.append(Assumption(key, known.default))
                values[key] = known.default
        return values

    def value(self, known: FieldPlan, tree: Tree, path: str) -> Any:
        """The value of one field; faults are recorded."""
        kinds = {a.kind: a for a in known.alternatives}
        self.given[path] = tree.place
        if isinstance(tree, Leaf) and _is_null(tree):
            if "none" in kinds:
                return None
            if "spec" in kinds or "tuple" in kinds or not known.required:
                message = "is empty; give it a value or leave the key out"
            else:
                message = "is empty"
            self.fault(tree.place, path, message)
            return None
        if "spec" in kinds:
            return self.read(kinds["spec"].detail, tree, path)
        if "tuple" in kinds:
            return self.items(kinds["tuple"].detail, tree, path)
        if not isinstance(tree, Leaf):
            self.fault(tree.place, path, f"{described(tree)} is not {wanted(known.alternatives)}")
            return None
        return self.scalar(known.alternatives, tree, path)

    def scalar(self, alternatives: tuple[Alternative, ...], leaf: Leaf, path: str) -> Any:
        """A scalar read by the first alternative that takes it."""
        messages: list[str] = []
        for alternative in alternatives:
            if alternative.kind == "none":
                continue
            try:
                value = _SCALARS[alternative.kind](leaf, alternative.detail)
            except Misread as no:
                messages.append(str(no))
                continue
            for name, limit in alternative.bounds:
                words, holds = BOUNDS[name]
                if not holds(value, limit):
                    self.fault(leaf.place, path, f"{described(leaf)} is not {words} {limit:g}")
                    return None
            return value
        message = messages[0]
        if len(messages) > 1:
            message = f"{described(leaf)} is not {wanted(alternatives)}"
            hint = next((m for m in messages if ";" in m), "")
            message += hint and ";" + hint.partition(";")[2]
        self.fault(leaf.place, path, message)
        return None

    def items(self, alternatives: tuple[Alternative, ...], tree: Tree, path: str) -> Any:
        """A tuple; a lone text or number is a tuple of one."""
        if isinstance(tree, Leaf) and alternatives[0].kind in ("str", "int"):
            return (self.scalar(alternatives, tree, path),)
        if not isinstance(tree, Items):
            self.fault(tree.place, path, f"{described(tree)} is no list")
            return None
        known = FieldPlan(alternatives, True, None)
        return tuple(self.value(known, sub, f"{path}[{i}]") for i, sub in enumerate(tree.items))


def _is_null(leaf: Leaf) -> bool:
    return leaf.value is None or (not leaf.quoted and leaf.value in _NULLS)


def described(tree: Tree) -> str:
    """A value as the user wrote it, shortened."""
    if isinstance(tree, Items):
        return f"a list of {len(tree.items)}"
    if isinstance(tree, Branch):
        keys = ", ".join(list(tree.entries)[:3])
        return f"a mapping of {keys}" if keys else "an empty mapping"
    text = tree.value if isinstance(tree.value, str) else repr(tree.value)
    if len(text) > 60:
        text = text[:57] + "..."
    return f'"{text}"' if tree.quoted or not _NUMBERLIKE.match(text) else text


_NUMBERLIKE = re.compile(r"[+-]?[\d.][\w.+-]*\Z")


def _below(key: str, plan: Mapping[str, FieldPlan]) -> str:
    """The dotted path of a key of this name, or of what others call so, one level down."""
    wanted_key = _MISNOMERS.get(key, key)
    for name, known in plan.items():
        for kind, detail, _ in known.alternatives:
            if kind == "spec" and wanted_key in plan_of(detail):
                return f"{name}.{wanted_key}"
    return ""


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """A hint at the nearest known key, or the list of keys where it is short."""
    names = list(known)
    alias = _MISNOMERS.get(word)
    if alias in names:
        return f'; did you mean "{alias}"?'
    folded = {n.lower().replace("_", "").replace("-", ""): n for n in names}
    bare = word.lower().replace("_", "").replace("-", "")
    if bare in folded:
        return f'; did you mean "{folded[bare]}"?'
    from difflib import get_close_matches

    near = get_close_matches(word, names, n=1, cutoff=_CUTOFF)
    if not near and len(bare) >= 2:  # "h100" is the beginning of several
        near = [n for f, n in folded.items() if f.startswith(bare)][:4]
    if near:
        return "; did you mean " + " or ".join(f'"{n}"' for n in near) + "?"
    return f"; known are {', '.join(names)}" if 0 < len(names) <= 12 else ""


# what other tools call these keys
_MISNOMERS = {
    "seq_len": "sequence_length", "seq_length": "sequence_length",
    "sequence_len": "sequence_length", "max_seq_length": "sequence_length",
    "context_length": "sequence_length", "batch_size": "micro_batch",
    "micro_batch_size": "micro_batch", "per_device_train_batch_size": "micro_batch",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "gradient_accumulation_steps": "gradient_accumulation",
    "accumulation": "gradient_accumulation", "max_steps": "steps", "num_train_epochs": "epochs",
    "max_tokens": "tokens", "dtype": "precision", "bf16": "precision", "fp16": "precision",
    "fp8": "precision", "mixed_precision": "precision", "torch_dtype": "precision",
    "zero_stage": "parallelism", "fsdp": "parallelism", "deepspeed": "parallelism",
    "strategy": "parallelism", "lora": "method", "qlora": "method", "finetuning_type": "method",
    "cutoff_len": "sequence_length", "max_length": "sequence_length", "optim": "optimizer",
    "model_name_or_path": "model", "lora_rank": "rank", "global_batch_size": "global_batch",
    "train_batch_size": "global_batch",
    "gradient_checkpointing": "activation_checkpointing", "recompute": "activation_checkpointing",
    "attn_implementation": "attention", "torch_compile": "compile", "base_model": "model",
    "r": "rank", "lora_r": "rank", "target_modules": "targets", "num_layers": "layers",
    "num_hidden_layers": "layers", "intermediate_size": "ffn_size",
    "num_attention_heads": "heads", "num_key_value_heads": "kv_heads",
    "max_position_embeddings": "max_positions", "dp_replicate": "replicate",
    "cp": "context_parallel", "tp": "tensor_parallel", "pp": "pipeline_parallel",
    "data_parallel_shard": "shard", "data_parallel_replicate": "replicate",
    "ep": "expert_parallel", "expert_parallel_degree": "expert_parallel",
    "tensor_parallel_degree": "tensor_parallel", "pipeline_parallel_degree": "pipeline_parallel",
    "num_nodes": "nodes", "gpu_count": "gpus", "gpus_per_node": "gpus",
    "num_gpus": "gpus", "bandwidth": "rate", "nic": "nics", "tdp": "power_limit",
    "hbm_bandwidth": "memory_bandwidth", "price": "price_per_gpu_hour",
}  # fmt: skip


# --- scalars -------------------------------------------------------------------------------------


def _bool(leaf: Leaf, _: Any) -> bool:
    value = leaf.value
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and not leaf.quoted and value in ("true", "false"):
        return value == "true"
    right = _BOOL_WORDS.get(str(value).lower()) or str(value).lower()
    if right in ("true", "false"):
        msg = f"{described(leaf)} is not true or false; write {right}"
    else:
        msg = f"{described(leaf)} is not true or false"
    raise Misread(msg)


def _literal(leaf: Leaf, values: Collection[Any]) -> Any:
    text = str(leaf.value)
    if text in values and not isinstance(leaf.value, bool):
        return text
    spoken = None if isinstance(leaf.value, bool) else value_of(text, values)
    if spoken is not None:
        return spoken
    if way := meant(text):
        msg = f"{described(leaf)} is not one of {', '.join(map(str, values))}; {way}"
        raise Misread(msg)
    from difflib import get_close_matches

    near = get_close_matches(text.lower(), [str(v) for v in values], n=1, cutoff=_CUTOFF)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    msg = f"{described(leaf)} is not one of {', '.join(map(str, values))}{hint}"
    raise Misread(msg)


def _text(leaf: Leaf, _: Any) -> str:
    if isinstance(leaf.value, str):
        return leaf.value
    msg = f"{described(leaf)} is not a text; put it in quotes"
    raise Misread(msg)


def _integer(leaf: Leaf, detail: Any) -> int:
    value = leaf.value
    if detail == "tokens" and isinstance(value, str) and (length := _LENGTH.match(value.strip())):
        return int(length[1]) * (1024 if length[2] in "kK" else 1024**2)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    text = value.strip() if isinstance(value, str) else ""
    if _WHOLE.match(text) and len(text) < 19:
        return int(text)
    if "e" in text.lower() or text[-1:] in ("K", "M", "B", "T"):
        try:
            number = units.parse_count(text)
        except units.UnitError:
            number = 0.5
        if number.is_integer() and abs(number) < 2**53:
            return int(number)
    msg = f"{described(leaf)} is not a whole number"
    if re.match(r"0[ox]?\w+\Z", text):
        msg += "; write it in decimal, without a leading zero"
    elif "_" in text:
        msg += "; write it without underscores"
    elif ":" in text:
        msg += "; a colon makes no number"
    elif isinstance(value, bool) or text.lower() in ("true", "false"):
        msg += "; true and false are none"
    raise Misread(msg)


def _float(leaf: Leaf, _: Any) -> float:
    value = leaf.value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value - value != 0:
            msg = f"{described(leaf)} is not a finite number"
            raise Misread(msg)
        return float(value)
    if isinstance(value, str):
        try:
            return units.parse_count(value)
        except units.UnitError as no:
            raise Misread(str(no)) from None
    msg = f"{described(leaf)} is not a number"
    raise Misread(msg)


def _quantity(leaf: Leaf, dimension: units.Dimension) -> float:
    value = leaf.value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = repr(value)
    if not isinstance(value, str):
        msg = f'{described(leaf)} is no quantity; write for example "{units.EXAMPLES[dimension]}"'
        raise Misread(msg)
    try:
        return units.parse(value, dimension)
    except units.UnitError as no:
        raise Misread(str(no)) from None


_SCALARS: dict[str, Callable[[Leaf, Any], Any]] = {
    "bool": _bool,
    "literal": _literal,
    "str": _text,
    "int": _integer,
    "float": _float,
    "tally": _float,
    "quantity": _quantity,
}
