"""``--require`` and ``--junit``: what an answer must be, for a CI server."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.documents import Document, flatten
from sim.errors import InputError
from sim.files import write_whole
from sim.records import NamedTuple

if TYPE_CHECKING:
    from sim.study.expressions import Condition

REQUIRE = "--require"
_NAMED = 12  # figures that a message names
_AND = re.compile(r"\s+and\s+")


class Requirement(NamedTuple):
    """A condition held against an answer."""

    text: str
    met: bool
    values: Mapping[str, Any]  # figures that it names


def read(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Conditions; those joined by ``and`` one by one, so that each is reported.

    Raises
    ------
    InputError
        One that cannot be read.
    """
    from sim.study.expressions import parse_condition

    found: list[Condition] = []
    for text in texts:
        whole = parse_condition(text, REQUIRE)
        joined = _AND.split(text) if not re.search(r"[()\[\]\"']|\bor\b|\bnot\b", text) else [text]
        found += [parse_condition(t.strip(), REQUIRE) for t in joined] if joined[1:] else [whole]
    return tuple(found)


def hold(answer: Document, conditions: Sequence[Condition], junit: Path | None) -> list[str]:
    """What does not hold, a line each; also writes the JUnit file.

    Raises
    ------
    InputError
        A name that the answer has not, or has several times.
    """
    known = figures(answer)
    found = [_held(condition, known) for condition in conditions]
    if junit is not None:
        write_whole(junit, _xml(found))
    return [_line(r) for r in found if not r.met]


def figures(answer: Document) -> dict[str, Any]:
    """The figures of an answer by their dotted keys; of a list, how many it has (``.count``)."""
    flat = flatten(answer.to_dict())
    lists = {f"{key}.count": len(v) for key, v in flat.items() if isinstance(v, list)}
    return {key: v for key, v in flat.items() if not isinstance(v, list)} | lists


def _held(condition: Condition, known: Mapping[str, Any]) -> Requirement:
    for name, word in condition.compared:
        if isinstance(_get(name, known), str) and not isinstance(_get(word, known), str):
            message = f'{name} is a word, and words stand in quotes: {name} == "{word}"'
            raise InputError.single(REQUIRE, message, condition.text)
    values = {name: known[_key(name, known, condition.text)] for name in condition.names}
    return Requirement(condition.text, condition.holds(values.__getitem__), values)


def _get(name: str, known: Mapping[str, Any]) -> Any:
    """The value of a name; None where it stands for no figure, or for several."""
    try:
        return known[_key(name, known, "")]
    except InputError:
        return None


def _key(name: str, known: Mapping[str, Any], text: str) -> str:
    """The key that a name stands for: it or its end, where that is the least deep of such."""
    if name in known:
        return name
    ends = [key for key in known if key.endswith(f".{name}")]
    least = min((key.count(".") for key in ends), default=0)
    hits = [key for key in ends if key.count(".") == least]
    if len(hits) == 1:
        return hits[0]
    if hits:
        message = f"{name} may be {' or '.join(hits)}; write the whole name"
        raise InputError.single(REQUIRE, message, text)
    from difflib import get_close_matches

    near = get_close_matches(name, [*known, *(k.rpartition(".")[2] for k in known)], 1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    names = list(known)
    more = f" and {len(names) - _NAMED} more, which --json shows" if names[_NAMED:] else ""
    message = f'the result has no "{name}"{hint} It has {", ".join(names[:_NAMED])}{more}'
    raise InputError.single(REQUIRE, message if hint else message.replace(" It", "; it"), text)


def _line(r: Requirement) -> str:
    told = [
        f"{name} is {_said(value)}" if r.values.keys() - {name} else f"is {_said(value)}"
        for name, value in r.values.items() if name != r.text
    ]  # fmt: skip
    return f"requirement not met: {r.text}" + (f" ({', '.join(told)})" if told else "")


def _said(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _xml(found: Sequence[Requirement]) -> str:
    """Requirements as test cases."""
    from xml.etree import ElementTree as Xml

    failures = str(sum(not r.met for r in found))
    suite = Xml.Element("testsuite", name="scaling-sim", tests=str(len(found)), failures=failures)
    for r in found:
        case = Xml.SubElement(suite, "testcase", classname="scaling-sim", name=r.text)
        if not r.met:
            Xml.SubElement(case, "failure", message=_line(r))
    Xml.indent(suite)
    return Xml.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
