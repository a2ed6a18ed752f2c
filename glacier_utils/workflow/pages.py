"""Pages to read without Jupyter: notebooks as HTML, a page per run, one of all runs.

All have one style and one script, inside each page; nothing is loaded from afar. Names and texts of
data are escaped where a page is made of them. A notebook's own output may hold any HTML, so a
content security policy lets no script run but ours.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import yaml
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from glacier_utils.files import write_text
from glacier_utils.plotting.webmap import asset, script_source
from glacier_utils.workflow import runs, summaries
from glacier_utils.workflow.comparison import HEADINGS, Comparison

_KINDS = ("figures", "metrics")
_HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)(?:<a class="anchor-link"|</h2>)', re.DOTALL)
_SAVED = re.compile(r'save_figure\(.*?,\s+f?"([^"]+)"\s*[,)]', re.DOTALL)


def export_html(notebook: Path) -> Path:
    """Write a notebook as one HTML file beside it, figures embedded, nothing loaded from afar.

    It has a table of contents; the code is folded behind a switch, and so is the appendix: what
    stands from a cell that begins with ``## Appendix`` to the next heading of that level.

    Args:
        notebook: an ``.ipynb`` file, executed, in the folder of its run.

    Returns:
        The path of the HTML file.
    """
    content = nbformat.read(notebook, as_version=4)
    # A progress bar is one line that was overwritten many times; show what it came to.
    content, _ = CoalesceStreamsPreprocessor(enabled=True).preprocess(content, {})
    _prepare(content, _contents().get(notebook.name[:2], {}).get("figures", {}))
    exporter = HTMLExporter(
        template_name="lab",
        extra_loaders=[jinja2.DictLoader({"notebook.html.j2": asset("notebook.html.j2")})],
        template_file="notebook.html.j2",
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    title = _title(content) or notebook.stem
    body, _ = exporter.from_notebook_node(
        content, resources={"metadata": {"name": title}, "report": _shared()}
    )
    links = "".join(f'<li><a href="#{at}">{text}</a></li>' for at, text in _HEADING.findall(body))
    page = body.replace('<ol id="contents"></ol>', f'<ol id="contents">{links}</ol>', 1)
    return write_text(notebook.with_suffix(".html"), page)


def _prepare(notebook: nbformat.NotebookNode, phrases: dict[str, str]) -> None:
    """Say what each figure shows, for who cannot see it; make links hold in the run's folder."""
    heading = section = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = [section, *re.findall(r"^## (.*)", cell.source, re.MULTILINE)][-1]
            heading = [heading, *re.findall(r"^#+ (.*)", cell.source, re.MULTILINE)][-1]
            cell.source = cell.source.replace("](../", "](../../")
        cell.metadata.appendix = section == "Appendix"
        if cell.cell_type == "markdown":
            cell.source = cell.source.removeprefix("## Appendix")
            continue
        names = [re.sub(r"{.*?}", "*", name) for name in _SAVED.findall(cell.source)]
        for output in cell.get("outputs", []):
            name = names.pop(0) if names and "image/png" in output.get("data", {}) else ""
            output.setdefault("metadata", {})["alt"] = phrases.get(name) or f"Figure: {heading}"


def write_index(run: runs.Run, defaults: dict[str, Any]) -> Path:
    """Write ``index.html``: the headline, the notebooks, all that the run left, its provenance.

    The page of all runs is written anew too.

    Args:
        run: the run, whose ``run.json`` holds its parameters.
        defaults: parameters that are as here are not shown among those that differ.

    Returns:
        The path of the page.
    """
    record = run.read_record()
    parameters = record.get("parameters") or {}
    changed = {
        name: value
        for name, value in parameters.items()
        if name not in defaults or value != defaults[name]
    }
    about = _contents()
    # Those that are to come too, if the run lies in a project.
    places = (run.folder.parent.parent / "notebooks", run.folder)
    stems = sorted({path.stem for folder in places for path in folder.glob("[0-9][0-9]_*.*")})
    known = {stem[:2]: stem for stem in stems if "." not in stem}
    steps = record.get("steps") or {}
    groups = [_group(run, name, about.get(key, {}), name in steps) for key, name in known.items()]
    taken = {file for group in groups for kind in _KINDS for file in group[kind]}
    other = {k: {f: "" for f in _names(run.folder / k) if f not in taken} for k in _KINDS}
    groups.append({"title": "Other", "thumbnail": "", "page": "", **other})
    pictures = [one["thumbnail"] for one in groups if one["thumbnail"].startswith("map_")]
    page = _render(
        "run.html.j2",
        run=summaries.summarize(run),
        groups=groups,
        picture=next(iter(pictures), ""),
        maps=_maps(run, about["maps"]),
        changed=yaml.safe_dump(changed) if changed else "none",
        parameters=yaml.safe_dump(parameters),
        provenance=record.get("provenance") or {},
        steps=steps,
    )
    write_overview(run.folder.parent)
    return write_text(run.folder / "index.html", page)


def write_overview(reports: Path) -> Path:
    """Write ``reports/index.html``: the headline figures of all runs in a table that sorts.

    Args:
        reports: the folder of the runs.
    """
    found = [summaries.summarize(runs.Run(path.parent)) for path in reports.glob("*/run.json")]
    found = sorted(found, key=lambda one: one.started, reverse=True)
    return write_text(reports / "index.html", _render("overview.html.j2", runs=found))


def write_comparison(path: Path, comparison: Comparison) -> Path:
    """Write a comparison of runs as a page."""
    page = _render("comparison.html.j2", comparison=comparison, headings=HEADINGS)
    return write_text(path, page)


def _group(run: runs.Run, name: str, about: dict[str, Any], done: bool) -> dict[str, Any]:
    """Return what a notebook left, each file with what it shows, and what the notebook found."""
    notebook = run.folder / f"{name}.ipynb"
    content = nbformat.read(notebook, as_version=4) if notebook.exists() else None
    group: dict[str, Any] = {
        kind: {
            file: phrase
            for pattern, phrase in about.get(kind, {}).items()
            for file in _names(run.folder / kind)
            if fnmatchcase(Path(file).stem, pattern)
        }
        for kind in _KINDS
    }
    figures = [*group["figures"]]
    wanted = [file for file in figures if fnmatchcase(file, f"{about.get('thumbnail')}.png")]
    return group | {
        "page": f"{name}.html" if done else "",
        "title": (content and _title(content)) or name,
        "says": _finding(content, about.get("says", "")) if content and done else "",
        "thumbnail": next(iter(wanted + figures), ""),
    }


def _finding(notebook: nbformat.NotebookNode, word: str) -> str:
    """Return the first line of the take-home that holds ``word``; without one the question."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.get("data", {}).get("text/markdown", "") for output in outputs]
    take_home = next((text for text in texts if text.startswith("**Take-home")), "")
    lines = re.findall(r"^(?:-|\d+\.) (.*)", take_home, re.MULTILINE)
    questions = re.findall(r"^\*\*Question\.\*\* (.*)", _words(notebook), re.MULTILINE)
    chosen = [line for line in lines if word in line] + lines + questions
    return re.sub(r"\*\*|`", "", chosen[0]) if chosen else ""


def _maps(run: runs.Run, kinds: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return scene -> what it is -> file; what is of no known kind is left to the folder."""
    found: dict[str, dict[str, str]] = {}
    for name in _names(run.maps):
        if ending := next((end for end in kinds if name.endswith(end)), ""):
            found.setdefault(name.removesuffix(ending), {})[kinds[ending]] = name
    return found


def _names(folder: Path) -> list[str]:
    # What begins with a dot is being written, or was.
    return sorted(p.name for p in folder.glob("[!.]*") if p.is_file())


def _words(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def _title(notebook: nbformat.NotebookNode) -> str:
    """Return the first heading of a notebook, "" without one."""
    found = re.search(r"^# (.*)", _words(notebook), re.MULTILINE)
    return found[1].strip() if found else ""


def _contents() -> dict[str, Any]:
    return yaml.safe_load(asset("contents.yaml"))


def _shared() -> dict[str, str]:
    """Return the style and the script of all pages, and the policy that lets this script run."""
    script = asset("report.js")
    policy = (
        f"default-src 'none'; script-src {script_source(script)}; style-src 'unsafe-inline'; "
        "img-src 'self' file: data:; font-src data:; base-uri 'none'; form-action 'none'"
    )
    return {"style": asset("report.css"), "script": script, "policy": policy}


def _render(template: str, **values: Any) -> str:
    loader = jinja2.FunctionLoader(asset)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=loader, trim_blocks=True
    )
    return environment.get_template(template).render(**values, **_shared())
