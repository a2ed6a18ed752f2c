"""Running the notebooks in order with papermill, and turning them into HTML reports."""

from __future__ import annotations

import ast
import difflib
import html
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from glacier_utils import runs
from glacier_utils.errors import GlacierError
from glacier_utils.files import fingerprint, write_text

# The kernel of this very environment, even where the user has others of the same name.
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")


class NotebookFailed(Exception):
    """A notebook stopped with an error; the message says which, in which cell and why."""

    def __init__(self, message: str, user_error: bool) -> None:
        super().__init__(message)
        self.user_error = user_error


@dataclass(frozen=True)
class ParameterSet:
    """The values of one YAML file: the run's name and what it sets in the notebooks."""

    run: str
    values: dict[str, Any] = field(default_factory=dict)


def notebook_paths(root: Path) -> list[Path]:
    """Return the numbered notebooks in order.

    Raises:
        GlacierError: there are none.
    """
    paths = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise GlacierError(f"{root / 'notebooks'}: no numbered notebooks here; check your clone")
    return paths


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Return name and default of each parameter in the notebook's cell tagged ``parameters``."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            assignments = [
                node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)
            ]
            return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}
    raise GlacierError(
        f"{path}: no cell tagged 'parameters'; restore the notebook from the project"
    )


def load_parameters(path: str | Path, known: dict[str, Any]) -> ParameterSet:
    """Read a parameter set and check it against the parameters that the notebooks have.

    Args:
        path: a YAML file with one mapping of names to values; ``run`` defaults to the file's stem.
        known: name -> default value, of all notebooks together.

    Raises:
        GlacierError: the file cannot be read, names a parameter that no notebook has, or gives one
            a value of another kind than its default.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise GlacierError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise GlacierError(f"{path}: not valid YAML ({reason}); correct it") from error
    if not isinstance(values, dict):
        raise GlacierError(f"{path}: holds no mapping; write lines such as 'epochs: 40'")
    values = {name: _iso_dates(value) for name, value in values.items()}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}" if near else f"known are {', '.join(sorted(known))}"
            raise GlacierError(f"{path}: no notebook has a parameter {name!r}; {hint}")
        if not _same_kind(value, known[name]):
            raise GlacierError(
                f"{path}: {name} is {value!r}, but the notebooks take a value like {known[name]!r}"
            )
    return ParameterSet(run=str(values.get("run", path.stem)), values=values)


def execute(parameters: ParameterSet, *, root: Path | None = None, fresh: bool = False) -> runs.Run:
    """Execute all notebooks with one parameter set into ``reports/<run>/`` and export their HTML.

    A notebook whose source, parameters, package code, data and predecessors are what they were when
    it last finished is not executed again.

    Args:
        parameters: as from `load_parameters`.
        root: the project's folder.
        fresh: execute everything again.

    Raises:
        NotebookFailed: a cell raised; the executed copy is kept as ``<notebook>.failed.ipynb``.
    """
    root = root or runs.project_root()
    run = runs.open_run(parameters.run, root)
    paths = notebook_paths(root)
    if fresh:
        run.record(steps=None)
    run.record(parameters=parameters.values, provenance=runs.provenance())
    done = run.recorded().get("steps") or {}
    above = [_code_fingerprint(), parameters.values]
    for path in paths:
        above = [fingerprint([above, _source(path), _data_fingerprint(path, parameters)])]
        target = run.folder / path.name
        finished = done.get(path.stem, {})
        if finished.get("fingerprint") == above[0] and target.with_suffix(".html").exists():
            print(f"{path.stem}: unchanged, not executed again", flush=True)
            continue
        seconds = _execute_one(path, target, parameters)
        export_html(target)
        run.record(steps={path.stem: {"fingerprint": above[0], "seconds": round(seconds, 1)}})
        print(f"{path.stem}: {seconds:.0f} s", flush=True)
    write_index(run)
    return run


def _execute_one(path: Path, target: Path, parameters: ParameterSet) -> float:
    """Execute one notebook into ``target``; return the seconds it took."""
    own = notebook_parameters(path)
    values = {name: value for name, value in parameters.values.items() if name in own}
    values["run"] = parameters.run
    if values == {name: own[name] for name in values}:
        values = {}  # Defaults only: no injected cell between the reader and the notebook.
    running = target.with_suffix(".running.ipynb")
    failed = target.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    start = time.perf_counter()
    try:
        papermill.execute_notebook(
            path, running, values, cwd=path.parent, kernel_name="python3", log_output=False
        )
    except papermill.PapermillExecutionError as error:
        running.replace(failed)
        reason = " ".join(str(error.evalue).split())
        raise NotebookFailed(
            f"{path.stem}: cell {error.cell_index} failed ({error.ename}: {reason}); "
            f"see {runs.relative(failed)}",
            user_error=error.ename == GlacierError.__name__,
        ) from error
    except BaseException:
        running.unlink(missing_ok=True)
        raise
    running.replace(target)
    return time.perf_counter() - start


def export_html(notebook: Path) -> Path:
    """Write the notebook as one HTML file beside it, figures embedded, nothing loaded from afar."""
    content = nbformat.read(notebook, as_version=4)
    # A progress bar is one line that was overwritten many times; show what it came to.
    content, _ = CoalesceStreamsPreprocessor(enabled=True).preprocess(content, {})
    exporter = HTMLExporter(
        template_name="lab",
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        mathjax_url="",
        require_js_url="",
        jquery_url="",
        mermaid_js_url="",
    )
    resources = {"metadata": {"name": _title(content, notebook.stem)}}
    body, _ = exporter.from_notebook_node(content, resources=resources)
    return write_text(notebook.with_suffix(".html"), body)


def write_index(run: runs.Run) -> Path:
    """Write ``index.html``: the run's notebooks, its tables and its figures on one page."""
    record = run.recorded()
    rows = [
        f'<li><a href="{html.escape(path.name)}">{html.escape(_first_title(path))}</a></li>'
        for path in sorted(run.folder.glob("[0-9][0-9]_*.html"))
    ]
    return write_text(
        run.folder / "index.html",
        _PAGE.format(
            run=html.escape(run.name),
            started=html.escape(str(record.get("provenance", {}).get("started", ""))),
            commit=html.escape(str(record.get("provenance", {}).get("commit") or "not in git")),
            parameters=html.escape(yaml.safe_dump(record.get("parameters") or {}) or "defaults"),
            notebooks="\n".join(rows),
            tables="\n".join(_links(run, "metrics", "*.csv")),
            maps="\n".join(_links(run, "maps", "*")),
            figures="\n".join(
                f'<figure><a href="figures/{html.escape(path.name)}"><img loading="lazy" '
                f'src="figures/{html.escape(path.name)}" alt=""></a>'
                f"<figcaption>{html.escape(path.stem.replace('_', ' '))}</figcaption></figure>"
                for path in sorted(run.figures.glob("*.png"))
            ),
        ),
    )


def all_parameters(root: Path) -> dict[str, Any]:
    """Return name -> default over all notebooks, plus nothing else.

    Raises:
        GlacierError: two notebooks give one parameter different defaults, so that a run without a
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


def run_all(files: Iterable[str | Path], *, root: Path | None = None, fresh: bool = False) -> list:
    """Check all parameter files first, then execute one run after the other.

    Args:
        files: YAML files; none stands for ``notebooks/parameters/default.yaml``.

    Returns:
        The runs, in order.
    """
    root = root or runs.project_root()
    known = all_parameters(root)
    files = list(files) or [root / "notebooks" / "parameters" / "default.yaml"]
    sets = [load_parameters(path, known) for path in files]
    names = [parameters.run for parameters in sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise GlacierError(
            f"run {twice[0]!r} stands in two parameter files; give each its own name"
        )
    return [execute(parameters, root=root, fresh=fresh) for parameters in sets]


def _iso_dates(value: Any) -> Any:
    """Undo YAML's habit of turning 2023-08-24 into a date: the notebooks take text."""
    if isinstance(value, date):
        return value.isoformat()
    return [_iso_dates(item) for item in value] if isinstance(value, list) else value


def _same_kind(value: Any, default: Any) -> bool:
    """Say whether ``value`` may stand where ``default`` stood; an int may stand for a float."""
    if default is None or value is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def _source(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def _code_fingerprint() -> str:
    """Return the hash of the package's source: results follow the code that made them."""
    folder = Path(__file__).parent
    return fingerprint([path.read_text("utf-8") for path in sorted(folder.glob("*.py"))])


def _data_fingerprint(path: Path, parameters: ParameterSet) -> str:
    name = parameters.values.get("dataset", notebook_parameters(path).get("dataset"))
    return "" if name is None else runs.open_data(name).fingerprint


def _title(notebook: nbformat.NotebookNode, default: str) -> str:
    """Return the first heading of a notebook."""
    for cell in notebook.cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and line.startswith("# "):
                return line[2:].strip()
    return default


def _first_title(page: Path) -> str:
    notebook = page.with_suffix(".ipynb")
    title = _title(nbformat.read(notebook, as_version=4), page.stem)
    return title if title.startswith(page.stem[:2]) else f"{page.stem[:2]} {title}"


def _links(run: runs.Run, folder: str, pattern: str) -> list[str]:
    paths = sorted(path for path in (run.folder / folder).glob(pattern) if path.is_file())
    return [
        f'<li><a href="{folder}/{html.escape(path.name)}">{html.escape(path.name)}</a></li>'
        for path in paths
    ]


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Run {run}</title>
<style>
body {{ font-family: system-ui, sans-serif; line-height: 1.5; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; color: #1b1b1b; }}
figure {{ display: inline-block; margin: .5rem; width: 20rem; vertical-align: top; }}
img {{ max-width: 100%; border: 1px solid #ddd; }}
figcaption {{ color: #555; font-size: .9rem; }}
pre {{ background: #f5f5f5; padding: 1rem; overflow-x: auto; }}
</style></head><body>
<h1>Run {run}</h1>
<p>Started {started} (UTC), commit {commit}.</p>
<h2>Notebooks</h2><ul>{notebooks}</ul>
<h2>Parameters that differ from the defaults</h2><pre>{parameters}</pre>
<h2>Tables</h2><ul>{tables}</ul>
<h2>Maps</h2><ul>{maps}</ul>
<h2>Figures</h2>{figures}
</body></html>
"""
