"""Launch scripts: sbatch headers, torchrun, accelerate and deepspeed lines, and their arguments."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import takewhile

from sim.errors import InputError
from sim.inputs.foreign import (
    LAUNCHES,
    OF_TRAINERS,
    PLAIN,
    as_started,
    beside,
    format_of,
    format_of_keys,
)
from sim.inputs.python_calls import calls_of
from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch, Leaf, Place, read_file
from sim.interop.trainers import (
    accelerate,
    common,
    deepspeed,
    fsdp_keys,
    huggingface,
    launcher_options,
    python,
    script_calls,
    shell,
    trl_kinds,
    verl,
)
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import Keys
from sim.interop.trainers.words import put_dtype
from sim.units import whole

_LAUNCHER = re.compile(rf"{LAUNCHES}|\bdeepspeed\b")
_PLAIN = re.compile(PLAIN, re.M)
#: a trainer's file as the argument without a name
_NAMED = re.compile(
    r"(?:axolotl(?: +|\.cli\.)train|llamafactory-cli +train|(?<![\w./-])[\w./-]+\.py)[ \\\n]+"
    r"([^\s=-]\S*\.(?:ya?ml|json))(?=\s|$)"
)
_PYTHON = re.compile(r"(?<![\w./-])[\w./-]+\.py\b")
#: a file's name that says ZeRO's stage, or DeepSpeed
_BY_NAME = re.compile(r"zero[_-]?(?:stage_?)?[0-3]|deepspeed", re.IGNORECASE)
#: what a line starts: a script, a module, a trainer's own command
_PROGRAM = re.compile(r"\.py\b|\s-m\s|\b(?:axolotl|llamafactory-cli|swift|trl)\s")
#: a list of words: ``ARGS=(--key value`` ... ``)``
_FIRST = re.compile(r"^[A-Za-z_]\w*\+?=(?=--)")  # ARGS="--first-option ..."
_OPENED = re.compile(r"^\s*(?:local\s+|declare\s+-a\s+)?[A-Za-z_]\w*\+?=\(")
_CLOSED = re.compile(r"\)\s*$")
#: variables of NCCL that turn a path off, and what a machine without it is
_OF_THE_MACHINE = {
    "NCCL_P2P_DISABLE": "node.pcie.p2p=false",
    "NCCL_IB_DISABLE": "node.nics.kind=tcp",
}
#: transformers' examples that join all texts and cut them into rows (`group_texts`), of 1024 where
#: no `block_size` is said
_JOINED = re.compile(r"\brun_clm\w*\.py\b")
#: programs whose arguments are Hydra's overrides: ``actor.strategy=fsdp2``
_HYDRA = re.compile(r"-m +(?:verl|recipe)\.\w")
_LISTS = frozenset({"recompute-modules"})  # arguments of several words
#: options that say how many GPUs of a node, by launcher
_PER_NODE = ("nproc_per_node", "nproc-per-node", "gpus", "num_gpus", "gpus-per-node")
#: options of ``accelerate launch`` that its DeepSpeed plugin takes
_ZERO = r"zero_stage|zero3_\w+|deepspeed_\w+|offload_(?:optimizer|param)_\w+"
#: SkyPilot's YAML, whose ``run`` is a script
_SKY = re.compile(
    r"^(?:num_nodes:\s*(\d{1,6})|\s+accelerators:\s*[{\"']?\s*[\w-]+:\s*(\d{1,6}))\W*$"
)
_DIRECTIVE = re.compile(r"^#SBATCH\s+(--?[\w-]+)[=\s]?([^\s#]*)")


def recognises(source: Source) -> bool:
    """A script, not a mapping."""
    starts = _LAUNCHER.search(source.text) or _PLAIN.search(source.text)
    return source.tree is None and bool(starts or "#SBATCH" in source.text)


def read(source: Source, job: Translation) -> None:
    """Read how many GPUs a script asks for, and the trainer's arguments on its lines."""
    found, names = _directives(source)
    _environment(names, source, job)
    text = "\n".join(source.text.splitlines())
    arguments(text, source, job, found, names)


def _environment(values: dict[str, str], source: Source, job: Translation) -> None:
    """What variables of PyTorch and NCCL mean: for the job, and for the machine."""
    place = Place(source.name)
    said = values.get("OMP_NUM_THREADS", "")
    if threads := whole(said):
        job.take("stack.omp_num_threads", threads, place, "OMP_NUM_THREADS", said)
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if "expandable_segments:true" in values.get(name, "").lower():
            job.take("stack.expandable_segments", True, place, name, values[name])
    for name, then in _OF_THE_MACHINE.items():
        if values.get(name, "0") not in ("0", ""):
            job.skip(place, name, f"is the machine's: --set {then}", True)


def arguments(
    text: str,
    source: Source,
    job: Translation,
    found: dict[str, Leaf],
    values: dict[str, str],
) -> None:
    """GPUs of a launch, and its trainer's arguments.

    Parameters
    ----------
    text : str
        Commands.
    source : Source
        The file.
    job : Translation
        The job.
    found : dict of str to Leaf
        What stands in headers: ``nodes``, ``gpus``.
    values : dict of str to str
        Variables that the script sets.
    """
    options = _options(text, source.name, values)
    launch = Keys(job, Branch({**options, **found}, Place(source.name)))
    launcher_options.elastic(launch)
    launcher_options.included(launch)
    per_node = launch.count(*_PER_NODE)
    if per_node is None:
        per_node = whole(values.get("NPROC_PER_NODE", ""))  # ms-swift's
    nodes = launch.count("nnodes", "nodes", "num_machines", "num_nodes")
    world = launch.count("num_processes")
    if nodes:
        job.nodes = (nodes, launch.place("nnodes", "nodes", "num_machines", "num_nodes"))
    if per_node:
        job.gpus_per_node = (per_node, launch.place(*_PER_NODE))
    if world is None and per_node and nodes:
        world = per_node * nodes
    if world:
        job.world = (world, launch.branch.place)
    started = _started(text)
    job.begun = trl_kinds.command(started, source.name) or job.begun
    if joins := _JOINED.search(started):
        job.suppose("data.packing", True, f"{joins[0]} joins texts and cuts them into rows")
        job.suppose("sequence_length", 1024, f"{joins[0]}'s default")
    _trained(launch, started, source, job, values)
    trl_kinds.told_by_command(launch)


def _trained(
    launch: Keys, started: str, source: Source, job: Translation, values: dict[str, str]
) -> None:
    """What is launched: the files that commands name, plugins and the trainer's arguments."""
    _config(launch, source, job)
    _positional(started, source, job)
    _accelerate(launch, source, job)
    launcher_options.settle(launch)
    if _HYDRA.search(started):
        tree = shell.overrides(started, source.name, values, verl.OUTERMOST)
        inner = Source(source.path, source.name, "", tree)
        if verl.recognises(inner):
            verl.configured(inner, job, launch.text("config-name", "config_name"))
            return
    rest = Branch(
        {k: v for k, v in launch.branch.entries.items() if k not in launch.seen},
        Place(source.name),
        {k: v.place for k, v in launch.branch.entries.items()},
    )
    inner = Source(source.path, source.name, "", rest)
    form = format_of_keys(inner)
    spelled = {name.replace("-", "_"): name for name in rest.entries}
    if (form is None or form.name != "megatron") and OF_TRAINERS & spelled.keys() - inner.keys:
        entries = {name: rest.entries[theirs] for name, theirs in spelled.items()}
        places = {name: entry.place for name, entry in entries.items()}
        rest = Branch(entries, rest.place, places)  # transformers' parser takes --max-length too
        inner = Source(source.path, source.name, "", rest)
        form = format_of_keys(inner)
    keys = Keys(job, rest)
    # scripts of one's own share axolotl's names: --base_model, --micro_batch_size
    own = form is not None and form.name == "axolotl" and "axolotl" not in started
    theirs = OF_TRAINERS & inner.keys
    if theirs and not own and _beside(started, source, job, rest):
        huggingface.in_python(source, keys, trl=False, configured=False)
        keys.leave("read by the script that it is given to", job.handed)
        keys.rest("Hugging Face trainers'")
        return
    said = (own or (form is None and not theirs)) and _program(started, source, job)
    if form is not None and not said:
        if own and (rank := rest.entries.get("lora_r")):  # Alpaca-LoRA's script has no `adapter`
            rest.entries.setdefault("adapter", Leaf("lora", rank.place))
        form.read(inner, job)
        return
    if theirs and not said:
        huggingface.arguments(source, keys)
    keys.leave("read by the script that it is given to", job.handed)
    keys.settle("huggingface")
    keys.unread("an argument of a script that is not known here")


def _accelerate(launch: Keys, source: Source, job: Translation) -> None:
    """FSDP, DeepSpeed and precision as options of ``accelerate launch``."""
    if launch.flag("use_fsdp"):
        inner = _plugin(launch, "use_fsdp", r"fsdp_\w+", job)
        fsdp_keys.fsdp(inner, inner.count("fsdp_version") or 1, [])
    if launch.flag("use_deepspeed"):
        accelerate.zero(source, _plugin(launch, "use_deepspeed", _ZERO, job))
    put_dtype(launch, "precision.kind", "mixed_precision")


def _plugin(launch: Keys, name: str, pattern: str, job: Translation) -> Keys:
    """The options that a plugin of accelerate's takes, of which a flag turns it on."""
    names = [n for n in launch.branch.entries if re.fullmatch(pattern, n)]
    launch.seen.update(names)
    return Keys(job, Branch({n: launch.branch.entries[n] for n in names}, launch.place(name)))


def _config(launch: Keys, source: Source, job: Translation) -> None:
    """The files that options of accelerate, DeepSpeed's engine and TRL name."""
    deepspeed.named(source, launch, "deepspeed_config")
    if launch.has("deepspeed_config"):
        job.suppose("trainer", "deepspeed", "deepspeed_config is its engine's")
    for name in ("config_file", "deepspeed", "config"):
        path = launch.text(name)
        if not path or path.lower() in ("true", "false") or job.has_file(path):
            continue
        if _read(source, path, job):
            continue
        own = path.rpartition("/")[2] if name == "config_file" else ""
        if name == "deepspeed" or (own and _BY_NAME.search(own)):
            deepspeed.by_name(path, job, launch.place(name), name)
        elif own and "fsdp" in own.lower():
            why = f'"{path}" is not here, and says by its name that it shards; name it too'
            job.faults.append(launch.place(name).fault(name, why))
        else:
            launch.matters(f"{path} is not here: name it too", name)


def _read(source: Source, name: str, job: Translation) -> bool:
    """Read a file that the script names; False where it is not here or no tool's."""
    other = common.refer(source, name, job)
    if other is not None:
        other = as_started(other, scripts(source), job)
    form = None if other is None else format_of(other)
    if other is None or form is None:
        return False
    form.read(other, job)
    return True


def _started(text: str) -> str:
    """The commands that start a training, each at its line; all, where none is known for one."""
    commands = [c for c in shell.commands(text) if not c.lstrip().startswith("#")]
    ours = {c for c in commands if _LAUNCHER.search(c) and _PROGRAM.search(c)}
    ours = ours or {c for c in commands if _PLAIN.search(c)} or set(commands)
    return "\n".join(c if c in ours else "\n" * c.count("\n") for c in shell.commands(text))


def _positional(text: str, source: Source, job: Translation) -> None:
    """The file after ``axolotl train``, ``llamafactory-cli train`` or a script of one's own."""
    for match in _NAMED.finditer(text):
        if job.has_file(match[1]):
            continue
        place = Place(source.name, 1 + text.count("\n", 0, match.start()))
        if not _read(source, match[1], job):
            job.skip(place, match[0], f"{match[1]} is not here, or no trainer's: name it too", True)


def _program(text: str, source: Source, job: Translation) -> bool:
    """Read the Python that a line starts, which says a trainer's arguments; whether one does."""
    found = False
    for name in dict.fromkeys(_PYTHON.findall(text)):
        if job.has_file(name):
            found = True
        elif beside(source, name) is not None:
            with suppress(InputError):  # no trainer's: the launch alone is read
                found = _read(source, name, job) or found
    return found


def _beside(text: str, source: Source, job: Translation, options: Branch) -> bool:
    """Add what the Python that a line starts says of its model itself to the options it takes.

    True where its trainer is one that takes transformers' arguments, not TRL's.
    """
    plain = False
    for name in dict.fromkeys(_PYTHON.findall(text)):
        own = job.scripts.get(name.rpartition("/")[2])
        path = own or (None if job.has_file(name) else beside(source, name))
        if path is None:
            continue
        with suppress(InputError):  # of another release of Python: the launch alone is read
            code = Source(path, str(path), read_file(path), None)
            script = as_started(code, scripts(source), job)
            script_calls.add_model(options, script, job, python.own_call)
            made = [name for name, _ in calls_of(script.branch) if name.endswith("Trainer")]
            plain = plain or (bool(made) and not any(map(python.TRL.search, made)))
            job.titles.append(f"{path.name}, which it starts")
    return plain


def scripts(source: Source) -> dict[str, dict[str, str]]:
    """Options of each script in Python that a launch starts, by its name without folders."""
    _, values = _directives(source)
    found: dict[str, dict[str, str]] = {}
    for command in shell.commands(_started("\n".join(source.text.splitlines()))):
        if program := _PYTHON.search(command):
            options = _options(command[program.end() :], source.name, values)
            name = program[0].rpartition("/")[2]
            found.setdefault(name, {key: str(leaf.value) for key, leaf in options.items()})
    return found


def _directives(source: Source) -> tuple[dict[str, Leaf], dict[str, str]]:
    """``#SBATCH`` lines and the variables that the script sets."""
    found: dict[str, Leaf] = {}
    values: dict[str, str] = {}
    launched = False
    for number, line in enumerate(source.text.splitlines(), 1):
        if match := _DIRECTIVE.match(line):
            _directive(match[1].lstrip("-"), match[2], Place(source.name, number), found)
        elif match := _SKY.match(line):
            found["nodes" if match[1] else "gpus"] = Leaf(
                match[1] or match[2], Place(source.name, number)
            )
        else:
            launched = launched or bool(_LAUNCHER.search(line) or _PLAIN.search(line))
            shell.assign(line, values, launched)
    for name, of in (
        ("SKYPILOT_NUM_NODES", "nodes"),
        ("SKYPILOT_NUM_GPUS_PER_NODE", "gpus"),
        ("SLURM_NNODES", "nodes"),
        ("SLURM_JOB_NUM_NODES", "nodes"),
        ("SLURM_GPUS_ON_NODE", "gpus"),
        ("SLURM_GPUS_PER_NODE", "gpus"),
    ):
        if of in found:
            values[name] = str(found[of].value)
    return found, values


def _directive(name: str, value: str, place: Place, found: dict[str, Leaf]) -> None:
    number = re.search(r"(\d+)(?!.*\d)", value)
    if name in ("nodes", "N") and number:
        found["nodes"] = Leaf(number[1], place)
    elif name in ("gpus-per-node", "gres") and number and "gpu" in (name + value):
        found["gpus"] = Leaf(number[1], place)


def _options(text: str, name: str, values: dict[str, str]) -> dict[str, Leaf]:
    """``--key value`` and ``--key=value`` of every command, each with its line.

    An option that a command has twice is what it says last; of several commands the first counts.
    """
    found: dict[str, Leaf] = {}
    goes_on, own = False, set[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        own = own if goes_on else set()
        goes_on = shell.goes_on(line)
        bare = _OPENED.sub("", line)
        words = shell.words(_CLOSED.sub("", bare) if bare.count(")") > bare.count("(") else bare)
        for at, word in enumerate(words):
            word = _FIRST.sub("", word)
            if not word.startswith("--"):
                continue
            key, equals, value = word[2:].partition("=")
            if key in _LISTS:
                value = " ".join(takewhile(lambda w: not w.startswith("--"), words[at + 1 :]))
            elif not equals:
                after = words[at + 1] if at + 1 < len(words) else "true"
                value = "true" if after.startswith("--") else after
            if key in own or key not in found:
                found[key] = Leaf(shell.known(value, values), Place(name, number))
                own.add(key)
    return found


FORMATS.register(TrainerFormat("launch", "a launch script", recognises, read, scripts))
