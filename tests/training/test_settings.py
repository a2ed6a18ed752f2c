import pytest

from glacier_utils.errors import GlacierError
from glacier_utils.training.module import learning_rate
from glacier_utils.training.settings import Settings, change_settings, make_settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, "there is no 'epoch'; did you mean 'epochs'"),
        ({"epochs": "many"}, "epochs is 'many', but takes a value like 20"),
        ({"epochs": True}, "epochs is True"),
        ({"average": 1.0}, "average is 1.0"),
        ({"schedule": "onecycle"}, "one_cycle, cosine, constant"),
        ({"normalisation": "batch"}, "training, scene"),
        ({"loss": "bce_dise"}, "bce_dice"),
        ({"augmentation": "stong"}, "strong"),
        ({"noise": "bootstrapped"}, "bootstrap"),
        ({"devices": 0}, "devices is 0"),
        ({"accelerator": "abacus"}, "auto, cpu, gpu"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_mistakes_in_settings_are_told(options, message):
    with pytest.raises(GlacierError, match=message):
        make_settings(**options)


def test_whole_numbers_do_for_others_and_nothing_else_changes():
    changed = change_settings(Settings(seed=4), {"learning_rate": 1, "threads": 2})
    assert changed.learning_rate == 1
    assert changed.threads == 2
    assert changed.seed == 4
    assert make_settings() == Settings()
    assert make_settings(threads=None) == Settings()


def test_the_learning_rate_rises_and_falls():
    one_cycle = learning_rate(Settings(schedule="one_cycle"), 100)
    steps = [one_cycle(step) for step in range(100)]
    assert max(steps) == pytest.approx(1, abs=0.01)
    assert 15 <= steps.index(max(steps)) <= 25
    assert steps[0] == pytest.approx(0.04)
    assert steps[-1] < 1e-4
    cosine = learning_rate(Settings(schedule="cosine"), 100)
    assert cosine(0) == 1
    assert cosine(50) == pytest.approx(0.5, abs=0.02)
    assert {learning_rate(Settings(schedule="constant"), 100)(step) for step in range(100)} == {1.0}


def test_it_stays_while_weights_are_averaged():
    settings = Settings(epochs=10, average=0.3, schedule="one_cycle")
    assert settings.averaging_from() == 7
    steps = [learning_rate(settings, 100)(step) for step in range(100)]
    assert set(steps[70:]) == {0.1}
    assert steps[69] < 1e-4
    assert Settings(epochs=3, average=0.01).averaging_from() == 2  # at least the last epoch
