"""Logs of trainers as launchers, terminals and their own versions leave them."""

import gzip
import io
import json
from types import SimpleNamespace

import pytest

from sim.errors import InputError
from sim.interop.nccl_tests import read_nccl_tests
from sim.interop.trainer_logs import read_log
from tests.clock import within


def bar(rates, total=100, label="", unit="s/it"):
    """A progress bar that was drawn once for each rate."""
    return "\r".join(
        f"{label} {i}%|#         | {i}/{total} [00:10<01:00,  {rate}{unit}]"
        for i, rate in enumerate(rates)
    )


LOADING = bar([2.12] * 4, 4, "Loading checkpoint shards:")
TITAN = "\n".join(
    f"[rank0]:[titan] 2025-03-01 10:00:0{i},123 - root - INFO - \x1b[31mstep: {i:2}  \x1b[32mloss: "
    f"7.1234  \x1b[33mmemory: 41.20GiB(51.90%)  \x1b[34mtps: 7,{600 + i}  \x1b[35mmfu: 45.02%"
    for i in range(1, 9)
)
SWIFT = (
    "{'loss': 1.2, 'token_acc': 0.7, 'memory(GiB)': 41.2, 'train_speed(iter/s)': 0.125, "
    "'global_step/max_steps': '10/100'}"
)
#: Source: mmengine 0.10.7, runner/log_processor.py; xtuner 0.2.0, hooks/throughput_hook.py
ENGINE = (
    "2025/03/01 12:00:00 - mmengine - INFO - Iter(train) [  10/1000]  lr: 1.8005e-05  "
    "eta: 1:02:03  time: 3.7612  data_time: 0.0078  memory: 21563  loss: 1.5203  tflops: 12.1{}"
)
#: Source: litgpt 0.5.13, finetune/lora.py and pretrain.py
LITGPT = "Epoch 1 | iter {} step {} | loss train: 1.210, val: n/a | iter time: {}"
#: Source: NVIDIA-NeMo/RL, nemo_rl/algorithms/sft.py
NEMO_RL = """\
Timing:
  - Total step time: 3.50s
  - policy_training: 3.12s (89.1%)
  - data_processing: 0.02s (0.6%)
"""
#: Source: volcengine/verl, trainer/ppo/ray_trainer.py and metric_utils.py; numpy's own since 2.0
VERL = (
    "(TaskRunner pid=12345) step:5 - actor/entropy:0.32 - perf/mfu/actor:np.float64(0.312) - "
    "timing_s/gen:21.3 - timing_s/update_actor:np.float64(18.0) - timing_s/step:50.2 - "
    "perf/total_num_tokens:1204233 - perf/throughput:2998.6"
)


@pytest.mark.parametrize(
    ("log", "figure"),
    [
        (TITAN, "tokens_per_s_per_gpu=7605"),
        (TITAN.replace("\n", "\r\n"), "tokens_per_s_per_gpu=7605"),
        ('{"step": 10, "throughput(tps)": 7612.4, "mfu(%)": 45.1}', "tokens_per_s_per_gpu=7612.4"),
        ('{"step": 10, "mfu(%)": 41.0}', "mfu=0.41"),
        ('{"step": 10, "mfu": 0.41}', "mfu=0.41"),
        # train_steps_per_second has three decimals: samples say it better below 0.1
        ("{'train_samples_per_second': 0.768, 'train_steps_per_second': 0.012}",
         "samples_per_s=0.768"),
        ("{'train_steps_per_second': '0.24', 'train_loss': '1.2'}", "it_per_s=0.24"),
        (LOADING + "\n" + bar([8.5] * 3), "s_per_it=8.5"),
        (bar([8.5] * 3) + "\r" + bar([5.5] * 30, 40, unit="it/s"), "s_per_it=8.5"),  # evaluation
        (bar([1.25] * 3, unit="it/s"), "s_per_it=0.8"),
        ("1|25|Loss: 1.2:" + bar([1.25], unit="it/s"), "s_per_it=0.8"),
        (bar([2.12] * 3, 4, "Loading:").replace("\r", " ") + "\n" + bar([8.5] * 3), "s_per_it=8.5"),
        ("iteration: 10 / 100 | elapsed_time_per_iteration_ms: 5.52K | tokens_per_sec: 190K | "
         "tokens_per_sec_per_gpu: 2.97K", "tokens_per_s_per_gpu=2970"),
        ('{"current_steps": 10, "throughput": 4321.5, "total_tokens": 358000}',
         "tokens_per_s=4321.5"),
        ("[INFO] callbacks:157 >> {'loss': 1.0, 'learning_rate': 1e-05, 'epoch': 0.10, "
         "'throughput': 5120.50}", "tokens_per_s=5120.5"),
        ("iteration 9/99 | global_step: 9 | train_step_timing in s: 4.56", "step_time_s=4.56"),
        ("global_step=10, RunningAvgSamplesPerSec=12.3, CurrSamplesPerSec=12.8, MemAllocated=9GB",
         "samples_per_s=12.8"),
        (SWIFT, "it_per_s=0.125"),
        ("step=10 loss=5.1 tgs (tokens/gpu/second)=4193.76", "tokens_per_s_per_gpu=4193.76"),
        ("    throughput/device/TPS=12,345", "tokens_per_s_per_gpu=12345"),
        ("current token per gpu per sec: 9123", "tokens_per_s_per_gpu=9123"),
        ("iter 10: loss 4.3123, time 245.33ms, mfu 41.20%", "step_time_s=0.24533"),
        ("completed step: 9, seconds: 5.3, TFLOP/s/device: 301.1, Tokens/s/device: 6168.9",
         "tokens_per_s_per_gpu=6168.9"),
        ("Step: 10 | Tokens/s: 101.5K | Tokens/s/GPU: 12.69K | Tokens: 10M",
         "tokens_per_s_per_gpu=12690"),
        ("step: 10  loss:  9.1  flops: 3.91e+14  wps: 6.94e+03  iter: 2.361",
         "tokens_per_s_per_gpu=6940"),
        ("step 10 | loss 1.1 | mem 61.2 GiB | tps 51234.12(6404.27/gpu) | num_label_tokens 9",
         "tokens_per_s_per_gpu=6404.27"),
        ("step 00100/21400 (0.47%) | dt: 812.30ms | tok/sec: 645,433 | mfu: 47.10",
         "tokens_per_s=645433"),
        ("step  100/18865 | loss 4.2 | lr 6e-04 | 1120.31 ms | 56.1% bf16 MFU | 467952 tok/s",
         "tokens_per_s=467952"),
        ("step:10 - train/loss:0.41 - train/lr(1e-3):0.0099 - train/time(s):3.25",
         "step_time_s=3.25"),
        ("steps: 10 loss: 2.1 iter time (s): 3.250 samples/sec: 39.38", "step_time_s=3.25"),
        ("wandb:     train_samples_per_second 8.1\nwandb:       train_steps_per_second 0.254\n",
         "it_per_s=0.254"),
        (ENGINE.format(""), "s_per_micro_step=3.7612"),
        (ENGINE.format("  tokens_per_sec: 2177.9"), "tokens_per_s_per_gpu=2177.9"),
        # three micro-steps of 350 ms and one of 410 that ends the step
        ("\n".join(LITGPT.format(i, i // 4, "410.00 ms (step)" if i % 4 == 0 else "350.00 ms")
                   for i in range(1, 13)), "step_time_s=1.46"),
        (LITGPT.format(3, 0, "350.00 ms"), "s_per_micro_step=0.35"),
        ("iter 8 step 8: loss 1.2, iter time: 350.21ms (optimizer.step)", "step_time_s=0.35021"),
        (NEMO_RL, "step_time_s=3.12"),
        (NEMO_RL.replace("policy_training", "training_prep"), "step_time_s=3.5"),
        (VERL, "tokens_per_s=66901.8"),
        (VERL.replace("perf/total_num_tokens:1204233", "x:1"), "mfu=0.312"),
        ("step:7 - train/loss:0.31 - train/mfu:0.405", "mfu=0.405"),
        ("INFO Step 12 | Time: 8.42s | Loss: 0.01 | Throughput: 31,204 tokens/s | MFU: 38.2% |",
         "tokens_per_s=31204"),
        ("[Rank 0] time (ms) | fwd_microstep: 500.5 | bwd_microstep: 900.0 | step_microstep: 1.0\n"
         "[Rank 0] time (ms) | fwd: 1001.0 | bwd: 1800.0 | bwd_inner: 1.0 | step: 120.5",
         "step_time_s=2.9215"),
        ('INFO | train_inner | {"epoch": 1, "wps": "51222.3", "ups": "0.05"}',
         "tokens_per_s=51222.3"),
        ("wandb:  per_device_tps 5120.5\n", "tokens_per_s_per_gpu=5120.5"),
        ("[batch=120/1000]:\n\t Train throughput/batches_per_sec: 0.2001", "it_per_s=0.2001"),
        (" [ 61/1000 04:30 < 1:12:00, 0.22 it/s, Epoch 0.06/1]", "s_per_it=4.5"),
        (" [101/101 1:40:00, Epoch 3/3]\n [10/10 00:12]", "s_per_it=60"),
        ("   \\\\   /|    Num examples = 51,760 | Num Epochs = 1 | Total steps = 60\n"
         "272.4 seconds used for training.", "s_per_it=4.54"),
        ("{'loss': 0.5, 'tokens_per_second_per_gpu': tensor(2210.3, device='cuda:0')}",
         "tokens_per_s_per_gpu=2210.3"),
        ("[default7]: iteration 10/ 100 | elapsed time per iteration (ms): 5523.1 |",
         "step_time_s=5.5231"),
    ],
)  # fmt: skip
def test_logs_of_many_shapes(tmp_path, log, figure):
    path = tmp_path / "train.log"
    path.write_bytes(log.encode())
    assert read_log(str(path))[0] == figure
    path.write_bytes(gzip.compress(log.encode()))
    assert read_log(str(path))[0] == figure


@pytest.mark.parametrize("tag", ["[0]", "[1,15]<stdout>:", "[rank3]:", "[rank3]: ", "[default0]:"])
def test_a_tag_between_a_key_and_its_number(tmp_path, tag):
    """Launchers put theirs before each piece of output that they see (NVIDIA/nccl issue 1453)."""
    path = tmp_path / "train.log"
    path.write_text(TITAN.replace("tps: ", f"tps: {tag}"))
    assert read_log(str(path))[0] == "tokens_per_s_per_gpu=7605"
    path.write_text(f"{tag} iteration 10/ 100 | elapsed time per iteration (ms):{tag} 5523.1 |")
    assert read_log(str(path))[0] == "step_time_s=5.5231"


@pytest.mark.parametrize("log", [LOADING, "{'loss': 1.2, 'grad_norm': 0.5}", "throughput: 12 it"])
def test_what_is_no_rate_of_training(tmp_path, log):
    path = tmp_path / "train.log"
    path.write_text(log)
    with pytest.raises(InputError, match="says no rate"):
        read_log(str(path))


@pytest.mark.parametrize("end", ["\n", "\r", " "])
def test_a_long_log_is_read_in_one_pass(tmp_path, end):
    """What ends a bar is looked for before it alone: 20,000 took seconds where each went back."""
    path = tmp_path / "train.log"
    path.write_text(bar([8.5] * 20_000, 20_000).replace("\r", end))
    with within(5.0):  # 0.1 s
        assert read_log(str(path))[0] == "s_per_it=8.5"


WIDE = bar([8.5] * 3).encode("utf-16")
ODD = b"caf\xe9 " + bar([8.5] * 3).encode()
LONG = b"loss: 1.0\n" * 500_000 + ODD  # 5 MB, more than a workload file may have


PASTED = {
    "UTF-16": WIDE, "odd": ODD, "long": LONG, "gzip": gzip.compress(ODD), "blank": b" \n",
    "empty": gzip.compress(b""), "broken": gzip.compress(ODD)[:-9], "binary": b"8.5\x00s/it",
}  # fmt: skip


@pytest.mark.parametrize("name", PASTED)
def test_what_is_pasted_is_read_as_a_file_is(tmp_path, monkeypatch, name):
    data = PASTED[name]
    path = tmp_path / "train.log"
    path.write_bytes(data)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    says = []
    for source, called in (("-", "<stdin>"), (str(path), str(path))):
        try:
            says.append(read_log(source)[0])
        except InputError as error:
            says.append(str(error).replace(called, "LOG"))
    assert says[0] == says[1]
    assert (says[0] == "s_per_it=8.5") == (name in ("UTF-16", "odd", "long", "gzip"))


NCCL = """\
#                                                        out-of-place                  in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
     1048576        262144     float     sum      -1    40.56   25.85   48.47      0    39.06   26.85   50.34      0
   536870912     134217728     float     sum      -1    20973   25.60   48.00      0    20970   25.60   48.00      0
"""  # noqa: E501


@pytest.mark.parametrize(
    "tag",
    [
        "[0]", "[1,0]<stdout>:", "[rank0]: ", "[default0]:", "[1,mpirank:0,algo-1]<stdout>:",
        "[prterun-node-12@1,0]<stdout>: ", "0: ", "node1: ", "[pod/launcher-x7k/main] ",
        "worker-1  | ", "2025-11-02T10:11:12.123456789Z stdout F ", "[2025-11-02 10:11:12] ",
        "\x1b[32mpod-a\x1b[0m ", "(RayTrainWorker pid=1234) ", "Nov 02 10:11:12 n1 mpirun[12]: ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_launchers_tag_inside_lines(tmp_path, tag, end):
    """Before each flush of a buffer, thus within rows too (NVIDIA/nccl issue 1453)."""
    lines = [tag + line.replace("  -1 ", f"  -1{tag} ") for line in NCCL.splitlines()]
    path = tmp_path / "all_reduce.log"
    path.write_bytes(end.join(lines).encode())
    (found,) = read_nccl_tests(path)
    assert [(p.size, p.time_s, p.in_place_s) for p in found.points] == [
        (1048576, pytest.approx(40.56e-6), pytest.approx(39.06e-6)),
        (536870912, pytest.approx(20973e-6), pytest.approx(20970e-6)),
    ]


def test_a_tag_that_is_a_time_of_its_own(tmp_path):
    """Each line has another one."""
    lines = [f"2025-11-02 10:11:{i}.{i}01 | {line}" for i, line in enumerate(NCCL.splitlines(), 12)]
    lines[2] = lines[2].replace("-1 ", "-12025-11-02 10:11:59.5901 | ")
    path = tmp_path / "all_reduce.log"
    path.write_text("\n".join(lines))
    assert len(read_nccl_tests(path)[0].points) == 2


def test_a_row_that_a_tag_cuts_is_told_as_lost(tmp_path):
    """A tag of no known form within a number: the row is no row, and nobody is left to guess."""
    lines = NCCL.splitlines()
    lines[2] = lines[2].replace("40.56", "40.<w3>56")
    path = tmp_path / "all_reduce.log"
    path.write_text("\n".join(lines))
    (found,) = read_nccl_tests(path)
    assert [p.size for p in found.points] == [536870912]
    assert found.notes[0] == "left out rows, or parts of them, that cannot be read: line 3"
    # a line of NCCL's own that comes between its halves
    whole = NCCL.splitlines()[2]
    info = "n1:77:91 [0] NCCL INFO Channel 00/08 :    0   1   2   3   4   5   6   7"
    lines[2] = f"{whole[:52]}{info}\n{whole[52:]}"
    path.write_text("\n".join(lines))
    (found,) = read_nccl_tests(path)
    assert found.notes[0].endswith("cannot be read: line 3, 4")
    path.write_text("\n".join([*lines[:3], info]))
    with pytest.raises(InputError, match=r"no rows of nccl-tests .*cannot be read: line 3, 4"):
        read_nccl_tests(path)
    path.write_text(f"{NCCL}{info}\n# Avg bus bandwidth    : 48.3\n")
    assert not any("left out" in note for note in read_nccl_tests(path)[0].notes)


CARRIERS = {
    "docker": lambda line: {"log": f"{line}\n", "stream": "stdout", "time": "2025-11-02T10:11:12Z"},
    "fluentd": lambda line: {"@timestamp": "2025-11-02", "message": line, "kubernetes": {}},
    "journald": lambda line: {"MESSAGE": line, "_PID": "12", "_HOSTNAME": "node1"},
    "google": lambda line: {"textPayload": line, "resource": {"type": "k8s_container"}},
}  # fmt: skip


@pytest.mark.parametrize("carried", CARRIERS.values(), ids=CARRIERS)
def test_lines_that_a_collector_wrote_as_json(tmp_path, carried):
    """Colours stand in them as escapes, as quotation marks do."""
    log, table = tmp_path / "train.log", tmp_path / "all_reduce.log"
    log.write_text("\n".join(json.dumps(carried(line)) for line in TITAN.split("\n")))
    assert read_log(str(log))[0] == "tokens_per_s_per_gpu=7605"
    table.write_text("\n".join(json.dumps(carried(line)) for line in NCCL.splitlines()))
    (found,) = read_nccl_tests(table)
    assert [p.size for p in found.points] == [1048576, 536870912]


def test_a_programs_own_record_keeps_its_numbers(tmp_path):
    path = tmp_path / "train.log"
    path.write_text('{"msg": "step", "tps": 7605}\n')
    assert read_log(str(path))[0] == "tokens_per_s_per_gpu=7605"
