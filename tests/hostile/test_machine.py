"""Faults of the machine: no room, no terminal, no reader, a damaged store, a signal."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sim.engine import objects
from sim.errors import InputError
from sim.study.store import WAIT_S, Store, StoredRow
from tests.clock import HANG_S
from tests.hostile.samples import WORKLOAD

ROOT = Path(__file__).parents[2]
START = [sys.executable, "-c", "from sim.cli import main; main()"]
RUN = ("run", "h100-x1", "job.yaml", "--quiet")
SWEEP = ("sweep", "h100-x1", "job.yaml", "-j", "1", "--store", "s.sqlite", "--format", "csv")


@pytest.fixture
def start(tmp_path):
    """A function that starts the command line in an empty folder with a small job."""
    (tmp_path / "job.yaml").write_text(WORKLOAD)

    def begin(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, before=None, **variables):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"} | variables
        if before:  # bytecode cut short would stay for all that come after
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        return subprocess.Popen(
            [*START, *arguments], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
            stdout=stdout, stderr=stderr, text=True, errors="replace", preexec_fn=before,
        )  # fmt: skip

    return begin


@pytest.fixture
def call(start):
    """A function that runs it to its end: exit code, standard output and standard error."""

    def run(*arguments, **more):
        with start(*arguments, **more) as child:
            out, err = child.communicate(timeout=HANG_S)
        assert "Traceback" not in err
        assert "internal error" not in err
        return child.returncode, out, err

    return run


def at_most(size):
    """No file may grow beyond so many bytes, as on a full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit


def test_bytecode_that_a_full_disk_cut_short_is_no_interruption(call, tmp_path):
    """Python 3.11 keeps what it could write of a .pyc, and fails at it ever after."""
    kept = {"PYTHONPYCACHEPREFIX": str(tmp_path / "pyc"), "PYTHONDONTWRITEBYTECODE": ""}
    assert call(*RUN, **kept)[0] == 0
    [file] = (tmp_path / "pyc").rglob("fsdp2.cpython*.pyc")
    os.truncate(file, file.stat().st_size // 2)
    code, out, err = call(*RUN, **kept)
    assert (code, out) == (1, "")
    assert "cut short, as on a full disk; remove the folders __pycache__" in err


def no_room(call, *asked):
    with open("/dev/full", "w") as full:
        code, _, err = call(*asked, stdout=full)
    assert (code, err) == (2, "standard output  cannot write: No space left on device\n")


def no_room_or_reader(call, *asked):
    """A full disk under standard output is said; a reader that has gone ends it in silence."""
    no_room(call, *asked)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as broken:
        assert call(*asked, stdout=broken) == (0, None, "")


def test_no_room_for_standard_output(call):
    no_room(call, *RUN)


@pytest.mark.parametrize("asked", [("--help",), ("run", "--help"), ("completion", "bash")])
def test_no_room_or_reader_for_what_click_prints(call, asked):
    no_room_or_reader(call, *asked)


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_streams_that_are_closed(call, closed):
    code, _, err = call(*RUN, before=lambda: os.close(closed))
    assert (code, err) == (0, "")
    code, _, err = call(*RUN[:3], before=lambda: os.close(closed))  # with a progress bar
    assert (code, err) == (0, "")


@pytest.mark.parametrize("closed", [0, 1])
def test_an_assistant_without_a_stream(call, closed):
    code, _, err = call("mcp", before=lambda: os.close(closed))
    assert (code, err.startswith("mcp  an assistant talks over standard")) == (2, True)


def test_the_live_page_without_a_reader(call):
    pytest.importorskip("uvicorn", reason="the serve extra is not installed")
    page = ("serve", "--port", "0")
    no_room_or_reader(call, *page)
    code, _, err = call(*page, before=lambda: os.close(1))
    assert (code, err) == (
        2,
        "serve  standard output is closed, and the address is printed there\n",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_live_page_ends_before_it_is_up(start, tmp_path, number):
    """Its worker compiles what is kept nowhere: seconds, that nobody waits for."""
    pytest.importorskip("uvicorn", reason="the serve extra is not installed")
    ready = tmp_path / "sitecustomize.py"
    ready.write_text("import sys\nif 'spawn_main' in str(sys.orig_argv): print('up', flush=True)\n")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    with start("serve", "--port", "0", PYTHONPATH=path, NUMBA_CACHE_DIR="/dev/null") as child:
        assert child.stdout.readline() == "up\n"  # the worker starts, the server waits for it
        child.send_signal(number)
        _, err = child.communicate(timeout=HANG_S)
    assert (child.returncode, err) == (128 + number, "")


@pytest.mark.parametrize("line", ["list gpus", "list nothing"])
def test_an_interrupt_after_the_answer_ends_by_contract(line):
    """While a large answer is let go of, say: no KeyboardInterrupt that nobody catches."""
    code = (
        "import os, signal, sys\nfrom sim.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    main()\nfinally:\n    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=HANG_S,
                          check=False)  # fmt: skip
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"COLUMNS": "1", "LINES": "1"},
        {"TERM": "dumb", "COLUMNS": "x"},
        {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "TMPDIR": "/nowhere"},
    ],
    ids=["C", "Latin-1", "one column", "dumb", "no home"],
)
def test_odd_surroundings(call, variables):
    code, out, err = call(*RUN, **variables)
    assert (code, err) == (0, "")
    assert "fits" in out


def test_no_room_for_another_process(call):
    """Twelve open files are enough for a verb, and for a sweep in one process."""

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))

    varied = ("--vary", "micro_batch=1,2", "--quiet")
    code, _, err = call(*SWEEP, *varied, "-j", "2", before=few)
    assert (code, err) == (
        2,
        "processes  no worker process can be started: Too many open files; one process (-j 1) "
        "computes without\n",
    )
    code, out, err = call(*SWEEP, *varied, before=few)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 3
    assert call("completion", "bash", before=few)[0] == 0


@pytest.mark.parametrize("seen", [True, False])
def test_nowhere_to_keep_what_was_compiled(seen, monkeypatch, capsys):
    """Each process would tell a terminal that it compiles once."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/dev/null/cache")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: seen)
    objects.keep(b"{}", b"source")
    assert objects.kept(b"source") is None
    why = "it is not kept, /dev/null/cache cannot be written; let XDG_CACHE_HOME name a folder\n"
    assert capsys.readouterr().err == why * seen


def test_a_file_is_written_whole_or_not_at_all(call, tmp_path):
    old = tmp_path / "out.json"
    old.write_text("old")
    old.chmod(0o640)
    code, _, err = call(*RUN, "-o", "out.json", before=at_most(100))
    assert code == 2
    assert err.startswith("out.json  cannot write: ")
    assert old.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["job.yaml", "out.json"]
    (tmp_path / "link.json").symlink_to(old)
    assert call(*RUN, "-o", "link.json")[0] == 0
    assert old.read_text().startswith("{")
    assert old.stat().st_mode & 0o777 == 0o640
    assert "fits" in call(*RUN, "-o", "/dev/stdout")[1]


def test_no_room_for_a_store(call, tmp_path):
    code, _, err = call(*SWEEP, "--vary", "micro_batch=1..8", before=at_most(5000))
    assert code == 2
    assert err.startswith("s.sqlite  cannot be ")


@pytest.fixture
def store(tmp_path):
    """A store of three rows."""
    path = tmp_path / "s.sqlite"
    with Store(path) as opened:
        for key in "abc":
            opened.put([StoredRow(key, "ok", {"nodes": 1}, {"mfu": 0.5})])
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("update results set measures = '{broken'", "row a is damaged"),
        ("update results set measures = '[1]'", "row a is damaged"),
        ("update results set changes = 1.5", "row a is damaged"),
        ("alter table results rename column key to id", "not a store of this version"),
        ("pragma user_version = 99", "not a store of this version"),
    ],
)
def test_a_store_that_somebody_changed(store, change, says):
    with closing(sqlite3.connect(store)) as db, db:
        db.execute(change)
    with pytest.raises(InputError, match=says), Store(store) as opened:
        opened.get(["a"])


def test_a_store_with_holes(store):
    store.write_bytes(store.read_bytes()[:4096] + b"\xff" * 4096)
    with pytest.raises(InputError, match="malformed"), Store(store) as opened:
        opened.get(["a"])


def test_a_store_that_another_program_holds(store, monkeypatch):
    assert WAIT_S < 10
    monkeypatch.setattr("sim.study.store.WAIT_S", 0.1)
    with closing(sqlite3.connect(store, isolation_level=None)) as held:
        held.execute("pragma locking_mode = exclusive")
        held.execute("begin exclusive")
        with pytest.raises(InputError, match="locked"):
            Store(store)


def test_two_sweeps_on_one_store(start):
    both = [start(*SWEEP, "--vary", "micro_batch=1..16", "--quiet") for _ in range(2)]
    ends = [child.communicate(timeout=HANG_S) for child in both]
    assert [child.returncode for child in both] == [0, 0]
    assert ends[0] == ends[1]
    assert ends[0][1] == ""


def test_sigterm_keeps_what_is_done(start, tmp_path):
    ends = tmp_path / "sitecustomize.py"  # once something is stored
    ends.write_text(
        "import os, signal\nfrom sim.study.store import Store\n"
        "def put(store, rows):\n"
        "    usual(store, rows)\n    Store.put = usual\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "usual, Store.put = Store.put, put\n"
    )
    varied = ("--vary", "micro_batch=1..64", "--vary", "nodes=1..64", "-o", "out.csv")
    with start(*SWEEP, *varied, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}") as child:
        _, err = child.communicate(timeout=HANG_S)
    assert child.returncode == 143
    assert "Traceback" not in err
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as db:
        ((rows,),) = db.execute("select count(*) from results")
    assert 0 < rows < 64 * 64
    assert not (tmp_path / "out.csv").exists()
