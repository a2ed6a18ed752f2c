"""Settings: what cannot be is told in one line, and nothing changes unasked."""

import pytest
from pydantic import ValidationError

from glacier_utils.errors import GlacierError
from glacier_utils.training.settings import Settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 3}, "there is no 'step'; did you mean 'steps'"),
        ({"epochs": 4}, "epochs are steps now.*write steps: 200 in place of epochs: 4"),
        ({"epochs": 80}, "write steps: 1000 in place"),
        ({"epochs": None}, "write steps: 1000 in place"),
        ({"steps": "many"}, "steps is 'many', must be a valid integer"),
        ({"steps": True}, "steps is True"),
        ({"steps": 0}, "steps is 0, must be greater than 0"),
        ({"steps": 2.0}, "steps is 2.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"balanced": True}, "there is no 'balanced'"),
        ({"smallest_crop": 64}, "there is no 'smallest_crop'"),
        ({"average": 1.0}, "average is 1.0"),
        ({"schedule": "onecycle"}, "must be 'one_cycle', 'cosine' or 'constant'"),
        ({"precision": "half"}, "precision is 'half', must be 'auto', 'bf16' or 'float32'"),
        ({"normalisation": "scene"}, "there is no 'normalisation'"),
        ({"loss": "tversky"}, "loss 'tversky': unknown"),
        ({"loss": "bce_dise"}, "did you mean 'bce_dice'"),
        ({"augmentation": "stong"}, "did you mean 'strong'"),
        ({"noise": "bootstrapped"}, "did you mean 'bootstrap'"),
        ({"devices": 0}, "devices is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"accelerator": "abacus"}, "must be 'auto', 'cpu', 'gpu'"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_mistakes_in_settings_are_told_in_one_line(options, message):
    for make in (Settings, Settings().changed):
        with pytest.raises(GlacierError, match=message) as caught:
            make(**options)
        assert "\n" not in str(caught.value)


def test_whole_numbers_do_for_others_and_nothing_else_changes():
    changed = Settings(seed=4).changed(learning_rate=1, threads=2)
    assert changed.learning_rate == 1
    assert changed.threads == 2
    assert changed.seed == 4
    assert Settings(threads=None) == Settings()
    assert Settings().changed() == Settings()


def test_patience_may_be_left_out_or_be_what_meant_that_before():
    assert Settings().patience is None
    assert Settings(patience=None) == Settings()
    assert Settings(patience=1_000_000).patience == 1_000_000
    with pytest.raises(GlacierError, match="patience is 0"):
        Settings(patience=0)


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().steps = 3
