"""Prediction over patches and scenes: windows that overlap, blended, a strip at a time."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from glacier_utils.errors import GlacierError
from glacier_utils.imagery.source import Source
from glacier_utils.models.checkpoint import Segmenter
from glacier_utils.prediction import acceleration, memory
from glacier_utils.prediction.windows import LARGEST, Panel, fit_windows, panels

PATCH = 128  # px of the training patches, where a checkpoint does not say
BATCH = 32  # patches a forward pass
# Pixels a forward pass takes together; larger batches gain nothing on a CPU and cost memory.
PIXELS_AT_ONCE = 2**19
# Rows that are read and that are converted at a time, and the widest part of a scene that is mapped
# at once: together with the window they bound the memory, whatever the size of the scene. A
# Sentinel-2 tile has 10980 columns.
ROWS_AT_ONCE, ROWS_CONVERTED = 128, 64
WIDEST = 11_264
_LARGEST_HALF = float(np.finfo(np.float16).max)
_WHOLE = (1, (1, 1), [1, 1])  # output sizes of a pooling over the whole image


class Mapper:
    """One model, or several whose probabilities are averaged, made ready to map scenes.

    Batch normalisation is folded into the convolutions, and the passes run in the fastest number
    format that the machine has.

    A network that takes means over its whole image, as squeeze and excitation does (Hu et al. 2018,
    CVPR), has learned the means of patches; a larger window is a landscape, with other means. On
    the sample a U-Net with an EfficientNet-B4 kept an IoU of 0.80 in windows of its patches' 128 px
    and fell to 0.59 in windows of 512 px, also with means taken over neighbourhoods of a patch's
    size (Chu et al. 2022, ECCV). Such a network is mapped in windows of that size.

    Args:
        segmenters: one, or an ensemble; all need the same bands, in any order.
        precision: "auto" (bf16 where it is faster), "bf16" or "float32".
        flips: average over the four mirror images.

    Attributes:
        bands: names in the order in which ``probability`` takes them.
        name: of the model, or of all models.
        threshold: probability from which a pixel is called glacier; of an ensemble, the mean of its
            members' thresholds.
        largest: largest side of a window in pixels, None where the networks take any.
        layers: 1 for the probability, 2 for the spread of an ensemble beside it.

    Raises:
        GlacierError: no model, models of different bands, an unknown precision.
    """

    def __init__(
        self,
        segmenters: Segmenter | Sequence[Segmenter],
        *,
        precision: str = "auto",
        flips: bool = False,
    ) -> None:
        members = [segmenters] if isinstance(segmenters, Segmenter) else list(segmenters)
        if not members:
            raise GlacierError("no model to map with; name a checkpoint")
        self.bands = members[0].bands
        for member in members[1:]:
            if set(member.bands) != set(self.bands):
                raise GlacierError(
                    f"an ensemble needs one set of bands, but {members[0].name} takes "
                    f"{', '.join(self.bands)} and {member.name} {', '.join(member.bands)}"
                )
        self.flips = flips
        self.layers = min(len(members), 2)
        self.name = " + ".join(member.name for member in members)
        self.threshold = float(np.mean([member.threshold for member in members]))
        self.device = members[0].mean.device
        self.precision = acceleration.resolve(precision, self.device)
        self._members = [
            (
                member.eval().without_network(),
                self._fast(member.network),
                None if member.bands == self.bands else band_order(self.bands, member.bands),
            )
            for member in members
        ]
        sizes = [
            int(member.provenance.get("patch_px", PATCH))
            for member, network, _ in self._members
            if self._pools_all(network)
        ]
        self.largest = min(sizes, default=None)

    def _fast(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return the network in the form that it runs fastest in."""
        bands = len(self.bands)
        network = acceleration.fold_batch_norm(network, bands)
        network = acceleration.with_doubled_convolutions(network, bands)
        if self.precision == "bf16":
            network = acceleration.with_bf16_weights(network)
        return network.to(memory_format=torch.channels_last)

    def _pools_all(self, network: torch.nn.Module) -> bool:
        """Tell whether a network takes means over its whole image."""
        small = torch.zeros(1, len(self.bands), 64, 64, device=self.device)
        network = copy.deepcopy(network)  # a pass may leave its traces
        fast = acceleration.autocast(self.device, self.precision)
        with torch.inference_mode(), fast, _PoolingWatch() as watch:
            network(small)
        return watch.seen

    @torch.inference_mode()
    def probability(self, images: np.ndarray) -> np.ndarray:
        """Map reflectance [n, band, row, col] to probability float32 [n, row, col].

        Reflectance is float32, or float16 where it is to take less memory.
        """
        return self.maps(images)[:, 0]

    @torch.inference_mode()
    def maps(self, images: np.ndarray) -> np.ndarray:
        """Map reflectance to float32 [n, layer, row, col].

        The layers are the probability and, of an ensemble, the standard deviation of its members'
        probabilities.
        """
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).float()
        mirrors = [(), (-2,), (-1,), (-2, -1)] if self.flips else [()]
        found = []
        with acceleration.autocast(self.device, self.precision):
            for segmenter, network, order in self._members:
                # Band by band: in channels-last, operations with one number per band take five
                # times as long.
                image = segmenter.normalise(batch if order is None else batch[:, order])
                image = image.contiguous(memory_format=torch.channels_last)
                total: Any = 0
                for axes in mirrors:
                    logits = network(image.flip(axes)).float().flip(axes)
                    total = total + (logits / segmenter.temperature).sigmoid()
                found.append(total / len(mirrors))
        if len(found) == 1:
            return found[0][:, None].cpu().numpy()
        spread, mean = torch.std_mean(torch.stack(found), dim=0, correction=0)
        return torch.stack([mean, spread], dim=1).cpu().numpy()


class _PoolingWatch(TorchFunctionMode):
    """While active, sees whether means over all rows and columns of images are taken."""

    seen = False

    def __torch_function__(
        self, func: Callable, types: Iterable, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], torch.Tensor) and args[0].dim() == 4:
            if func is functional.adaptive_avg_pool2d:
                size = args[1] if len(args) > 1 else kwargs.get("output_size")
                self.seen |= size in _WHOLE
            elif func in (torch.Tensor.mean, torch.mean):
                dims = args[1] if len(args) > 1 else kwargs.get("dim")
                kept = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
                whole = isinstance(dims, tuple | list) and {d % 4 for d in dims} == {2, 3}
                self.seen |= bool(kept) and whole
        return func(*args, **kwargs)


def predict_patches(
    segmenter: Segmenter,
    images: np.ndarray,
    *,
    positions: np.ndarray | None = None,
    precision: str = "auto",
    flips: bool = False,
) -> np.ndarray:
    """Predict the probability of glacier for patches.

    Args:
        segmenter: the model with its normalisation.
        images: reflectance float32 [n, band, row, col], may be memory-mapped; bands as in
            ``segmenter.bands``. Invalid pixels are 0 and get some probability all the same.
        positions: predict only these of the images, in this order; None takes all.
        precision: "auto" (bf16 where it is faster), "bf16" or "float32".
        flips: average over the four mirror images.

    Returns:
        Probability float32 [n, row, col] in 0..1.

    Raises:
        GlacierError: another number of bands than the model's.
    """
    if images.ndim != 4 or images.shape[1] != len(segmenter.bands):
        raise GlacierError(
            f"model {segmenter.name}: images must be [n, band, row, col] with the bands "
            f"{', '.join(segmenter.bands)}, but have the shape {images.shape}"
        )
    mapper = Mapper(segmenter, precision=precision, flips=flips)
    positions = np.arange(len(images)) if positions is None else np.asarray(positions)
    probability = np.empty((len(positions), *images.shape[2:]), dtype=np.float32)
    for start in range(0, len(positions), BATCH):
        batch = slice(start, start + BATCH)
        probability[batch] = mapper.probability(images[positions[batch]])
    return probability


def predict_scene(
    segmenter: Segmenter | Mapper,
    source: Source,
    *,
    window: int | None = None,
    overlap: int = 64,
    where: np.ndarray | None = None,
) -> np.ndarray:
    """Predict a whole scene in overlapping windows, into memory.

    Args:
        segmenter: the model with its normalisation, or a ``Mapper``, for a number format, mirror
            images and ensembles.
        source: the scene; its bands may be more than the model's and in another order.
        window: largest side of a window in pixels (see ``windows.fit_windows``), None as of
            ``Plan``; it may be larger than the patches of the training
            where the network allows it.
        overlap: pixels that neighbouring windows share at least, below ``window``.
        where: bool [row, col], the pixels that are wanted; windows that hold none of them are left
            out. None: all.

    Returns:
        Probability float32 [row, col] in 0..1, nan where the scene is invalid or not wanted.

    Raises:
        GlacierError: a missing band, or an overlap that is not below the window.
    """
    mapper = segmenter if isinstance(segmenter, Mapper) else Mapper(segmenter)
    plan = Plan(mapper, source, window=window, overlap=overlap, where=where)
    probability = np.empty(source.grid.shape, dtype=np.float32)
    for block in plan.blocks():
        height, width = block.maps.shape[1:]
        rows, cols = slice(block.row, block.row + height), slice(block.col, block.col + width)
        probability[rows, cols] = block.maps[0]
    return probability if where is None else np.where(where, probability, np.float32(np.nan))


@dataclass(frozen=True)
class Block:
    """A finished part of a map and its place: float32 [layer, row, col], nan if invalid.

    The layers are those of ``Mapper.maps``.
    """

    row: int
    col: int
    maps: np.ndarray


class Plan:
    """How a scene is mapped: which windows, in which order, giving which blocks.

    Windows go from left to right and from top to bottom; all of a row of windows above the next
    one is finished and given as a block. Only a strip, a window high, is in memory. Scenes wider
    than ``widest`` are mapped in panels, one after the other.

    Args:
        mapper: the models.
        source: the scene.
        window: largest side in pixels; None takes ``windows.LARGEST``. Never above the mapper's
            ``largest``.
        overlap: in pixels, as of ``predict_scene``.
        widest: columns of a panel, about.
        where: bool [row, col], the pixels that are wanted; None: all. Blocks hold any number
            elsewhere.

    Raises:
        GlacierError: a missing band, or an overlap that is not below the window.
    """

    def __init__(
        self,
        mapper: Mapper,
        source: Source,
        *,
        window: int | None = None,
        overlap: int = 64,
        widest: int = WIDEST,
        where: np.ndarray | None = None,
    ) -> None:
        self.mapper = mapper
        self.source = source
        self._where = where
        self._order = band_order(source.bands, mapper.bands)
        window = LARGEST if window is None else window
        if mapper.largest is not None and mapper.largest < window:
            window, overlap = mapper.largest, min(overlap, mapper.largest // 2)
        self.rows = fit_windows(source.grid.height, window, overlap)
        self.cols = fit_windows(source.grid.width, window, overlap)
        self.panels = list(panels(self.cols, widest))
        # A pass over small windows takes several, over a large one, one.
        self._at_once = max(1, PIXELS_AT_ONCE // (self.rows.size * self.cols.size))

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self.panels) * len(self.rows.starts)

    def blocks(self, finished: int = 0) -> Iterator[Block]:
        """Map the scene and give its blocks in order, without the first ``finished`` of them.

        What those left in the strip is computed again, so the rest is the same to the last bit.
        """
        per_panel = len(self.rows.starts)
        for number, panel in enumerate(self.panels):
            done = min(max(finished - number * per_panel, 0), per_panel)
            if done < per_panel:
                yield from self._panel(panel, done)

    def _panel(self, panel: Panel, done: int) -> Iterator[Block]:
        rows, cols = self.rows, self.cols
        left = cols.starts[panel.windows[0]]
        right = cols.starts[panel.windows[-1]] + cols.size
        first = rows.reaching(rows.starts[done], rows.starts[done] + 1)[0]
        total = np.zeros((self.mapper.layers, rows.size, right - left), dtype=np.float32)
        own = np.s_[panel.first - left : panel.last - left]
        ends = [*rows.starts[1:], rows.length]
        half = self.mapper.precision == "bf16"
        with _Reader(self.source, self._order, left, right, rows.starts[first], half) as reader:
            for number in range(first, len(rows.starts)):
                start, end = rows.starts[number], ends[number]
                memory.release()
                reader.advance(start, rows.size, end - start)
                self._add_row(total, reader, number, panel)
                high = end - start
                if number >= done:
                    # Rounding of the weighted mean may leave 0..1 by 1e-7.
                    finished = np.clip(total[:, :high, own], 0, 1)
                    finished[:, ~reader.valid(start, high)[:, own]] = np.nan
                    yield Block(start, panel.first, finished)
                    del finished
                total[:, : rows.size - high] = total[:, high:].copy()
                total[:, rows.size - high :] = 0

    def _add_row(self, total: np.ndarray, reader: _Reader, number: int, panel: Panel) -> None:
        """Add the windows of one row of windows to the strip of a panel."""
        rows, cols = self.rows, self.cols
        start, wide = rows.starts[number], cols.size
        valid, left = reader.valid(start, rows.size), cols.starts[panel.windows[0]]
        if self._where is not None:
            valid = valid & self._where[start : start + rows.size, left : left + valid.shape[1]]
        places = [(k, cols.starts[k] - left) for k in panel.windows]
        # Windows without a valid pixel that is wanted cost nothing.
        seen = [(k, col) for k, col in places if valid[:, col : col + wide].any()]
        for at in range(0, len(seen), self._at_once):
            group = seen[at : at + self._at_once]
            batch = reader.images(start, rows.size, [col for _, col in group], wide)
            parts = self.mapper.maps(batch)
            for (k, col), part in zip(group, parts, strict=True):
                part *= rows.weights[number][:, None]
                part *= cols.weights[k]
                total[..., col : col + wide] += part


class _Reader:
    """Rows of some columns of a scene, read a few at a time while others compute."""

    def __init__(
        self, source: Source, order: Sequence[int], left: int, right: int, row: int, half: bool
    ) -> None:
        self._grid, self._left, self._right = source.grid, left, right
        self._order = None if list(order) == list(range(len(source.bands))) else list(order)
        self._bands = len(order)
        # Half the memory, and still finer than bf16, which the network sees.
        self._kind = np.float16 if half else np.float32
        # (row, reflectance, valid) from top to bottom without gaps.
        self._chunks: deque[tuple[int, np.ndarray, np.ndarray]] = deque()
        self._free: deque[tuple[np.ndarray, np.ndarray]] = deque()
        # Chunks being read: one thread, so that they come in order and files may stay open.
        self._ahead: deque[Future] = deque()
        self._row = row // ROWS_AT_ONCE * ROWS_AT_ONCE
        self._kept = source.kept_open(right - left)
        self._pool = ThreadPoolExecutor(1, "read")

    def __enter__(self) -> _Reader:
        self._source = self._kept.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._kept.__exit__(None, None, None)

    def advance(self, row: int, height: int, step: int) -> None:
        """Forget what lies above ``row``, have all rows down to ``row + height``.

        Those that are missing ``step`` rows further down are then read in the background.
        """
        while self._chunks and self._chunks[0][0] + ROWS_AT_ONCE <= row:
            self._forget(self._chunks.popleft())
        self._ask(row + height)
        # As long as the chunks that are there end above the last row wanted.
        while self._ahead and self._row - ROWS_AT_ONCE * len(self._ahead) < row + height:
            chunk = self._ahead.popleft().result()
            if chunk[0] + ROWS_AT_ONCE > row:
                self._chunks.append(chunk)
            else:
                self._forget(chunk)
        self._ask(row + step + height)

    def _forget(self, chunk: tuple[int, np.ndarray, np.ndarray]) -> None:
        """Keep the arrays of a chunk for another: made anew, they would tear memory to pieces."""
        _, reflectance, valid = chunk
        if len(valid) == ROWS_AT_ONCE and reflectance.dtype == self._kind:
            self._free.append((reflectance, valid))

    def _ask(self, end: int) -> None:
        """Have chunks read until there is one that holds the row before ``end``."""
        while self._row < min(end, self._grid.height):
            self._ahead.append(self._pool.submit(self._read, self._row))
            self._row += ROWS_AT_ONCE

    def valid(self, row: int, height: int) -> np.ndarray:
        """Return bool [row, col] of these rows, all columns."""
        return np.concatenate([chunk[2][rows] for chunk, rows in self._parts(row, height)])

    def images(self, row: int, height: int, starts: Sequence[int], width: int) -> np.ndarray:
        """Return reflectance [window, band, row, col] of windows that begin at these columns.

        Columns count from the first one of the reader.
        """
        parts = list(self._parts(row, height))
        kind = np.result_type(*(chunk[1] for chunk, _ in parts))
        images = np.empty((len(starts), self._bands, height, width), kind)
        for image, start in zip(images, starts, strict=True):
            columns = [chunk[1][:, rows, start : start + width] for chunk, rows in parts]
            np.concatenate(columns, axis=1, out=image)
        return images

    def _parts(self, row: int, height: int) -> Iterator[tuple[tuple, slice]]:
        """Give the chunks that hold these rows, and which of their rows these are."""
        for chunk in self._chunks:
            top, bottom = chunk[0], chunk[0] + len(chunk[2])
            if top < row + height and bottom > row:
                yield chunk, slice(max(row - top, 0), min(row + height, bottom) - top)

    def _read(self, row: int) -> tuple[int, np.ndarray, np.ndarray]:
        shape = min(ROWS_AT_ONCE, self._grid.height - row), self._right - self._left
        if self._free and shape[0] == ROWS_AT_ONCE:
            reflectance, valid = self._free.popleft()
        else:
            reflectance = np.empty((self._bands, *shape), self._kind)
            valid = np.empty(shape, bool)
        # A few rows at a time: numbers take several copies on their way to reflectance.
        for at in range(0, shape[0], ROWS_CONVERTED):
            part = slice(at, min(at + ROWS_CONVERTED, shape[0]))
            image = self._source.read(row + at, self._left, part.stop - at, shape[1])
            values = image.reflectance if self._order is None else image.reflectance[self._order]
            # Larger numbers than float16 knows are no reflectance.
            largest = max(values.max(initial=0), -values.min(initial=0))
            if reflectance.dtype == np.float16 and largest > _LARGEST_HALF:
                reflectance = reflectance.astype(np.float32)
            # NumPy takes thirty times as long to make halves.
            target = torch.from_numpy(reflectance[:, part])
            target.copy_(torch.from_numpy(np.ascontiguousarray(values)))
            valid[part] = image.valid
        return row, reflectance, valid


def band_order(there: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return the positions of the wanted bands. Raises GlacierError where one is missing."""
    missing = [name for name in wanted if name not in there]
    if missing:
        raise GlacierError(
            f"the scene has the bands {', '.join(there)}, but the model needs {missing[0]}; "
            "name the scene's bands as in its training"
        )
    return [list(there).index(name) for name in wanted]
