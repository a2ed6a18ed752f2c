"""Self-training: what it learns from, and that no label of the test area is read."""

import numpy as np
import pytest
import torch
from stubs import Store

from glacier_utils.errors import GlacierError
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.prediction.mapper import predict_patches
from glacier_utils.training.fitting import fit
from glacier_utils.training.settings import Settings
from studies.self_training import pseudo_labelled, self_train

QUICK = Settings(steps=6, batch_size=3, learning_rate=1e-2, threads=1)
SMALL = {"filters": [4, 8]}


def store(test_labels: str = "true") -> Store:
    """A store whose test patches carry their labels, or wrong ones."""
    made = Store(size=32, count=24)
    test = made.select(split="test")
    if test_labels == "wrong":
        made.labels[test] = 1 - made.labels[test]
    return made


CHANGES = [
    {"augmentation": "strong"},
    {"average": 0.9},
    {"noise": "bootstrap"},
    {"loss": "boundary", "smoothing": 0.1},
]


@pytest.mark.parametrize("options", CHANGES, ids=lambda options: next(iter(options)))
def test_no_training_strategy_reads_test_labels(tmp_path, options):
    weights = []
    for labels in ("true", "wrong"):
        result = fit(
            "glaciernet", store(labels), tmp_path / labels, arguments=SMALL,
            settings=QUICK.changed(**options), progress=False,
        )  # fmt: skip
        segmenter = load_checkpoint(result.checkpoint)
        numbers = [segmenter.threshold, segmenter.temperature]
        weights.append((segmenter.state_dict(), numbers, result.validation))
    (one, numbers, scores), (other, numbers_other, scores_other) = weights
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert numbers == numbers_other
    assert scores == scores_other


@pytest.mark.slow
def test_self_training_reads_no_test_labels(tmp_path):
    found = []
    for labels in ("true", "wrong"):
        here = store(labels)
        targets = here.select(split="test", date="2023-08")
        teacher = fit(
            "glaciernet", here, tmp_path / labels / "teacher", arguments=SMALL,
            settings=QUICK.changed(steps=24), progress=False,
        ).checkpoint  # fmt: skip
        student = self_train(
            teacher, here, targets, tmp_path / labels / "student", settings=QUICK,
            dates="2023-08", confident=0.6, progress=False,
        ).checkpoint  # fmt: skip
        maps = [
            predict_patches(load_checkpoint(path), here.images, positions=targets, flips=flips)
            for path in (teacher, student)
            for flips in (False, True)
        ]
        found.append((maps, load_checkpoint(student).state_dict()))
    for one, other in zip(*(maps for maps, _ in found), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(torch.equal(value, found[1][1][key]) for key, value in found[0][1].items())
    teacher_weights = load_checkpoint(teacher).state_dict()
    assert not all(torch.equal(value, teacher_weights[key]) for key, value in found[0][1].items())


def test_confident_pixels_teach_and_all_other_test_labels_are_hidden():
    here = store()
    targets = here.select(split="test", date="2023-08")[:2]
    probability = np.full((2, 32, 32), 0.5, np.float32)
    probability[0, 0, :3] = 0.95, 0.05, 0.85
    here.images[targets[1]][:, 5] = 0
    probability[1, 5] = 0.99  # certain of what was not seen
    made = pseudo_labelled(here, targets, probability)
    assert made.labels[targets[0], 0, :4].tolist() == [1, 0, 255, 255]
    assert (made.labels[targets[1]] == 255).all()
    hidden = np.setdiff1d(here.select(split="test"), targets)
    assert (made.labels[hidden] == 255).all()
    train = here.select(split="train")
    np.testing.assert_array_equal(made.labels[train], here.labels[train])
    np.testing.assert_array_equal(made.select(split="train"), np.union1d(train, targets))
    assert made.key != pseudo_labelled(here, targets, probability, confident=0.8).key
    assert (here.index["split"].to_numpy()[targets] == "test").all()


def test_mistakes_in_self_training_are_told(tmp_path):
    here = store()
    validation = here.select(split="validation")
    with pytest.raises(GlacierError, match="validation patches cannot teach"):
        pseudo_labelled(here, validation, np.zeros((len(validation), 32, 32)))
    with pytest.raises(GlacierError, match="confident is"):
        pseudo_labelled(here, validation[:0], np.zeros((0, 32, 32)), confident=0.5)
    forest = fit("threshold", here, tmp_path / "t", progress=False).checkpoint
    with pytest.raises(GlacierError, match="needs a network"):
        self_train(forest, here, here.select(split="test"), tmp_path / "s")
    network = fit(
        "glaciernet", here, tmp_path / "n", arguments=SMALL, settings=QUICK, progress=False
    ).checkpoint
    with pytest.raises(GlacierError, match="targets of 2023-07"):
        self_train(network, here, here.select(split="test"), tmp_path / "s", dates="2023-08")
