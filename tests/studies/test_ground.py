"""The study of training ground and bands."""

import pytest

from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.patches import build_patches
from glacier_utils.errors import GlacierError
from glacier_utils.training.settings import Settings
from studies import ground

DATE = "2023-08"
ALL = "red green blue nir"


@pytest.fixture
def store(make_dataset):
    return build_patches(open_dataset(make_dataset(patches=(6, 6), size=32)), size=32, block_m=640)


def test_fewer_patches_are_among_the_more(store):
    everything = set(store.select(split="train", date=DATE))
    parts = [
        set(ground.reduced(store, DATE, ALL, part, 0).select(split="train", date=DATE))
        for part in ground.FRACTIONS
    ]
    assert parts[0] == everything
    assert parts[3] < parts[2] < parts[1] < parts[0]
    assert len(parts[1]) == pytest.approx(len(everything) / 2, abs=1)
    other = ground.reduced(store, DATE, ALL, 0.5, 1)
    assert set(other.select(split="train", date=DATE)) != parts[1]
    assert len({ground.reduced(store, DATE, ALL, 0.5, seed).key for seed in (0, 1)}) == 2
    for split in ("validation", "test"):
        assert (other.select(split=split) == store.select(split=split)).all()


def test_bands_are_left_out_with_their_statistics(store):
    colour = ground.reduced(store, DATE, "red green blue", 1.0, 0)
    assert colour.bands == ("red", "green", "blue")
    assert (colour.images == store.images[:, :3]).all()
    assert colour.statistics["std"] == store.statistics["std"][:3]
    with pytest.raises(GlacierError, match="must follow each other"):
        ground.reduced(store, DATE, "red nir", 1.0, 0)


@pytest.mark.slow
def test_what_is_known_is_not_trained_again(store, tmp_path, monkeypatch):
    monkeypatch.setattr(ground, "open_ground", lambda number: (store, ["2023-07", DATE]))
    monkeypatch.setattr(ground, "NETWORK", "glaciernet")
    quick = Settings(steps=6, batch_size=3, threads=1)
    table = ground.run([1], [0], tmp_path / "a" / "scores.csv", quick)
    assert len(table) == len(ground.planned(store.bands)) == 9
    assert not table.duplicated(ground.KEYS).any()
    assert table["labels_iou"].between(0, 1).all()
    assert table["patches"].nunique() == 4
    monkeypatch.setattr(ground, "fit", None)  # would fail if it were called
    again = ground.run([1], [0], tmp_path / "a" / "scores.csv", quick)
    assert again[ground.KEYS].equals(table[ground.KEYS])
