"""Where the project lies; files that no reader meets half of; content named by its hash."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glacier_utils.errors import GlacierError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_CLONE = Path(__file__).resolve().parents[1]
# Names of ``atomic_path`` and ``put_folder``.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}(\.[^.]+)?(\.old)?")


def project_root(start: str | Path | None = None) -> Path:
    """Return the folder that holds ``notebooks`` and ``data``: the nearest one upwards.

    Notebooks run in ``notebooks/``, the command line anywhere; both find the same project. Where
    the search finds none, it is the clone that this package was installed from (``pip install
    --editable``). The environment variable ``GLACIER_HOME`` overrides the search.

    Args:
        start: Where the search begins (default: the working directory).

    Raises:
        GlacierError: No such folder lies above ``start``, or ``GLACIER_HOME`` is none.
    """
    if home := os.environ.get("GLACIER_HOME"):
        if not Path(home).is_dir():
            raise GlacierError(f"GLACIER_HOME: {home} is no folder; set it to your clone")
        return Path(home).resolve()
    here = Path(start or Path.cwd()).resolve()
    for folder in (here, *here.parents, _CLONE):
        if (folder / "notebooks" / "parameters").is_dir():
            return folder
    raise GlacierError(
        f"{here}: not inside the project (no folder above it holds notebooks/parameters); "
        "change into your clone or set GLACIER_HOME to it"
    )


def relative(path: str | Path, root: str | Path | None = None) -> str:
    """Return ``path`` relative to the project where it lies inside it, else the absolute path.

    Args:
        path: A file or folder.
        root: The project's folder (default: found from the working directory).
    """
    path = Path(path).resolve()
    root = Path(root or project_root()).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` when the block ends well.

    Works for a file or a folder. If the block raises, whatever lies under the temporary name is
    removed and ``path`` is left as it was. The temporary name keeps the suffix of ``path``, since
    many drivers choose their format by it.

    Args:
        path: The final name; its folder is made.

    Yields:
        The temporary path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        put_folder(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, pattern: str = "**/.*") -> None:
    """Remove what killed processes left of files and folders that they had not finished.

    Args:
        folder: nobody may be writing there what the pattern matches, see `locked`.
        pattern: as of ``Path.glob``; without one, all that lies in the folder.
    """
    for left in [path for path in folder.glob(pattern) if _TEMPORARY.fullmatch(path.name)]:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, busy: Exception | None = None, wait_s: float = 0) -> Iterator[list[int]]:
    """Hold a lock that one process has at a time, and that the system frees when it is killed.

    Args:
        path: of a file that stands for the lock; it is gone afterwards.
        busy: raised where another process keeps the lock; None: wait as long as it takes.
        wait_s: seconds to wait before.

    Yields:
        The lock's file descriptor: a child that inherits it holds the lock too.
    """
    from filelock import FileLock, Timeout

    held: list[int] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=wait_s if busy else -1, on_acquired=held.append)
    try:
        lock.acquire()
    except Timeout as error:
        raise busy or error from None
    try:
        yield held
    finally:
        with suppress(OSError):  # an open file of Windows
            path.unlink()
        lock.release()


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        # Not the system's line ends: the same bytes everywhere.
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def write_json(path: str | Path, content: Any) -> Path:
    """Write ``content`` as readable, strict JSON (a nan becomes null), whole or not at all."""
    return write_text(path, json_text(content, ascii_only=False) + "\n")


def json_text(content: Any, *, ascii_only: bool = True) -> str:
    """Return ``content`` as readable, strict JSON (a nan becomes null).

    Args:
        content: mappings, sequences, numbers, NumPy's too; what JSON does not know becomes text.
        ascii_only: write other letters as escapes, which pass through any terminal.
    """
    return json.dumps(_plain(content), indent=2, ensure_ascii=ascii_only, allow_nan=False)


def write_csv(path: str | Path, table: pd.DataFrame) -> Path:
    """Write ``table`` without its index, numbers with six significant digits.

    Text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    table = table.copy(deep=False)
    for place, kind in enumerate(table.dtypes):
        if kind.kind == "O":
            table.isetitem(place, table.iloc[:, place].map(_no_formula, na_action="ignore"))
    return write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r", " ")  # which ends a row, and is not quoted
    try:
        float(cell)
    except ValueError:
        return f"'{cell}" if cell.lstrip().startswith(("=", "+", "-", "@")) else cell
    return cell


def fingerprint(content: Any, length: int = 12) -> str:
    """Return the first ``length`` hex digits of the SHA-256 of ``content`` as sorted JSON.

    Example:
        >>> fingerprint({"size": 128, "areas": ["train"], "band_m": 0.0})
        'c2c5934422c4'
    """
    text = json.dumps(_plain(content), sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_fingerprint(path: str | Path) -> list[Any]:
    """Return name, size and time of a file: enough to notice that it was changed, at no cost."""
    stat = Path(path).stat()
    return [Path(path).name, stat.st_size, stat.st_mtime_ns]


def file_name(name: str) -> str:
    """Return ``name`` with an underscore for each character that some system keeps for itself.

    Example:
        >>> file_name("north/west?")
        'north_west_'
    """
    return re.sub(r'[\x00-\x1f<>:;"/\\|?*]', "_", name)


def put_folder(new: Path, path: Path) -> None:
    """Rename a file or folder to ``path``, also in the place of a folder that is there.

    ``os.replace`` alone replaces files only.
    """
    if not (new.is_dir() and path.is_dir()):
        os.replace(new, path)
        return
    old = new.with_name(f"{new.name}.old")
    os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def release_pages(array: np.ndarray) -> None:
    """Take what was read of a memory-mapped file off the memory of this process.

    It stays in the system's cache; but counted as this process's own, it would grow with the file,
    and with it what a job on a cluster is allowed to take. Does nothing to other arrays.
    """
    mapped = getattr(array, "_mmap", None)  # of np.memmap, which has no public name for it
    if mapped is not None and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _plain(content: Any) -> Any:
    """Turn NumPy scalars, paths, tuples and mappings into what JSON knows."""
    if isinstance(content, dict):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        # By repr, since values of different kinds have no order of their own.
        items = sorted(content, key=repr) if isinstance(content, set | frozenset) else content
        return [_plain(item) for item in items]
    if hasattr(content, "tolist"):
        return _plain(content.tolist())
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, str | int | float | bool) or content is None:
        return content
    return str(content)
