"""Arrays written patch by patch, and statistics pooled from them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glacier_utils.datasets import patches, store
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.patches import build_patches
from glacier_utils.datasets.store import ArrayFile, moments, open_store, pooled_statistics
from glacier_utils.errors import GlacierError


@given(
    count=st.integers(1, 12),
    known=st.floats(0, 1),
    centre=st.sampled_from([0.0, 0.3, 1e4]),
    spread=st.sampled_from([0.0, 1e-3, 0.2]),
    seed=st.integers(0, 1000),
)
def test_statistics_are_those_of_all_known_pixels_at_once(count, known, centre, spread, seed):
    rng = np.random.default_rng(seed)
    images = rng.normal(centre, spread, (count, 3, 8, 8)).astype(np.float32)
    # Patches that differ in level, and in how much of them is known.
    images += rng.normal(0, spread, (count, 3, 1, 1)).astype(np.float32)
    labels = rng.integers(0, 2, (count, 8, 8)).astype(np.uint8)
    labels[rng.random(labels.shape) > known * rng.random((count, 1, 1)) * 1.3] = 255
    chosen = np.flatnonzero(rng.random(count) < 0.8)
    sums = [moments(images[place], labels[place] != 255) for place in chosen]
    ice = np.count_nonzero(labels[chosen] == 1)
    found = pooled_statistics(np.array(sums).reshape(-1, 3, 3), ice)
    values = np.moveaxis(images[chosen], 1, 0)[:, labels[chosen] != 255].astype(np.float64)
    assert found["count"] == values.shape[1]
    if not values.size:
        assert np.isnan([*found["mean"], *found["std"], found["glacier"]]).all()
        return
    scale = max(1, abs(centre))
    np.testing.assert_allclose(found["mean"], values.mean(axis=1), atol=1e-14 * scale, rtol=1e-13)
    np.testing.assert_allclose(found["std"], values.std(axis=1), atol=1e-12 * scale, rtol=1e-12)
    assert found["glacier"] == pytest.approx((labels[chosen] == 1).sum() / found["count"])


def test_pooling_does_not_depend_on_the_cut_into_patches():
    rng = np.random.default_rng(0)
    whole = rng.normal(1000, 0.1, (2, 64, 64)).astype(np.float32)
    parts = [whole[:, row : row + 8, col : col + 8] for row in range(0, 64, 8)
             for col in range(0, 64, 8)]  # fmt: skip
    one = pooled_statistics(moments(whole, np.ones((64, 64), bool))[None], 0)
    many = pooled_statistics(np.stack([moments(p, np.ones((8, 8), bool)) for p in parts]), 0)
    np.testing.assert_allclose(one["mean"], many["mean"], rtol=1e-14)
    np.testing.assert_allclose(one["std"], many["std"], rtol=1e-10)
    expected = whole.astype(np.float64).std(axis=(1, 2))
    np.testing.assert_allclose(many["std"], expected, rtol=1e-10)


def test_statistics_keep_their_digits_far_from_zero():
    images = np.full((3, 1, 4, 4), 1e4, np.float32)
    images[0] += 1
    sums = np.stack([moments(image, np.ones((4, 4), bool)) for image in images])
    found = pooled_statistics(sums, 0)
    assert found["std"][0] == pytest.approx(np.sqrt(2) / 3, rel=1e-12)


def test_array_files_are_numpy_files(tmp_path):
    rng = np.random.default_rng(0)
    expected = rng.random((5, 2, 3, 4), dtype=np.float32)
    file = ArrayFile(tmp_path / "a.npy", np.float32, expected.shape)
    for position in (3, 0, 4, 1):
        file.write(position, expected[position].transpose(0, 2, 1).copy().transpose(0, 2, 1))
    file.close()
    expected[2] = 0  # never written
    for mode in (None, "r"):
        found = np.load(tmp_path / "a.npy", mmap_mode=mode, allow_pickle=False)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("patch", [np.zeros((3, 4), np.uint8), np.zeros((4, 3), np.float32)])
def test_array_files_refuse_what_does_not_fit(tmp_path, patch):
    file = ArrayFile(tmp_path / "a.npy", np.float32, (2, 3, 4))
    with pytest.raises(ValueError, match="does not fit"):
        file.write(0, patch)
    file.close()


@pytest.fixture
def build(make_dataset):
    """Build a small store of a dataset."""
    folder = make_dataset(patches=(4, 6))
    return lambda: build_patches(open_dataset(folder), size=32, block_m=640.0)


def test_a_broken_store_is_one_line(build):
    folder = build().folder
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for broken in (b"", b"{}", b"[]", whole[: len(whole) // 2]):
            path.write_bytes(broken)
            with pytest.raises(GlacierError, match="not a whole patch store") as error:
                open_store(folder)
            assert str(folder) in str(error.value)
            assert "build it again" in str(error.value)
            assert "\n" not in str(error.value)
        path.write_bytes(whole)
    assert len(open_store(folder)) > 0


def test_versions_of_the_package_do_not_share_a_store(build, monkeypatch):
    old = build()
    for module in (patches, store):
        monkeypatch.setattr(module, "FORMAT", store.FORMAT + 1)
    new = build()
    assert new.key != old.key
    assert sorted(path.name for path in new.folder.parent.iterdir()) == sorted([old.key, new.key])
    message = r"of another version of this package \(format 3, here 4\); build it again"
    with pytest.raises(GlacierError, match=message):
        open_store(old.folder)


def test_processes_that_want_one_store_build_it_once(build, monkeypatch):
    done, together = [], threading.Barrier(2)
    own = patches._build

    def slow(*arguments):
        done.append(1)
        own(*arguments)

    monkeypatch.setattr(patches, "_build", slow)

    def ask() -> str:
        together.wait()
        return build().key

    with ThreadPoolExecutor(2) as pool:
        assert len({task.result() for task in [pool.submit(ask), pool.submit(ask)]}) == 1
    assert done == [1]
