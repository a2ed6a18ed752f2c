"""``glacier fetch`` against a small STAC API on loopback, through the real client and loader."""

from __future__ import annotations

import copy
import json
import re
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.vrt
import rasterio.warp
import shapely
from affine import Affine

from glacier_utils import cli
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.errors import GlacierError
from glacier_utils.imagery import catalogue, download
from glacier_utils.imagery.catalogue import UnusableItemError, known_offset
from glacier_utils.imagery.download import fetch

pytest.importorskip("pystac_client")
pytest.importorskip("odc.stac")


CRS = "EPSG:32623"
X, Y = 500_000, 6_765_000  # near 61 N 45 W: the upper left corner of the western granule
SIZE = 400  # pixels of a granule; the eastern one begins 300 pixels further
BANDS = ("red", "green", "blue", "nir")
# Lies in both granules: columns 150 to 550, rows 50 to 250 of the ground.
BOX = (-44.9717, 61.0008, -44.8989, 61.0178)
WEST_BOX = (-44.9950, 61.0008, -44.9400, 61.0178)  # in the western granule alone


def truth(band: int, col: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Reflectance x 10000 of the ground, from 0 to 9000; no two neighbours are alike."""
    return (col * 131 + row * 71 + band * 1733) % 9001


def classes(col: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Scene classification, constant over 2 x 2 pixels of 10 m; cloud (9) in one of eight."""
    number = (col // 2 + row // 2) % 8
    return np.where(number == 0, 9, 4 + number % 4)


class Catalogue:
    """A STAC API whose items lie in a folder; ``faults`` answers a path with a status instead."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.items: list[dict] = []
        self.faults: dict[str, int] = {}
        self.passing: list[int] = []  # answers to the next questions, whatever they are
        self.asked: list[dict] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                served.answer(self)

            do_GET = do_POST = do_HEAD

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.host}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        path = request.path.partition("?")[0]
        if self.passing:
            return self.send(request, b"busy", self.passing.pop())
        if path in self.faults:
            return self.send(request, b"the <b>cellar</b>\nburns", self.faults[path])
        if path == "/v1":
            return self.send_json(request, self.landing())
        if path == "/v1/search":
            return self.send_json(request, self.search(json.loads(body)))
        file = self.folder / path.lstrip("/")
        if path.startswith("/cogs/") and file.is_file():
            return self.send(request, file.read_bytes())
        return self.send(request, b"nothing here", 404)

    def landing(self) -> dict:
        return {
            "type": "Catalog", "stac_version": "1.0.0", "id": "test", "description": "test",
            "conformsTo": ["https://api.stacspec.org/v1.0.0/core",
                           "https://api.stacspec.org/v1.0.0/item-search"],
            "links": [{"rel": "self", "href": self.url},
                      {"rel": "search", "href": f"{self.url}/search", "method": "POST",
                       "type": "application/geo+json"}],
        }  # fmt: skip

    def search(self, question: dict) -> dict:
        """Answer a search, two items a page."""
        self.asked.append(question)
        start, end = question["datetime"].split("/")
        box = shapely.box(*question["bbox"])
        found = [
            item for item in self.items
            if item.get("collection") in question["collections"]
            and start <= item["properties"]["datetime"] <= end
            and shapely.geometry.shape(item["geometry"]).intersects(box)
        ]  # fmt: skip
        at = int(question.get("token", 0))
        answer = {"type": "FeatureCollection", "features": found[at : at + 2], "links": []}
        if at + 2 < len(found):
            answer["links"].append(
                {"rel": "next", "href": f"{self.url}/search", "method": "POST",
                 "body": {"token": str(at + 2)}, "merge": True}
            )  # fmt: skip
        return answer

    def send_json(self, request: BaseHTTPRequestHandler, content: dict) -> None:
        self.send(request, json.dumps(content).encode())

    def send(self, request: BaseHTTPRequestHandler, data: bytes, status: int = 200) -> None:
        total, wanted = (
            len(data),
            re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")),
        )
        if wanted and status == 200:
            start, end = int(wanted[1]), int(wanted[2] or total - 1)
            data, status = data[start : end + 1], 206
        request.send_response(status)
        if status == 206:
            request.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{total}")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def add(
        self,
        name: str,
        taken: str = "2023-07-14T14:29:21Z",
        *,
        west: int = 0,
        offset: int = 0,
        cloud: float | None = 5,
        without: str | None = None,
        shift: int = 0,
        crs: str = CRS,
        **properties: object,
    ) -> dict:
        """Add an item of a granule that begins at column ``west`` of the ground.

        ``offset``: what must be added to its stored numbers; ``shift`` is added to its reflectance
        x 10000, so that a test can tell items of the same ground apart.
        """
        col, row = np.arange(west, west + SIZE), np.arange(SIZE)[:, None]
        folder = self.folder / "cogs" / re.sub(r"\W", "_", name)
        transform = Affine(10, 0, X + 10 * west, 0, -10, Y)
        for band, key in enumerate(BANDS):
            numbers = np.minimum(truth(band, col, row) + shift, 9500) - offset
            _write(folder / f"{key}.tif", numbers.astype(np.uint16), transform, crs)
        fine = np.broadcast_to(classes(col, row), (SIZE, SIZE))
        coarse = transform @ Affine.scale(2)
        _write(folder / "scl.tif", fine[::2, ::2].astype(np.uint8), coarse, crs)
        bounds = (X + 10 * west, Y - 10 * SIZE, X + 10 * (west + SIZE), Y)
        geometry = rasterio.warp.transform_geom(crs, "EPSG:4326", shapely.box(*bounds))
        item = {
            "type": "Feature", "stac_version": "1.0.0", "id": name,
            "collection": "sentinel-2-l2a", "links": [],
            "geometry": geometry, "bbox": list(shapely.geometry.shape(geometry).bounds),
            "properties": {
                "datetime": taken, "platform": "sentinel-2a", "eo:cloud_cover": cloud,
                "s2:processing_baseline": "05.09",
                "earthsearch:boa_offset_applied": offset == 0, **properties,
            },
            "assets": {
                # As Earth Search words it: the offset stands here, applied or not.
                key: {"href": f"{self.host}/cogs/{folder.name}/{key}.tif",
                      "raster:bands": [{"scale": 0.0001, "offset": -0.1, "data_type": "float64"}]}
                for key in (*BANDS, "scl") if key != without
            },
        }  # fmt: skip
        self.items.append(item)
        return item


def _write(path: Path, array: np.ndarray, transform: Affine, crs: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="COG", height=array.shape[0], width=array.shape[1], count=1,
        dtype=array.dtype, crs=crs, transform=transform, nodata=0, compress="DEFLATE",
    ) as dataset:  # fmt: skip
        dataset.write(array, 1)


@pytest.fixture
def stac(tmp_path, monkeypatch) -> Iterator[Catalogue]:
    """An empty catalogue."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # The waits between tries are the library's; the tests do not need them.
    monkeypatch.setattr(catalogue, "_BACKOFF", 0)
    monkeypatch.setitem(download._GDAL, "GDAL_HTTP_RETRY_DELAY", 0.01)
    # GDAL remembers what it saw at an address; here another catalogue may get the same one.
    monkeypatch.setitem(download._GDAL, "CPL_VSIL_CURL_NON_CACHED", "/vsicurl/http://127")
    made = Catalogue(tmp_path / "served")
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def run(stac, tmp_path):
    """Fetch the box into data/box; gives what was fetched."""

    def call(bbox=BOX, dates=("2023-07",), **options):
        return fetch(tmp_path / "data" / "box", bbox, dates, endpoint=stac.url, **options)

    return call


def ground(grid) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the ground for the pixels of a grid."""
    left, top = (grid.bounds[0] - X) / 10, (Y - grid.bounds[3]) / 10
    assert left == int(left)
    assert top == int(top)
    return int(left) + np.arange(grid.width), int(top) + np.arange(grid.height)[:, None]


def assert_true(image, shift: int = 0, where=slice(None)) -> None:
    """Compare reflectance with the truth, pixel by pixel."""
    col, row = ground(image.grid)
    for band, values in enumerate(image.reflectance):
        wanted = np.minimum(truth(band, col, row) + shift, 9500) / 10000
        np.testing.assert_allclose(values[where], wanted[where], atol=1e-6)


def provenance(folder: Path) -> dict:
    return json.loads((folder / "provenance.json").read_text())


# What arrives


def test_offset_applied_or_not_gives_the_same_reflectance(stac, run, tmp_path):
    stac.add("S2A_applied", offset=0)
    stac.add("S2A_raw", "2023-08-13T14:29:21Z", offset=-1000)
    run(WEST_BOX, ["2023-07", "2023-08"])
    dataset = open_dataset(tmp_path / "data" / "box")
    july, august = (dataset.source("scene", date).read() for date in ("2023-07", "2023-08"))
    assert july.valid.all()
    assert july.grid.matches(august.grid)
    assert july.grid.crs.to_epsg() == 32623
    np.testing.assert_array_equal(july.reflectance, august.reflectance)
    assert_true(july)
    items = {
        date: record["items"][0]
        for date, record in provenance(tmp_path / "data" / "box")["dates"].items()
    }
    assert [items[date]["offset"] for date in items] == [0, -1000]
    assert [items[date]["added_to_stored_numbers"] for date in items] == [1000, 0]
    assert "boa_offset_applied is true" in items["2023-07"]["offset_from"]
    assert items["2023-08"]["processing_baseline"] == "05.09"


def test_two_granules_of_one_pass_with_different_offsets_are_one_image(stac, run, tmp_path):
    stac.add("S2A_west", offset=0, cloud=1)
    stac.add("S2A_east", "2023-07-14T14:29:35Z", west=300, offset=-1000, cloud=20)
    fetched = run()
    dataset = open_dataset(tmp_path / "data" / "box")
    image = dataset.source("scene", "2023-07").read()
    assert image.valid.all()
    assert_true(image)
    record = provenance(tmp_path / "data" / "box")["dates"]["2023-07"]
    assert [item["id"] for item in record["items"]] == ["S2A_west", "S2A_east"]
    assert record["box_covered"] == pytest.approx(1, abs=1e-3)
    assert sum(item["pixels_used"] for item in record["items"]) == image.valid.size
    # The western granule ends at column 400 of the ground.
    col, _ = ground(image.grid)
    assert record["items"][0]["pixels_used"] == (col < 400).sum() * image.grid.height
    assert "S2A_west, S2A_east" in fetched.report[0]


def test_files_are_named_bands_with_nodata_and_classes_are_nearest(stac, run, tmp_path):
    stac.add("S2A_west")
    run(WEST_BOX)
    folder = tmp_path / "data" / "box"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == [
        "dataset.yaml", "images/2023-07.tif", "provenance.json", "scl/2023-07.tif"
    ]  # fmt: skip
    with rasterio.open(folder / "images" / "2023-07.tif") as dataset:
        assert dataset.descriptions == BANDS
        assert (dataset.nodata, dataset.dtypes[0]) == (0, "uint16")
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert all(value % 10 == 0 for value in dataset.bounds)
        west, south, east, north = rasterio.warp.transform_bounds(
            "EPSG:4326", dataset.crs, *WEST_BOX
        )
        for edge, value in zip(dataset.bounds, (west, south, east, north), strict=True):
            assert abs(edge - value) <= 10
    grid = open_dataset(folder).source("scene", "2023-07").grid
    with rasterio.open(folder / "scl" / "2023-07.tif") as dataset:
        assert dataset.dtypes[0] == "uint8"
        np.testing.assert_array_equal(dataset.read(1), classes(*ground(grid)))
    scl = open_dataset(folder).scene_classification("scene", "2023-07").read()
    np.testing.assert_array_equal(scl, classes(*ground(grid)))
    cloud = provenance(folder)["dates"]["2023-07"]["grid_cloud_by_scl"]
    assert cloud == pytest.approx((classes(*ground(grid)) == 9).mean(), abs=1e-4)


def test_zero_is_dark_water_without_offset_and_no_data_with_one(stac, run, tmp_path):
    for name, taken, offset in (("S2A_applied", "2023-07-14T14:29:21Z", 0),
                                ("S2A_raw", "2023-08-13T14:29:21Z", -1000)):  # fmt: skip
        stac.add(name, taken, offset=offset)
        path = stac.folder / "cogs" / name / "nir.tif"
        with rasterio.open(path) as dataset:
            numbers = dataset.read(1)
        numbers[:] = 0
        _write(path, numbers, Affine(10, 0, X, 0, -10, Y), CRS)
    with pytest.raises(GlacierError, match=r"S2A_raw left out: no pixel of it in the box has data"):
        run(WEST_BOX, ["2023-07", "2023-08"])
    run(WEST_BOX, ["2023-07"])
    image = open_dataset(tmp_path / "data" / "box").source("scene", "2023-07").read()
    col, row = ground(image.grid)
    # A pixel with 0 in all four bands would be no data; the truth has none.
    assert image.valid.all()
    assert (image.reflectance[3] == 0).all()
    np.testing.assert_allclose(image.reflectance[0], truth(0, col, row) / 10000, atol=1e-6)


def test_strips_join_without_a_seam(stac, run, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_STRIP", 60)
    stac.add("S2A_west")
    run(WEST_BOX)
    assert_true(open_dataset(tmp_path / "data" / "box").source("scene", "2023-07").read())


def test_another_zone_is_warped_bilinearly_and_classes_by_the_nearest(stac, run, tmp_path):
    stac.add("S2A_west", offset=-1000)
    run(WEST_BOX, crs="EPSG:32622")
    grid = open_dataset(tmp_path / "data" / "box").source("scene", "2023-07").grid
    assert grid.crs.to_epsg() == 32622
    assert grid.transform.a == 10
    frame = {"crs": grid.crs, "transform": grid.transform, "height": grid.height,
             "width": grid.width}  # fmt: skip
    for file, name, resampling, limit in (
        # GDAL places a pixel to an eighth of one; the ground changes by 202 from one to the next.
        ("images", "red", "bilinear", 26),
        ("scl", "scl", "nearest", 0),
    ):
        with (
            rasterio.open(stac.folder / "cogs" / "S2A_west" / f"{name}.tif") as given,
            rasterio.vrt.WarpedVRT(
                given, resampling=rasterio.warp.Resampling[resampling], **frame
            ) as warped,
            rasterio.open(tmp_path / "data" / "box" / file / "2023-07.tif") as made,
        ):
            wanted, got = warped.read(1).astype(int), made.read(1).astype(int)
        assert (got > 0).mean() > 0.9
        both = (wanted > 0) & (got > 0)
        assert both.sum() > 0.99 * (wanted > 0).sum()
        assert (np.abs(wanted - got)[both] <= limit).mean() > 0.95


# Which items


def test_ranking_prefers_clear_ground_in_the_box(stac, run, tmp_path):
    stac.add("S2A_cloudy", "2023-07-02T14:29:21Z", cloud=50, shift=100)
    stac.add("S2A_clear", "2023-07-12T14:29:21Z", cloud=10, shift=200)
    # Without a cloud, but most of the box lies outside of it.
    stac.add("S2A_part", "2023-07-22T14:29:21Z", cloud=0, west=200, shift=300)
    stac.add("S2B_unknown", "2023-07-23T14:29:21Z", cloud=None, shift=400, platform="sentinel-2b")
    stac.add("S2A_june", "2023-06-30T14:29:21Z", cloud=0)
    run(WEST_BOX)
    image = open_dataset(tmp_path / "data" / "box").source("scene", "2023-07").read()
    assert_true(image, shift=200)
    record = provenance(tmp_path / "data" / "box")["dates"]["2023-07"]
    assert record["box_clear_expected"] == pytest.approx(0.9, abs=1e-3)
    assert len(stac.asked) == 2  # four items, two a page


def test_passes_are_not_mixed(stac, run, tmp_path):
    # Clear halves of two days are not one image; the day that covers the box wins.
    stac.add("S2A_west", "2023-07-02T14:29:21Z", cloud=0)
    stac.add("S2A_east", "2023-07-03T14:29:21Z", west=300, cloud=0)
    stac.add("S2B_west", "2023-07-12T14:29:21Z", cloud=30, platform="sentinel-2b")
    stac.add("S2B_east", "2023-07-12T14:29:29Z", west=300, cloud=30, platform="sentinel-2b")
    run()
    items = provenance(tmp_path / "data" / "box")["dates"]["2023-07"]["items"]
    assert {item["id"] for item in items} == {"S2B_west", "S2B_east"}


def test_formula_of_the_ranking():
    def candidate(name, footprint, cloud, minute=0, platform="a", baseline="05.09"):
        return catalogue.Candidate(
            name, datetime(2023, 7, 1, 12, minute, tzinfo=UTC), platform, cloud, baseline, 0, "",
            {}, footprint, footprint.area / 100,
        )  # fmt: skip

    box = shapely.box(0, 0, 10, 10)
    left = candidate("left", shapely.box(0, 0, 6, 10), 20)
    right = candidate("right", shapely.box(5, 0, 10, 10), 50)
    (one,) = catalogue.rank([right, left], box)
    assert [part.name for part in one.parts] == ["left", "right"]
    assert one.covered == pytest.approx(1)
    assert one.clear == pytest.approx(0.6 * 0.8 + 0.4 * 0.5)
    # One that covers all alone is taken alone; of two alike, the later baseline.
    old, new = (candidate(name, box, 20, baseline=name) for name in ("02.14", "05.00"))
    assert [part.name for part in catalogue.rank([left, old, new], box)[0].parts] == ["05.00"]
    # The next orbit is another pass, whatever it covers.
    later = candidate("later", box, 20, minute=40)
    assert len(catalogue.rank([left, later], box)) == 2


def test_missing_assets_leave_the_place_to_the_next_best(stac, run, tmp_path):
    stac.add("S2A_no_nir", "2023-07-01T14:29:21Z", cloud=0, without="nir")
    stac.add("S2A_gone", "2023-07-11T14:29:21Z", cloud=0)
    (stac.folder / "cogs" / "S2A_gone" / "green.tif").unlink()
    stac.add("S2A_local", "2023-07-21T14:29:21Z", cloud=0)["assets"]["red"]["href"] = "/etc/passwd"
    stac.add("S2A_whole", "2023-07-26T14:29:21Z", cloud=40)
    fetched = run(WEST_BOX)
    assert_true(open_dataset(tmp_path / "data" / "box").source("scene", "2023-07").read())
    text = "\n".join(fetched.report)
    assert "S2A_no_nir left out: it has no asset 'nir'" in text
    assert re.search(r"S2A_gone left out: its asset 'green' cannot be read .*404", text)
    assert "S2A_local left out: its asset 'red' is at '/etc/passwd'" in text
    record = provenance(tmp_path / "data" / "box")["dates"]["2023-07"]
    assert record["items"][0]["id"] == "S2A_whole"
    assert len(record["left_out"]) == 3


def test_a_file_that_breaks_off_leaves_the_place_to_the_next_best(stac, run, tmp_path):
    stac.add("S2A_cut", cloud=0)
    path = stac.folder / "cogs" / "S2A_cut" / "blue.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    stac.add("S2A_whole", "2023-07-20T14:29:21Z", cloud=10)
    fetched = run(WEST_BOX)
    assert_true(open_dataset(tmp_path / "data" / "box").source("scene", "2023-07").read())
    assert "S2A_cut left out: reading it broke off" in "\n".join(fetched.report)


def test_a_passing_fault_is_tried_again(stac, run):
    stac.add("S2A_west")
    stac.passing = [503, 502, 503]
    assert "S2A_west" in run(WEST_BOX).report[0]
    assert stac.passing == []


def test_a_file_that_points_at_other_files_is_not_opened(stac, run, tmp_path):
    # GDAL would follow a VRT to any file of this machine.
    stac.add("S2A_vrt")
    secret = stac.folder / "cogs" / "S2A_vrt" / "green.tif"
    (stac.folder / "cogs" / "S2A_vrt" / "red.tif").write_text(
        f'<VRTDataset rasterXSize="400" rasterYSize="400"><SRS>{CRS}</SRS>'
        f"<GeoTransform>{X}, 10, 0, {Y}, 0, -10</GeoTransform>"
        '<VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f"<SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(GlacierError, match="S2A_vrt left out: its asset 'red' cannot be read"):
        run(WEST_BOX)
    assert not (tmp_path / "data" / "box").exists()
    assert not list((tmp_path / "data").iterdir())


# Offsets


def test_offset_is_known_by_the_best_witness():
    def said(stated=None, scale=None, **properties):
        band = {"scale": scale, "offset": stated}
        band = {key: value for key, value in band.items() if value is not None}
        return known_offset(
            {"properties": {key.replace("__", ":"): value for key, value in properties.items()}},
            [{"raster:bands": [band]}] * 4,
        )[0]

    applied, baseline = "earthsearch__boa_offset_applied", "s2__processing_baseline"
    assert said(**{applied: True, baseline: "05.09"}) == 0
    assert said(-0.1, 0.0001, **{applied: True, baseline: "05.09"}) == 0
    assert said(**{applied: False, baseline: "04.00"}) == -1000
    assert said(-0.1, 0.0001, **{applied: False, baseline: "03.01"}) == 0
    assert said(-0.1, 0.0001, **{baseline: "05.09"}) == -1000
    assert said(0, 0.0001, **{baseline: "05.09"}) == 0
    assert said(-0.1) == -1000
    assert said(**{baseline: "05.11"}) == -1000
    assert said(processing__version="05.11") == -1000
    assert said(**{baseline: "02.14"}) == 0
    # Text is no truth.
    assert said(**{applied: "true", baseline: "04.00"}) == -1000
    for wrong in ({}, {applied: False}, {baseline: "new"}):
        with pytest.raises(UnusableItemError, match="neither"):
            said(**wrong)
    with pytest.raises(UnusableItemError, match=r"scale is 0\.001"):
        said(-0.1, 0.001, **{applied: True})
    with pytest.raises(UnusableItemError, match="different offsets"):
        known_offset(
            {"properties": {}}, [{"bands": [{"raster:offset": value}]} for value in (0, -0.1)]
        )


def test_warns_where_an_offset_cannot_be(stac, run):
    # The numbers hold no offset any more, but the item says they do (known of Earth Search).
    stac.add("S2A_wrong", offset=0, **{"earthsearch:boa_offset_applied": False})
    stac.add("S2A_right", "2023-08-02T14:29:21Z", offset=-1000)
    fetched = run(WEST_BOX, ["2023-07", "2023-08"])
    (warning,) = [line for line in fetched.report if "warning" in line]
    assert warning.startswith("2023-07: warning: the values contradict offset -1000")
    assert "sentinel-2-c1-l2a" in warning


# Outlines


def glims(path: Path) -> Path:
    """A GLIMS file: one glacier across the box's edge, one far away, with a column of its own."""
    x, y = X + 4000, Y - 1000
    shapes = [
        shapely.box(x - 2500, y - 800, x + 9000, y),
        shapely.box(x, y + 50000, x + 99, y + 50099),
    ]
    gpd.GeoDataFrame(
        {
            "glac_id": ["G315061E61000N", "G315000E62000N"], "anlys_id": [7, 8],
            "line_type": ["glac_bound"] * 2, "src_date": ["2001-08-01T00:00:00"] * 2,
            "chief_affl": ["a\u202ename", "b"], "fid": [1, 2],
        },
        geometry=shapes, crs=CRS,
    ).to_crs("EPSG:4326").to_file(path)  # fmt: skip
    return path


def test_outlines_are_clipped_to_the_box_whole_with_all_columns(stac, run, tmp_path):
    stac.add("S2A_west")
    file = glims(tmp_path / "glims_polygons.shp")
    fetched = run(WEST_BOX, outlines=file)
    assert "outlines.gpkg: 1 polygons" in "\n".join(fetched.report)
    kept, given = gpd.read_file(tmp_path / "data" / "box" / "outlines.gpkg"), gpd.read_file(file)
    assert list(kept.columns) == ["glac_id", "anlys_id", "line_type", "src_date", "chief_affl",
                                  "fid_", "geometry"]  # fmt: skip
    assert kept.anlys_id.tolist() == [7]
    assert kept.chief_affl[0] == given.chief_affl[0]
    assert shapely.equals(shapely.normalize(kept.geometry[0]),
                          shapely.normalize(given.geometry[0]))  # fmt: skip
    labels = open_dataset(tmp_path / "data" / "box").labels("scene", "2023-07").read()
    assert 0 < (labels == 1).mean() < 1


def test_outlines_elsewhere_fail_before_the_download(stac, run, tmp_path):
    gpd.read_file(glims(tmp_path / "all.shp")).iloc[1:].to_file(tmp_path / "far.gpkg")
    with pytest.raises(GlacierError, match=r"far.gpkg: none of its polygons touches the box"):
        run(WEST_BOX, outlines=tmp_path / "far.gpkg")
    assert stac.asked == []


def test_without_outlines_the_report_says_where_to_get_them(stac, run, tmp_path):
    stac.add("S2A_west")
    text = "\n".join(run(WEST_BOX).report)
    assert "https://www.glims.org/download" in text
    assert "nsidc-0770" in text
    dataset = open_dataset(tmp_path / "data" / "box")
    with pytest.raises(GlacierError, match="neither `outlines` nor `labels`"):
        dataset.labels("scene", "2023-07")


# Untrusted text


def test_hostile_text_of_a_catalogue_stays_text(stac, run, tmp_path):
    name = "../../evil\n    images: /etc/passwd\n# \u202e<script>"
    item = stac.add("S2A_west", platform="x\ny: z", title="\x1b[2J")
    item["id"] = name
    item["properties"]["s2:processing_baseline"] = "05.09\nreflectance: {offset: 7}"
    fetched = run(WEST_BOX)
    folder = tmp_path / "data" / "box"
    dataset = open_dataset(folder)
    assert_true(dataset.source("scene", "2023-07").read())
    assert dataset.manifest["areas"]["scene"]["2023-07"]["images"] == "images/2023-07.tif"
    for text in ((folder / "dataset.yaml").read_text(), "\n".join(fetched.report)):
        assert "../../evil images: /etc/passwd # <script>" in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert sorted(path.name for path in folder.rglob("*.tif")) == ["2023-07.tif"] * 2


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda item: item.update(geometry={"type": "Polygon", "coordinates": [[1]]}), "footprint"),
        (lambda item: item.update(assets=None), "no asset 'red'"),
        (lambda item: item["assets"]["red"].update(href="file:///etc/passwd"), "no address"),
        (lambda item: item["assets"]["red"].update(href="/vsizip//tmp/a.zip"), "no address"),
        (lambda item: item["assets"]["red"].update(href="http://[bad"), "no address"),
        (lambda item: item["properties"].update(datetime=None), "no date"),
        (lambda item: item.update(properties=[]), "no STAC item"),
    ],
)
def test_broken_items_are_left_out_by_name(stac, spoil, reason):
    good = stac.add("good")
    bad = copy.deepcopy(good)
    bad["id"] = "bad"
    spoil(bad)
    grid = download.frame(WEST_BOX)
    box = download.polygon(WEST_BOX, grid)
    found, notes = catalogue.candidates([bad, good], box, grid.crs)
    assert [one.name for one in found] == ["good"]
    (note,) = notes
    assert note.startswith("bad left out: ")
    assert reason in note


def test_secrets_in_addresses_are_not_kept(stac, run, tmp_path):
    for asset in stac.add("S2A_west")["assets"].values():
        asset["href"] += "?sig=SECRET"
    run(WEST_BOX)
    text = (tmp_path / "data" / "box" / "provenance.json").read_text()
    assert "SECRET" not in text
    assert "/cogs/S2A_west/red.tif" in text


# Twice


def test_a_second_call_finds_the_dataset_and_another_is_refused(stac, run, tmp_path):
    stac.add("S2A_west")
    run(WEST_BOX)
    manifest = tmp_path / "data" / "box" / "dataset.yaml"
    made = manifest.stat().st_mtime_ns
    asked = len(stac.asked)
    assert "already there" in run(WEST_BOX).report[0]
    assert (len(stac.asked), manifest.stat().st_mtime_ns) == (asked, made)
    with pytest.raises(GlacierError, match=r"box: was fetched with other max_cloud; choose"):
        run(WEST_BOX, max_cloud=20)


def test_a_folder_of_the_user_is_not_touched(stac, run, tmp_path):
    stac.add("S2A_west")
    (tmp_path / "data" / "box").mkdir(parents=True)
    (tmp_path / "data" / "box" / "mine.txt").write_text("mine")
    with pytest.raises(GlacierError, match=r"box: is there already and was not made by glacier"):
        run(WEST_BOX)
    assert (tmp_path / "data" / "box" / "mine.txt").read_text() == "mine"


# Mistakes, through the command line


@pytest.fixture
def fails(stac, tmp_path, monkeypatch, capsys):
    """Run ``glacier fetch``, which must end with status 2 and one line and leave nothing behind."""
    root = tmp_path / "project"
    (root / "notebooks" / "parameters").mkdir(parents=True)
    monkeypatch.setenv("GLACIER_HOME", str(root))

    def call(*, bbox=WEST_BOX, dates=("2023-07",), name="box", endpoint=stac.url, **options) -> str:
        arguments = ["fetch", "--bbox", *map(str, bbox), "--dates", *dates, "--name", name]
        arguments += ["--endpoint", endpoint]
        for key, value in options.items():
            arguments += [f"--{key.replace('_', '-')}", str(value)]
        assert cli.main(arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith("glacier: ")
        assert message.count("\n") == 1
        assert not (root / "data").exists() or not list((root / "data").iterdir())
        return message

    return call


def test_command_makes_a_dataset(stac, tmp_path, monkeypatch, capsys):
    root = tmp_path / "project"
    (root / "notebooks" / "parameters").mkdir(parents=True)
    monkeypatch.setenv("GLACIER_HOME", str(root))
    stac.add("S2A_west")
    stac.add("S2A_august", "2023-08-14T14:29:21Z", offset=-1000)
    file = glims(tmp_path / "glims_polygons.shp")
    arguments = ["fetch", "--bbox", *map(str, WEST_BOX), "--dates", "2023-08-14", "2023-07",
                 "--name", "fjord", "--endpoint", stac.url, "--outlines", str(file)]  # fmt: skip
    assert cli.main(arguments) == 0
    out = capsys.readouterr()
    assert "S2A_west" in out.out
    assert "data/fjord/dataset.yaml" in out.out
    assert out.err == ""
    dataset = open_dataset("fjord", root=root)
    assert dataset.dates("scene") == ("2023-07", "2023-08-14")
    assert_true(dataset.source("scene", "2023-08-14").read())
    assert cli.main(arguments) == 0
    assert "already there" in capsys.readouterr().out
    assert cli.main(["check", "fjord"]) == 0


def test_nobody_answers(fails):
    message = fails(endpoint="http://127.0.0.1:9/v1")
    assert "http://127.0.0.1:9/v1: cannot be reached" in message
    assert "--endpoint" in message


@pytest.mark.parametrize("path", ["/v1", "/v1/search"])
@pytest.mark.parametrize("status", [500, 503, 403])
def test_server_errors(stac, fails, path, status):
    stac.faults[path] = status
    message = fails()
    assert f"{stac.url}: answers with error {status} (the <b>cellar</b> burns); " in message
    assert "check the network, --endpoint and --collection, or try again later" in message


def test_an_endpoint_that_is_no_stac(stac, fails):
    page = stac.folder / "cogs" / "page.html"
    page.parent.mkdir(parents=True)
    page.write_text("<html>hello</html>")
    assert "is no STAC API" in fails(endpoint=f"{stac.host}/cogs/page.html")
    page.write_text('{"type": "Feature", "links": 7}')
    assert "is no STAC API" in fails(endpoint=f"{stac.host}/cogs/page.html")
    assert "is no address of a STAC API" in fails(endpoint="/home/me/catalog.json")
    assert "is no address of a STAC API" in fails(endpoint="file:///etc/passwd")


def test_empty_answers_say_what_to_widen(stac, fails):
    message = fails()
    assert "no image of the box -44.995 61.0008 -44.94 61.0178" in message
    assert "2023-07" in message
    stac.add("S2A_west", cloud=71)
    stac.add("S2A_west2", "2023-07-16T14:29:21Z", cloud=90)
    message = fails()
    assert "all 2 images" in message
    assert "--max-cloud 60 percent" in message
    assert "the clearest has 71" in message
    assert "collection" in fails(collection="sentinel-2-l1c")


def test_no_item_left(stac, fails):
    stac.add("S2A_west", without="blue")
    message = fails()
    assert "S2A_west left out: it has no asset 'blue'" in message
    assert "another date" in message


@pytest.mark.parametrize(
    ("bbox", "words"),
    [
        ((-44.9, 61.0, -45.0, 61.1), "west less than east"),
        ((-45.0, 61.1, -44.9, 61.0), "south less than north"),
        ((61.0, -44.9, 61.1, 195.0), "in -90..90"),
        ((-45.0, 60.0, -43.0, 61.2), "million pixels"),
        ((-180, -90, 180, 90), "million pixels"),
        ((-45.0, 84.5, -44.5, 84.6), "outside UTM"),
        ((-45.0, 61.0, "nan", 61.1), "west less than east"),
    ],
)
def test_wrong_boxes(fails, bbox, words):
    assert words in fails(bbox=bbox)


def test_wrong_dates_crs_cloud_and_names(fails):
    assert "--dates: '2023-13' is not a date" in fails(dates=["2023-07", "2023-13"])
    assert "--crs EPSG:4326: is not in metres" in fails(crs="EPSG:4326")
    assert "--crs here: is no known CRS" in fails(crs="here")
    assert "--max-cloud 101" in fails(max_cloud=101)
    assert "not a plain folder name" in fails(name="../box")
    assert "no such file" in fails(outlines="nothing.shp")


@pytest.mark.parametrize("module", ["pystac_client", "odc.stac"])
def test_the_extra_is_not_installed(fails, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    message = fails()
    assert f"needs {module}, which is not installed" in message
    assert "pip install glacier-utils[fetch]" in message


# Grids


@pytest.mark.parametrize(
    ("longitude", "latitude", "epsg"),
    [
        (-45.0, 61.0, 32623), (-47.9, 61.0, 32623), (-48.1, 61.0, 32622), (170.5, -43.6, 32759),
        (7.0, 46.0, 32632), (5.0, 61.5, 32632), (5.0, 55.0, 32631), (8.5, 78.0, 32631),
        (16.0, 78.0, 32633), (22.0, 79.0, 32635), (34.0, 80.0, 32637), (179.9, 0.5, 32660),
    ],
)  # fmt: skip
def test_zone_of_a_box(longitude, latitude, epsg):
    box = (longitude - 0.02, latitude - 0.02, longitude + 0.02, latitude + 0.02)
    grid = download.frame(box)
    assert grid.crs.to_epsg() == epsg
    assert all(value % 10 == 0 for value in grid.bounds)
    assert download.polygon(box, grid).difference(shapely.box(*grid.bounds)).area < 1


def test_a_whole_tile_fits():
    tile = rasterio.warp.transform_bounds(
        "EPSG:32623", "EPSG:4326", 499_980, 6_690_240, 609_780, 6_800_040
    )
    grid = download.frame(tile)
    assert grid.height >= 10980
    assert grid.width >= 10980
