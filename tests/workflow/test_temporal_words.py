"""Sentences that follow from the numbers."""

from __future__ import annotations

import pandas as pd
import pytest

from glacier_utils.workflow import summaries

DATES = ("2023-07", "2023-08")
AREAS = pd.DataFrame(
    {
        "model": ["a", "b"], "area": "test", "date": DATES[1], "unknown_km2": [0.0, 9.0],
        "area_km2": 50.0, "low": 30.0, "high": 60.0,
        "bias_km2": [-1.0, -1.0], "cause_rest_km2": [2.5, 7.0], "cause_edge_km2": [1.25, 7.0],
    }
)  # fmt: skip
SUMS = pd.DataFrame(
    {
        "model": "a", "area": "test", "date": [DATES[1]], "glaciers": 20, "changed": 1,
        "area_km2": 50.0, "low_correlated": 30.0, "high_correlated": 60.0,
        "low_uncorrelated": 40.0, "high_uncorrelated": 55.0, "change_km2": -2.0,
        "change_low_correlated": -5.0, "change_high_correlated": 1.0,
        "change_low_uncorrelated": -3.0, "change_high_uncorrelated": -1.0,
    }
)  # fmt: skip
STEADY = pd.DataFrame(
    {
        "model": "a", "area": "test", "before": DATES[0], "after": DATES[1],
        "ground": ["stable terrain", "inside outlines", "true ground", "true ice"],
        "same": 0.9, "changed": [0.02, 0.04, 0.06, 0.03], "lost_km2": 1.0, "gained_km2": 0.25,
        "net_km2": -0.75,
    }
)  # fmt: skip
PRICES = pd.DataFrame(
    [
        ("test", DATES[0], "truth", "both", "a", 0.03, 0.01, 0.05, "better"),
        ("test", DATES[1], "truth", "both", "a", -0.01, -0.04, 0.02, "not distinguishable"),
        ("test", DATES[1], "labels", "both", "a", -0.05, -0.06, -0.04, "worse"),
    ],
    columns=["area", "date", "reference", "model", "against", "difference", "low", "high",
             "verdict"],
)  # fmt: skip


def page(**tables) -> str:
    known = {"areas": AREAS, "sums": SUMS, "steadiness": STEADY, "prices": PRICES}
    return summaries.temporal_conclusions(
        ["Area test: words."], DATES, **(known | tables), model="a", main_date=DATES[1]
    )


def test_the_page_says_what_may_be_concluded_and_what_not():
    text = page()
    may, may_not = text.split("## What may not be concluded")
    assert may.startswith("## What may be concluded\n\n- Area test: words.")
    assert "30.00 to 60.00 if their errors are alike, 40.00 to 55.00 if independent" in may
    assert "-5.00 to +1.00 if alike, -3.00 to -1.00 if independent): no change can be shown" in may
    assert "1 of them changed by more than their own interval, up to 3 might by chance" in may
    assert "2.0 % of stable terrain" in may
    assert "2.50 km2 of change (-1.50 km2 net) never was" in may
    assert "Price on the main date: in area test on 2023-08, **both** is not distinguishable" in may
    assert (
        "Gain on another date: in area test on 2023-07, **both** is clearly better than **a**"
        in may
    )
    assert "by the labels" not in may  # the truth is known
    assert "Retreat or advance" in may_not
    assert "only in the 2.50 km2 that none of them explains and the 1.25 km2" in may_not
    assert "unknown on a date" not in may_not  # only of the other model


def test_more_changed_glaciers_than_chance_gives_are_no_news_within_a_month():
    text = page(sums=SUMS.assign(changed=4))
    assert "no change of one of them can be believed" in text
    years = summaries.temporal_conclusions(
        [], ("2001-08", "2023-08"), sums=SUMS.assign(changed=4, date="2023-08"), areas=AREAS
    )
    assert "4 of them changed" in years
    assert "can be believed" not in years
    assert "Retreat or advance" not in years
    assert "as independent" in years


@pytest.mark.parametrize("column", ["change_high_correlated"])
def test_a_sum_that_changed(column):
    assert "more than the errors" in page(sums=SUMS.assign(**{column: -0.5}))


def test_one_date_tells_nothing_of_change():
    text = summaries.temporal_conclusions(["There is one date only."], DATES[:1], areas=AREAS)
    assert "Anything about change" in text
    assert "could hide" not in text
    assert "- Area test: the mapped glacier area is 50.00 km2 (30.00 to 60.00) on 2023-08." in text


def test_without_validation_the_page_says_so():
    assert "it was not measured here" in page(areas=AREAS.assign(bias_km2=float("nan")))


def test_volume_is_told_among_what_may_not_be_concluded():
    volumes = pd.DataFrame(
        {
            "model": "a", "area": "test", "date": [DATES[1]] * 2, "glacier_id": ["G", "all"],
            "volume_km3": [1.0, 4.0], "volume_low": [0.5, 2.0], "volume_high": [2.0, 8.0],
        }
    )  # fmt: skip
    text = page(volumes=volumes).split("## What may not be concluded")[1]
    assert "4.00 km3, 2.00 to 8.00" in text
    assert "no measurement of lost ice" in text
