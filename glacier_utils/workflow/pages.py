"""Pages to read without Jupyter: each notebook of a run as HTML, and an index of the run."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import yaml
from jinja2 import DictLoader
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
    """Write the notebook as one HTML file beside it, figures embedded, nothing loaded from afar."""
    content = nbformat.read(notebook, as_version=4)
    # A progress bar is one line that was overwritten many times; show what it came to.
    content, _ = CoalesceStreamsPreprocessor(enabled=True).preprocess(content, {})
    exporter = HTMLExporter(
        template_name="lab",
        extra_loaders=[DictLoader({"report.html.j2": _TEMPLATE})],
        template_file="report.html.j2",
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    resources = {"metadata": {"name": _title(content, notebook.stem)}}
    body, _ = exporter.from_notebook_node(content, resources=resources)
    return write_text(notebook.with_suffix(".html"), body)


def write_index(run: runs.Run, defaults: dict[str, Any] | None = None) -> Path:
    """Write ``index.html``: the run's notebooks, its tables and its figures on one page.

    Args:
        run: its ``run.json`` tells the parameters.
        defaults: parameters that are as here are not shown.
    """
    record = run.read_record()
    changed = {
        name: value
        for name, value in (record.get("parameters") or {}).items()
        if name not in (defaults or {}) or value != defaults[name]
    }
    rows = [
        f'<li><a href="{quote(path.name)}">{html.escape(_first_title(path))}</a></li>'
        for path in sorted(run.folder.glob("[0-9][0-9]_*.html"))
    ]
    return write_text(
        run.folder / "index.html",
        _PAGE.format(
            run=html.escape(run.name),
            started=html.escape(str(record.get("provenance", {}).get("started", ""))),
            commit=html.escape(str(record.get("provenance", {}).get("commit") or "not in git")),
            parameters=html.escape(yaml.safe_dump(changed) if changed else "none"),
            notebooks="\n".join(rows),
            tables="\n".join(_links(run, "metrics", "*.csv")),
            maps="\n".join(_links(run, "maps", "*")),
            figures="\n".join(
                f'<figure><a href="figures/{quote(path.name)}"><img loading="lazy" '
                f'src="figures/{quote(path.name)}" alt=""></a>'
                f"<figcaption>{html.escape(path.stem.replace('_', ' '))}</figcaption></figure>"
                for path in sorted(run.figures.glob("*.png"))
            ),
        ),
    )


def _title(notebook: nbformat.NotebookNode, default: str) -> str:
    """Return the first heading of a notebook."""
    for cell in notebook.cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and line.startswith("# "):
                return line[2:].strip()
    return default


def _first_title(page: Path) -> str:
    notebook = page.with_suffix(".ipynb")
    title = page.stem
    if notebook.exists():
        title = _title(nbformat.read(notebook, as_version=4), title)
    return title if title.startswith(page.stem[:2]) else f"{page.stem[:2]} {title}"


def _links(run: runs.Run, folder: str, pattern: str) -> list[str]:
    paths = sorted(path for path in (run.folder / folder).glob(pattern) if path.is_file())
    return [
        f'<li><a href="{folder}/{quote(path.name)}">{html.escape(path.name)}</a></li>'
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
