"""Many runs: files that span several, checked before the first, one by one or side by side.

Side by side each run has a process of its own, on this machine or on a Dask cluster. A run that
fails stops no other. What all runs of a sweep need, the patches, is made once (`build_patches`).
`reproduce` executes a finished run once more and says what differs.
"""

from __future__ import annotations

import io
import itertools
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from glacier_utils.datasets.dataset import Dataset, area_dates, open_dataset
from glacier_utils.datasets.patches import check_ranges
from glacier_utils.datasets.splitting import read_overrides
from glacier_utils.datasets.store import check_known
from glacier_utils.errors import GlacierError, counted, plain
from glacier_utils.files import file_name, fingerprint, relative
from glacier_utils.imagery.clouds import METHODS
from glacier_utils.outlines.inventory import RULES
from glacier_utils.prediction.windows import fit_windows
from glacier_utils.workflow import notebooks, runs

_RUN_GB = 4.0
"""What the processes of a run take at most with the default parameters, with some to spare."""
_ROUNDING = 1e-5
"""Relative; tables hold six significant digits."""
# What numbers may be, where the function that takes them is not asked before the runs.
_RANGES = {
    "pixels": (1, 10**9), "block_m": (1, 10**7), "band_m": (0, 10**5), "max_unknown": (0, 1),
    "max_cloud": (0, 1), "min_area_km2": (0, 10**6),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one run became.

    ``status``: "finished", "failed", or "running" where another process is at work on it; the
    latter two with ``error``. ``user_error`` says that it is a mistake the user can mend.
    """

    run: runs.Run
    status: str
    seconds: float = 0.0
    error: str = ""
    user_error: bool = False


def run_all(
    files: Iterable[str | Path],
    *,
    root: Path | None = None,
    fresh: bool = False,
    jobs: int = 1,
    scheduler: str | None = None,
) -> list[Outcome]:
    """Check all parameter files first, then execute their runs.

    Args:
        files: YAML files; none stands for ``notebooks/parameters/default.yaml``.
        root: The project's folder (default: found from the working directory).
        fresh: Whether to execute finished notebooks again too.
        jobs: How many runs at a time, each in its process with its part of the cores; fewer where
            memory is short.
        scheduler: Address of a running Dask scheduler, whose workers then execute the runs; they
            need this package and the same paths.

    Returns:
        What each run became, in order.

    Raises:
        GlacierError: Before any work, a mistake in a parameter file or the arguments.
    """
    if jobs < 1:
        raise GlacierError(f"--jobs {jobs}: must be 1 or more")
    if scheduler and jobs > 1:
        raise GlacierError(
            f"--jobs {jobs} and --scheduler {plain(scheduler)}: give one of them; a cluster does "
            "as many runs at a time as it has workers"
        )
    root = (root or runs.project_root()).absolute()
    work = {parameters["run"]: (parameters, root, fresh) for parameters in plan(files, root)}
    found = dict(_outcomes(work, min(jobs, len(work)), scheduler))
    return [found[name] for name in work]


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each run: its name, what it became, how long it took, its page or error."""
    wide = max(len(one.run.name) for one in outcomes)
    return [
        f"{one.run.name:{wide}}  {one.status:8}  {one.seconds:6.0f} s  "
        f"{one.error or relative(one.run.folder / 'index.html')}"
        for one in outcomes
    ]


def plan(files: Iterable[str | Path], root: Path) -> list[dict[str, Any]]:
    """Return the parameters of each run that the files ask for, all of them checked.

    Raises:
        GlacierError: A name, value or combination that cannot be, or two runs of one name.
    """
    known = notebooks.all_parameters(root)
    paths = [Path(path) for path in files] or [root / "notebooks" / "parameters" / "default.yaml"]
    sets = [parameters for path in paths for parameters in expand(path, known)]
    names = [parameters["run"] for parameters in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise GlacierError(
            f"run {twice[0]!r} is asked for twice; give each file, and each value of a sweep, its "
            "own name"
        )
    data: dict[str, Dataset] = {}
    for parameters in sets:
        try:
            check(parameters, known, root, data)
        except GlacierError as error:
            raise GlacierError(f"run {parameters['run']!r}: {error}") from error
    return sets


def expand(path: Path, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the parameter sets of a file: one, or one for each combination of its ``sweep``.

    ``sweep: {seed: [0, 1], steps: [500, 1500]}`` makes four, named after the values. A parameter
    that is a list may stand there in the singular: ``seed: 1`` is ``seeds: [1]``.

    Raises:
        GlacierError: The file cannot be read, or holds what no notebook takes.
    """
    values = notebooks.read_parameters(path)
    sweep = values.pop("sweep", None)
    if sweep is None:
        return [notebooks.check_parameters(values, dict(known), path)]
    lists = isinstance(sweep, dict) and all(isinstance(v, list) and v for v in sweep.values())
    if not lists or not sweep or "run" in sweep:
        raise GlacierError(
            f"{path}: sweep takes parameters, each with a list of its values, such as "
            "{seed: [0, 1], steps: [500, 1500]}; the runs are named after them"
        )
    sets = []
    for combination in itertools.product(*sweep.values()):
        own, label = {}, ""
        for name, value in zip(sweep, combination, strict=True):
            singular = name not in known and isinstance(known.get(f"{name}s"), list)
            own[f"{name}s" if singular else name] = [value] if singular else value
            label += f"-{name}={_label(value)}"
        if twice := sorted(own.keys() & values.keys()) or len(own) < len(sweep):
            name = twice[0] if isinstance(twice, list) else next(reversed(own))
            raise GlacierError(f"{path}: {name} is set twice; leave it in the sweep alone")
        checked = notebooks.check_parameters(values | own, dict(known), path)
        sets.append(checked | {"run": checked["run"] + label})
    return sets


def check(
    parameters: Mapping[str, Any],
    known: Mapping[str, Any],
    root: Path,
    opened: dict[str, Dataset],
) -> None:
    """Refuse what would stop one of the notebooks later, as far as it can be told before.

    Args:
        parameters: Of one run.
        known: The notebooks' defaults.
        root: The project's folder.
        opened: Datasets by name, filled here.

    Raises:
        GlacierError: The first thing that cannot be.
    """
    values = {**known, **parameters}
    runs.check_name("run", values["run"])
    if (name := values.get("dataset")) is None:
        return
    data = opened[name] = opened.get(name) or runs.open_data(name, root)
    if not {"train_areas", "patch_size", "models", "overlap"} <= values.keys():
        return  # other notebooks than the project's six
    for name in ("train_areas", "test_areas", "train_dates", "models", "seeds"):
        if not values[name] or len({*values[name]}) < len(values[name]):
            raise GlacierError(f"{name} is {values[name]}: name one or more, each once")
    areas = [*values["train_areas"], *values["test_areas"]]
    check_known("area", areas, data.areas)
    if twice := sorted({area for area in areas if areas.count(area) > 1}):
        raise GlacierError(f"area {twice[0]!r} is to train and to test; leave it in one of them")
    others = [values["compare_date"], *values["train_dates"], *map(str, values["more_dates"])]
    area_dates(data, areas, values["main_date"], others)
    if not {*values["train_dates"]} & {d for a in values["train_areas"] for d in data.dates(a)}:
        raise GlacierError(f"train_dates {values['train_dates']}: no training area has one of them")
    if values["other_date"] and not values["compare_date"]:
        raise GlacierError("other_date: needs a compare_date to train on")
    check_ranges(values["patch_size"], values["patch_stride"], values["validation_fraction"], None)
    check_known("cloud_method", [values["cloud_method"]], METHODS)
    check_known("analysis_rule", [values["analysis_rule"]], RULES)
    for name, (low, high) in _RANGES.items():
        if not low <= values[name] <= high:
            raise GlacierError(f"{name} is {values[name]}, but must lie between {low} and {high}")
    fit_windows(values["window"], values["window"], values["overlap"])
    if values["decisions"]:
        read_overrides(root / "notebooks" / values["decisions"])
    if values["large_scene"] not in ("", "full_tile"):
        open_dataset(values["large_scene"], root=root)
    if parameters.keys() & {"models", "seeds", "steps", "batch_size", "options"}:
        _check_training(values)


def _check_training(values: Mapping[str, Any]) -> None:
    """Check what notebook 03 trains; torch takes seconds to import."""
    from glacier_utils.models import registry
    from glacier_utils.training.settings import Settings

    for name in values["models"]:
        registry.describe(name)
    options = {str(name): value for name, value in values["options"].items()}
    if taken := sorted({"steps", "batch_size"} & options.keys()):
        raise GlacierError(f"options: {taken[0]} is a parameter of its own; set it there")
    for seed in values["seeds"]:
        own = {"steps": values["steps"], "batch_size": values["batch_size"], "seed": seed}
        Settings(**options | own)


def _label(value: Any) -> str:
    """Return a value as it stands in the name of a run."""
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    text = file_name("_".join(text.split()))
    return text if len(text) <= 40 else fingerprint(text, 8)


def _outcomes(
    work: Mapping[str, Any], jobs: int, scheduler: str | None
) -> Iterator[tuple[str, Outcome]]:
    """Execute the runs; give each with what it became as it ends."""
    if not scheduler and (jobs := _fitting(jobs) if jobs > 1 else 1) == 1:
        yield from ((name, _attempt(job)) for name, job in work.items())
        return
    from glacier_utils.prediction.cluster import compute, connect

    with connect(jobs, scheduler, retries=0) as client:
        for name, found in compute(client, _attempt, work, retries=0):
            if isinstance(found, Exception):
                run = runs.Run(work[name][1] / "reports" / name)
                found = Outcome(run, "failed", error=plain(found))
            yield name, found


def _fitting(jobs: int) -> int:
    """Return how many of the jobs fit into the memory that is free now, at least one."""
    import psutil

    free = psutil.virtual_memory().available / 1e9
    fits = max(1, min(jobs, int(free / _RUN_GB)))
    if fits < jobs:
        print(f"{counted(fits, 'run')} at a time: {free:.1f} GB of memory are free", flush=True)
    return fits


def _attempt(job: tuple[dict[str, Any], Path, bool]) -> Outcome:
    """Execute one run, in whatever process; say what it became."""
    parameters, root, fresh = job
    run, start = runs.Run(root / "reports" / parameters["run"]), time.perf_counter()
    status, error, user_error = "failed", "", True
    try:
        notebooks.execute(parameters, root=root, fresh=fresh)
        status = "finished"
    except runs.RunBusy as busy:
        status, error = "running", str(busy)
    except GlacierError as mistake:
        error = str(mistake)
    except notebooks.NotebookFailed as failed:
        error, user_error = str(failed), failed.user_error
    except OSError as problem:  # a full disk, no permission
        error = f"{problem.filename or run.folder}: {problem.strerror or problem}"
    except Exception as failure:
        traceback.print_exc()
        error, user_error = f"{type(failure).__name__}: {failure}", False
    return Outcome(run, status, time.perf_counter() - start, plain(error), user_error)


def reproduce(name: str, root: Path | None = None) -> tuple[runs.Run, dict[str, str]]:
    """Execute a run again, into a fresh folder ``reports/<run>-again``, and compare.

    Args:
        name: Of the run, or its folder.
        root: The project's folder (default: found from the working directory).

    Returns:
        The new run, and what became of parameters, versions, data and each table: "equal", "equal
        within rounding", or what differs.

    Raises:
        GlacierError: There is no such run, or its ``run.json`` does not tell its parameters.
        NotebookFailed: A cell raised.
    """
    root = root or runs.project_root()
    folder = Path(name).resolve() if Path(name).is_dir() else root / "reports" / name
    before = runs.Run(folder)
    record = before.read_record()
    wanted = record.get("parameters")
    if not isinstance(wanted, dict):
        raise GlacierError(
            f"{folder}: no run.json that tells parameters; name a run of `glacier run`"
        )
    known = notebooks.all_parameters(root)
    number, fresh = 1, f"{before.name}-again"
    while (root / "reports" / fresh).exists():
        number += 1
        fresh = f"{before.name}-again{number}"
    values = {key: value for key, value in wanted.items() if key in known} | {"run": fresh}
    values = notebooks.check_parameters(values, known, folder / "run.json")
    check(values, known, root, {})
    after = notebooks.execute(values, root=root)
    return after, differences(before, after)


def differences(before: runs.Run, after: runs.Run) -> dict[str, str]:
    """Say what differs between two runs, as `reproduce` does; how long they took is left out."""
    old, new = before.read_record(), after.read_record()
    old["parameters"] = (old.get("parameters") or {}) | {"run": after.name}
    told = {"parameters": _changes(old["parameters"], new["parameters"])}
    told["versions"] = _changes(_versions(old), _versions(new))
    told["data"] = _changes(_data(old), _data(new))
    names = {path.name for run in (before, after) for path in run.metrics.glob("*.csv")}
    for name in sorted(names):
        told[name] = compare_tables(before.metrics / name, after.metrics / name, before, after)
    return told


def compare_tables(old: Path, new: Path, before: runs.Run, after: runs.Run) -> str:
    """Say whether two tables are equal, equal within rounding, or by how much they differ."""
    if not (old.is_file() and new.is_file()):
        return "is new" if new.is_file() else "is missing"
    # Tables hold paths of the run, such as that of a checkpoint.
    texts = (
        old.read_text("utf-8"),
        new.read_text("utf-8").replace(f"reports/{after.name}/", f"reports/{before.name}/"),
    )
    if texts[0] == texts[1]:
        return "equal"
    try:
        tables = [pd.read_csv(io.StringIO(text)) for text in texts]
    except ValueError as error:
        return f"cannot be read ({plain(error)})"
    one, two = (table.drop(columns="seconds", errors="ignore") for table in tables)
    if one.shape != two.shape or (one.columns != two.columns).any():
        return "has {} rows and {} columns, or others, in place of {} and {}".format(
            *two.shape, *one.shape
        )
    numbers = one.select_dtypes("number").columns.intersection(two.select_dtypes("number").columns)
    text = one.columns.difference(numbers)
    others = (one[text].astype(str) != two[text].astype(str)).to_numpy().sum()
    others += (one[numbers].isna() != two[numbers].isna()).to_numpy().sum()
    if others:
        return f"differs in {counted(int(others), 'cell')} of text or nan"
    apart = (one[numbers] - two[numbers]).abs()
    if not (apart > 0).any(axis=None):
        return "equal"
    if (apart.fillna(0) <= _ROUNDING * one[numbers].abs().fillna(0)).all(axis=None):
        return "equal within rounding"
    column = apart.max().idxmax()
    return f"differs, {column} by up to {apart[column].max():.3g}"


def _versions(record: dict[str, Any]) -> dict[str, Any]:
    about = record.get("provenance") or {}
    own = {name: about.get(name) for name in ("python", "commit")}
    return own | (about.get("packages") or {})


def _data(record: dict[str, Any]) -> dict[str, Any]:
    steps = record.get("steps") or {}
    return {name: step.get("data", "not known") for name, step in steps.items()}


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return "equal", or each entry that is another one now."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return "; ".join(f"{n}: {old.get(n)} then, {new.get(n)} now" for n in names) or "equal"
