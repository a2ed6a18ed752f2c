"""Pages to read without Jupyter: each notebook of a run as HTML, and an index of the run."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import yaml
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from glacier_utils.files import write_text
from glacier_utils.workflow import runs

# JupyterLab's own page without the scripts that it would load from the network.
# Progress bars go to the error stream, which is no error: no red behind them.
_TEMPLATE = """{% extends "lab/index.html.j2" %}
{% block html_head_css %}{{ super() }}
<style>
.jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"] { background: #f5f5f5; }
</style>
{% endblock %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
"""


def export_html(notebook: Path) -> Path:
    """Write a notebook as one HTML file beside it, figures embedded, nothing loaded from afar.

    Args:
        notebook: an ``.ipynb`` file, executed.

    Returns:
        The path of the HTML file.
    """
    content = nbformat.read(notebook, as_version=4)
    # A progress bar is one line that was overwritten many times; show what it came to.
    content, _ = CoalesceStreamsPreprocessor(enabled=True).preprocess(content, {})
    exporter = HTMLExporter(
        template_name="lab",
        extra_loaders=[jinja2.DictLoader({"report.html.j2": _TEMPLATE})],
        template_file="report.html.j2",
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    resources = {"metadata": {"name": _title(content) or notebook.stem}}
    body, _ = exporter.from_notebook_node(content, resources=resources)
    return write_text(notebook.with_suffix(".html"), body)


def write_index(run: runs.Run, defaults: dict[str, Any]) -> Path:
    """Write ``index.html``: the run's notebooks, its tables and its figures on one page.

    Args:
        run: the run, whose ``run.json`` holds its parameters.
        defaults: parameters that are as here are not shown.

    Returns:
        The path of the page.
    """
    record = run.read_record()
    changed = {
        name: value
        for name, value in (record.get("parameters") or {}).items()
        if name not in defaults or value != defaults[name]
    }
    provenance = record.get("provenance", {})
    template = (files("glacier_utils") / "assets" / "index.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(template).render(
        run=run.name,
        started=provenance.get("started", ""),
        commit=provenance.get("commit") or "not in git",
        parameters=yaml.safe_dump(changed) if changed else "none",
        notebooks={name: _page_title(run.folder / name) for name in
                   _names(run.folder, "[0-9][0-9]_*.html")},
        tables=_names(run.metrics, "*.csv"),
        maps=_names(run.maps, "*"),
        figures=_names(run.figures, "*.png"),
    )  # fmt: skip
    return write_text(run.folder / "index.html", page)


def _names(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern) if path.is_file())


def _title(notebook: nbformat.NotebookNode) -> str:
    """Return the first heading of a notebook, "" without one."""
    words = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = re.search(r"^# (.*)", "\n".join(words), re.MULTILINE)
    return found[1].strip() if found else ""


def _page_title(page: Path) -> str:
    """Return the title of the notebook that a page was made from."""
    notebook = page.with_suffix(".ipynb")
    title = _title(nbformat.read(notebook, as_version=4)) if notebook.exists() else ""
    return title or page.stem
