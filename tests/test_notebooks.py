"""The form of the committed notebooks: what each holds, and that nbval has something to compare."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest

from glacier_utils.workflow import notebooks

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "01_data_exploration",
    "02_preprocessing",
    "03_model_training",
    "04_spatial_evaluation",
    "05_temporal_comparison",
    "06_large_scale_mosaics",
)
SETS = sorted((ROOT / "notebooks" / "parameters").glob("*.yaml"))
LONGEST = 15  # lines of a code cell
IGNORED = "nbval-ignore-output"


@pytest.fixture(scope="module", params=NAMES)
def notebook(request) -> nbformat.NotebookNode:
    path = ROOT / "notebooks" / f"{request.param}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    notebook.name = request.param
    return notebook


def code(notebook) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def compared(cell) -> bool:
    """Say whether nbval has a text to compare that says more than 'there is a figure'."""
    texts = [
        output.text if output.output_type == "stream" else output.data.get("text/plain", "")
        for output in cell.outputs
        if output.output_type in ("stream", "execute_result", "display_data")
    ]
    return IGNORED not in tags(cell) and any(
        text.strip() and not re.fullmatch(r"<(Figure|Axes)[^>]*>", text.strip()) for text in texts
    )


def test_the_six_notebooks_are_there_and_no_other():
    assert [path.stem for path in notebooks.notebook_paths(ROOT)] == list(NAMES)
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} == {
        f"{name}.ipynb" for name in NAMES
    }


def test_it_opens_with_its_question_and_what_it_reads_and_leaves(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {notebook.name[:2]} ")
    for word in ("**Question.**", "**Reads**", "**Leaves**"):
        assert word in first.source, word


def test_it_closes_with_what_the_results_mean_and_the_next_notebook(notebook):
    # An appendix may follow.
    story = "\0".join(cell.source for cell in notebook.cells).partition("\0## Appendix")[0]
    last = notebook.cells[story.count("\0")]
    assert last.cell_type == "markdown"
    assert re.search(r"^## .*limits", last.source, flags=re.MULTILINE)
    position = NAMES.index(notebook.name)
    if position + 1 < len(NAMES):
        assert NAMES[position + 1] in last.source


def test_it_has_one_cell_of_parameters_with_a_comment_each(notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in tags(cell)]
    assert len(tagged) == 1
    assert notebook.cells[1] is tagged[0]
    lines = tagged[0].source.splitlines()
    for node in ast.parse(tagged[0].source).body:
        assert re.search(r"  # \w+", lines[node.end_lineno - 1]), ast.unparse(node)
    parameters = notebooks.notebook_parameters(ROOT / "notebooks" / f"{notebook.name}.ipynb")
    assert parameters["run"] == "default"


def test_its_cells_are_short_and_its_functions_in_the_package(notebook):
    for cell in code(notebook):
        first = cell.source.splitlines()[0]
        # Parameters stand one a line, with their comments: a list, not code.
        longest = LONGEST + 5 * ("parameters" in tags(cell))
        assert len(cell.source.splitlines()) <= longest, f"more than {longest} lines: {first}"
        assert not re.search(r"^\s*(def|class) ", cell.source, flags=re.MULTILINE), first
        assert "sys.path" not in cell.source


def test_each_figure_or_table_has_a_sentence_before_it(notebook):
    # More than three cells of code in a row explain nothing.
    kinds = "".join(cell.cell_type[0] for cell in notebook.cells)
    assert "cccc" not in kinds


def test_it_names_the_kernel_of_the_environment_and_keeps_no_traces(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}, cell.id


def test_it_was_executed_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_its_outputs_are_free_of_errors_warnings_and_machine_paths(notebook):
    for cell in code(notebook):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            text = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            assert "Warning" not in text, cell.source
            assert not re.search(r"site-packages|/home/|/root/|/tmp/|/Users/|[A-Z]:\\", text), text
            assert str(ROOT) not in text


def test_nbval_has_something_to_compare(notebook):
    assert sum(map(compared, code(notebook))) >= 5


def test_what_must_hold_is_compared(notebook):
    (heading,) = (
        position
        for position, cell in enumerate(notebook.cells)
        if cell.cell_type == "markdown" and "## What must hold" in cell.source
    )
    checks = notebook.cells[heading + 1]
    assert IGNORED not in tags(checks)
    text = "".join(output.get("text", "") for output in checks.outputs)
    assert len(text.splitlines()) >= 3
    assert ": True" in text
    assert ": False" not in text


def test_the_notebooks_agree_on_the_defaults():
    known = notebooks.all_parameters(ROOT)
    assert known["dataset"] == "sample"
    assert known["run"] == "default"


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_each_parameter_set_fits_the_notebooks(path):
    parameters = notebooks.load_parameters(path, notebooks.all_parameters(ROOT))
    assert parameters["run"] == path.stem
    assert path.read_text(encoding="utf-8").startswith("# "), "say what it is for"


def test_the_named_parameter_sets_are_there():
    assert {"default", "both_dates", "thorough", "everest"} <= {path.stem for path in SETS}
    default = notebooks.load_parameters(SETS[[path.stem for path in SETS].index("default")],
                                    notebooks.all_parameters(ROOT))  # fmt: skip
    assert set(default) == {"run"}
