"""Images and masks on another grid: values keep, nothing bleeds, windows do not matter."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import calculate_default_transform, transform

from glacier_utils.errors import GlacierError
from glacier_utils.imagery.source import Source, open_source
from glacier_utils.imagery.warp import describe_mismatch, warp_mask, warp_source
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.mask import Mask

UTM23, UTM22 = CRS.from_epsg(32623), CRS.from_epsg(32622)
ORIGIN = (450_000.0, 6_780_000.0)
UNNAMED = CRS.from_wkt(
    'PROJCS["UTM Zone 23",GEOGCS["unnamed",DATUM["Unknown_based_on_WGS84_ellipsoid",'
    'SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",-45],'
    'PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    'PARAMETER["false_northing",0],UNIT["metre",1]]'
)


def grid_of(shape=(60, 80), pixel=10.0, dx=0.0, dy=0.0, crs=UTM23):
    """A grid whose corner lies (dx, dy) metres right of and below the origin."""
    corner = Affine(pixel, 0, ORIGIN[0] + dx, 0, -pixel, ORIGIN[1] - dy)
    return Grid(crs, corner, *shape)


def in_zone_22(grid, pixel=10.0):
    """The frame in UTM 22 around a grid in UTM 23."""
    corner, width, height = calculate_default_transform(
        grid.crs, UTM22, grid.width, grid.height, *grid.bounds, resolution=pixel
    )
    return Grid(UTM22, corner, height, width)


class Memory(Source):
    """An image in memory."""

    def __init__(self, values, grid, valid=None):
        self.valid = np.ones(grid.shape, bool) if valid is None else valid
        self.values = np.where(self.valid, values, 0).astype(np.float32)
        self.grid, self.bands = grid, tuple(f"b{n}" for n in range(len(values)))
        self.paths, self.tiles = [], []
        self.largest = 0

    def read(self, row=0, col=0, height=None, width=None):
        height, width = height or self.grid.height, width or self.grid.width
        self.largest = max(self.largest, height * width)
        values = np.zeros((len(self.values), height, width), np.float32)
        valid = np.zeros((height, width), bool)
        r0, c0 = max(row, 0), max(col, 0)
        r1, c1 = min(row + height, self.grid.height), min(col + width, self.grid.width)
        if r0 < r1 and c0 < c1:
            place = slice(r0 - row, r1 - row), slice(c0 - col, c1 - col)
            values[:, *place] = self.values[:, r0:r1, c0:c1]
            valid[place] = self.valid[r0:r1, c0:c1]
        return Image(values, valid, self.bands, self.grid.window(row, col, height, width))


class Classes(Mask):
    """A mask in memory."""

    def __init__(self, classes, grid):
        self.grid = grid
        self.inner = Memory(classes[np.newaxis], grid)

    def read(self, row=0, col=0, height=None, width=None):
        image = self.inner.read(row, col, height, width)
        return np.where(image.valid, image.reflectance[0], 255).astype(np.uint8)


def centres(grid):
    """x and y of the pixels, [row, col] each."""
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    return grid.transform @ (cols, rows)


TARGETS = {
    "half a pixel": grid_of(dx=5, dy=5),
    "a fraction of a pixel": grid_of(dx=3.7, dy=-1.2),
    "finer": grid_of((120, 160), 5.0),
    "coarser, averaged": grid_of((20, 25), 30.0, dx=10, dy=20),
    "coarser, no whole ratio": grid_of((25, 30), 23.0, dx=17, dy=3),
    "other zone": in_zone_22(grid_of()),
    "other zone, coarser": in_zone_22(grid_of(), 27.0),
}
targets = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@targets
def test_constant_stays_constant_up_to_the_edge(target):
    source = Memory(np.full((2, 60, 80), 0.37), grid_of())
    image = warp_source(source, target).read()
    assert image.grid == target
    assert image.valid.mean() > 0.3
    np.testing.assert_allclose(image.reflectance[:, image.valid], 0.37, atol=1e-6)
    assert (image.reflectance[:, ~image.valid] == 0).all()


@targets
def test_ramp_stays_a_ramp(target):
    own = grid_of()
    x, y = centres(own)
    # From 0 to 0.8 across the frame in x, falling by half of that in y.
    ramp = (x - ORIGIN[0]) / 1000 + (y - ORIGIN[1]) / 2000
    image = warp_source(Memory(ramp[np.newaxis], own), target).read()
    x, y = centres(target)
    flat = np.array(transform(target.crs, own.crs, x.ravel(), y.ravel()))
    x, y = flat.reshape(2, *target.shape)
    expected = (x - ORIGIN[0]) / 1000 + (y - ORIGIN[1]) / 2000
    # Pixels that stick out of the frame are means of what is inside.
    left, top = (x - ORIGIN[0]) / 10, (ORIGIN[1] - y) / 10
    margin = target.transform.a / 10 + 1
    inner = (left > margin) & (left < 80 - margin) & (top > margin) & (top < 60 - margin)
    assert inner.sum() > 50
    assert image.valid[inner].all()
    np.testing.assert_allclose(image.reflectance[0][inner], expected[inner], atol=1e-3)


@targets
def test_missing_pixels_do_not_bleed(target):
    own = grid_of()
    valid = np.ones(own.shape, bool)
    valid[20:40, 30:50] = False
    valid[5, 5] = False
    image = warp_source(Memory(np.full((1, 60, 80), 0.8), own, valid), target).read()
    # A zero among the neighbours of a pixel would pull it down.
    np.testing.assert_allclose(image.reflectance[0][image.valid], 0.8, atol=1e-6)
    whole = warp_source(Memory(np.full((1, 60, 80), 0.8), own), target).read()
    lost = (whole.valid & ~image.valid).sum() * (target.transform.a / 10) ** 2
    assert 330 < lost < 480  # of 401 pixels


windows = st.tuples(
    st.integers(-9, 50), st.integers(-9, 60), st.integers(1, 60), st.integers(1, 70)
)
NOISE = np.random.default_rng(1).random((2, 60, 80))
HOLES = np.random.default_rng(2).random((60, 80)) > 0.2
CODES = np.random.default_rng(3).choice([0, 1, 7, 255], (60, 80)).astype(np.uint8)


@given(st.sampled_from(sorted(TARGETS)), windows)
def test_windows_do_not_matter(name, window):
    target = TARGETS[name]
    warped = warp_source(Memory(NOISE, grid_of(), HOLES), target)
    mask = warp_mask(Classes(CODES, grid_of()), target)
    row, col, height, width = window
    whole, classes = warped.read(), mask.read()
    part, some = warped.read(*window), mask.read(*window)
    assert part.grid == target.window(*window)
    rows, cols = np.arange(row, row + height), np.arange(col, col + width)
    inside = np.ix_((rows >= 0) & (rows < target.height), (cols >= 0) & (cols < target.width))
    rows, cols = rows[inside[0].ravel()], cols[inside[1].ravel()]
    np.testing.assert_array_equal(part.valid[inside], whole.valid[np.ix_(rows, cols)])
    np.testing.assert_allclose(
        part.reflectance[:, *inside], whole.reflectance[:, rows][:, :, cols], atol=2e-6
    )
    np.testing.assert_array_equal(some[inside], classes[np.ix_(rows, cols)])
    outside = np.ones((height, width), bool)
    outside[inside] = False
    assert not part.valid[outside].any()
    assert (some[outside] == 255).all()


def test_same_grid_is_the_identity_also_under_another_name():
    source, mask = Memory(NOISE, grid_of()), Classes(CODES, grid_of())
    assert warp_source(source, grid_of(crs=UNNAMED)) is source
    assert warp_mask(mask, grid_of(crs=UNNAMED)) is mask


def test_one_lattice_is_only_moved():
    target = grid_of((40, 50), dx=-50, dy=200, crs=UNNAMED)
    image = warp_source(Memory(NOISE, grid_of(), HOLES), target).read()
    np.testing.assert_array_equal(image.valid[:, 5:], HOLES[20:60, :45])
    expected = np.where(HOLES, NOISE, 0)[:, 20:60, :45].astype(np.float32)
    np.testing.assert_array_equal(image.reflectance[:, :, 5:], expected)
    assert not image.valid[:, :5].any()
    classes = warp_mask(Classes(CODES, grid_of()), target).read()
    np.testing.assert_array_equal(classes[:, 5:], CODES[20:60, :45])
    # What the source holds beyond the frame stays hidden, as after a cut.
    smaller = warp_source(Memory(NOISE, grid_of()), grid_of((40, 50)))
    assert smaller.read(30, 0, 20, 50).valid.sum() == 10 * 50


def test_half_pixel_shift_averages_neighbours():
    own = grid_of((3, 4))
    values = np.arange(12, dtype=float).reshape(1, 3, 4)
    image = warp_source(Memory(values, own), grid_of((3, 4), dx=5)).read()
    assert image.reflectance[0, 1].tolist() == [4.5, 5.5, 6.5, 7.0]


@targets
def test_masks_hold_only_values_they_had(target):
    classes = warp_mask(Classes(CODES, grid_of()), target).read()
    assert set(np.unique(classes)) <= {0, 1, 7, 255}
    # Nearest: the class of the pixel that the centre lies in (ties left out).
    x, y = centres(target)
    flat = np.array(transform(target.crs, UTM23, x.ravel(), y.ravel()))
    col, row = (value.reshape(target.shape) for value in ~grid_of().transform @ tuple(flat))
    tie = (abs(row - np.round(row)) < 1e-3) | (abs(col - np.round(col)) < 1e-3)
    inside = (row > 0) & (row < 60) & (col > 0) & (col < 80)
    expected = np.full(target.shape, 255, np.uint8)
    expected[inside] = CODES[row[inside].astype(int), col[inside].astype(int)]
    np.testing.assert_array_equal(classes[~tie], expected[~tie])


@pytest.mark.parametrize("pixel", [0.3, 10.1, 1 / 3])
@pytest.mark.parametrize(("factor", "shift"), [(1, 0.5), (2, 0)])
def test_centres_on_corners_have_one_nearest_pixel(pixel, factor, shift):
    # Coordinates that a float cannot hold: where a centre lies is a matter of rounding.
    own = Grid(UTM23, Affine(pixel, 0, 450_000.1, 0, -pixel, 6_780_000.7), 60, 80)
    x, y = own.transform @ (shift, shift)
    side = factor * pixel
    mask = warp_mask(Classes(CODES, own), Grid(UTM23, Affine(side, 0, x, 0, -side, y), 30, 40))
    whole = mask.read()
    for row, col in np.random.default_rng(0).integers(0, 20, (20, 2)):
        part = mask.read(row, col, 10, 10)
        np.testing.assert_array_equal(part, whole[row : row + 10, col : col + 10])


def test_classes_at_20_m_become_blocks_at_10_m():
    codes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    mask = warp_mask(Classes(codes, grid_of((3, 4), 20.0)), grid_of((6, 8)))
    np.testing.assert_array_equal(mask.read(), np.kron(codes, np.ones((2, 2), np.uint8)))


def test_memory_is_bounded_however_large_the_window():
    own = grid_of((3000, 3000), 10.0)
    source = Memory(np.zeros((1, 3000, 3000)), own)
    assert warp_source(source, grid_of((500, 500), 60.0)).read().valid.all()
    assert source.largest <= 1100**2
    source.largest = 0
    warp_source(source, grid_of((3000, 2900), 10.0, dx=5)).read()
    assert source.largest <= 1100**2


def test_parts_beyond_the_image_are_not_read():
    source = Memory(NOISE, grid_of())
    warped = warp_source(source, grid_of((500, 500), 7.0))
    assert not warped.read(300, 300, 100, 100).valid.any()
    assert source.largest == 0


def test_what_cannot_be_warped_is_refused(write_tif, tmp_path):
    path = write_tif(tmp_path / "far.tif", np.ones((4, 60, 80), np.uint16))
    source = open_source(path, bands=["red", "green", "blue", "nir"])
    for target in (grid_of(dx=90_000), grid_of(crs=CRS.from_epsg(32650))):
        with pytest.raises(GlacierError, match=r"far\.tif: does not touch the frame"):
            warp_source(source, target)
    bare = Grid(None, Affine(10, 0, 0, 0, -10, 0), 60, 80)
    with pytest.raises(GlacierError, match=r"without a CRS.*georeference"):
        warp_source(source, bare)
    with pytest.raises(GlacierError, match="labels: cannot be laid"):
        warp_mask(Classes(CODES, bare), grid_of(), name="labels")
    # Without CRS, but on one lattice, nothing has to be warped.
    assert warp_source(Memory(NOISE, bare), bare.window(10, 10, 20, 20)).read().valid.all()


def test_what_is_known_of_a_source_goes_with_it():
    source = Memory(NOISE, grid_of())
    source.warnings, source.reflectance_source = ["mended"], "manifest"
    warped = warp_source(source, grid_of(dx=5), tiles=[(0, 0, 60, 80)])
    assert (warped.warnings, warped.reflectance_source) == (["mended"], "manifest")
    assert (warped.bands, warped.tiles) == (source.bands, [(0, 0, 60, 80)])


@given(st.floats(-300, 300), st.floats(-300, 300))
def test_shift_is_the_fraction_of_a_pixel(dx, dy):
    found = grid_of().shift(grid_of(dx=dx, dy=dy, crs=UNNAMED))
    for value, metres in zip(found, (dx, dy), strict=True):
        assert -0.5 - 1e-6 <= value <= 0.5 + 1e-6
        assert abs((metres / 10 - value + 0.5) % 1 - 0.5) < 1e-6


def test_mismatches_are_named():
    own = grid_of()
    assert describe_mismatch(grid_of(crs=UNNAMED), own) == ""
    assert describe_mismatch(grid_of(crs=UTM22), own) == "its CRS is EPSG:32622, not EPSG:32623"
    assert describe_mismatch(grid_of(pixel=20.0), own) == "its pixels are 20 wide, not 10"
    assert own.shift(grid_of(pixel=20.0)) is None
    assert own.shift(grid_of(dx=5)) == (0.5, 0.0)
    text = "its pixels lie +0.50 columns and -0.20 rows off"
    assert describe_mismatch(grid_of(dx=5, dy=-2), own) == text
    text = "its frame has 70 x 60 px from column 3, row -2, not 80 x 60"
    assert describe_mismatch(grid_of((60, 70), dx=30, dy=-20), own) == text
