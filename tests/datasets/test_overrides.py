"""A user's decisions on single patches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from glacier_utils.datasets.splitting import (
    apply_overrides,
    read_overrides,
    write_overrides_template,
)
from glacier_utils.errors import GlacierError

HEAD = "area,date,row,col,decision,comment\n"
KNOWN = [("train", "2023-07"), ("train", "2023-08"), ("test", "2023-08")]


@pytest.fixture
def index():
    return pd.DataFrame(
        {
            "area": ["train", "train", "test"],
            "date": "2023-08",
            "row": [0, 32, 0],
            "col": [0, 0, -5],
            "split": ["train", "dropped", "test"],
            "reason": ["", "unknown 83 % > 50 %", ""],
        }
    )


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "overrides.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_decisions_are_found_and_applied(index, write):
    path = write(
        HEAD + 'train,2023-08,32,0,keep,"ice, seen on foot"\n\ntest, 2023-08, 0, -5, drop,\n'
    )
    found = read_overrides(path).positions(index, KNOWN)
    assert {position: row.line for position, row in found.items()} == {1: 2, 2: 4}
    reasons, notes = apply_overrides(index["reason"].to_numpy(object), found)
    assert reasons.tolist() == ["", "", "dropped by override"]
    assert notes.tolist() == ["", "kept by override: ice, seen on foot", ""]


def test_a_decision_that_agrees_changes_nothing(index, write):
    path = write(HEAD + "train,2023-08,0,0,keep,fine\ntrain,2023-08,32,0,drop,mist\n")
    before = index["reason"].to_numpy(object)
    reasons, notes = apply_overrides(before, read_overrides(path).positions(index, KNOWN))
    assert reasons.tolist() == before.tolist()
    assert not notes.any()


def test_a_spreadsheet_may_part_by_semicolons_and_mark_its_encoding(write):
    text = "area;date;row;col;decision;comment\r\ntrain;2023-08;0;32;drop;fog, thick\r\n"
    (row,) = read_overrides(write(text, "utf-8-sig")).rows
    assert row.place == ("train", "2023-08", 0, 32)
    assert row.comment == "fog, thick"


def test_comments_may_be_left_out(write):
    text = "area,date,row,col,decision\ntrain,2023-08,0,32,drop\n"
    assert read_overrides(write(text)).rows[0].comment == ""


def test_the_template_says_what_is_and_changes_nothing(index, tmp_path):
    path = write_overrides_template(index, tmp_path / "template.csv")
    assert path.read_text().splitlines() == [
        HEAD.strip(),
        "train,2023-08,0,0,keep,",
        "train,2023-08,32,0,drop,unknown 83 % > 50 %",
        "test,2023-08,0,-5,keep,",
    ]
    found = read_overrides(path).positions(index, KNOWN)
    before = index["reason"].to_numpy(object)
    reasons, notes = apply_overrides(before, found)
    assert reasons.tolist() == before.tolist()
    assert not notes.any()


def test_the_fingerprint_is_that_of_the_decisions(write):
    line = "train,2023-08,0,0,keep,a\n"
    same = {read_overrides(write(text)).fingerprint for text in (HEAD + line, HEAD + "\n" + line)}
    assert len(same) == 1
    others = {
        read_overrides(write(HEAD + text)).fingerprint
        for text in ("", line, line.replace("keep", "drop"), line.replace(",a", ",b"))
    }
    assert len(others) == 4


def test_lines_on_other_dates_of_the_dataset_are_passed_over(index, write):
    path = write(HEAD + "train,2023-07,0,0,drop,\n")
    assert read_overrides(path).positions(index, KNOWN) == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train,2023-08,0,0,maybe,", "line 2: decision 'maybe'"),
        ("train,2023-08,0,0,,", "line 2: decision ''"),
        ("train,2023-08,0,x,keep,", "line 2: row '0' and col 'x'"),
        ("train,2023-08,0", "line 2: row '0' and col ''"),
        ("train,2023-08,0,0,keep,\ntrain,2023-08,0,0,drop,", "line 3: .* in line 2 already"),
        ("train,2023-08,0,0,keep,\ntrain,2023-08,00,0,drop,", "line 3: .* in line 2 already"),
        ("train,2023-08,0,7,keep,", r"line 2: .*'train'.*'2023-08' at row 0, col 7"),
        ("trian,2023-08,0,0,keep,", "line 2: .*'trian'"),
        ("train,2022-08,0,0,keep,", "line 2: .*'2022-08'"),
    ],
)
def test_mistakes_name_file_and_line(index, write, line, message):
    path = write(HEAD + line + "\n")
    with pytest.raises(GlacierError, match=message) as caught:
        read_overrides(path).positions(index, KNOWN)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"area,date,row,decision\n", "line 1: column col is missing"),
        (b"", "line 1: column area, date"),
        (b"\xff\xfe\x00area", "cannot be read as UTF-8"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    path = tmp_path / "overrides.csv"
    path.write_bytes(content)
    with pytest.raises(GlacierError, match=message):
        read_overrides(path)
    with pytest.raises(GlacierError, match="cannot be read"):
        read_overrides(tmp_path / "none.csv")


def test_positions_do_not_depend_on_the_order_of_the_index(index, write):
    path = write(HEAD + "train,2023-08,32,0,keep,\n")
    turned = index.iloc[::-1].reset_index(drop=True)
    assert list(read_overrides(path).positions(turned, KNOWN)) == [1]
    assert np.array_equal(turned.loc[[1], "row"], [32])
