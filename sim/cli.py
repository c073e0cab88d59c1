"""The command line: a lazy group, so that ``--help`` and one verb pay only for themselves."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import os
import signal
import sys
from contextlib import suppress
from io import StringIO, TextIOWrapper
from typing import NoReturn

import click

from sim.errors import ScalingSimError, brief, visible

_TRACEBACK = "SCALING_SIM_TRACEBACK"
_INTERRUPTED = 128 + signal.SIGINT
_CUT_SHORT = (
    "one of Python's compiled files (.pyc) is cut short, as on a full disk; remove the folders "
    "__pycache__ of scaling-sim and what it needs, or set PYTHONPYCACHEPREFIX to a new folder"
)

# verb -> (module under sim.commands, one line of help); the module is imported on use
VERBS: dict[str, str] = {
    "run": "Predict one training job on one machine.",
    "import": "Other tools' files of a job as a workload file.",
    "list": "What the catalogue has: models, gpus, machines, jobs, offers, ...",
    "show": "One entry of the catalogue.",
    "init": "A machine and a job of your own to edit.",
    "diff": "Which figures of two results moved, for a pull request.",
    "doctor": "What is installed, and what that lets one do.",
    "completion": "Completion of verbs, options and names in a shell.",
    "export": "A job as files of the tools that will run it.",
    "config": "Every key of both files: its value, and where that came from.",
    "schema": "JSON Schema of topology and workload files, for editors.",
    "topo": "Show or import a topology.",
    "collective": "What the network gives: the table nccl-tests prints.",
    "compare": "Machines, jobs and changes side by side, and why they differ.",
    "prices": "Offers with date and source; a job priced at every one.",
    "study": "A question answered claim by claim, rerun from its inputs.",
    "memory": "Bytes per GPU by category and moment, verdict, fixes.",
    "improve": "The combination of changes that helps a job most, step by step.",
    "explain": "Why LoRA is (no) faster: a method's step part by part.",
    "support": "What of a job is measured, modelled or neither.",
    "need": "Inverse questions: bandwidth, GPUs, context, price.",
    "posttrain": "A step of DPO, GRPO or PPO: generation, log-probabilities, update.",
    "plan": "Several jobs on one cluster: queueing, deadlines, cost, smallest cluster.",
    "size": "The cheapest, fastest or greenest cluster that does a job in time.",
    "sweep": "Many configurations: axes, filters, Pareto front, resumable.",
    "calibrate": "Fit a few constants to your own logs and step times.",
    "diagnose": "Why is a real run slower than its machine should be?",
    "trace": "The step's timeline for Perfetto, or its collectives as CSV.",
    "mcp": "Four tools for an assistant (Model Context Protocol).",
    "validate": "The model's error against published measurements.",
    "serve": "The live page: change a job and see at once what it does.",
}


# what five kinds of people ask first, each by a command that runs as it stands
_QUESTIONS = {
    "Does my job fit, how long will it take, what would help?": "run dgx-h100 llama3-8b-lora",
    "Which cluster should I rent for it?": "size mistral-7b-lora --deadline 24h --max-gpus 8",
    "Why is my run slow?": "diagnose dgx-h100 llama3-8b-sft --measured tokens_per_s_per_gpu=4000",
    "Which machine, and why?": "compare dgx-a100 dgx-h100 --workload mistral-7b-lora",
    "When does what run, and who waits?": "trace dgx-h100 llama3-8b-lora -o step.json",
}

_WORDS = frozenset({"import"})  # verbs that no module can be called


class LazyGroup(click.Group):
    """A group whose subcommands are imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and return its command."""
        if cmd_name not in VERBS:
            return None
        name = cmd_name.replace("-", "_") + ("_" if cmd_name in _WORDS else "")
        module = importlib.import_module(f"sim.commands.{name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say which verb was meant, or which there are."""
        name = args[0] if args else ""
        if name and name not in VERBS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, VERBS, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"verbs are {', '.join(VERBS)}"
            ctx.fail(f'no verb "{name}"; {hint}')
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Begin with one of these."""
        with formatter.section("To begin with"):
            for question, command in _QUESTIONS.items():
                formatter.write_text(question)
                formatter.write(f"{'':{formatter.current_indent + 2}}scaling-sim {command}\n")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table, importing none."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


#: verbs that do not end by themselves
_SERVERS = ("serve", "mcp")
#: objects that live on between two looks for rubbish, of verbs that end and of others
_SELDOM, _OFTEN = 2_000_000, 200_000


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="scaling-sim")
def group() -> None:
    """Predict how distributed training will run on a GPU cluster."""
    from sim.malloc import keep_large_blocks  # here a verb is about to run: --help has ended

    keep_large_blocks()
    context = click.get_current_context()
    if context.invoked_subcommand in _SERVERS:
        gc.set_threshold(_OFTEN)  # what little is rubbish adds up
    else:
        from sim.report.progress import progress_bar

        context.with_resource(progress_bar(context.invoked_subcommand or ""))


def main() -> None:
    """Entry point.

    Exit codes: 0 done, 1 internal error, 2 bad input, 3 no answer, 4 a --require failed, 130
    interrupted, 143 ended by SIGTERM.
    """
    # finding pydantic's plugins reads the metadata of every installed package
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # numpy's BLAS starts a thread a core when it is loaded, for products that nothing here takes
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # large arrays come and go: to clear two MiB at each first touch costs more than it spares
    os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")
    # imports and plans make many objects, hardly any of them rubbish: 0.5 s of `validate`
    gc.set_threshold(_SELDOM)
    # and they go with the process: to collect them one by one first takes a fifth of a run
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal of LANG=C has no box characters
            stream.reconfigure(errors="replace")
    with suppress(ValueError):  # not the main thread of a program that calls us
        signal.signal(signal.SIGTERM, _terminated)
    try:
        _run()
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        told = StringIO()
        error.show(told)
        from sim.commands.hints import hint

        meant = hint(error)
        _fail(told.getvalue().rstrip("\n") + (f"\n{meant}" if meant else ""), 2)
    except ScalingSimError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        if isinstance(stop.__cause__, EOFError):  # nothing of ours ends so: what Python reads does
            _fail(f"{stop.__cause__}: {_CUT_SHORT}", 1)
        _fail("interrupted", _INTERRUPTED)
    except MemoryError:
        _fail("out of memory: this takes more than the machine has", 1)
    except Exception as error:
        # Python 3.11 wraps what ends a program while a class is being made
        if isinstance(error.__cause__, KeyboardInterrupt):
            _fail("interrupted", _INTERRUPTED)
        if isinstance(error.__cause__, SystemExit):
            sys.exit(error.__cause__.code)
        if os.environ.get(_TRACEBACK):
            raise
        kind = type(error).__name__
        _fail(
            f"internal error, a fault of scaling-sim: {kind}: {error}; {_TRACEBACK}=1 shows where",
            1,
        )
    finally:
        _end_at_once()


def _end_at_once() -> None:
    """From here on Ctrl-C has nothing left to stop: it ends the process, by contract as before."""
    with suppress(ValueError):  # not the main thread of a program that calls us
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(_INTERRUPTED))


def _run() -> None:
    out = sys.stdout
    try:
        group.main(prog_name="scaling-sim", standalone_mode=False)
    except SystemExit:
        if sys.stdout is out:  # else click has replaced what nobody reads (`--help | head`)
            raise
    except OSError as error:  # click's own prints: --help, --version
        if error.errno != errno.ENOSPC:
            raise
        from sim.commands.output import unheard

        unheard(error)


def _fail(message: str, code: int) -> NoReturn:
    _end_at_once()
    with suppress(OSError):  # nobody has to listen
        click.echo(visible(brief(message)), err=True)
    sys.exit(code)


def _terminated(number: int, frame: object) -> NoReturn:
    """End as after an error: half-written files are removed, workers ended, the store closed."""
    sys.exit(128 + number)
