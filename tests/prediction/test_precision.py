"""The choice of number format and layout: the same on a busy machine as on a free one."""

import itertools

import pytest
import torch

from glacier_utils.prediction import acceleration


@pytest.fixture(autouse=True)
def measured_anew():
    acceleration.measured.cache_clear()
    yield
    acceleration.measured.cache_clear()


def test_every_process_on_a_machine_finds_the_same():
    found = []
    for _ in range(3):
        acceleration.measured.cache_clear()
        chosen = acceleration.resolve("auto")
        found.append((chosen, acceleration.memory_format(chosen)))
    assert len(set(found)) == 1


@pytest.mark.parametrize("burst", range(4))
def test_a_burst_of_other_work_does_not_change_the_format(monkeypatch, burst):
    calls = itertools.count()
    monkeypatch.setattr(acceleration, "has_bf16", lambda: True)
    monkeypatch.setattr(acceleration.time, "sleep", lambda _: None)
    # Four formats take turns; for the first ten turns one of them seems ten times slower.
    monkeypatch.setattr(
        acceleration, "_seconds",
        lambda _: 10.0 if (call := next(calls)) < 40 and call % 4 == burst else 1.0,
    )  # fmt: skip
    assert acceleration.resolve("auto") == "bf16"
    layouts = {acceleration.memory_format(name) for name in ("bf16", "float32")}
    assert layouts == {torch.channels_last}


def test_a_format_that_is_always_slower_is_left(monkeypatch):
    calls = itertools.count()
    monkeypatch.setattr(acceleration, "has_bf16", lambda: True)
    monkeypatch.setattr(acceleration.time, "sleep", lambda _: None)
    monkeypatch.setattr(acceleration, "_seconds", lambda _: (4.0, 2.0, 1.0, 1.0)[next(calls) % 4])
    assert acceleration.measured() == {
        "bf16_over_float32": 0.25, "channels_last_bf16": 0.5, "channels_last_float32": 1.0,
    }  # fmt: skip
    assert acceleration.resolve("auto") == "float32"
    assert acceleration.memory_format("bf16") == torch.contiguous_format
    assert acceleration.memory_format("float32") == torch.channels_last


def test_without_instructions_bf16_is_not_taken(monkeypatch):
    monkeypatch.setattr(acceleration, "has_bf16", lambda: False)
    found = acceleration.measured()
    assert found["bf16_over_float32"] == 0
    assert found["channels_last_bf16"] == found["channels_last_float32"] > 0
    assert acceleration.resolve("auto") == "float32"


def test_measuring_leaves_threads_and_random_numbers_alone():
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    acceleration.measured()
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == threads
