"""Files that appear whole or not at all, and fingerprints of content."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glacier_utils import files
from glacier_utils.errors import GlacierError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_atomic_path_renames_on_success(tmp_path):
    target = tmp_path / "new" / "map.tif"
    with files.atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".tif"
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert names(target.parent) == {"map.tif"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_path_keeps_the_old_file_on_failure(tmp_path, error):
    target = tmp_path / "map.tif"
    target.write_bytes(b"old")
    with contextlib.suppress(error), files.atomic_path(target) as temporary:
        temporary.write_bytes(b"hal")
        raise error
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == {"map.tif"}


def test_atomic_path_replaces_a_folder_as_a_whole(tmp_path):
    target = tmp_path / "store"
    target.mkdir()
    (target / "old.npy").touch()
    with files.atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "new.npy").touch()
        assert names(target) == {"old.npy"}
    assert names(target) == {"new.npy"}
    assert names(tmp_path) == {"store"}


def test_atomic_path_keeps_the_old_folder_on_failure(tmp_path):
    target = tmp_path / "store"
    target.mkdir()
    (target / "old.npy").touch()
    with contextlib.suppress(OSError), files.atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "half.npy").touch()
        raise OSError("disk full")
    assert names(target) == {"old.npy"}
    assert names(tmp_path) == {"store"}


def test_atomic_path_keeps_the_old_folder_where_the_last_step_fails(tmp_path, monkeypatch):
    target = tmp_path / "store"
    target.mkdir()
    (target / "old.npy").touch()
    replace = files.os.replace

    def failing(source, destination):
        if destination == target and not str(source).endswith(".old"):
            raise PermissionError("in use")
        replace(source, destination)

    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises(PermissionError), files.atomic_path(target) as temporary:
        temporary.mkdir()
    assert names(target) == {"old.npy"}
    assert names(tmp_path) == {"store"}


def test_write_text_is_utf8_with_the_same_line_ends_everywhere(tmp_path):
    path = files.write_text(tmp_path / "note.md", "km²\n")
    assert path.read_bytes() == "km²\n".encode()


def test_write_json_is_strict(tmp_path):
    content = {
        "score": math.nan,
        "limit": np.float32("inf"),
        "bands": ("red", "nir"),
        "counts": np.array([[1, 2], [3, 4]]),
        "folder": tmp_path,
        "area": "Nærsaq",
        1: np.bool_(True),
    }
    path = files.write_json(tmp_path / "run.json", content)

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    text = path.read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse) == {
        "score": None,
        "limit": None,
        "bands": ["red", "nir"],
        "counts": [[1, 2], [3, 4]],
        "folder": str(tmp_path),
        "area": "Nærsaq",
        "1": True,
    }
    assert "Nærsaq" in text


def test_write_csv_keeps_six_digits_and_no_index(tmp_path):
    table = pd.DataFrame({"iou": [0.123456789, np.nan], "patches": [1_234_567_890, 1]})
    path = files.write_csv(tmp_path / "scores.csv", table)
    assert path.read_bytes() == b"iou,patches\n0.123457,1234567890\n,1\n"


def test_write_csv_leaves_no_formula_to_a_spreadsheet(tmp_path):
    harmful = ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3+cmd|x", "\t=1", "\r=1"]
    plain = ["ice", "-0.5", "+3", "", None, "a=b"]
    for kind in (object, "category", "str"):
        table = pd.DataFrame({"name": pd.Series(harmful + plain, dtype=kind), "iou": -0.5})
        files.write_csv(tmp_path / "a.csv", table)
        with open(tmp_path / "a.csv", newline="") as file:
            rows = list(csv.reader(file))[1:]
        assert [name for name, _ in rows] == [f"'{text}".replace("\r", " ") for text in harmful] + [
            text or "" for text in plain
        ]
        assert {number for _, number in rows} == {"-0.5"}
        assert table["name"].tolist()[:2] == harmful[:2]  # the table itself stays


def test_a_lock_is_one_processs_at_a_time_and_leaves_no_file(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "new" / ".lock"
    busy = GlacierError("at work")
    with files.locked(path) as held, open(path, "w") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert os.fstat(held[0]).st_ino == path.stat().st_ino
    assert not path.exists()
    with open(path, "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(GlacierError, match="at work"), files.locked(path, busy, 0.1):
            pass
    with files.locked(path, busy, 0.1):
        pass


def test_sweep_removes_what_was_not_finished_and_nothing_else(tmp_path):
    left = [".a.0123abcd.csv", ".a.b.0123abcd", ".s.0123abcd.old", "deep/.x.0123abcd.tif"]
    kept = ["a.csv", ".hidden", ".a.partial", ".unet.0123456789ab.partial", "x.0123abcd.csv"]
    for name in [*left, *kept]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".folder.0123abcd").mkdir()
    files.remove_unfinished(tmp_path)
    assert names(tmp_path) == {*kept, "deep"}
    assert names(tmp_path / "deep") == set()


def test_fingerprint_stays_what_it_was():
    # The SHA-256 of {"areas": ["train"], "band_m": 0.0, "size": 128}. Stores and fits are found
    # again by it, so a new version must give the same.
    assert files.fingerprint({"size": 128, "areas": ["train"], "band_m": 0.0}) == "c2c5934422c4"
    assert re.fullmatch(r"[0-9a-f]{20}", files.fingerprint([], length=20))


@given(content=st.dictionaries(st.text(max_size=5), PLAIN, min_size=2, max_size=5))
def test_fingerprint_does_not_depend_on_the_order_of_keys(content):
    assert files.fingerprint(dict(reversed(content.items()))) == files.fingerprint(content)


@given(content=PLAIN)
def test_fingerprint_survives_json(content):
    assert files.fingerprint(json.loads(json.dumps(content))) == files.fingerprint(content)


@given(one=PLAIN, other=PLAIN)
def test_fingerprint_tells_contents_apart(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (files.fingerprint(one) == files.fingerprint(other)) == same


def test_fingerprint_of_arrays_sets_and_lists():
    assert files.fingerprint(np.array([1, 2])) == files.fingerprint([1, 2])
    assert files.fingerprint((1, 2)) == files.fingerprint([1, 2])
    assert files.fingerprint([1, 2]) != files.fingerprint([2, 1])
    assert files.fingerprint({"b", "a"}) == files.fingerprint(["a", "b"])
    assert files.fingerprint({1, "a", None})


def test_file_fingerprint_notices_a_change(tmp_path):
    path = tmp_path / "scene.tif"
    path.write_bytes(b"1234")
    before = files.file_fingerprint(path)
    assert before[:2] == ["scene.tif", 4]
    assert files.file_fingerprint(path) == before
    path.write_bytes(b"12345")
    assert files.file_fingerprint(path) != before
