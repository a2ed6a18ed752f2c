"""Pictures of patches that were dropped."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from glacier_utils.plotting.gallery import dropped_patches

BANDS = ("red", "green", "blue", "nir")


def index_of(*reasons):
    return pd.DataFrame(
        {
            "area": "train",
            "date": "2023-08",
            "row": np.arange(len(reasons)) * 8,
            "col": 0,
            "split": ["dropped" if reason and "kept" not in reason else "train"
                      for reason in reasons],
            "reason": reasons,
        }
    )  # fmt: skip


def arrays(count):
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 0.9, (count, 4, 8, 8)).astype(np.float32)
    return images, rng.choice(np.array([0, 1, 255], np.uint8), (count, 8, 8))


def titles(figure):
    found = [ax.get_title() for ax in figure.axes if ax.get_title()]
    plt.close(figure)
    return found


def test_every_kind_of_reason_has_its_turn():
    index = index_of(
        "", "unknown 83 % > 50 %", "unknown 90 % > 50 %", "no data 70 % > 50 %",
        "dropped by override: fog", "kept by override: a lake", "unknown 95 % > 50 %",
    )  # fmt: skip
    figure = dropped_patches(index, *arrays(len(index)), BANDS, count=4)
    assert figure.get_suptitle() == "4 of 6 patches dropped, or kept by an override"
    shown = titles(figure)
    assert [title.splitlines()[1] for title in shown] == [
        "row 8, col 0", "row 24, col 0", "row 32, col 0", "row 40, col 0",
    ]  # fmt: skip
    assert shown[0].splitlines()[2] == "unknown 83 % > 50 %"


def test_the_pictures_are_those_of_the_patches():
    images, labels = arrays(3)
    index = index_of("", "", "no data 70 % > 50 %").set_index(np.array([7, 8, 9]))
    figure = dropped_patches(index, images, labels, BANDS)
    drawn = [ax.get_images()[0].get_array() for ax in figure.axes if ax.get_images()]
    assert len(drawn) == 2
    order = np.argsort(images[2, 0].ravel())
    assert (np.diff(drawn[0][..., 0].ravel()[order]) >= 0).all()
    plt.close(figure)


def test_nothing_to_show():
    with pytest.raises(ValueError, match="no patch is dropped"):
        dropped_patches(index_of("", "").assign(split=["train", "buffer"]), *arrays(2), BANDS)
