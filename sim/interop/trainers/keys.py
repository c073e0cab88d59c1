"""A mapping of another tool, read key by key into a job of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from sim.data import table
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0", "none"})
_NOTHING = frozenset({"", "~", "null"})
_OFF = _FALSE | {"0.0"}
AUTO = "auto"
_OCTAL = re.compile(r"[-+]?0[0-9_]+")
WHY_NO_MATTER = "no effect on time or memory of a step"


@cache
def idle(tool: str) -> str:
    """A pattern of keys of a trainer that change neither the time nor the memory of a step."""
    return "|".join(table("trainer_keys")[tool]["idle"])


class Keys:
    """A mapping of another tool, read key by key; what nobody asked for is left over.

    Parameters
    ----------
    job : Translation
        Where faults and values go.
    branch : Branch
        The mapping.
    whose : str
        Why a default is taken: "axolotl's default".
    prefix : str
        What to call its keys by: ``fsdp_config.``.

    Attributes
    ----------
    unsaid : dict of str
        Keys that were taken out, as only a run knows their value, and where: defaults that stand
        for them name it.
    """

    def __init__(self, job: Translation, branch: Branch, whose: str = "", prefix: str = "") -> None:
        self.job, self.branch, self.whose, self.prefix = job, branch, whose, prefix
        self.seen: set[str] = set()
        self.unsaid: dict[str, str] = {}

    @classmethod
    def of(cls, source: Source, job: Translation, whose: str = "") -> Keys:
        """Those of a file; one that is a list or a scalar has none."""
        return cls(job, source.branch, whose)

    def tree(self, *names: str) -> Tree | None:
        """What stands under the first of some names; an empty value is none."""
        found = None
        for name in names:
            if name in self.branch.entries:
                self.seen.add(name)
                inner = self.branch.entries[name]
                empty = isinstance(inner, Leaf) and (
                    inner.value is None
                    or (not inner.quoted and str(inner.value).lower() in _NOTHING)
                )
                if found is None and not empty:
                    found = inner
        return found

    def has(self, *names: str) -> bool:
        """Whether one of some names is there and not empty."""
        return self.tree(*names) is not None

    def named(self, *names: str) -> str:
        """Which of some names is there, as faults call it."""
        return self.prefix + next((n for n in names if n in self.branch.entries), names[0])

    def place(self, *names: str) -> Place:
        """Where a key is written."""
        for name in names:
            if name in self.branch.entries:
                return self.branch.keys.get(name, self.branch.entries[name].place)
        return self.branch.place

    def text(self, *names: str) -> str:
        """A text; "" where there is none."""
        found = self.tree(*names)
        if found is None:
            return ""
        if not isinstance(found, Leaf):
            self.fault("is no text", *names)
            return ""
        return str(found.value).lower() if isinstance(found.value, bool) else str(found.value)

    def flag(self, *names: str) -> bool | None:
        """True, false, or None where it is left out or automatic."""
        word = self.text(*names).lower()
        if not word or word == AUTO:
            return None
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        self.fault(f'"{word}" is not true or false', *names)
        return None

    def is_on(self, *names: str) -> bool:
        """Whether a key that may be a flag or the name of a way is set."""
        return self.text(*names).lower() not in ("", *_FALSE)

    def number(self, *names: str) -> float | None:
        """A number; None where it is left out, automatic or known only at run time."""
        word = self.text(*names).strip()
        if not word or word.lower() == AUTO:
            return None
        if "$" in word or "{" in word:
            why = f"{word} is known only at run time"
            self.job.skip(self.place(*names), self.named(*names), why, True)
            return None
        if _OCTAL.fullmatch(word) and self.branch.place.source.endswith((".yml", ".yaml")):
            self.fault(f"{word} is octal to YAML; write it without leading zeros", *names)
            return None
        try:
            value = float(word.replace("_", ""))
        except ValueError:
            self.fault(f'"{word}" is no number', *names)
            return None
        if value - value != 0:
            self.fault(f"{word} is not finite", *names)
            return None
        return value

    def count(self, *names: str) -> int | None:
        """A whole number, as `number`."""
        value = self.number(*names)
        if value is None:
            return None
        if not value.is_integer():
            self.fault(f"{value:g} is not a whole number", *names)
            return None
        return int(value)

    def words(self, *names: str) -> list[str]:
        """A list of texts, or one text as a list of one."""
        found = self.tree(*names)
        if isinstance(found, Items):
            return [str(x.value) for x in found.items if isinstance(x, Leaf)]
        return [str(found.value)] if isinstance(found, Leaf) else []

    def inner(self, *names: str) -> Keys:
        """A mapping below; an empty one where there is none."""
        found = self.tree(*names)
        if found is not None and not isinstance(found, Branch):
            self.fault("is no mapping", *names)
        branch = found if isinstance(found, Branch) else Branch({}, self.branch.place)
        return Keys(self.job, branch, self.whose, f"{self.named(*names)}.")

    def put(self, key: str, value: Any, *names: str) -> None:
        """Take a value made of the key of some names."""
        written = self.text(*names) if isinstance(self.tree(*names), Leaf) else None
        found = next((self.branch.entries[n] for n in names if n in self.branch.entries), None)
        place = found.place if found is not None else self.branch.place
        self.job.take(key, value, place, self.named(*names), written)

    def put_count(self, key: str, *names: str, default: int | None = None) -> None:
        """Take a whole number as it is; else the trainer's default, where it has one."""
        self._put_or(key, self.count(*names), names, default)

    def put_flag(self, key: str, *names: str, default: bool | None = None) -> None:
        """Take true or false as it is, as `put_count`."""
        self._put_or(key, self.flag(*names), names, default)

    def _put_or(self, key: str, value: Any, names: tuple[str, ...], default: Any) -> None:
        if value is not None:
            self.put(key, value, *names)
        self.note(key, *names)
        if default is not None:
            self.suppose(key, default)

    def note(self, key: str, *names: str) -> None:
        """Have a default of our key say which line has the value that it stands for."""
        for name in names:
            if name in self.unsaid:
                self.job.unsaid[key] = self.unsaid[name]

    def put_on(self, key: str, *names: str, value: Any = True) -> None:
        """Take a value where a flag is set."""
        if self.flag(*names):
            self.put(key, value, *names)

    def put_off(self, key: str, *names: str) -> None:
        """Take false where a flag says false; true is the default here too."""
        if self.flag(*names) is False:
            self.put(key, False, *names)

    def put_degree(self, key: str, *names: str) -> None:
        """Take into how many parts something is cut, where it is cut at all."""
        value = self.count(*names)
        if value and value > 1:
            self.put(key, value, *names)

    def put_ulysses(self, *names: str) -> bool:
        """Take over how many ranks all-to-alls split sequences; whether they do."""
        value = self.count(*names)
        split = bool(value and value > 1)
        if split:
            self.put("parallelism.context_parallel", value, *names)
            self.put("parallelism.context_parallel_kind", "ulysses", *names)
        return split

    def suppose(self, key: str, value: Any) -> None:
        """Take the trainer's default, unless the key is there already."""
        self.job.suppose(key, value, self.whose)

    def fault(self, message: str, *names: str) -> None:
        """Record a fault at a key, once however often it is read."""
        found = self.place(*names).fault(self.named(*names), message)
        if found not in self.job.faults:
            self.job.faults.append(found)

    def matters(self, why: str, *names: str) -> None:
        """Say that a key changes the run and is not followed."""
        self.seen.update(names)
        self.job.skip(self.place(*names), self.named(*names), why, True)

    def matter_said(self, reasons: Mapping[str, str]) -> None:
        """`matters`, for each key of some that is set, by name; what is off is left aside."""
        for name, why in reasons.items():
            found = self.tree(name)
            said = found is not None and getattr(found, "entries", getattr(found, "items", True))
            if said and isinstance(found, Branch) and self.inner(name).flag("enabled") is False:
                said = False
            value = str(getattr(found, "value", "")).lower()
            if said and value not in _OFF:
                self.matters(why, name)
            else:
                self.leave("off", name)

    def settle(self, *tools: str) -> None:
        """Say of keys that no reader takes which change a run, and leave aside those that do not.

        Parameters
        ----------
        *tools : str
            Tables of ``data/trainer_keys.toml``.
        """
        for tool in tools:
            self.matter_said(table("trainer_keys")[tool]["matters"])
            self.leave_matching(WHY_NO_MATTER, idle(tool))

    def settle_tables(self, tool: str, title: str) -> None:
        """Judge every key at any depth that no reader took, and say of the rest that it is unread.

        Parameters
        ----------
        tool : str
            A table of ``data/trainer_keys.toml`` whose names have those of their tables in front:
            ``debug.deterministic``.
        title : str
            The tool, as messages call it.
        """
        known, taken = {(a.place, a.theirs) for a in self.job.aside}, self._taken()
        elsewhere, without = list[str](), list[str]()
        pattern, matters = re.compile(idle(tool)), table("trainer_keys")[tool]["matters"]
        for name, inner in self.branch.entries.items():
            theirs = self.prefix + name
            below = isinstance(inner, Branch) and theirs not in matters
            if (self.place(name), theirs) in known or (not below and theirs in taken):
                self.seen.add(name)
            elif isinstance(inner, Leaf) and str(inner.value).startswith("${oc.select:"):
                elsewhere.append(name)  # Hydra: it is what another key says
            elif pattern.fullmatch(theirs):
                without.append(name)
            elif isinstance(inner, Branch) and below:
                self.inner(name).settle_tables(tool, title)
            elif theirs in matters:
                self.matter_said({name: matters[theirs]})
        self.leave("as another key has it", elsewhere)
        self.leave(WHY_NO_MATTER, without)
        self.rest(title)

    def leave(self, why: str, names: str | Iterable[str]) -> None:
        """Leave some keys aside, those that are there; a text holds several names."""
        taken = self._taken()
        for name in names.split() if isinstance(names, str) else list(names):
            if name in self.branch.entries:
                if self.has(name) and self.prefix + name not in taken:
                    self.job.skip(self.place(name), self.prefix + name, why)
                self.seen.add(name)

    def _taken(self) -> set[str]:
        """Keys of the file that became one of ours or were said to matter, and those above them."""
        source = self.branch.place.source
        known = [(t.place, t.theirs) for t in self.job.took]
        known += [(a.place, a.theirs) for a in self.job.aside if a.matters]
        return {
            ".".join(parts[:end])
            for place, key in known if place.source == source
            for parts in [key.split(".")] for end in range(1, len(parts) + 1)
        }  # fmt: skip

    def leave_matching(self, why: str, pattern: str = ".*") -> None:
        """Leave aside every key not read so far that a pattern matches."""
        found = re.compile(pattern)
        self.leave(why, (n for n in self.branch.entries
                         if n not in self.seen and found.fullmatch(n)))  # fmt: skip

    def rest(self, title: str) -> None:
        """Leave aside what nobody asked for; a key of a known tool is a hint, not a fault."""
        self.unread(f"no key that this reader of {title} files follows")

    def unread(self, why: str) -> None:
        """Leave aside what is left, of which nobody knows whether it changes a run."""
        begun = len(self.job.aside)
        self.leave_matching(why)
        self.job.unread += self.job.aside[begun:]
