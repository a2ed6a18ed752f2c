"""Augmentation of whole batches at once, in torch.

Every operation is called as ``operation(images, labels, rng, bands)`` and returns new images
and labels: ``images`` reflectance float32 [n, band, row, col], on the CPU or a GPU; ``labels``
uint8 [n, row, col]; ``rng`` a CPU generator, from which alone all random numbers come;
``bands`` the names of the images' bands. Invalid pixels (0 in every band) stay 0 and no others
become it.

Operations that know what a band measures leave bands of other names than blue, green, red, nir,
swir16 and swir22 as they are. Those with a ``probability`` change that fraction of the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, interpolate

from glacier_utils.conventions import BANDS
from glacier_utils.errors import GlacierError, did_you_mean

Pair = tuple[Tensor, Tensor]
Bands = Sequence[str]
Recipe = str | Sequence[str]

FLOOR = 1e-4  # reflectance of one count: a dark valid pixel must not turn into an invalid one

# Per band: veil relative to the blue; reflectance of snow; of shadowed relative to sunlit snow.
# Veil: (490 nm / wavelength)^2, between thin aerosol and clean air. Snow and shadow: medians of
# Sentinel-2 surface reflectance on four glaciers (R. Aberle 2023, doi 10.5281/zenodo.10616385);
# shortwave infrared, which those points lack, by the usual values of coarse summer snow.
OPTICS = {
    "blue": (1.0, 0.81, 0.58),
    "green": (0.77, 0.83, 0.49),
    "red": (0.54, 0.83, 0.40),
    "nir": (0.34, 0.69, 0.33),
    "swir16": (0.09, 0.10, 0.25),
    "swir22": (0.05, 0.06, 0.25),
}


def augment(
    images: Tensor, labels: Tensor, rng: Generator, recipe: Recipe = "mild", bands: Bands = BANDS
) -> Pair:
    """Apply the operations of a recipe to a batch, one after the other.

    ``recipe`` is as ``operations`` takes it. The input is never changed; without any operation it
    is what is returned.
    """
    for name in operations(recipe):
        images, labels = OPERATIONS[name](images, labels, rng, bands)
    return images, labels


def operations(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the operations of a recipe, in order, none twice.

    ``recipe``: names of ``RECIPES`` and ``OPERATIONS``, as a sequence or joined by "+", such as
    "mild+shadow". Raises GlacierError for an unknown name.
    """
    parts = recipe.split("+") if isinstance(recipe, str) else recipe
    found: dict[str, None] = {}
    for part in (str(part).strip() for part in parts):
        if part not in RECIPES and part not in OPERATIONS:
            known = dict.fromkeys([*RECIPES, *OPERATIONS])
            raise GlacierError(f"augmentation {part!r}: unknown; {did_you_mean(part, known)}")
        found |= dict.fromkeys(RECIPES.get(part, (part,)))
    return tuple(found)


def symmetries(images: Tensor, labels: Tensor, rng: Generator, bands: Bands = BANDS) -> Pair:
    """Give each patch one of the eight symmetries of the square, image and label alike.

    Patches that are not square get one of the four that keep their shape. The sun's direction is
    not kept: a model shall not learn on which side shadows lie.
    """
    square = images.shape[-1] == images.shape[-2]
    choice = torch.randint(0, 8 if square else 4, (len(images),), generator=rng)
    turned, turned_labels = torch.empty_like(images), torch.empty_like(labels)
    for number in choice.unique().tolist():
        chosen = torch.nonzero(choice == number).flatten().to(images.device)
        turned[chosen] = symmetry(images[chosen], number)
        turned_labels[chosen] = symmetry(labels[chosen], number)
    return turned, turned_labels


def symmetry(array: Tensor, number: int) -> Tensor:
    """Apply symmetry 0..7 to the last two axes: bit 1 mirrors rows, 2 columns, 4 transposes."""
    axes = [axis for axis, bit in ((-2, 1), (-1, 2)) if number & bit]
    array = array.flip(axes) if axes else array
    return array.transpose(-2, -1) if number & 4 else array


def gain(images: Tensor, labels: Tensor, rng: Generator, bands: Bands = BANDS) -> Pair:
    """Multiply each image by a random gain and each of its bands by another, log-normally.

    The deviations of the logarithms are 0.1 for the image (sun and haze) and 0.03 for a band
    (colour).
    """
    whole = torch.randn(len(images), 1, 1, 1, generator=rng) * 0.1
    single = torch.randn(*images.shape[:2], 1, 1, generator=rng) * 0.03
    return images * (whole + single).exp().to(images.device), labels


def offset(images: Tensor, labels: Tensor, rng: Generator, bands: Bands = BANDS) -> Pair:
    """Add a veil of haze and a small error per band: what atmospheric correction leaves.

    The veil v is r + v (1 - r): it lifts dark ground and hardly changes snow. In the blue v is
    uniform in -0.015..0.04 (negative: overcorrected), in the other bands less, with the square of
    the wavelength. The error is normal with a deviation of 0.003. Reflectance stays above
    0.
    """
    veil, known = _optics(images, bands, 0, 0.0)
    haze = torch.rand(len(images), 1, 1, 1, generator=rng) * 0.055 - 0.015
    error = torch.randn(len(images), len(bands), 1, 1, generator=rng) * 0.003
    haze, error = haze.to(images.device) * veil, error.to(images.device)
    changed = torch.addcmul(haze + error, images, 1 - haze).clamp_(min=FLOOR)
    return torch.where(_valid(images) & known, changed, images), labels


def sometimes(probability: float) -> Callable[[Callable[..., Pair]], Callable[..., Pair]]:
    """Let an operation change each image with a probability; it gets copies of the chosen ones."""

    def decorated(operation: Callable[..., Pair]) -> Callable[..., Pair]:
        @wraps(operation)
        def changed(
            images: Tensor,
            labels: Tensor,
            rng: Generator,
            bands: Bands = BANDS,
            probability: float = probability,
        ) -> Pair:
            drawn = torch.rand(len(images), generator=rng) < probability
            images, labels = images.clone(), labels.clone()
            if drawn.any():
                chosen = torch.nonzero(drawn).flatten().to(images.device)
                images[chosen], labels[chosen] = operation(
                    images[chosen], labels[chosen], rng, bands
                )
            return images, labels

        return changed

    return decorated


@sometimes(0.1)
def band_dropout(images: Tensor, labels: Tensor, rng: Generator, bands: Bands = BANDS) -> Pair:
    """Set one band of an image, any with the same chance, to its mean over the valid pixels.

    The band's pattern is lost, its level stays: a model shall not hang on one band, whose meaning
    may shift between glaciers. With a single band nothing is dropped.
    """
    band = torch.randint(0, images.shape[1], (len(images),), generator=rng).to(images.device)
    if images.shape[1] == 1:
        return images, labels
    each, valid = torch.arange(len(images), device=images.device), _valid(images)[:, 0]
    old = images[each, band]
    count = valid.sum(dim=(-2, -1), keepdim=True).clamp(min=1)
    mean = old.sum(dim=(-2, -1), keepdim=True) / count
    images[each, band] = torch.where(valid, mean, old)
    return images, labels


@sometimes(0.3)
def shadow(images: Tensor, labels: Tensor, rng: Generator, bands: Bands = BANDS) -> Pair:
    """Let a ridge cast its shadow over part of an image; the label stays.

    One side is the smooth line of the ridge, the other the jagged skyline that it casts, at a
    random place and angle, over some 15 to 40 % of the patch. The sun's disk blurs the edge by
    about a pixel. Of the light in each band shadow keeps what shadowed has of sunlit snow, to a
    power uniform in 0.8..1.7, for sky light is blue and its part varies: 0.40 to 0.65 in the blue,
    0.15 to 0.41 in the near infrared.
    """
    kept, known = _optics(images, bands, 2, 1.0)
    count, device, shape = len(images), images.device, images.shape[-2:]
    power = _uniform(count, 0.8, 1.7, rng).view(-1, 1, 1, 1)
    angle = _uniform(count, 0, 2 * math.pi, rng).view(-1, 1, 1)
    start = _uniform(count, -0.8, 0.3, rng).view(-1, 1, 1)
    length = _uniform(count, 0.25, 0.8, rng).view(-1, 1, 1)
    waves = torch.rand(2, count, 6, generator=rng)
    across, along = _turned(shape, angle.to(device))
    ridge = start.to(device) + 0.15 * _waves(along, waves[0, :, :3].to(device), 0.8)
    peaks = _waves(along, waves[1].to(device), 1.2).abs()
    skyline = ridge + length.to(device) * (0.5 + 0.6 * peaks)
    pixel = 2 / max(shape)
    inside = torch.minimum(across - ridge, skyline - across) / (0.7 * pixel)
    depth = torch.sigmoid(inside)[:, None]
    light = kept ** power.to(device)
    return images * (1 - depth * (1 - light) * known), labels


@sometimes(0.3)
def snow(images: Tensor, labels: Tensor, rng: Generator, bands: Bands = BANDS) -> Pair:
    """Lay patches of seasonal snow over part of an image; the label stays.

    The commonest false alarm is snow that is no glacier. It covers some 5 to 40 % of the land, in
    ragged patches that lie rather on dark, shaded ground, where snow lasts. It has 0.75 to 1.1 of
    the reflectance of snow, follows the light of the ground, never darkens and leaves water. It
    falls on glacier too, where the snow is mostly there already: snow that ended at the label's
    edge would draw the label into the image. Does nothing unless green and nir are there, by
    which water is found.
    """
    white, known = _optics(images, bands, 1, 0.0)
    count, device = len(images), images.device
    level = _uniform(count, 0.75, 1.1, rng).view(-1, 1, 1, 1)
    cover = _uniform(count, 0.05, 0.4, rng).view(-1, 1, 1)
    field = _noise(count, images.shape[-2:], rng)
    if not {"green", "nir"} <= set(bands):
        return images, labels
    valid = _valid(images)[:, 0]
    green, nir = (images[:, list(bands).index(name)] for name in ("green", "nir"))
    # Single dark pixels are shaded ground; snow thins out towards the others.
    water = ((green > nir) & (nir < 0.08)).to(images.dtype)
    water = avg_pool2d(water, 5, 1, 2, count_include_pad=False)
    land = valid * (1 - 2 * water).clamp(min=0)
    # The light on the ground, by its brightness; that of rock at most, lest ice darken the rest.
    brightness = ((green + nir) / 2).clamp(0, 0.25)
    mean = (brightness * land).sum((-2, -1)) / land.sum((-2, -1)).clamp(min=1)
    light = brightness / mean.clamp(min=FLOOR)[:, None, None]
    field = field.to(device) - 0.5 * (light - 1).clamp(-0.7, 0.7)
    spread, mean = torch.std_mean(field, dim=(-2, -1), keepdim=True)
    edge = mean + spread * torch.special.ndtri(1 - cover.to(device))  # as of normal noise
    amount = (torch.sigmoid((field - edge) * 12) * land)[:, None]
    shading = light.clamp(0.1, 1)[:, None] ** 0.6
    lit = torch.maximum(images, white * level.to(device) * shading)
    return torch.where(known, torch.lerp(images, lit, amount), images), labels


OPERATIONS: dict[str, Callable[..., Pair]] = {
    "symmetries": symmetries,
    "snow": snow,
    "shadow": shadow,
    "offset": offset,
    "gain": gain,
    "band_dropout": band_dropout,
}
"""In the order in which nature and sensor apply them."""

SOMETIMES = ("snow", "shadow", "band_dropout")
"""Operations that change some of the images, and take a ``probability``."""

RECIPES: dict[str, tuple[str, ...]] = {
    "none": (),
    "symmetries": ("symmetries",),
    "mild": ("symmetries", "gain"),
    "strong": tuple(OPERATIONS),
}


def _optics(images: Tensor, bands: Bands, column: int, other: float) -> tuple[Tensor, Tensor]:
    """Return a column of ``OPTICS`` and which bands it knows, both [1, band, 1, 1]."""
    values = [OPTICS[name][column] if name in OPTICS else other for name in bands]
    known = [name in OPTICS for name in bands]
    device = images.device
    value = torch.tensor(values, dtype=images.dtype, device=device).view(1, -1, 1, 1)
    return value, torch.tensor(known, device=device).view(1, -1, 1, 1)


def _valid(images: Tensor) -> Tensor:
    return (images != 0).any(dim=1, keepdim=True)


def _uniform(count: int, low: float, high: float, rng: Generator) -> Tensor:
    return torch.rand(count, generator=rng) * (high - low) + low


def _turned(shape: Sequence[int], angle: Tensor) -> Pair:
    """Return two coordinates turned by ``angle`` [n, 1, 1], each [n, row, col], about -1..1."""
    half = max(shape) / 2
    row, col = ((torch.arange(size, device=angle.device) + 0.5 - size / 2) / half for size in shape)
    row, col = row[:, None], col[None, :]
    cos, sin = torch.cos(angle), torch.sin(angle)
    return cos * row + sin * col, cos * col - sin * row


def _waves(along: Tensor, phases: Tensor, frequency: float) -> Tensor:
    """Return a random profile of deviation one: a sum of sines that get finer and lower.

    ``along`` [n, row, col]; ``phases`` [n, k] uniform in 0..1; the k-th sine has 1.7^k the
    frequency (cycles per patch) and 2.4^-k the height.
    """
    total, power = torch.zeros_like(along), 0.0
    for number in range(phases.shape[1]):
        turns = frequency * 1.7**number * along / 2 + phases[:, number, None, None]
        total += torch.sin(2 * math.pi * turns) / 2.4**number
        power += 0.5 / 2.4 ** (2 * number)
    return total / math.sqrt(power)


def _noise(count: int, shape: Sequence[int], rng: Generator) -> Tensor:
    """Return rough noise [n, row, col], coarse and fine, of deviation about one half."""
    total = torch.zeros(count, 1, *shape)
    for cells, weight in ((4, 0.5), (11, 0.35), (32, 0.2)):
        grid = torch.randn(count, 1, cells, cells, generator=rng) * weight
        total += interpolate(grid, shape, mode="bicubic", align_corners=False)
    return total[:, 0]
