"""Scenes named by paths, patterns, lists and saved STAC searches."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glacier_utils.errors import GlacierError
from glacier_utils.imagery.source import open_source
from glacier_utils.prediction.scene_lists import list_scenes, read_scenes


def item(name="S2A_T23VMG", assets=None, **properties) -> dict:
    assets = assets or {
        band: {"href": f"https://example.org/{quote(name, '') or 'x'}/{file}.tif?sig=a%2Fb"}
        for band, file in zip(("red", "green", "blue", "nir"), ("B04", "B03", "B02", "B08"),
                              strict=True)
    }  # fmt: skip
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "assets": assets, "geometry": None,
        "properties": {"datetime": "2023-08-24T14:30:00Z", **properties}, "links": [],
    }  # fmt: skip


def save(path: Path, *items: dict) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    return path


def test_a_saved_search_becomes_scenes(tmp_path):
    path = save(
        tmp_path / "search.json",
        item(**{"s2:processing_baseline": "05.09"}),
        item("other", **{"s2:processing_baseline": "02.14"}),
        item("third"),
    )
    one, other, third = read_scenes(path)
    assert (one.name, one.date, one.scale, one.offset) == ("S2A_T23VMG", "2023-08-24", 10000, -1000)
    assert one.images[0] == "https://example.org/S2A_T23VMG/B04.tif?sig=a%2Fb"
    assert one.on_the_web
    assert other.offset == 0
    # Nothing tells, so the file or the training does.
    assert (third.scale, third.offset) == (None, None)
    assert "offset" not in third.settings


def test_local_files_of_an_item_open_as_one_image(tmp_path, write_tif):
    assets = {}
    for number, band in enumerate(("red", "green", "blue", "nir"), start=1):
        write_tif(tmp_path / "here" / f"{band[0]}{number}.tif", np.full((8, 8), number, np.uint16))
        assets[band] = {"href": f"here/{band[0]}{number}.tif"}
    scene = read_scenes(save(tmp_path / "s.json", item(assets=assets)))[0]
    assert not scene.on_the_web
    source = open_source(list(scene.images), bands=scene.bands)
    assert source.bands == ("red", "green", "blue", "nir")
    np.testing.assert_allclose(source.read().reflectance[:, 0, 0] * 10000, [1, 2, 3, 4])


def test_single_items(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(item(name)))
    assert [one.name for one in read_scenes(tmp_path / "a.json")] == ["a"]
    files = sorted(tmp_path.glob("*.json"))
    assert [one.name for one in list_scenes(files)] == ["a", "b"]


@pytest.mark.parametrize(
    "href",
    ["/etc/passwd", "../secret.tif", "file:///etc/passwd", "here/../../secret.tif", "link.tif",
     "/vsicurl/http://x/y.tif", "s3://bucket/B04.tif", "javascript:alert(1)", "none.tif", "C:\\x"],
)  # fmt: skip
def test_addresses_that_lead_elsewhere_are_refused(tmp_path, href):
    (tmp_path / "secret.tif").write_bytes(b"x")
    folder = tmp_path / "list"
    (folder / "here").mkdir(parents=True)
    (folder / "link.tif").symlink_to(tmp_path / "secret.tif")
    assets = item()["assets"] | {"green": {"href": href}}
    with pytest.raises(GlacierError, match=r"s\.json, item S2A_T23VMG: its asset"):
        read_scenes(save(folder / "s.json", item(assets=assets)))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ("[]", "holds no STAC items"),
        ('{"type": "FeatureCollection", "features": []}', "holds no STAC items"),
        ('{"type": "FeatureCollection", "features": 3}', "holds no STAC items"),
        ('{"type": "FeatureCollection", "features": [3]}', "no STAC item"),
        ('{"type": "Feature", "properties": {}, "assets": [1]}', "no asset for the band red"),
        ('{"type": "Feature", "properties": {}, "assets": {"red": 1}}', "no asset for the band"),
        ('{"type": "Feature", "properties": null}', "no STAC item"),
    ],
)
def test_broken_stac_is_said_to_be_broken(tmp_path, text, wrong):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(GlacierError, match=wrong):
        list_scenes([path])


def test_a_scale_that_is_not_of_sentinel_2_is_refused(tmp_path):
    assets = item()["assets"]
    for asset in assets.values():
        asset["raster:bands"] = [{"scale": 0.0000275, "offset": -0.2}]
    with pytest.raises(GlacierError, match="its scale is"):
        read_scenes(save(tmp_path / "s.json", item(assets=assets)))


@given(st.lists(st.text(max_size=30), min_size=1, max_size=6))
def test_names_are_plain_and_apart(tmp_path_factory, identifiers):
    path = save(tmp_path_factory.mktemp("s") / "s.json", *map(item, identifiers))
    names = [scene.name for scene in read_scenes(path)]
    assert len({name.lower() for name in names}) == len(identifiers)
    for name in names:
        assert name
        assert name.isprintable()
        assert not set(name) & set('/\\:*?"<>| ')
        assert not name.startswith(".")
        assert name.lower() != "mosaic"


def test_lists_patterns_and_folders_are_scenes(tmp_path, write_tif, monkeypatch):
    for name in ("x/a.tif", "y/a.tif", "patches/p1.tif", "patches/p2.tif", "S2A_X.SAFE/B04.tif"):
        write_tif(tmp_path / name, np.ones((8, 8), np.uint16))
    (tmp_path / "list.txt").write_text(
        "# scenes\nx/a.tif\n\n  y/a.tif \nx/a.tif\npatches/*.tif\nS2A_X.SAFE\n"
        "https://example.org/T22_B04.tif?sig=1\n"
    )
    scenes = list_scenes([tmp_path / "list.txt"])
    assert [scene.name for scene in scenes] == ["x_a", "y_a", "patches", "S2A_X", "T22_B04"]
    monkeypatch.chdir(tmp_path)
    assert [scene.name for scene in list_scenes(["patches", "y/a.tif"])] == ["patches", "a"]
    for text, wrong in (
        ("none.tif\n", r"line 1: .*no such file"),
        ("#\n", "names no scene"),
        ("list.txt\n", "another list"),
    ):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(GlacierError, match=wrong):
            list_scenes(["bad.txt"])
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GlacierError, match="cannot be read as a list"):
        list_scenes("bad.txt")
