"""Write from the code what says what it has: pages of options, keys and codes, schemas of files.

What a key is about is the comment that stands beside it in its spec.
"""

from __future__ import annotations

import ast
import inspect
import io
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click

from sim.cli import VERBS, group
from sim.inputs.base import Spec
from sim.inputs.codes import codes
from sim.inputs.config import text_of
from sim.inputs.fields import Alternative, plan_of
from sim.inputs.form_node import LENT
from sim.inputs.schema import SIDES, described, file_schema

ROOT = Path(__file__).parents[1]
NOTE = "Written by `python scripts/write_reference.py` from the code; CI holds it to it.\n"


def cli_page() -> str:
    """Every verb with its arguments and options."""
    lines = ["# Every verb and option", "", NOTE]
    for verb in VERBS:
        command = group.get_command(click.Context(group), verb)
        assert command is not None
        lines += _command(verb, command)
        for name, inner in getattr(command, "commands", {}).items():
            lines += _command(f"{verb} {name}", inner)
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"scaling-sim {name}")
    yield f"## {name}"
    yield ""
    yield f"    {' '.join([f'scaling-sim {name}', *command.collect_usage_pieces(context)])}"
    yield ""
    yield " ".join((command.help or "").split())
    yield ""
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if options:
        yield "| option | value | default | |"
        yield "| --- | --- | --- | --- |"
        for option in options:
            yield _option(option, context)
        yield ""


def _option(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else option.make_metavar(context)
    told = option.default if option.show_default or isinstance(option.type, click.Choice) else None
    default = f"`{told}`" if isinstance(told, str | int | float) and not option.is_flag else ""
    more = " Repeatable." if option.multiple and "epeat" not in (option.help or "") else ""
    return _row(names, f"`{value}`" if value else "", default, (option.help or "") + more)


def keys_page() -> str:
    """Every key of both files, by the mapping it stands in."""
    lines = ["# Every key", "", NOTE, "Quantities carry a unit, and many keys have short forms: "
             "[inputs.md](inputs.md).", ""]  # fmt: skip
    for side, spec in SIDES.items():
        for cls, paths in _reached(spec, side).items():
            lines += [f"## {cls.__name__}: `{'`, `'.join(paths)}`", ""]
            lines += [(cls.__doc__ or "").strip().partition("\n")[0], ""]
            lines += ["| key | may be | default | |", "| --- | --- | --- | --- |"]
            about = comments(cls)
            for name, field in plan_of(cls).items():
                words = _default(field.alternatives, field.default)
                lent = name in LENT.get(cls.__name__, ())
                default = "its GPU's" if lent else "required" if field.required else words
                kind = described(field.alternatives)
                lines.append(_row(f"`{name}`", kind, default, about.get(name, "")))
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def codes_page() -> str:
    """Every code of a fault or a warning."""
    lines = ["# Every code", "", NOTE, "A fault ends with its code in brackets, a warning begins "
             "with it: `scaling-sim explain CODE` prints what stands here.", "",
             "| code | is about | why |", "| --- | --- | --- |"]  # fmt: skip
    lines += [_row(f"`{c.code}`", c.title, c.why) for c in codes()]
    return "\n".join(lines) + "\n"


def _default(alternatives: tuple[Alternative, ...], value: object) -> str:
    if isinstance(value, Spec):
        return "a mapping of its defaults"
    text = text_of(alternatives, value)
    return f"`{text}`" if len(text) < 60 else "see the file"


def _reached(cls: type[Spec], path: str) -> dict[type[Spec], list[str]]:
    """Specs within a spec, each with where it stands."""
    found: dict[type[Spec], list[str]] = {}

    def walk(cls: type[Spec], path: str) -> None:
        known = found.setdefault(cls, [])
        if path in known or len(known) > 2:
            return
        known.append(path)
        for name, field in plan_of(cls).items():
            for inner, many in _specs(field.alternatives):
                walk(inner, f"{path}.{name}{'[]' if many else ''}")

    walk(cls, path)
    return found


def _specs(alternatives: tuple[Alternative, ...]) -> Iterator[tuple[type[Spec], bool]]:
    for kind, detail, _ in alternatives:
        if kind == "spec":
            yield detail, False
        elif kind == "tuple":
            yield from ((inner, True) for inner, _ in _specs(detail))


#: a comment to ruff, which says nothing of the key
FORMATTER = "# fmt: skip"


def comments(cls: type[Spec]) -> dict[str, str]:
    """Comments beside or above the keys of a spec, those of its bases too."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, Spec) and base is not Spec:
            found |= _own_comments(base)
    return found


def _own_comments(cls: type[Spec]) -> dict[str, str]:
    """Comments on the lines of each key, and those that stand right above it."""
    text = textwrap.dedent(inspect.getsource(cls))
    said = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and token.string != FORMATTER
    }
    lines = text.splitlines()
    found = {}
    (body,) = ast.parse(text).body
    assert isinstance(body, ast.ClassDef)
    for field in body.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        first = field.lineno
        while lines[first - 2].lstrip().startswith("#"):
            first -= 1
        of = [said[line] for line in range(first, (field.end_lineno or first) + 1) if line in said]
        found[field.target.id] = " ".join(of)
    return found


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def main() -> int:
    """Write the files; with ``--check``, say whether they are as the code says."""
    stale = 0
    files = {
        "docs/reference-cli.md": cli_page(),
        "docs/reference-keys.md": keys_page(),
        "docs/codes.md": codes_page(),
    }
    files |= {f"schemas/{side}.schema.json": file_schema(side).to_json() + "\n" for side in SIDES}
    for path, text in ((ROOT / name, text) for name, text in files.items()):
        if sys.argv[1:] != ["--check"]:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            print(f"{path}: not as the code says; run python scripts/write_reference.py")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
