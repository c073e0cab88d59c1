"""Shell scripts as far as they are read: variables, sums, words of a line, overrides."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator

from sim.inputs.python_names import Names, Scope
from sim.inputs.python_values import Values
from sim.inputs.tree import Branch, Leaf, Place

_LONGEST = 4096
_BLANK = "\0"  # stands for a blank that parts no words
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::[-=]([^}]*))?\}|(\w+))")
#: what stands in parentheses, with one pair more within, and a command or sum that is put in
_WITHIN = r"(?:[^()\n]|\([^()\n]*\))"
_PUT_IN = rf"\$\((?:[^()\n]|\({_WITHIN}*\))*\)"
_SUBSTITUTED = re.compile(_PUT_IN)
_ASSIGNED = re.compile(
    rf"(?:;|&&)?\s*(?:export\s+|local\s+|declare\s+)?"
    rf"([A-Za-z_]\w*)=([\"']?{_PUT_IN}[\"']?|[^\s#;]+)\s*"
)
_UNSET = re.compile(r"\s*unset\s+(\w+)")
_APPENDED = re.compile(r"\s*([A-Za-z_]\w*)\+=([\"']?[^\s#;]*)")
_GOES_ON = re.compile(r"[\\`^]\s*$")  # of a shell, of PowerShell, of Windows' own
_DRIVE = re.compile(r"(?<![\w$])[A-Za-z]:\\")
#: an option and its value in one quotation, or several options
_SEVERAL = re.compile(r"^(?:\w+=)?--[\w-]+ | --")
_OVERRIDE = re.compile(r"\+{0,2}([A-Za-z_]\w*(?:\.\w+)*)=(.*)", re.DOTALL)
#: a sum in a shell script, of numbers once its variables are put in
_SUM = re.compile(rf"\$\(\(({_WITHIN}{{1,200}})\)\)")
_TERM = r"[\s(]*(?:0|[1-9]\d{0,11})[\s)]*"
_TERMS = re.compile(rf"{_TERM}(?:[-+*/]{_TERM}){{0,8}}")


def assigned(line: str) -> Iterator[tuple[str, str]]:
    """Variables that a line begins with, one or several, and what they are set to."""
    line, at = line.strip(), 0
    while found := _ASSIGNED.match(line, at):
        yield found[1], found[2]
        at = found.end()


def assign(line: str, values: dict[str, str], later: bool) -> None:
    """Take what a line sets; of a variable that an indented line sets otherwise nothing is known.

    Parameters
    ----------
    line : str
        Of a script.
    values : dict of str to str
        Variables so far, which change.
    later : bool
        A launch stands above it: what is set already was what that had.
    """
    if unset := _UNSET.match(line):
        values.pop(unset[1], None)
    elif (more := _APPENDED.match(line)) and more[1] in values:
        values[more[1]] += more[2].strip("\"'")
    for key, written in assigned(line):
        value = own_default(key, written.strip("\"'"), values.get(key))
        if key in values and "$((" in value:  # L=$((L * 2))
            value = known(value, values)
        if key not in values or (not later and not line[0].isspace()):
            values[key] = value
        elif values[key] != value and not later:
            values[key] = f"${{{key}}}"


def own_default(name: str, value: str, before: str | None) -> str:
    """``NODES=${NODES:-4}`` is 4 where nothing set it before; ``ARGS="$ARGS --more"``."""

    def own(match: re.Match[str]) -> str:
        if name not in (match[1], match[3]):
            return match[0]
        return before if before is not None else match[2] or match[0]

    return _VARIABLE.sub(own, value)


def commands(text: str) -> list[str]:
    """Lines of a script, each with those in which it goes on."""
    found: list[str] = []
    continued = False
    for line in text.split("\n"):
        if continued:
            found[-1] += f"\n{line}"
        else:
            found.append(line)
        continued = goes_on(line)
    return found


def goes_on(line: str) -> bool:
    """Whether a command's line is continued in the next."""
    return bool(_GOES_ON.search(line))


def words(line: str) -> list[str]:
    """Words of a line, which may go on in the next; options within one quotation apart.

    A sum or a command that is put in, ``$((2 * 4))`` or ``$(nvidia-smi -L | wc -l)``, stays whole.
    """
    line = _SUBSTITUTED.sub(lambda m: m[0].replace(" ", _BLANK), _GOES_ON.sub("", line))
    if _DRIVE.search(line):  # a path of Windows, whose backslashes quote nothing
        line = line.replace("\\", "\\\\")
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a quotation that goes on in the next line
        words = line.replace('"', " ").replace("'", " ").split()
    apart = [w for word in words for w in (word.split() if _SEVERAL.search(word) else [word])]
    return [word.replace(_BLANK, " ") for word in apart]


def known(value: str, values: dict[str, str]) -> str:
    """A value with the variables that the script sets itself put in."""

    def put(match: re.Match[str]) -> str:
        return values.get(match[1] or match[3], match[2] or match[0])

    for _ in range(3):
        if len(value) > _LONGEST:  # variables in variables may grow without end
            break
        value = _SUM.sub(lambda match: _sum(match, values), _VARIABLE.sub(put, value))
    return value


def _sum(match: re.Match[str], values: dict[str, str]) -> str:
    """What a sum of a shell comes to, whose variables need no dollar; as written where unknown."""

    def put(name: re.Match[str]) -> str:
        others = {key: value for key, value in values.items() if key != name[0]}
        return known(values.get(name[0], "?"), others)

    terms = re.sub(r"[A-Za-z_]\w*", put, match[1])
    if not _TERMS.fullmatch(terms):
        return match[0]
    try:
        tree = ast.parse(terms.strip().replace("/", "//"), mode="eval").body
    except SyntaxError:  # parentheses that do not match
        return match[0]
    worth = Values(Names(ast.Module([], []))).tree(tree, Scope(None), Place(""))
    return (
        str(worth.value) if isinstance(worth, Leaf) and isinstance(worth.value, int) else match[0]
    )


def overrides(
    text: str, name: str, values: dict[str, str], outermost: frozenset[str] = frozenset()
) -> Branch:
    """``a.b=c`` of a command, as nested tables, each with its line; ``a=c`` of `outermost` keys."""
    tree = Branch({}, Place(name))
    for number, line in enumerate(text.splitlines(), 1):
        for word in [] if line.lstrip().startswith("#") else words(line):
            if found := _OVERRIDE.fullmatch(word):
                *above, last = found[1].split(".")
                if not above and last not in outermost:  # a variable of the shell
                    continue
                branch, place = tree, Place(name, number)
                for part in above:
                    inner = branch.entries.setdefault(part, Branch({}, place))
                    branch = inner if isinstance(inner, Branch) else Branch({}, place)
                branch.entries[last] = Leaf(known(found[2], values), place)
                branch.keys[last] = place
    return tree
