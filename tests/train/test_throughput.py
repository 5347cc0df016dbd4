"""What each step says of its speed and of its experts, by hand; and where its time goes."""

from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import torch
import torch.distributed

from model.statistics import StepStatistics
from train.accelerators import peak_flops
from train.exchange_times import timed_exchanges
from train.memory_use import memory_use
from train.moe_health import moe_health
from train.report import speed
from train.step_clock import EVALUATION, PARTS, StepClock
from train.throughput import Throughput

SECONDS = dict.fromkeys(PARTS, 0.25) | {EVALUATION: 100.0}


def test_speed_and_mfu_by_hand() -> None:
    """7 parts of 0.25 s: 1.75 s for 700 tokens of 50 FLOPs on 4 devices of 10,000 FLOP/s."""
    row = Throughput(50.0, 4, 10_000.0).columns(SECONDS, (700, 7), done=1000, planned=5000)
    assert row["throughput/seconds"] == 1.75 and row["throughput/seconds/all_to_all"] == 0.25
    assert row["throughput/tokens_per_second"] == 400 and row["throughput/samples_per_second"] == 4
    assert row["throughput/model_flops_per_second"] == 20_000 and row["throughput/mfu"] == 0.5
    assert row["throughput/tokens_left"] == 4000


def test_time_left_is_at_the_mean_speed_of_this_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 16.0])
    monkeypatch.setattr("train.throughput.time.perf_counter", lambda: next(now))
    throughput = Throughput(50.0, 1, None)
    throughput.start(400)
    row = throughput.columns(SECONDS, (100, 1), done=1000, planned=5000)  # 600 tokens in 6 s
    assert row["throughput/seconds_left"] == pytest.approx(40.0)
    assert "throughput/mfu" not in row and row["throughput/model_flops_per_second"] > 0


@pytest.mark.parametrize(
    ("device", "bf16"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA GB200", 2500),
        ("NVIDIA B200", 2250),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307),
    ],
)
def test_peaks_of_devices(device: str, bf16: float) -> None:
    assert peak_flops(device, "bf16") == pytest.approx(1e12 * bf16)
    assert 0 < (peak_flops(device, "fp32") or 0) < 1e12 * bf16


@pytest.mark.parametrize(
    "device", ["cpu", "Tesla V100-SXM2-16GB", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"]
)
def test_devices_that_are_not_known(device: str) -> None:
    assert peak_flops(device, "bf16") is None


def test_experts_health_by_hand() -> None:
    """Two layers of four experts, two domains, top 2, 8 tokens: 16 slots a layer, of which the second lost 3."""
    statistics = StepStatistics.zeros(2, 2, 4)
    statistics.tokens_by_layer_domain_expert = torch.tensor(
        [[[4, 4, 0, 0], [2, 2, 2, 2]], [[8, 0, 0, 0], [0, 4, 4, 0]]]
    )
    statistics.computed_by_layer = torch.tensor([16, 13])
    statistics.router_z_sum_by_layer = torch.tensor([8.0, 24.0], dtype=torch.float64)
    statistics.router_entropy_sum_by_layer = torch.tensor([4.0, 2.0], dtype=torch.float64)
    assert moe_health(statistics, top_k=2) == {
        "moe/max_violation": 1.0,  # 8 slots, where 4 are an equal share
        "moe/router_entropy": 0.375,
        "moe/router_z": 2.0,
        "moe/dead_experts": 1,
        "moe/dropped_tokens": 3,
        "moe/router_entropy_by_layer": [0.5, 0.25],
        "moe/router_z_by_layer": [1.0, 3.0],
        "moe/tokens_per_expert": [[6, 6, 2, 2], [8, 4, 4, 0]],
    }


@pytest.fixture
def clock() -> StepClock:
    """One that a second passes on with each look at it."""
    clock, ticks = StepClock(torch.device("cpu")), iter(range(1000))
    clock._stamp = lambda: float(next(ticks))
    clock.start()
    return clock


def test_the_clock_gives_every_second_to_one_part(clock: StepClock) -> None:
    clock.mark("data")  # at 1
    clock.mark("forward")
    with clock.during("all_to_all"):  # from 3 to 4
        pass
    clock.mark("backward")
    clock.mark("optimizer")
    taken = clock.take()
    assert taken == {
        **{"rest": 1, "data": 1, "forward": 2, "all_to_all": 1, "backward": 1, "optimizer": 1, "checkpoint": 0},
        EVALUATION: 0,
    }
    assert clock.take()["optimizer"] == 1  # goes on from there


def test_exchanges_of_evaluation_are_no_steps(clock: StepClock) -> None:
    clock.mark(EVALUATION)
    with clock.during("all_to_all"):
        pass
    clock.mark("rest")
    assert clock.take() == {**dict.fromkeys(PARTS, 0), EVALUATION: 1, "rest": 2}


def test_exchanges_are_timed_until_they_are_done(clock: StepClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is waited for at once, and one that goes on beside something else."""
    sent: list[Any] = []

    class Work:
        def wait(self) -> bool:
            sent.append("waited")
            return True

    def exchange(*arguments: Any, async_op: bool = False) -> Work | None:
        sent.append(arguments)
        return Work() if async_op else None

    monkeypatch.setattr(torch.distributed, "all_to_all_single", exchange)
    clock.mark("forward")
    with timed_exchanges(clock):
        assert torch.distributed.all_to_all_single(1, 2) is None
        handle = torch.distributed.all_to_all_single(3, 4, async_op=True)
        assert handle.wait()
    assert sent == [(1, 2), (3, 4), "waited"]
    assert torch.distributed.all_to_all_single is exchange
    assert clock.take()["all_to_all"] == 3


def test_on_a_gpu_marks_are_events_that_are_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There its clock counts milliseconds; here a double of it, as no GPU is at hand."""
    told: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            told.append("record")
            self.at = 500.0 * len(told)

        def synchronize(self) -> None:
            told.append("wait")

        def elapsed_time(self, end: "Event") -> float:
            assert "wait" in told
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = StepClock(torch.device("cuda"))
    clock.mark("forward")
    clock.mark("backward")
    taken = clock.take()
    assert (taken["forward"], taken["backward"]) == (0.5, 0.5) and told == [*["record"] * 4, "wait"]


def test_memory_of_this_process() -> None:
    before = memory_use(psutil.Process())["memory/resident"]
    held = torch.ones(2**26)  # 256 MiB
    assert memory_use(psutil.Process())["memory/resident"] - before > 2**27 and held.sum() > 0


def test_memory_of_a_gpu_is_its_peak_since_it_was_last_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"allocated_bytes.all.peak": 5, "reserved_bytes.all.peak": 8, "num_alloc_retries": 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: dict(peaks))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peaks.update({"allocated_bytes.all.peak": 2}))
    first, second = memory_use(psutil.Process()), memory_use(psutil.Process())
    assert first["memory/peak_allocated"] == 5 and second["memory/peak_allocated"] == 2
    assert second["memory/peak_reserved"] == 8 and second["memory/allocation_retries"] == 0


def test_the_report_names_every_part() -> None:
    assert set(speed.PARTS) == set(PARTS)


def test_a_clock_of_this_machine_adds_up() -> None:
    clock = StepClock(torch.device("cpu"))
    for part in parts():
        clock.mark(part)
    taken = clock.take()
    assert all(seconds >= 0 for seconds in taken.values()) and taken["data"] > 0


def parts() -> Iterator[str]:
    yield from PARTS
