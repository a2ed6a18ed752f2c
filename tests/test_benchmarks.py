"""The benchmarks run; what they measure is for a free machine, not for a test."""

from __future__ import annotations

from benchmarks import speed


def test_the_speed_of_training_is_a_share_of_the_bare_step(monkeypatch):
    monkeypatch.setattr(speed, "SIZE", 32)
    found = speed.training(patches=8, epochs=2)
    assert set(found) == {
        "training_patches_s", "bare_step_patches_s", "training_share_of_bare_step"
    }  # fmt: skip
    assert all(value > 0 for value in found.values())


def test_the_speed_of_a_scene_is_a_share_of_the_bare_pass():
    found = speed.scene(side=512)
    assert found["scene_share_of_bare"] > 0
