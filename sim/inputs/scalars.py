"""Scalars of a file by what their field wants: readers, and what is said of one that is not it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from sim import units
from sim.inputs.nearest import CUTOFF
from sim.inputs.spoken import meant, value_of
from sim.inputs.tree import Branch, Items, Leaf, Si, Tree

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


class Misread(Exception):
    """A scalar that is not what its field wants; carries the message."""


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

    near = get_close_matches(text.lower(), [str(v) for v in values], n=1, cutoff=CUTOFF)
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
    if isinstance(value, Si):
        return float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = repr(value)
    if not isinstance(value, str):
        msg = f'{described(leaf)} is no quantity; write for example "{units.EXAMPLES[dimension]}"'
        raise Misread(msg)
    try:
        return units.parse(value, dimension)
    except units.UnitError as no:
        raise Misread(str(no)) from None


SCALARS: dict[str, Callable[[Leaf, Any], Any]] = {
    "bool": _bool,
    "literal": _literal,
    "str": _text,
    "int": _integer,
    "float": _float,
    "tally": _float,
    "quantity": _quantity,
}
