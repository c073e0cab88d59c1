"""Traces of real clusters: columns as Philly and Helios have them, and files that mean harm."""

import pytest

from sim.errors import InputError
from sim.study.cluster import Request
from sim.study.plan import plan
from sim.study.pool import Pool
from sim.study.traces import MOST_FAULTS, read_trace

HELIOS = """job_id,user,gpu_num,cpu_num,node_num,state,submit_time,start_time,duration,queue
7,u1,4,16,1,COMPLETED,2020-04-01 00:00:23,2020-04-01 00:01:00,3600,q
8,u2,0,16,1,COMPLETED,2020-04-01 00:00:24,2020-04-01 00:01:00,3600,q
9,u2,16,64,2,FAILED,2020-04-01 00:10:23,2020-04-01 00:11:00,600,q
"""
PHILLY = """jobid,num_gpus,submitted_time,start_time,finished_time
application_1,2,2017-10-07 01:11:34,2017-10-07 01:12:00,2017-10-07 02:12:00
application_2,1,2017-10-07 01:21:34,None,None
"""


def write(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_helios(tmp_path):
    trace = read_trace(write(tmp_path, HELIOS), 8)
    first, second = trace.jobs
    assert (first.name, first.nodes, first.gpus, first.arrival_s, first.alone_s) == (
        "7", 1, 4, 0.0, 3600.0,
    )  # fmt: skip
    assert (second.nodes, second.gpus, second.arrival_s, second.alone_s) == (2, 0, 600.0, 600.0)
    assert trace.notes == ("1 rows left out: no GPUs, or no time",)


def test_philly(tmp_path):
    trace = read_trace(write(tmp_path, PHILLY), 4)
    (only,) = trace.jobs
    assert (only.name, only.gpus, only.alone_s) == ("application_1", 2, 3600.0)
    assert trace.notes == ("1 rows left out: without GPUs, a time of arrival or a duration",)


def test_seconds_that_read_like_a_day_are_seconds(tmp_path):
    text = "id,gpus,submit,duration\na,4,12340506,60\nb,4,12340531,60\n"
    trace = read_trace(write(tmp_path, text), 8)
    assert [job.arrival_s for job in trace.jobs] == [0.0, 25.0]


def test_a_trace_is_served(tmp_path):
    # two jobs of 4 GPUs share a node of 8; the third waits for one of them, the fourth for both
    text = "id,gpus,submit,duration\na,4,0,3600\nb,4,10,1800\nc,2,20,600\nd,8,30,600\n"
    report = plan("dgx-h100", write(tmp_path, text), sets=["nodes=1"])
    ends = {log.request.name: log.finish_s for log in report.logs}
    assert ends == {"a": 3600.0, "b": 1810.0, "c": 2410.0, "d": 4200.0}
    held = 4 * 3600 + 4 * 1800 + 2 * 600 + 8 * 600
    assert report.utilisation == pytest.approx(held / (8 * 4200))


def test_a_long_trace_says_how_far_it_is(tmp_path):
    rows = "".join(f"{i},8,{i},60\n" for i in range(2000))
    said = []
    plan(
        "dgx-h100", write(tmp_path, "id,gpus,submit,duration\n" + rows), sets=["nodes=2"],
        progress=lambda *done: said.append(done),
    )  # fmt: skip
    assert said == [(1000 * i, 6000) for i in range(1, 7)]  # and with a node less, and one more


def test_parts_of_nodes():
    pool = Pool(2, 8, 1 << 30)
    small = Request("s", 1, 0, None, 0, 1.0, 0, 0, 0, 0, gpus=3)
    whole = Request("w", 1, 0, None, 0, 1.0, 0, 0, 0, 0)
    one, two = pool.place(small), pool.place(small)
    assert one == two == [(0, 3)]  # on the fullest node with room
    assert pool.fits(whole)
    assert pool.place(whole) == [(1, 8)]
    assert not pool.fits(small)
    pool.release(one)
    assert pool.fits(small)
    assert not pool.fits(whole)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its first line has nothing"),
        ("a,b\n1,2\n", "lacks columns .arrival: one of job_|lacks columns .arrival: one of submit"),
        ("id,gpus,submit,duration\n", "holds no job"),
        ("id,gpus,submit,duration\na,x,0,1\n", ':2  gpus: "x" is no number'),
        ("id,gpus,submit,duration\na,1,yesterday,1\n", 'submit: "yesterday" is no number'),
        ("id,gpus,submit,duration\na,1,0,inf\n", 'duration: "inf" is no number'),
        ("id,gpus,submit,duration\na,1e9,0,10\n", "gpus: 1e.09 is not plausible"),
        ("id,gpus,submit,duration\na,1,0,1e14\n", "duration: 1e.14 is not plausible"),
        ("id,gpus,submit,duration\na,1,0,9\nb,1,1e12,9\n", "spans more than ten years"),
        (b"id,gpus,submit,duration\n\xff\xfe,1,0,1\n", "is not UTF-8"),
        ("id,gpus,submit,duration\n" + "a" * 200_000 + ",1,0,1\n", "cannot be read: field larger"),
    ],
)
def test_faults(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read_trace(write(tmp_path, text), 8)


def test_not_more_faults_than_a_reader_reads(tmp_path):
    rows = "".join("a,x,0,1\n" for _ in range(1000))
    with pytest.raises(InputError) as caught:
        read_trace(write(tmp_path, "id,gpus,submit,duration\n" + rows), 8)
    assert len(caught.value.faults) == MOST_FAULTS


def test_names_command_no_terminal(tmp_path):
    trace = read_trace(write(tmp_path, "id,gpus,submit,duration\n\x1b[31mred,1,0,1\n"), 8)
    assert trace.jobs[0].name == "\\u001b[31mred"


def test_a_job_larger_than_the_cluster(tmp_path):
    text = "id,gpus,submit,duration\nbig,64,0,3600\n"
    with pytest.raises(InputError, match="big: wants 8 nodes; the cluster has 2"):
        plan("dgx-h100", write(tmp_path, text), sets=["nodes=2"])


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_trace(tmp_path / "none.csv", 8)


def test_jobs_that_cross_leaves_take_what_they_took(tmp_path):
    """64 nodes are two leaves; jobs of 40, 20 and 10 nodes, the second beside the first."""
    text = "job_id,submit_time,num_gpus,duration\n" + "".join(
        f"{name},{arrival},{gpus},3600\n"
        for name, arrival, gpus in (("a", 0, 320), ("b", 1, 160), ("c", 2, 80), ("d", 3, 320))
    )
    report = plan("dgx-h100", write(tmp_path, text), sets=["nodes=64"])
    spans = {log.request.name: (log.start_s, log.finish_s) for log in report.logs}
    assert spans == {"a": (0, 3600), "b": (1, 3601), "c": (3600, 7200), "d": (3601, 7201)}
