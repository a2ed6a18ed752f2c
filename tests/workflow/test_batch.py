"""Many runs: sweeps, what is refused before the first, side by side, locks, runs done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from notebook_project import FIRST, calls, write_notebook, write_project, write_set

from glacier_utils import cli
from glacier_utils.errors import GlacierError
from glacier_utils.workflow import batch, runs
from glacier_utils.workflow import notebooks as notebooks_module

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {"run": "default", "seeds": [0], "steps": 600, "word": "ice", "dates": [""], "rate": 0.1}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The two tiny notebooks, not executed yet."""
    root = write_project(tmp_path / "project")
    monkeypatch.setenv("GLACIER_HOME", str(root))
    return root


# Sweeps


def expand(tmp_path: Path, text: str) -> list[dict]:
    path = tmp_path / "long.yaml"
    path.write_text(text, encoding="utf-8")
    return batch.expand(path, KNOWN)


def test_a_sweep_makes_a_run_of_each_combination_named_after_the_values(tmp_path):
    sets = expand(tmp_path, "word: snow\nsweep: {seed: [0, 1, 2], steps: [500, 1500]}")
    assert [one["run"] for one in sets] == [
        f"long-seed={seed}-steps={steps}" for seed in (0, 1, 2) for steps in (500, 1500)
    ]
    assert sets[-1] == {
        "run": "long-seed=2-steps=1500", "word": "snow", "seeds": [2], "steps": 1500,
    }  # fmt: skip


def test_names_of_runs_stay_names_of_folders_whatever_the_values(tmp_path):
    text = "run: try\nsweep: {word: ['', ../up, a b], dates: [[2023-07-24, x]], rate: [1e-3]}"
    names = [one["run"] for one in expand(tmp_path, text)]
    assert names == [
        f"try-word={word}-dates=2023-07-24+x-rate=1e-3" for word in ("", ".._up", "a_b")
    ]
    for name in names:
        runs.check_name("run", name)
    (long,) = expand(tmp_path, f"sweep: {{word: [{'x' * 300}]}}")
    assert len(long["run"]) < 30
    assert expand(tmp_path, "word: snow") == [{"run": "long", "word": "snow"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep: 3", "sweep takes parameters, each with a list"),
        ("sweep: {}", "sweep takes parameters"),
        ("sweep: {steps: 500}", "sweep takes parameters"),
        ("sweep: {steps: []}", "sweep takes parameters"),
        ("sweep: {run: [a, b]}", "the runs are named after them"),
        ("sweep: {step: [1]}", "no notebook has a parameter 'step'; did you mean 'steps'"),
        ("sweep: {steps: [1, x]}", "steps is 'x'"),
        ("sweep: {seed: [a]}", r"seeds is \['a'\]"),
        ("steps: 1\nsweep: {steps: [1, 2]}", "steps is set twice"),
        ("sweep: {seed: [1], seeds: [[2]]}", "seeds is set twice"),
        ("swep: {steps: [1]}", "no notebook has a parameter 'swep'"),
    ],
)
def test_wrong_sweeps_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(GlacierError, match=rf"long\.yaml: .*{message}") as error:
        expand(tmp_path, text)
    assert "\n" not in str(error.value)


def test_two_values_of_one_name_are_refused(project):
    path = write_set(project, "a", sweep={"number": [1, 1]})
    with pytest.raises(GlacierError, match="'a-number=1' is asked for twice"):
        batch.plan([path], project)


# What cannot be is refused before anything runs

RIGHT = {"dataset": "tiny", "patch_size": 32, "patch_stride": 32, "block_m": 640.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "none"}, "none: no such dataset"),
        ({"train_areas": ["north"]}, "area 'north' is not there; known are train, test"),
        ({"train_areas": []}, r"train_areas is \[\]: name one or more"),
        ({"test_areas": ["train"]}, "'train' is to train and to test"),
        ({"main_date": "2023-09"}, "date '2023-09' is not there"),
        ({"compare_date": "2023-06"}, "date '2023-06' is not there"),
        ({"more_dates": [2022]}, "date '2022' is not there"),
        ({"train_dates": ["2023-08", "2023-08"]}, "train_dates is .* each once"),
        ({"compare_date": "", "other_date": True}, "other_date: needs a compare_date"),
        ({"patch_size": 8}, "size: 8 px is too small"),
        ({"patch_stride": 64}, r"stride: 64 px must lie between 1 and the patch size \(32\)"),
        ({"validation_fraction": 1}, "validation_fraction: 1 must lie between 0 and 1"),
        ({"max_cloud": 100}, "max_cloud is 100, but must lie between 0 and 1"),
        ({"band_m": float("nan")}, "band_m is nan"),
        ({"cloud_method": "fmask"}, "cloud_method 'fmask' is not there"),
        ({"analysis_rule": "newest"}, "analysis_rule 'newest' is not there"),
        ({"window": 64, "overlap": 64}, "overlap 64: must be at least 0 and below the window"),
        ({"decisions": "none.csv"}, "none.csv: overrides cannot be read"),
        ({"large_scene": "nuuk"}, "nuuk: no such dataset"),
        ({"models": ["unet-resnet81"]}, "unet-resnet81.*did you mean"),
        ({"seeds": [-1]}, "seed is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"options": {"los": "focal"}}, "there is no 'los'; did you mean 'loss'"),
        ({"options": {"steps": 5}}, "options: steps is a parameter of its own"),
        ({"options": {1: 5}}, "there is no '1'"),
    ],
)
def test_combinations_that_cannot_be_are_refused_before_the_first_run(six, values, message):
    good = write_set(six, "good", **RIGHT)
    bad = write_set(six, "bad", **RIGHT | values)
    with pytest.raises(GlacierError, match=f"(run 'bad'|bad.yaml): .*{message}") as error:
        batch.run_all([good, bad], root=six)
    assert "\n" not in str(error.value)
    assert not (six / "reports").exists()


def test_what_can_be_is_not_refused(six):
    path = write_set(
        six, "good", **RIGHT, sweep={"seed": [0, 1], "model": ["threshold", "unet-resnet18"]}
    )
    assert len(batch.plan([path], six)) == 4


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "parameters").glob("*.yaml")),
                         ids=lambda path: path.stem)  # fmt: skip
def test_the_projects_own_sets_are_not_refused(path):
    values = yaml.safe_load(path.read_text()) or {}
    for name in {"sample", *{values.get("dataset"), values.get("large_scene")}} - {None, ""}:
        if name != "full_tile" and not (ROOT / "data" / name / "dataset.yaml").exists():
            pytest.skip(f"there is no data/{name}")
    try:
        batch.plan([path], ROOT)
    except GlacierError as error:
        if "GLACIER_REAL_DATA" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other_and_stands_in_the_table(project, capsys):
    names = {"a": 1, "wrong": 91, "c": 2}
    files = [write_set(project, name, number=number) for name, number in names.items()]
    assert cli.main(["run", *map(str, files)]) == 1
    out, err = capsys.readouterr()
    rows = [line.split()[:2] for line in out.splitlines()[-3:]]
    assert rows == [["a", "finished"], ["wrong", "failed"], ["c", "finished"]]
    error = "02_second: cell [4] failed (ZeroDivisionError: division by zero); see reports/wrong/"
    assert error in out.splitlines()[-2]
    assert f"glacier: {error}" in err
    records = [runs.Run(project / "reports" / name).read_record() for name in names]
    assert [record["status"] for record in records] == ["finished", "failed", "finished"]
    assert "ZeroDivisionError" in records[1]["failure"]
    assert ">failed<" in (project / "reports" / "wrong" / "index.html").read_text()
    # Mended, it is finished; the others are not executed again.
    write_set(project, "wrong", number=3)
    before = calls(project)
    assert cli.main(["run", *map(str, files)]) == 0
    assert calls(project) == before + "second "
    assert runs.Run(project / "reports" / "wrong").read_record()["failure"] == ""


# Side by side

MEET = """\
import os, time
from pathlib import Path
Path(f"../{run}.here").touch()
end = time.monotonic() + 100
while len(list(Path("..").glob("*.here"))) < 2 and time.monotonic() < end:
    time.sleep(0.1)
print("met", len(list(Path("..").glob("*.here"))), "threads", os.environ.get("OMP_NUM_THREADS"))"""


@pytest.mark.slow
def test_runs_side_by_side_have_a_process_and_their_part_of_the_threads_each(
    project, capfd, monkeypatch
):
    write_notebook(project / "notebooks" / "01_first.ipynb", "01", FIRST, MEET)
    path = write_set(project, "two", sweep={"number": [1, 90]})
    monkeypatch.setattr(batch, "_RUN_GB", 0.1)
    assert cli.main(["run", str(path), "--jobs", "2"]) == 2
    out = capfd.readouterr().out
    assert [line.split()[:2] for line in out.splitlines()[-2:]] == [
        ["two-number=1", "finished"], ["two-number=90", "failed"],
    ]  # fmt: skip
    from dask.system import CPU_COUNT

    for name in ("two-number=1", "two-number=90"):
        text = (project / "reports" / name / "01_first.ipynb").read_text()
        assert f"met 2 threads {max(1, CPU_COUNT // 2)}" in text


def test_jobs_are_as_many_as_fit_into_memory(monkeypatch, capsys):
    import psutil

    free = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=9e9))
    assert [batch._fitting(jobs) for jobs in (2, 5)] == [2, 2]
    assert capsys.readouterr().out == "2 runs at a time: 9.0 GB of memory are free\n"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=1e9))
    assert batch._fitting(3) == 1


@pytest.mark.slow
def test_a_running_cluster_executes_the_runs(project, tmp_path):
    from distributed import LocalCluster

    path = write_set(project, "two", sweep={"number": [1, 2]})
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None,
        local_directory=str(tmp_path / "dask"), memory_limit=0,
    ) as cluster:  # fmt: skip
        done = batch.run_all([path], root=project, scheduler=cluster.scheduler_address)
    assert [one.status for one in done] == ["finished"] * 2


def test_jobs_that_cannot_be_are_refused(project):
    for wrong, how in (("must be 1 or more", {"jobs": 0}),
                       ("give one of them", {"jobs": 2, "scheduler": "tcp://x:1"})):  # fmt: skip
        with pytest.raises(GlacierError, match=wrong):
            batch.run_all([], root=project, **how)


# One process at a time


@pytest.mark.slow
def test_a_run_that_another_process_is_at_work_on_is_refused(project, capsys, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(runs, "_KERNEL_ENDS_S", 0.3)
    run = runs.open_run("default", project)
    with (run.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli.main(["run"]) == 2
        (message,) = capsys.readouterr().err.splitlines()
        assert message == (
            "glacier: run 'default' is at work in another process; wait for it, or take a new name"
        )
        assert "status" not in run.read_record()
        other = write_set(project, "other", number=2)
        assert cli.main(["run", str(other), str(write_set(project, "default"))]) == 2
        assert "default  running" in capsys.readouterr().out
    assert cli.main(["run"]) == 0
    assert not (run.folder / ".lock").exists()


SLOW = """\
import os, time
Path("../kernel.txt").write_text(str(os.getpid()))
if not Path("../again").exists():
    Path(f"../reports/{run}/.half.0123abcd.csv").write_text("half")
    time.sleep(60)"""


@pytest.mark.slow
def test_a_killed_process_leaves_no_lock_and_nothing_half_written(project):
    write_notebook(project / "notebooks" / "01_first.ipynb", "01", FIRST,
                   "from pathlib import Path\n" + SLOW)  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "glacier_utils.cli", "run"])
    pid = project / "kernel.txt"
    while not (pid.exists() and pid.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kernel = int(pid.read_text())
    os.kill(kernel, 0)  # it lives on for a moment, and holds the lock
    (project / "again").touch()
    folder = project / "reports" / "default"
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    (done,) = batch.run_all([], root=project)
    assert done.status == "finished"
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)
    assert sorted(path.name for path in folder.iterdir()) == [
        "01_first.html", "01_first.ipynb", "02_second.html",
        "02_second.ipynb", "index.html", "run.json",
    ]  # fmt: skip


# Again

TABLES = """\
from pathlib import Path
folder = Path(f"../reports/{run}/metrics")
folder.mkdir(exist_ok=True)
new = run.endswith("again")
(folder / "a.csv").write_text(f"model,seconds,path\\nx,{2 + new},reports/{run}/x.pt\\n")
(folder / "b.csv").write_text("model,iou\\nx,0.500001\\n" if new else "model,iou\\nx,0.5\\n")
(folder / "c.csv").write_text("model,iou,n\\nx,0.75,3\\n" if new else "model,iou,n\\nx,0.5,3\\n")
(folder / "d.csv").write_text("model\\ny\\n" if new else "model\\nx\\n")
(folder / ("f.csv" if new else "e.csv")).write_text("model\\nx\\n")"""


@pytest.mark.slow
def test_a_run_is_reproduced_beside_itself_and_what_differs_is_said(project, capsys):
    write_notebook(project / "notebooks" / "01_first.ipynb", "01", FIRST, TABLES)
    assert cli.main(["run", str(write_set(project, "mine", word="snow"))]) == 0
    record = project / "reports" / "mine" / "run.json"
    content = json.loads(record.read_text())
    content["provenance"]["packages"]["numpy"] = "1.0"
    content["parameters"]["gone"] = 7
    record.write_text(json.dumps(content))
    before = {path: path.read_bytes() for path in record.parent.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.main(["reproduce", "mine"]) == 1
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines()[2:-1])
    assert lines.pop("versions").startswith("numpy: 1.0 then, ")
    assert lines == {
        "parameters": "gone: 7 then, None now",
        "data": "equal",
        "a.csv": "equal",
        "b.csv": "equal within rounding",
        "c.csv": "differs, iou by up to 0.25",
        "d.csv": "differs in 1 cell of text or nan",
        "e.csv": "is missing",
        "f.csv": "is new",
    }
    assert before == {path: path.read_bytes() for path in before}
    again = runs.Run(project / "reports" / "mine-again").read_record()
    assert again["parameters"]["word"] == "snow"
    assert again["status"] == "finished"


def test_a_run_that_tells_no_parameters_cannot_be_reproduced(project):
    with pytest.raises(GlacierError, match=r"no run\.json that tells"):
        batch.reproduce("none")
    run = runs.open_run("odd", project)
    code = {"number": "__import__('os')"}
    for wrong, message in (
        ({"parameters": []}, "no run.json"),
        ({"parameters": code}, "number is"),
    ):
        run.record(**wrong)
        with pytest.raises(GlacierError, match=message):
            batch.reproduce("odd")
    assert [path.name for path in (project / "reports").iterdir()] == ["odd"]


@pytest.mark.slow
def test_nothing_of_a_reproduced_run_is_executed_twice_at_one_place(project):
    # Three in a row have three folders.
    batch.run_all([], root=project)
    names = [batch.reproduce("default")[0].name for _ in range(2)]
    assert names == ["default-again", "default-again2"]


# The notebooks by papermill alone


@pytest.mark.parametrize(
    ("number", "patches", "missing"),
    [
        (3, False, "02_preprocessing"),
        (4, False, "02_preprocessing"),
        (6, False, "02_preprocessing"),
        (4, True, "03_model_training"),
        (5, True, "03_model_training"),
        (6, True, "03_model_training"),
    ],
)
def test_a_notebook_names_the_step_that_is_missing_from_any_working_directory(
    six, tmp_path, monkeypatch, number, patches, missing
):
    if patches:
        with_patches(six)
    monkeypatch.delenv("GLACIER_HOME")
    monkeypatch.setattr("glacier_utils.files._CLONE", six)
    monkeypatch.chdir(tmp_path)
    path = notebooks_module.notebook_paths(six)[number - 1]
    cells = [cell for cell in notebooks_module._read(path).cells if cell.cell_type == "code"]
    values = notebooks_module.notebook_parameters(path) | RIGHT | {"run": "mine"}
    code = "\n".join(cell.source for cell in cells[1:5])
    with pytest.raises(GlacierError, match=f"{missing} with run='mine'"):
        exec(code, values)


def with_patches(root: Path) -> None:
    """Do what the later notebooks need of 02."""
    from glacier_utils.datasets.patches import build_patches

    store = build_patches(runs.open_data("tiny", root), size=32, block_m=640.0)
    runs.open_run("mine", root).record_patch_store(store)
