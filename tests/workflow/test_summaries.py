"""Sentences that follow from the numbers."""

from __future__ import annotations

import pandas as pd

from glacier_utils.workflow import summaries

DATES = ("2023-07", "2023-08")
AREAS = pd.DataFrame(
    {
        "model": ["a", "b"], "area": "test", "date": DATES[1], "unknown_km2": [0.0, 9.0],
        "area_km2": 50.0, "low": 30.0, "high": 60.0,
        "bias_km2": [-1.0, -1.0], "cause_rest_km2": [2.5, 7.0], "cause_edge_km2": [1.25, 7.0],
    }
)  # fmt: skip
REPEATABILITY = pd.DataFrame(
    {
        "model": "a", "area": "test", "before": DATES[0], "after": DATES[1],
        "ground": ["stable terrain", "inside outlines", "true ground", "true ice"],
        "same": 0.9, "changed": [0.02, 0.04, 0.06, 0.03], "lost_km2": 1.0, "gained_km2": 0.25,
        "net_km2": -0.75,
    }
)  # fmt: skip
COSTS = pd.DataFrame(
    [
        ("test", DATES[0], "truth", "both", "a", 0.03, 0.01, 0.05, "better"),
        ("test", DATES[1], "truth", "both", "a", -0.01, -0.04, 0.02, "not distinguishable"),
        ("test", DATES[1], "labels", "both", "a", -0.05, -0.06, -0.04, "worse"),
    ],
    columns=["area", "date", "reference", "model", "against", "difference", "low", "high",
             "verdict"],
)  # fmt: skip


def page(dates=DATES, **tables) -> str:
    known: dict = {"areas": AREAS, "repeatability": REPEATABILITY, "costs": COSTS}
    return summaries.temporal_conclusions(
        ["Area test: words."], dates, **(known | tables), model="a", main_date=DATES[1]
    )


def test_the_page_says_what_may_be_concluded_and_what_not():
    text = page()
    may, may_not = text.split("## What may not be concluded")
    assert may.startswith("## What may be concluded\n\n- Area test: words.")
    assert "2.0 % of stable terrain" in may
    assert "2.50 km2 of change (-1.50 km2 net) never was" in may
    assert "Cost on the main date: in area test on 2023-08, **both** is not distinguishable" in may
    assert (
        "Gain on another date: in area test on 2023-07, **both** is clearly better than **a**"
        in may
    )
    assert "against the labels" not in may  # the truth is known
    assert "Retreat or advance" in may_not
    assert "only in the 2.50 km2 that none of them explains and the 1.25 km2" in may_not
    assert "unknown on a date" not in may_not  # only of the other model


def test_one_date_tells_nothing_of_change():
    text = page(DATES[:1], repeatability=pd.DataFrame())
    assert "Anything about change" in text
    assert "could hide" not in text
    assert "- Area test: the mapped glacier area is 50.00 km2 (30.00 to 60.00) on 2023-08." in text


def test_without_validation_the_page_says_so():
    assert "it was not measured here" in page(areas=AREAS.assign(bias_km2=float("nan")))


def test_a_test_over_time_is_never_called_one_over_space():
    _, may_not = page(over_time=["east"]).split("What may not be concluded")
    assert "area east lies on the ground of training" in may_not
    assert "a test over time, not over space" in may_not
    assert "over time" not in page()


def test_each_area_has_its_statement():
    numbers = {
        "before_km2": 0.04, "before_low": 0.03, "before_high": 0.05, "after_km2": 0.0256,
        "after_low": 0.02, "after_high": 0.03, "change_km2": -0.0144, "change_percent": -36.0,
        "low_km2": -0.0244, "high_km2": -0.0044, "unknown_km2": 0.0, "distinguishable": True,
    }  # fmt: skip
    explained = pd.DataFrame(
        {"area": ["a", "b"], "cause": ["snow lost", "water"], "area_km2": [0.01, 0.01]}
    )
    one, other = summaries.temporal_statements({"a": numbers, "b": numbers}, explained, DATES)
    assert one.startswith("Area a: The mapped glacier area is 0.04")
    assert "smaller by more than its uncertainty" in one
    assert "snow that lay on the first date only" in one
    assert "not as retreat" in one
    assert "water on one date only" in other
    assert "snow that lay" not in other
    (sentence,) = summaries.temporal_statements({}, explained, DATES[:1])
    assert "one date only" in sentence
