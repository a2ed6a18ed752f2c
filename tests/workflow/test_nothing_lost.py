"""Runs that are killed, disks that are full or read-only, clocks that jump, input that is code."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from notebook_project import FIRST, SECOND, write_notebook, write_project, write_set

from glacier_utils import cli
from glacier_utils.workflow import batch, runs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and mounts are POSIX's")

WORK = """\
import time
import pandas as pd
from glacier_utils.files import write_csv
from glacier_utils.workflow import runs
report = runs.open_run(run)
for number in range(6):
    time.sleep(0.05)
    table = pd.DataFrame({"row": range(2000), "value": number / 7})
    report.save_table(table, f"{step}_{number}")
report.record(**{step: 6})"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Two notebooks that write tables one after the other."""
    root = write_project(tmp_path / "project")
    for name, parameters in (("01_first", FIRST), ("02_second", SECOND)):
        write_notebook(root / "notebooks" / f"{name}.ipynb", name, parameters,
                       f"step = {name!r}\n{WORK}")  # fmt: skip
    monkeypatch.setenv("GLACIER_HOME", str(root))
    return root


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "metrics").iterdir())}


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_tables(project):
    (whole,) = batch.run_all([write_set(project, "whole")], root=project)
    command = [sys.executable, "-m", "glacier_utils.cli", "run", str(write_set(project, "killed"))]
    moments, killed = random.Random(18), 0
    while killed < 3:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(1, 12))
            shutil.rmtree(project / "reports" / "killed")  # it was finished: from the start
            continue
        process.kill()
        process.wait()
        killed += 1
        record = runs.Run(project / "reports" / "killed").read_record()
        assert record.get("status") in (None, "running")
        page = project / "reports" / "killed" / "index.html"
        assert not page.exists() or ">finished<" not in page.read_text()
    assert subprocess.run(command, check=True).returncode == 0
    again = runs.Run(project / "reports" / "killed")
    assert again.read_record()["status"] == "finished"
    assert tables(again.folder) == tables(whole.run.folder)
    names = {path.relative_to(again.folder).as_posix() for path in again.folder.rglob("*")}
    assert names == {
        p.relative_to(whole.run.folder).as_posix() for p in whole.run.folder.rglob("*")
    }


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a small file system in memory on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", folder], check=False,
                      capture_output=True).returncode:  # fmt: skip
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_where_there_is_room(project, capsys):
    with mounted(project / "reports", "-o", "size=700k"):
        assert cli.main(["run"]) in (1, 2)
        (message,) = capsys.readouterr().err.splitlines()
        assert "No space left on device" in message
        folder = project / "reports" / "default"
        record = runs.Run(folder).read_record()
        assert record["status"] == "failed"
        assert "No space left on device" in record["failure"]
        for page in (folder / "index.html", project / "reports" / "index.html"):
            assert ">failed<" in page.read_text()
        for path in (folder / "metrics").glob("*"):
            assert len(path.read_text().splitlines()) == 2001, "half a table"
        subprocess.run(["mount", "-o", "remount,size=20m", project / "reports"], check=True)
        assert cli.main(["run"]) == 0
        assert len(tables(folder)) == 12


def test_a_folder_that_is_read_only_is_one_line(project, capsys):
    with mounted(project / "reports", "-o", "ro"):
        assert cli.main(["run"]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.endswith("reports/default: Read-only file system")


def test_a_run_without_permission_to_write_is_one_line(project, capsys):
    (project / "reports").mkdir(mode=0o500)
    if os.access(project / "reports", os.W_OK):
        pytest.skip("the superuser may write everywhere")
    assert cli.main(["run"]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.endswith("reports/default: Permission denied")


def test_a_broken_record_of_a_run_is_one_line_and_is_kept(project, capsys):
    folder = project / "reports" / "default"
    folder.mkdir(parents=True)
    for content in (b"", b"{", b"[]", b"\xff\xfe", b'{"run": "default"'):
        (folder / "run.json").write_bytes(content)
        assert cli.main(["run"]) == 2
        (message,) = capsys.readouterr().err.splitlines()
        assert "run.json" in message
        assert "remove it and run again" in message
        assert (folder / "run.json").read_bytes() == content


@pytest.fixture
def with_data(project, make_dataset) -> Callable[[], list[str]]:
    """Notebooks that take a dataset; gives which of them a run executes."""
    (project / "data").mkdir()
    make_dataset(patches=(1, 2), size=16).rename(project / "data" / "tiny")
    for name in ("01_first", "02_second"):
        write_notebook(project / "notebooks" / f"{name}.ipynb", name,
                       'run = "default"  # name\ndataset = "tiny"  # name')  # fmt: skip

    def execute() -> list[str]:
        before = runs.open_run("default", project).read_record().get("steps") or {}
        assert cli.main(["run"]) == 0
        after = runs.open_run("default", project).read_record()["steps"]
        return [name for name in after if after[name] != before.get(name)]

    return execute


@pytest.mark.slow
def test_an_input_that_changes_under_a_finished_run_is_noticed(project, with_data, write_tif):
    assert with_data() == ["01_first", "02_second"]
    assert with_data() == []
    image = next((project / "data" / "tiny" / "images" / "test").rglob("*.tif"))
    about = image.stat()
    image.write_bytes(image.read_bytes()[:-1] + b"\0")
    assert with_data() == ["01_first", "02_second"]
    # The same size, and a clock that was put back.
    os.utime(image, ns=(about.st_atime_ns, about.st_mtime_ns - 10**9))
    assert with_data() == ["01_first", "02_second"]


def test_a_clock_that_jumps_changes_nothing(project, with_data, monkeypatch):
    assert with_data() == ["01_first", "02_second"]
    for now in (0.0, 4e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert with_data() == []
    monkeypatch.undo()
    monkeypatch.setenv("GLACIER_HOME", str(project))
    record = runs.open_run("default").read_record()
    record["provenance"]["started"] = "2099-01-01T00:00:00+00:00"
    runs.open_run("default").record(**record)
    assert with_data() == []


CODE = '"); import pathlib; pathlib.Path("../hacked").touch(); ("'


def test_a_parameter_that_is_code_stays_text(project):
    parameters = (
        'run = "default"  # name\nword = "ice"  # any\noptions = {}  # any\nwords = []  # any'
    )
    write_notebook(project / "notebooks" / "01_first.ipynb", "01", parameters,
                   "print(repr([word, options, words]))")  # fmt: skip
    nasty = [CODE, "'''", '"""', "\\", "{run}", "\n\n!touch ../hacked\n", "%run x", "\u2028", "\0"]
    values = {"word": CODE, "options": {CODE: CODE, "n": float("nan")}, "words": nasty}
    (done,) = batch.run_all([write_set(project, "code", **values)], root=project)
    assert done.status == "finished", done.error
    text = nbformat.read(done.run.folder / "01_first.ipynb", as_version=4).cells[-1].outputs[0].text
    assert text == f"{[CODE, values['options'], nasty]!r}\n"
    assert not (project / "hacked").exists()
    page = (done.run.folder / "01_first.html").read_text()
    assert "<script>alert" not in page
