"""Parameter sets, and the notebooks executed with them, on a project of two tiny notebooks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from notebook_project import WAYS_TO_FAIL, calls, write_notebook, write_project, write_set

from glacier_utils import cli
from glacier_utils.errors import GlacierError
from glacier_utils.workflow import batch, runs
from glacier_utils.workflow import notebooks as notebooks_module

KNOWN = {
    "run": "default",
    "main_date": "2023-08",
    "train_dates": ["2023-08"],
    "steps": 40,
    "learning_rate": 1e-3,
    "flips": False,
    "compare_date": "2023-07",
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    """A project whose default run is done; its path has braces, which papermill would fill in."""
    root = write_project(tmp_path_factory.mktemp("batch") / "{clone}")
    batch.run_all([], root=root)
    return root


@pytest.fixture
def project(executed, tmp_path, monkeypatch) -> Path:
    """An own copy of that project, which is the command line's."""
    root = shutil.copytree(executed, tmp_path / "{clone}")
    monkeypatch.setenv("GLACIER_HOME", str(root))
    return root


@pytest.fixture
def load(tmp_path):
    """Load a parameter set from its text."""

    def load(text: str, known=KNOWN) -> dict:
        path = tmp_path / "longer.yaml"
        path.write_text(text, encoding="utf-8")
        return notebooks_module.load_parameters(path, known)

    return load


# Parameter sets


def test_parameters_load_and_the_file_names_the_run(load):
    parameters = load("steps: 80\nlearning_rate: 1\nflips: true\n")
    assert parameters == {"run": "longer", "steps": 80, "learning_rate": 1, "flips": True}
    assert load("run: other") == {"run": "other"}
    assert load("") == {"run": "longer"}


def test_dates_stay_text(load):
    parameters = load("main_date: 2000-10-30\ntrain_dates: [2000-10-30, 2023-08]\ncompare_date: ''")
    assert parameters == {
        "run": "longer",
        "main_date": "2000-10-30",
        "train_dates": ["2000-10-30", "2023-08"],
        "compare_date": "",
    }


def test_numbers_with_an_exponent_are_numbers(load):
    assert load("learning_rate: 1e-4")["learning_rate"] == 0.0001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: 3", r"no notebook has a parameter 'step'; did you mean 'steps'"),
        ("epochs: 3", r"epochs are steps now; write steps: 150 in place of epochs: 3"),
        ("zzz: 3", r"no notebook has a parameter 'zzz'; known are .*main_date.*steps"),
        ("7: 3", r"no notebook has a parameter 7"),
        ("steps: many", r"steps is 'many', but the notebooks take a value like 40"),
        ("steps: 4.5", r"steps is 4\.5"),
        ("steps: true", r"steps is True"),
        ("steps:", r"steps is None"),
        ("run:", r"run is None"),
        ("flips: 1", r"flips is 1, but the notebooks take a value like False"),
        ("learning_rate: slow", r"learning_rate is 'slow'"),
        ("train_dates: 2023-08", r"train_dates is '2023-08', .* like \['2023-08'\]"),
        ("train_dates: [2023]", r"train_dates is \[2023\]"),
        ("main_date: 2023", r"main_date is 2023, .* like '2023-08'"),
        ("steps: [", r"not valid YAML \(.*\); correct it"),
        ("a: b: c", r"not valid YAML"),
        ("!!python/object/apply:os.getcwd []", r"not valid YAML"),
        ("- steps", r"holds no mapping; write lines such as"),
        ("steps", r"holds no mapping"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(load, text, message):
    with pytest.raises(GlacierError, match=rf"longer\.yaml: {message}") as error:
        load(text)
    assert "\n" not in str(error.value)


def test_a_parameter_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(GlacierError, match=r"none\.yaml: cannot be read \(No such file"):
        notebooks_module.load_parameters(tmp_path / "none.yaml", KNOWN)
    (tmp_path / "latin.yaml").write_bytes(b"run: \xe9t\xe9")
    with pytest.raises(GlacierError, match=r"latin\.yaml: not valid YAML"):
        notebooks_module.load_parameters(tmp_path / "latin.yaml", KNOWN)


def test_parameters_of_a_notebook_are_read_without_running_it(tmp_path):
    source = 'run = "default"  # name\nblock_m: float = 3840.0\nlimits = [-1, 2]\n# the end'
    path = write_notebook(tmp_path / "01.ipynb", "One", source)
    assert notebooks_module.notebook_parameters(path) == {
        "run": "default",
        "block_m": 3840.0,
        "limits": [-1, 2],
    }


@pytest.mark.parametrize(
    "source", ["size = 4 * 32", "import os", "a = b = 1", "a, b = 1, 2", "a ="]
)
def test_a_parameters_cell_with_more_than_values_is_refused(tmp_path, source):
    path = write_notebook(tmp_path / "01.ipynb", "One", source)
    with pytest.raises(GlacierError, match=r"01\.ipynb: its cell tagged 'parameters'"):
        notebooks_module.notebook_parameters(path)


def test_a_notebook_without_parameters_or_without_sense_is_named(tmp_path):
    path = write_notebook(tmp_path / "01.ipynb", "One", "run = 1", tags="other")
    with pytest.raises(GlacierError, match=r"01\.ipynb: no cell tagged 'parameters'"):
        notebooks_module.notebook_parameters(path)
    path.write_text("<<<<<<< HEAD")
    with pytest.raises(GlacierError, match=r"01\.ipynb: not a readable notebook"):
        notebooks_module.notebook_parameters(path)


def test_notebooks_come_in_order_and_only_numbered_ones(project, tmp_path):
    assert [path.name for path in notebooks_module.notebook_paths(project)] == [
        "01_first.ipynb",
        "02_second.ipynb",
    ]
    with pytest.raises(GlacierError, match="no numbered notebooks"):
        notebooks_module.notebook_paths(tmp_path)


def test_two_notebooks_with_different_defaults_are_refused(project):
    assert notebooks_module.all_parameters(project) == {
        "run": "default",
        "word": "ice",
        "number": 1,
    }
    write_notebook(project / "notebooks" / "03_third.ipynb", "03", 'word = "snow"')
    with pytest.raises(
        GlacierError, match=r"03_third.*word is 'snow' here and 'ice' in an earlier"
    ):
        notebooks_module.all_parameters(project)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"a": {"run": "same"}, "b": {"run": "same"}}, "'same' is asked for twice"),
        ({"a": {"word": "snow"}, "b": {"wrod": "x"}}, r"b\.yaml.*did you mean 'word'"),
        ({"a": {"word": "snow"}, "b": {"run": "../up"}}, r"'\.\./up': not a plain folder name"),
    ],
)
def test_all_sets_are_checked_before_the_first_runs(project, sets, message):
    files = [write_set(project, name, **values) for name, values in sets.items()]
    with pytest.raises(GlacierError, match=message):
        batch.run_all(files, root=project)
    assert calls(project) == "first second "
    assert {path.name for path in (project / "reports").iterdir()} == {"default", "index.html"}


def test_a_missing_dataset_is_noticed_before_the_first_run(project):
    write_notebook(project / "notebooks" / "03_data.ipynb", "03", 'dataset = "tiny"')
    (project / "data").mkdir()
    with pytest.raises(GlacierError, match="tiny: no such dataset"):
        batch.run_all([], root=project)
    assert calls(project) == "first second "


# Runs


def test_a_run_leaves_notebooks_pages_and_a_record(executed):
    folder = executed / "reports" / "default"
    assert calls(executed) == "first second "
    assert {path.name for path in folder.iterdir()} == {
        *("01_first.ipynb", "01_first.html", "02_second.ipynb", "02_second.html"),
        *("index.html", "run.json"),
    }
    record = json.loads((folder / "run.json").read_text())
    assert list(record["steps"]) == ["01_first", "02_second"]
    assert all(step["seconds"] > 0 for step in record["steps"].values())
    assert record["parameters"] == {"run": "default", "word": "ice", "number": 1}
    assert record["provenance"]["packages"]["numpy"]
    first = nbformat.read(folder / "01_first.ipynb", as_version=4).metadata.papermill
    assert record["provenance"]["started"][:19] <= first["start_time"][:19]
    assert record["status"] == "finished"
    assert ">finished<" in (folder.parent / "index.html").read_text()


def test_an_executed_notebook_holds_its_outputs_and_no_folder_of_the_machine(executed):
    path = executed / "reports" / "default" / "01_first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    # Defaults only: no cell was injected; it ran in notebooks/; tqdm did not complain.
    assert len(notebook.cells) == 3
    assert [output.text for output in notebook.cells[2].outputs] == ["ice notebooks\n"]
    assert str(executed) not in path.read_text()


def test_a_second_run_executes_nothing(project, capfd):
    before = (project / "reports" / "default" / "run.json").read_bytes()
    assert cli.main(["run"]) == 0
    assert calls(project) == "first second "
    assert (project / "reports" / "default" / "run.json").read_bytes() == before
    out = capfd.readouterr().out
    assert out.count("unchanged, not executed again") == 2
    assert out.endswith("open reports/default/index.html\n")


def test_a_changed_parameter_executes_the_notebooks_it_reaches(project, capfd):
    changed = write_set(project, "other", run="default", number=2)
    (done,) = batch.run_all([changed], root=project)
    run = done.run
    # 01 does not have the parameter, so it keeps its results.
    assert calls(project) == "first second second "
    assert run.read_record()["parameters"] == {"run": "default", "word": "ice", "number": 2}
    injected = nbformat.read(run.folder / "02_second.ipynb", as_version=4).cells[2]
    assert injected.metadata["tags"] == ["injected-parameters"]
    assert "number = 2" in injected.source
    assert "number: 2" in (run.folder / "index.html").read_text()
    # The kernel writes to the terminal itself, so whatever it has to complain of stands there.
    assert "WARNING" not in capfd.readouterr().err
    # And now they are what is there.
    batch.run_all([changed], root=project)
    assert calls(project) == "first second second "


def test_a_mistake_in_a_cell_keeps_the_copy_and_ends_with_2(project, capsys):
    wrong = write_set(project, "wrong", number=90)
    folder = project / "reports" / "wrong"
    shutil.copytree(project / "reports" / "default", folder)
    page = (folder / "02_second.html").read_bytes()
    assert cli.main(["run", str(wrong)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == (
        "glacier: 02_second: cell [4] failed (GlacierError: data: no such dataset); "
        "see reports/wrong/02_second.failed.ipynb"
    )
    failed = nbformat.read(folder / "02_second.failed.ipynb", as_version=4)
    (cell,) = (cell for cell in failed.cells if cell.get("execution_count") == 4)
    assert cell.source == WAYS_TO_FAIL
    assert cell.outputs[0].ename == "GlacierError"
    assert not list(folder.glob("*.running.ipynb"))
    assert (folder / "02_second.html").read_bytes() == page
    assert "02_second" not in runs.Run(folder).read_record()["steps"]
    # Neither its own page nor that of all runs takes it for the finished run that it was.
    for path in (folder / "index.html", project / "reports" / "index.html"):
        assert ">failed<" in path.read_text()
        assert "02_second: cell [4] failed (GlacierError" in path.read_text()


def test_after_a_failure_the_earlier_results_are_not_taken_for_finished(project):
    wrong = write_set(project, "wrong", run="default", number=91)
    (done,) = batch.run_all([wrong], root=project)
    assert (done.status, done.user_error) == ("failed", False)
    assert "ZeroDivisionError: division by zero" in done.error
    folder = project / "reports" / "default"
    assert ">failed<" in (folder / "index.html").read_text()
    assert runs.Run(folder).read_record()["failure"] == done.error
    assert (folder / "02_second.failed.ipynb").exists()
    # 02 may have left half of its tables before it failed: with the old parameters, do it again.
    batch.run_all([], root=project)
    assert calls(project).split() == ["first", "second", "second", "second"]
    assert not (folder / "02_second.failed.ipynb").exists()


def test_a_kernel_that_dies_is_reported_and_ends_with_1(project, capfd):
    wrong = write_set(project, "wrong", number=92, run="default")
    assert cli.main(["run", str(wrong)]) == 1
    message = capfd.readouterr().err.splitlines()[-1]
    assert message == (
        "glacier: 02_second: cell [4] ended the kernel, most often because memory ran out; "
        "see reports/default/02_second.failed.ipynb"
    )
    assert not list((project / "reports" / "default").glob("*.running.ipynb"))


def test_fresh_executes_everything(project, monkeypatch):
    done = []

    def execute(path, *_):
        done.append(path.stem)
        return 0.1

    monkeypatch.setattr(notebooks_module, "_execute_one", execute)
    batch.run_all([], root=project)
    assert done == []
    batch.run_all([], root=project, fresh=True)
    assert done == ["01_first", "02_second"]


def test_a_page_that_was_removed_is_made_again(project, monkeypatch):
    done = []
    monkeypatch.setattr(
        notebooks_module, "_execute_one", lambda path, *_: done.append(path.stem) or 0.1
    )
    (project / "reports" / "default" / "02_second.html").unlink()
    (outcome,) = batch.run_all([], root=project)
    assert done == ["02_second"]
    assert (outcome.run.folder / "02_second.html").exists()


@pytest.mark.parametrize(
    "changed", ["raster/grid.py", "new/deep/module.py", "assets/map.css", "plotting/__init__.pyi"]
)
def test_a_change_in_any_file_of_the_package_is_noticed(tmp_path, monkeypatch, changed):
    package = tmp_path / "glacier_utils"
    own = Path(notebooks_module.__file__).parents[1]
    shutil.copytree(own, package, ignore=shutil.ignore_patterns("__pycache__", "leaflet"))
    monkeypatch.setattr(notebooks_module, "__file__", str(package / "workflow" / "notebooks.py"))
    before = notebooks_module._code_fingerprint(tmp_path)
    (package / "raster" / "__pycache__").mkdir()
    (package / "raster" / "__pycache__" / "grid.pyc").touch()
    assert notebooks_module._code_fingerprint(tmp_path) == before
    path = package / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("\n")
    assert notebooks_module._code_fingerprint(tmp_path) != before


def test_a_change_in_the_studys_tables_is_noticed(tmp_path):
    before = notebooks_module._code_fingerprint(tmp_path)
    (tmp_path / "studies" / "tables").mkdir(parents=True)
    (tmp_path / "studies" / "tables" / "everest.csv").touch()
    assert notebooks_module._code_fingerprint(tmp_path) != before
