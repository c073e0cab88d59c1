"""`nvidia-smi topo -m`: the matrix of path classes, as pasted, logged or trimmed by people.

The matrix says how near two devices are, not what lies between. Devices within PIX or PXB of each
other share a switch; SYS separates sockets, unless the NUMA column says otherwise; NVLinked GPUs
show no PCIe class, so their switches are inferred from their NICs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sim.errors import Fault, InputError
from sim.inputs.gpu import Gpu
from sim.interop import matrix_lines as pasted
from sim.interop.evidence import text_of
from sim.interop.host import ImportedNode, Nic

_SLICE = re.compile(r"^\s*MIG \d+g\.\d+gb\b", re.M)  # of nvidia-smi -L
_GPU = re.compile(r"GPU(\d+)")
_P2P = re.compile(r"\b(?:OK|CNS|GNS|TNS|NS)\b")
_SAME_SWITCH = ("PIX", "PXB")
MAX_GPUS = 64
MAX_COLUMNS = 256


@dataclass
class _Matrix:
    names: list[str]
    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    numa: dict[str, str] = field(default_factory=dict)
    affinity: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def at(self, a: str, b: str) -> str | None:
        return self.cells.get((a, b), self.cells.get((b, a)))


def read(data: bytes, source: str, gpu: Gpu) -> ImportedNode:
    """Read a matrix.

    `gpu` is the model of its GPUs, for what the matrix doesn't say; `source` is named in faults.
    """
    plain = text_of(data, source)
    if "ROCm System Management" in plain:
        message = "is rocm-smi's, which is not read: write the node's keys (start: init)"
        raise InputError.single(source, message)
    table = _parse(pasted.lines_of(plain), source)
    _check(table, source)
    gpus = [n for n in table.names if _GPU.fullmatch(n)]
    nics = [n for n in table.names if n not in gpus]
    host = ImportedNode()
    if _SLICE.search(plain):
        told = f"{{base: {gpu.name}, ...}}"
        host.assumed.append(f"whole GPUs: slices (MIG) are left out; one is a GPU as {told}")
    sockets = _sockets(table, gpus, nics, host)
    _switches(table, gpus, nics, sockets, host)
    _nvlink(table, gpus, gpu, host, source)
    return host


def _parse(lines: list[str], source: str) -> _Matrix:
    head = pasted.head_of(lines)
    if head is None:
        refused = "no header line with GPU0, as `nvidia-smi topo -m` prints"
        raise InputError.single(source, refused)
    names: list[str] = []
    for token in lines[head].split():
        if token in pasted.BEHIND:
            break
        names.append(token)
    if len(names) > MAX_COLUMNS:
        raise InputError([Fault(source, head + 1, None, "", f"more than {MAX_COLUMNS} columns")])
    if len(set(names)) != len(names):
        raise InputError([Fault(source, head + 1, None, "", "a column appears twice")])
    if sum(bool(_GPU.fullmatch(n)) for n in names) > MAX_GPUS:
        raise InputError([Fault(source, head + 1, None, "", f"more than {MAX_GPUS} GPUs")])
    table = _Matrix(names)
    has_numa = "NUMA Affinity" in lines[head]
    faults = []
    for number, line in enumerate(lines[head + 1 :], start=head + 2):
        tokens = line.split()
        if not tokens or tokens[0] not in names:
            if tokens[:1] == ["Legend:"]:
                break
            if pasted.is_row(line):
                message = "a row without a column of its own: is the table cut off?"
                faults.append(Fault(source, number, None, tokens[0], message))
            continue
        name, cells = tokens[0], tokens[1 : len(names) + 1]
        bad = next((c for c in cells if not pasted.CELL.fullmatch(c)), None)
        if bad is not None and _P2P.fullmatch(bad):
            message = "this is `nvidia-smi topo -p2p`, which says what is allowed; give `topo -m`"
            raise InputError([Fault(source, number, None, name, message)])
        if len(cells) < len(names) or bad is not None:
            what = f"{bad!r} is no path class" if bad else f"{len(cells)} of {len(names)} cells"
            faults.append(Fault(source, number, None, name, what))
            continue
        if name in table.lines:
            faults.append(Fault(source, number, None, name, "a second row of this name"))
        table.lines[name] = number
        for other, cell in zip(names, cells, strict=True):
            table.cells[name, other] = "SYS" if cell == "SOC" else cell
        _affinity(table, name, line, len(names), has_numa)
    if faults:
        raise InputError(faults)
    return table


def _affinity(table: _Matrix, name: str, line: str, width: int, has_numa: bool) -> None:
    """CPU and NUMA affinity behind the cells; with tabs an empty one keeps its place."""
    if "\t" in line:
        rest = [f.strip() for f in line.split("\t")[width + 1 :]]
    else:
        rest = line.split()[width + 1 :]
    if rest and rest[0]:
        table.affinity[name] = rest[0]
    if has_numa and len(rest) > 1 and re.fullmatch(r"[\d,-]+", rest[1]):
        table.numa[name] = rest[1]


def _check(table: _Matrix, source: str) -> None:
    faults = []
    names = table.names
    numbers = [int(m.group(1)) for n in names if (m := _GPU.fullmatch(n))]
    if numbers != list(range(len(numbers))):
        faults.append(Fault(source, None, None, "", f"GPUs numbered {numbers}"))
    for i, a in enumerate(names):
        for b in names[i:]:
            one, two = table.cells.get((a, b)), table.cells.get((b, a))
            path = f"{a}, {b}"
            if one is None and two is None:
                if a != b and _GPU.fullmatch(a):  # NICs' own rows are often trimmed
                    faults.append(Fault(source, None, None, path, "neither row is there"))
            elif one is not None and two is not None and one != two:
                line = table.lines[b]
                faults.append(Fault(source, line, None, path, f"{two} here, {one} the other way"))
            elif (a == b) != (table.at(a, b) == "X"):
                faults.append(Fault(source, table.lines.get(a), None, path, "X off the diagonal"))
    if faults:
        raise InputError(faults)


def _groups(members: list[str], joined: list[tuple[str, str]]) -> list[list[str]]:
    """Connected components, in order of first members."""
    label = {m: m for m in members}
    for a, b in joined:
        keep, drop = sorted((label[a], label[b]), key=members.index)
        label = {m: keep if lab == drop else lab for m, lab in label.items()}
    return [[m for m in members if label[m] == lab] for lab in dict.fromkeys(label.values())]


def _pairs(table: _Matrix, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    names = table.names
    return [
        (a, b) for i, a in enumerate(names) for b in names[i + 1 :] if table.at(a, b) in classes
    ]


def _sockets(
    table: _Matrix, gpus: list[str], nics: list[str], host: ImportedNode
) -> dict[str, int]:
    """Socket of every device."""
    columns = (table.numa, table.affinity)
    column = next((c for c in columns if all(g in c for g in gpus)), None)
    switched = _groups(table.names, _pairs(table, _SAME_SWITCH))
    if column is not None and len({column[g] for g in gpus}) > 1:
        groups = [[g for g in gpus if column[g] == value] for value in _distinct(column, gpus)]
        near = ("PHB", "NODE")
        if any(
            table.at(a, b) in near
            for x in groups
            for y in groups
            if x is not y
            for a in x
            for b in y
        ) or _crossed(table, groups, nics):
            host.assumed.append("sockets by the affinity column, though NODE or PHB joins them")
    else:
        linked = any((table.at(a, b) or "").startswith("NV") for a in gpus for b in gpus)
        groups = _groups(gpus, [
            (a, b) for g in _groups(table.names, _pairs(table, (*_SAME_SWITCH, "PHB", "NODE")))
            for a in g for b in g if a in gpus and b in gpus and a != b
        ])  # fmt: skip
        apart = any(table.at(a, b) == "SYS" for a in table.names for b in table.names)
        if linked and not apart:
            groups = [gpus]
            if column is None and len(gpus) > 2:
                host.assumed.append("one socket: nothing in the file tells sockets apart")
        elif linked and len(groups) > 2:
            half = len(gpus) // 2
            groups = [gpus[:half], gpus[half:]]
            host.assumed.append("two sockets with half of the GPUs each")
    place = {g: i for i, group in enumerate(groups) for g in group}
    host.sockets = len(groups)
    for n in nics:
        own = next(s for s in switched if n in s)
        with_gpu = [place[m] for m in own if m in place]
        near_gpus = [place[g] for g in gpus if table.at(g, n) in ("PHB", "NODE")]
        if with_gpu:
            place[n] = with_gpu[0]
        elif near_gpus:
            place[n] = max(set(near_gpus), key=near_gpus.count)
        else:
            place[n] = 0
            host.assumed.append(f"{n} on the first socket: it is SYS to every GPU")
    return place


def _distinct(column: dict[str, str], gpus: list[str]) -> list[str]:
    return list(dict.fromkeys(column[g] for g in gpus))


def _crossed(table: _Matrix, groups: list[list[str]], nics: list[str]) -> bool:
    """Whether a NIC is within a socket of GPUs of two groups."""
    near = ("PHB", "NODE")
    return any(
        sum(any(table.at(g, n) in near for g in group) for group in groups) > 1 for n in nics
    )


def _switches(
    table: _Matrix, gpus: list[str], nics: list[str], sockets: dict[str, int], host: ImportedNode
) -> None:
    place: dict[str, str] = {}
    for members in _with_guessed(table, gpus, nics, sockets, host):
        if not any(m in gpus for m in members):
            for m in members:
                place[m] = f"cpu{sockets[m]}"
            continue
        alone = len(members) == 1
        # PHB is one root complex: both hang on it. NODE has a bridge of its own for each
        direct = alone and any(table.at(members[0], g) == "PHB" for g in gpus)
        if direct:
            place[members[0]] = f"cpu{sockets[members[0]]}"
            continue
        switch = f"pcie{len(host.switches)}"
        host.switches.append(f"cpu{sockets[next(m for m in members if m in gpus)]}")
        for m in members:
            place[m] = switch
    if any(table.at(a, b) == "PXB" for a in table.names for b in table.names):
        host.assumed.append("devices within PXB of each other share one switch and its uplink")
    host.gpus = [place[g] for g in gpus]
    host.nics = [Nic(place[n]) for n in nics]


def _with_guessed(
    table: _Matrix, gpus: list[str], nics: list[str], sockets: dict[str, int], host: ImportedNode
) -> list[list[str]]:
    """Devices that share a switch; NVLinked GPUs without a NIC beside them as the others are."""
    groups = _groups(table.names, _pairs(table, _SAME_SWITCH))
    hidden = [
        g
        for g in gpus
        if [g] in groups and all((table.at(g, h) or "").startswith("NV") for h in gpus if h != g)
    ]
    if not hidden or len(gpus) == 1:
        return groups
    sizes = {n for n in (sum(m in gpus for m in s) for s in groups if len(s) > 1) if n}
    each = sizes.pop() if len(sizes) == 1 else 1
    runs = [hidden[i : i + each] for i in range(0, len(hidden), each)]
    if len(hidden) % each or any(len({sockets[g] for g in run}) > 1 for run in runs):
        each, runs = 1, [[g] for g in hidden]
    how = "a PCIe switch each" if each == 1 else f"{each} to a PCIe switch, as the others"
    host.assumed.append(f"{', '.join(hidden)}: {how}; NVLink hides where they sit")
    shown = [s for s in groups if s[0] not in hidden]
    return sorted(shown + runs, key=lambda s: table.names.index(s[0]))


def _nvlink(table: _Matrix, gpus: list[str], gpu: Gpu, host: ImportedNode, source: str) -> None:
    counts = {}
    for i, a in enumerate(gpus):
        for j in range(i + 1, len(gpus)):
            cell = table.at(a, gpus[j]) or ""
            if cell.startswith("NV"):
                counts[i, j] = int(cell[2:])
    if not counts:
        return
    if gpu.nvlink_generation is None:
        message = f"shows NVLink (NV{max(counts.values())}), which {gpu.name} has not"
        raise InputError.single(source, message, "--gpu")
    most = max(counts.values())
    if most > gpu.nvlink_links:
        message = f"shows NV{most}, but {gpu.name} has {gpu.nvlink_links} NVLinks"
        raise InputError.single(source, message, "--gpu")
    total = [sum(c for pair, c in counts.items() if i in pair) for i in range(len(gpus))]
    everyone = len(counts) == len(gpus) * (len(gpus) - 1) // 2
    if max(total) > gpu.nvlink_links:
        if not everyone or len(set(counts.values())) > 1:
            message = f"a GPU has {max(total)} NVLinks in all, {gpu.name} has {gpu.nvlink_links}"
            raise InputError.single(source, message, "--gpu")
        host.nvswitch_links = most
        return
    host.nvlinks = counts
