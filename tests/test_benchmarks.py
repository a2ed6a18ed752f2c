"""The benchmarks run; what they measure is for a free machine, not for a test."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks import quality, scenes, training
from glacier_utils.prediction import memory
from glacier_utils.training import Settings, module

pytestmark = pytest.mark.slow


def test_the_speed_of_training_is_held_against_the_bare_step_and_a_plain_loop(monkeypatch):
    alone = training._part

    def part(work: str, folder: Path, *arguments: int) -> dict[str, float]:
        """Do a part here, all but the first: five more processes would only import libraries."""
        if work == "bare":
            return alone(work, folder, *arguments)
        started = time.time()
        with monkeypatch.context() as own:  # what the part replaces is put back
            for name in ("on_train_epoch_start", "on_validation_epoch_start", "on_fit_end",
                         "on_train_batch_end"):  # fmt: skip
                own.setattr(module.Task, name, getattr(module.Task, name))
            own.setattr(module.History, "_save", module.History._save)
            found = getattr(training, f"_{work}")(folder, *arguments)
        found |= {"from_start": found["ended"] - started} if "ended" in found else {}
        return {"peak_mb": training.peak_mb(), **found}

    monkeypatch.setattr(training, "_part", part)
    found = training.training(patches=16, size=32, steps=20)
    for ratio, one, other in (
        ("training_validated_share_of_bare_step", "training_patches_s", "bare_step_patches_s"),
        ("training_over_plain_loop", "training_patches_s", "plain_loop_patches_s"),
    ):
        assert found[ratio] == pytest.approx(found[one] / found[other], rel=0.05)
    assert 0 < found["validation_overhead"] < 1
    assert 0 < found["first_step_s"] <= found["first_step_from_start_s"]
    assert 50 < found["training_peak_many_mb"] <= found["training_peak_mb"] * 1.2


def test_the_time_to_quality_is_that_of_the_first_state_near_the_plain_loop():
    found = quality.quality(steps=4, patches=4, settings=Settings(steps=10))
    assert 0 <= found["plain_validation_iou"] <= 1
    assert 0 <= found["validation_iou"] <= 1
    if found["validation_iou"] >= found["plain_validation_iou"] - quality.NEAR:
        ratio = found["minutes_to_quality"] / found["plain_minutes"]
        assert found["time_to_quality_ratio"] == pytest.approx(ratio, rel=0.5)
    else:
        assert found["time_to_quality_ratio"] is None


def test_the_speed_of_a_scene_is_held_against_the_bare_pass_and_the_usual_way(monkeypatch):
    alone = scenes._part

    def part(work: str, folder: Path, *arguments: str) -> dict[str, float]:
        """Do a part here, all but the first, as above."""
        if work == "bare":
            return alone(work, folder, *arguments)
        return {"peak_mb": scenes.peak_mb()} | getattr(scenes, f"_{work}")(folder, *arguments)

    monkeypatch.setattr(memory, "use_one_heap", lambda: None)  # it would hold for later tests too
    monkeypatch.setattr(scenes, "_part", part)
    monkeypatch.setattr(scenes, "BARE", ((1, 128),))
    found = scenes.scenes(side=600)
    for ratio, one, other in (
        ("scene_share_of_bare", "scene_mpx_s", "bare_forward_mpx_s"),
        ("scene_over_usual_way", "scene_mpx_s", "usual_way_mpx_s"),
    ):
        assert found[ratio] == pytest.approx(found[one] / found[other], rel=0.2)
    for peak in ("scene_peak_mb", "scene_peak_four_tiles_mb", "scene_outlines_peak_mb"):
        assert 50 < found[peak] < 10_000
    assert found["scene_full_tile_s"] > 0
