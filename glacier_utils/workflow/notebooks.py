"""Running the notebooks in order with papermill, each with the parameters that it has.

A notebook is a step of a run. It is done if its page is there and nothing has changed of what it
follows from: its source, its parameters, the package's code, the versions of the libraries, the
data and the steps before it. A hash of all that is written to ``run.json`` when the step ends;
`_is_done` is the one place that decides.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

from glacier_utils.errors import GlacierError, did_you_mean, plain
from glacier_utils.files import fingerprint, remove_unfinished
from glacier_utils.workflow import pages, runs

_RESERVE = 2**19
"""Bytes kept free for the record and the pages of a run that fails because the disk is full."""
# The kernel of this very environment, even where the user has others of the same name.
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")


def _kernel_config(sockets: Path) -> Config:
    """Return how to talk to a kernel: by sockets in a folder of its own where there are such.

    A port that is free when it is chosen may be another kernel's a moment later, where several
    start at once. Other users of a machine could read along on a port, of which the kernel warns.
    """
    settings = {"transport_encryption": "auto"}
    if os.name == "posix" and len(str(sockets)) < 90:  # a socket's path has some 100 characters
        settings |= {"transport": "ipc", "ip": str(sockets / "kernel")}
    return Config({"KernelManager": settings})


class NotebookFailed(Exception):  # noqa: N818 - says what happened
    """A notebook stopped with an error; the message says which, in which cell and why.

    Attributes:
        user_error: Whether it is a mistake that the user can mend.
    """

    def __init__(self, message: str, user_error: bool) -> None:
        super().__init__(message)
        self.user_error = user_error


def notebook_paths(root: Path) -> list[Path]:
    """Return the numbered notebooks in order.

    Raises:
        GlacierError: There are none.
    """
    paths = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise GlacierError(f"{root / 'notebooks'}: no numbered notebooks here; check your clone")
    return paths


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Return name and default of each parameter in the notebook's cell tagged ``parameters``.

    Raises:
        GlacierError: There is no such cell, or it holds more than plain assignments.
    """
    for cell in _read(path).cells:
        if "parameters" in cell.metadata.get("tags", []):
            try:
                return dict(_assigned(node) for node in ast.parse(cell.source).body)
            except (ValueError, SyntaxError) as error:
                raise GlacierError(
                    f"{path}: its cell tagged 'parameters' may hold nothing but lines such as "
                    f"'steps = 400' ({error}); correct it"
                ) from error
    raise GlacierError(
        f"{path}: no cell tagged 'parameters'; restore the notebook from the project"
    )


def all_parameters(root: Path) -> dict[str, Any]:
    """Return name -> default of the parameters of all notebooks.

    Raises:
        GlacierError: Two notebooks give one parameter different defaults, so that a run without a
            parameter file would not be one run.
    """
    known: dict[str, Any] = {}
    for path in notebook_paths(root):
        for name, default in notebook_parameters(path).items():
            if name in known and known[name] != default:
                raise GlacierError(
                    f"{path}: parameter {name} is {default!r} here and {known[name]!r} in an "
                    "earlier notebook; give it one default"
                )
            known[name] = default
    return known


def load_parameters(path: str | Path, known: dict[str, Any]) -> dict[str, Any]:
    """Read a parameter set and check it against the parameters that the notebooks have.

    Args:
        path: A YAML file with one mapping of names to values; ``run`` defaults to the file's stem.
        known: Name -> default value, of all notebooks together.

    Returns:
        Name -> value of what it sets in the notebooks, and the name of the ``run``.

    Raises:
        GlacierError: The file cannot be read, names a parameter that no notebook has, or gives one
            a value of another kind than its default.
    """
    return check_parameters(read_parameters(Path(path)), known, Path(path))


def read_parameters(path: Path) -> dict[str, Any]:
    """Read the mapping of a parameter file as it stands there.

    Raises:
        GlacierError: The file cannot be read, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise GlacierError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise GlacierError(f"{path}: not valid YAML ({reason}); correct it") from error
    if not isinstance(values, dict):
        raise GlacierError(f"{path}: holds no mapping; write lines such as 'steps: 400'")
    return values


def check_parameters(values: dict[str, Any], known: dict[str, Any], path: Path) -> dict[str, Any]:
    """Check names and kinds of parameters; as `load_parameters`, after the file was read."""
    for name in values:
        if name == "epochs" and "steps" in known:
            from glacier_utils.training.settings import steps_for  # torch takes seconds to import

            raise GlacierError(f"{path}: epochs are steps now; {steps_for(values[name])}")
        if name not in known:
            hint = did_you_mean(name, sorted(known))
            raise GlacierError(f"{path}: no notebook has a parameter {name!r}; {hint}")
    values = {name: _without_yaml_habits(value, known[name]) for name, value in values.items()}
    for name, value in values.items():
        if not _same_kind(value, known[name]):
            raise GlacierError(
                f"{path}: {name} is {value!r}, but the notebooks take a value like {known[name]!r}"
            )
    return values | {"run": str(values.get("run", path.stem))}


def execute(parameters: dict[str, Any], *, root: Path, fresh: bool = False) -> runs.Run:
    """Execute all notebooks with one parameter set into ``reports/<run>/`` and export their HTML.

    A notebook that is done (see above) is not executed again.

    Args:
        parameters: As from `load_parameters`.
        root: The project's folder.
        fresh: Whether to execute finished notebooks again too.

    Raises:
        NotebookFailed: A cell raised; the executed copy is kept as ``<notebook>.failed.ipynb``.
        RunBusy: Another process is at work in the run's folder.
    """
    run = runs.open_run(parameters["run"], root)
    with run.locked() as held:
        remove_unfinished(run.folder)
        defaults = all_parameters(root)
        reserve = run.folder / ".reserve"
        try:
            reserve.write_bytes(os.urandom(_RESERVE))
            run.record(parameters=defaults | parameters, status="running", failure="")
            _execute_steps(parameters, run, root, fresh, held)
            run.record(status="finished")
            pages.write_index(run, defaults)
        except BaseException as error:
            with contextlib.suppress(OSError):  # of a read-only disk, which is the error then
                reserve.unlink(missing_ok=True)
                run.record(status="failed", failure=plain(error) or type(error).__name__)
                pages.write_index(run, defaults)
            raise
        reserve.unlink()
    return run


def _execute_steps(
    parameters: dict[str, Any], run: runs.Run, root: Path, fresh: bool, held: list[int]
) -> None:
    """Execute the steps that are not done, and note in ``run.json`` which are."""
    before = {} if fresh else run.read_record().get("steps") or {}
    steps: dict[str, Any] = {}
    about = runs.provenance()
    for step in _steps(parameters, run, root):
        name = step.notebook.stem
        if _is_done(step, before.get(name, {})):
            steps[name] = before[name]
            print(f"{run.name}/{name}: unchanged, not executed again", flush=True)
            continue
        # From here on the later notebooks' results follow from something that is no more, even
        # where this run stops and an earlier one's parameters come back.
        run.record(steps=steps, provenance=about)
        pages.write_index(run, all_parameters(root))
        seconds = _execute_one(step.notebook, step.target, step.values, root, held)
        pages.export_html(step.target)
        facts = {"fingerprint": step.fingerprint, "data": step.data}
        steps[name] = facts | {"seconds": round(seconds, 1)}
        run.record(steps=steps)
        print(f"{run.name}/{name}: {seconds:.0f} s", flush=True)


@dataclass(frozen=True)
class _Step:
    """One notebook of a run: what is executed, with what, into which file.

    ``data`` is the dataset's fingerprint, "" without one; ``fingerprint`` is a hash of all that the
    results follow from.
    """

    notebook: Path
    values: dict[str, Any]
    target: Path
    data: str
    fingerprint: str


def _is_done(step: _Step, recorded: dict[str, Any]) -> bool:
    """Say whether the results of a step, as ``run.json`` records them, are there and still hold."""
    there = step.target.exists() and step.target.with_suffix(".html").exists()
    return there and recorded.get("fingerprint") == step.fingerprint


def _steps(parameters: dict[str, Any], run: runs.Run, root: Path) -> Iterator[_Step]:
    """Yield the steps of a run in order; each is read when its turn has come."""
    key = fingerprint([_code_fingerprint(root), runs.versions()])
    for path in notebook_paths(root):
        own = notebook_parameters(path)
        values = {name: parameters[name] for name in own if name in parameters}
        data = parameters.get("dataset", own.get("dataset"))
        state = "" if data is None else runs.open_data(data, root).fingerprint
        key = fingerprint([key, [cell.source for cell in _read(path).cells], values, state])
        yield _Step(path, values, run.folder / path.name, state, key)


def _code_fingerprint(root: Path) -> str:
    """Return a hash of what makes the results besides notebooks and data.

    That is each file of the package, in whatever sub-package and of whatever kind, and the stored
    tables of the study, which notebook 03 shows.
    """
    package = Path(__file__).parents[1]
    sha = hashlib.sha256()
    for folder in (package, root / "studies" / "tables"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                sha.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return sha.hexdigest()


def _kernels(held: list[int]) -> type[AsyncKernelManager]:
    """Return a manager whose kernels hold the lock of the run too.

    A kernel lives on for a second after its parent was killed: nobody writes beside it meanwhile.
    """

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            await super().start_kernel(pass_fds=held if os.name == "posix" else (), **options)

    return Manager


def _execute_one(
    path: Path, target: Path, values: dict[str, Any], root: Path, held: list[int]
) -> float:
    """Execute one notebook with ``values`` into ``target``; return the seconds it took."""
    own = notebook_parameters(path)
    if values == {name: own[name] for name in values}:
        values = {}  # Defaults only: no injected cell between the reader and the notebook.
    running = target.with_suffix(".running.ipynb")
    failed = target.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="glacier-", ignore_cleanup_errors=True) as sockets:
            papermill.execute_notebook(
                _literal(path),
                _literal(running),
                values,
                cwd=path.parent,
                kernel_name="python3",
                log_output=False,
                # A bar is for a person who waits for one run; in a log it is a line per cell.
                progress_bar=sys.stderr.isatty() and multiprocessing.parent_process() is None,
                config=_kernel_config(Path(sockets)),
                kernel_manager_class=_kernels(held),
            )
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        running.replace(failed)
        if isinstance(error, DeadKernelError):
            why = f"[{_stopped_at(failed)}] ended the kernel, most often because memory ran out"
        else:
            reason = " ".join(f"{error.ename}: {error.evalue}".split())
            why = f"[{error.exec_count}] failed ({reason})"
        raise NotebookFailed(
            f"{path.stem}: cell {why}; see {runs.relative(failed, root)}",
            user_error=getattr(error, "ename", "") == GlacierError.__name__,
        ) from error
    except BaseException:
        running.unlink(missing_ok=True)
        raise
    _remove_paths(running, target)
    running.replace(target)
    return time.perf_counter() - start


def _read(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise GlacierError(f"{path}: not a readable notebook ({reason}); restore it") from error


def _assigned(node: Any) -> tuple[str, Any]:
    """Return name and value of a line such as ``steps = 400``; ValueError for anything else."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if len(targets) != 1 or not isinstance(targets[0], ast.Name) or node.value is None:
        raise ValueError(f"line {node.lineno} is no assignment of one name")
    return targets[0].id, ast.literal_eval(node.value)


def _without_yaml_habits(value: Any, default: Any) -> Any:
    """Undo what YAML makes of 2023-08-24 (a date) and of 1e-3 (text)."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list):
        first = default[0] if isinstance(default, list) and default else None
        return [_without_yaml_habits(item, first) for item in value]
    if isinstance(value, str) and isinstance(default, float):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _same_kind(value: Any, default: Any) -> bool:
    """Say whether ``value`` may stand where ``default`` stood; an int may stand for a float."""
    if isinstance(default, list) and default and isinstance(value, list):
        return all(_same_kind(item, default[0]) for item in value)
    kind = int | float if isinstance(default, float) else type(default)
    # To Python a bool is an int.
    alike = isinstance(value, bool) == isinstance(default, bool)
    return default is None or (alike and isinstance(value, kind))


def _literal(path: Path) -> str:
    """Return a path as papermill wants it, which fills in whatever stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _stopped_at(notebook: Path) -> int:
    """Return the number of the cell that was being executed, counted as Jupyter does."""
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.source.strip()]
    code = [cell for cell in cells if cell.cell_type == "code"]
    done = [cell.metadata.get("papermill", {}).get("status") == "completed" for cell in code]
    return done.index(False) + 1 if False in done else len(done)


def _remove_paths(notebook: Path, target: Path) -> None:
    """Take the machine's folders out of the notebook: it is there to be passed on."""
    content = nbformat.read(notebook, as_version=4)
    content.metadata.papermill.update(input_path=target.name, output_path=target.name)
    nbformat.write(content, notebook)
