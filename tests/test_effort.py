"""What mapping all of the Greenland periphery would take."""

from __future__ import annotations

import json

import pytest

from benchmarks.effort import GREENLAND_TILES, greenland_estimate
from glacier_utils.errors import GlacierError


def test_hours_follow_from_seconds_and_workers(tmp_path):
    path = tmp_path / "benchmarks.json"
    path.write_text(json.dumps({"scene_full_tile_s": 36.0, "scene_mpx_s": 1.0}))
    effort = greenland_estimate(path, workers=(1, 10), tiles=200)
    assert effort.table.hours.tolist() == pytest.approx([2.0, 0.2])
    assert effort.table.cores.tolist() == [2, 20]
    assert "2.0 h with 1 worker and 12 min with 10" in effort.sentence
    # The last round of tiles is not full, but takes as long.
    odd = greenland_estimate(path, workers=(3,), tiles=200, dates=2)
    assert odd.table.hours[0] == pytest.approx(2 * 67 * 36 / 3600)


def test_a_rate_serves_as_well():
    effort = greenland_estimate({"scene_mpx_s": 120.5604}, workers=(1,), tiles=GREENLAND_TILES)
    assert effort.table.hours[0] == pytest.approx(GREENLAND_TILES / 3600)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scene_full_tile_s": 0}',
                                  '{"scene_full_tile_s": "fast"}'])  # fmt: skip
def test_without_a_rate_it_says_how_to_measure_one(tmp_path, text):
    path = tmp_path / "benchmarks.json"
    path.write_text(text)
    with pytest.raises(GlacierError, match="make bench"):
        greenland_estimate(path)
