"""Trainings that are killed and go on, and trainings in several processes."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from stubs import Store

from glacier_utils.errors import GlacierError
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.training import module
from glacier_utils.training.fitting import fit
from glacier_utils.training.settings import Settings

TESTS = Path(__file__).parents[1]
# Dropout, averaged weights, chances and every augmentation: all that has a state or draws numbers.
MODEL = "segformer-mit_b0"
SETTINGS = Settings(
    epochs=6, batch_size=3, learning_rate=1e-3, threads=1, average=0.5, balanced=True,
    augmentation="strong", patience=6,
)  # fmt: skip


def store() -> Store:
    made = Store()
    made.index["weight"] = np.linspace(1, 3, len(made.index))
    return made


def script(body: str) -> list[str]:
    head = f"""
    import sys
    sys.path.insert(0, {str(TESTS)!r})
    from glacier_utils import history, loop
    from glacier_utils.training import fit
    from test_resume import MODEL, SETTINGS, store
    """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoint.pt").state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "fit"
    fit(MODEL, store(), folder, settings=SETTINGS, progress=False)
    return folder


# Where a process kills itself: as a state gets its name, as the network is judged after its last
# epoch, and between the two renames that put a new fit in the place of an old one.
MOMENTS = {
    "a save": "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    "validation": "training._validate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    "the rename": """
        replace = os.replace
        def second(one, other):
            if str(other) == FOLDER:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(one, other)
        os.replace = second""",
}


def test_a_training_killed_at_any_moment_comes_to_the_same_weights(tmp_path, undisturbed):
    folder = tmp_path / "fit"
    folder.mkdir()
    (folder / "fit.json").write_text("{}", encoding="utf-8")  # an older fit in the same place

    def work(moment: str = "") -> subprocess.Popen:
        body = f"""
        import os, signal
        from glacier_utils import training
        FOLDER = {str(folder)!r}
        history.SAVE_EVERY_S = 0
        {textwrap.indent(textwrap.dedent(moment), " " * 8).strip()}
        fit(MODEL, store(), FOLDER, settings=SETTINGS, progress=False)
        """
        return subprocess.Popen(script(body), env=os.environ, stderr=subprocess.DEVNULL)

    process = work()  # killed somewhere in an epoch
    while process.poll() is None and not _state_time(tmp_path):
        time.sleep(0.005)
    time.sleep(0.2)
    process.kill()
    process.wait()
    for moment in MOMENTS.values():
        assert work(moment).wait() == -signal.SIGKILL
        assert not (folder / "checkpoint.pt").exists()  # nothing half-made has the final name
    result = fit(MODEL, store(), folder, settings=SETTINGS, progress=False)
    assert same(weights(folder), weights(undisturbed))
    assert result.history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in tmp_path.iterdir()] == ["fit"]
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["checkpoint.pt", "fit.json", "history.csv"]


def _state_time(folder: Path) -> float:
    found = list(folder.glob(".fit.*.partial/state.ckpt"))
    try:
        return found[0].stat().st_mtime_ns if found else 0
    except FileNotFoundError:  # renamed or removed in between
        return -1


@pytest.mark.parametrize("step", [1, 5, 7])
def test_a_training_broken_off_in_a_step_goes_on_from_the_last_epoch(
    tmp_path, undisturbed, monkeypatch, step
):
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0)
    original, seen = module.Task.training_step, []

    def breaks(task, batch, number):
        seen.append(number)
        if len(seen) == step:
            raise RuntimeError("power cut")
        return original(task, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(module.Task, "training_step", breaks)
        with pytest.raises(RuntimeError, match="power cut"):
            fit(MODEL, store(), tmp_path / "fit", settings=SETTINGS, progress=False)
    epochs_done = (step - 1) // 2  # two steps an epoch
    assert len(list(tmp_path.glob(".fit.*.partial"))) == (epochs_done > 0)
    fit(MODEL, store(), tmp_path / "fit", settings=SETTINGS, progress=False)
    assert same(weights(tmp_path / "fit"), weights(undisturbed))


def test_a_state_of_other_settings_is_not_taken_up(tmp_path, undisturbed):
    left = tmp_path / ".fit.0123456789ab.partial"
    left.mkdir()
    (left / "state.ckpt").write_bytes(b"of another training")
    fit(MODEL, store(), tmp_path / "fit", settings=SETTINGS, progress=False)
    assert same(weights(tmp_path / "fit"), weights(undisturbed))
    assert not left.exists()


def test_a_broken_state_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0)
    with monkeypatch.context() as patch:
        patch.setattr(module.Task, "on_train_epoch_start", _fail_in_epoch(2))
        with pytest.raises(RuntimeError, match="power cut"):
            fit(MODEL, store(), tmp_path / "fit", settings=SETTINGS, progress=False)
    (state,) = tmp_path.glob(".fit.*.partial/state.ckpt")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(GlacierError, match=r"state.ckpt.*remove"):
        fit(MODEL, store(), tmp_path / "fit", settings=SETTINGS, progress=False)


def _fail_in_epoch(epoch: int):
    def start(task) -> None:
        task.counts.zero_()
        if task.current_epoch == epoch:
            raise RuntimeError("power cut")

    return start


def test_an_interruption_is_one_and_leaves_the_state(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0)
    original, handler = module.Task.training_step, signal.getsignal(signal.SIGINT)

    def interrupted(task, batch, number):
        if task.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(task, batch, number)

    monkeypatch.setattr(module.Task, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(MODEL, store(), tmp_path / "fit", settings=SETTINGS, progress=False)
    assert signal.getsignal(signal.SIGINT) == handler
    assert list(tmp_path.glob(".fit.*.partial/state.ckpt"))
    assert not (tmp_path / "fit").exists()


# ---- several processes


def test_two_processes_train_one_network(tmp_path):
    folder = tmp_path / "fit"
    work = script(f"""
    import dataclasses, torch
    several = dataclasses.replace(
        SETTINGS, epochs=30, batch_size=4, learning_rate=2e-2, accelerator="cpu", devices=2,
        strategy="ddp", average=0.0, augmentation="none", balanced=False, patience=30,
    )
    result = fit("glaciernet", store(), {str(folder)!r}, settings=several,
                 arguments={{"filters": [4, 8]}}, progress=False)
    # An encoder with weights that nothing uses, and heads that only their own loss reaches.
    for name in ("unet-efficientnet-b0", "hedunet"):
        few = dataclasses.replace(several, epochs=1)
        fit(name, store(), {str(tmp_path)!r} + "/" + name, settings=few, progress=False)
    # A file each: on one stream their lines would run into each other.
    told = [torch.distributed.get_world_size(), result.validation["iou"], len(result.history)]
    with open({str(tmp_path)!r} + f"/rank{{torch.distributed.get_rank()}}", "w") as file:
        print(*told, file=file)
    """)
    path = tmp_path / "several.py"  # Lightning starts the script again for the second process
    path.write_text(work[-1])
    run = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=240,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    first, second = ((tmp_path / name).read_text().split() for name in ("rank0", "rank1"))
    assert first == second  # both return what the first one wrote
    assert first[0] == "2"
    assert float(first[1]) > 0.8
    assert load_checkpoint(folder / "checkpoint.pt").provenance["settings"]["devices"] == 2
    made = ["fit", "hedunet", "rank0", "rank1", "several.py", "unet-efficientnet-b0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == made


def test_fewer_patches_than_processes_are_refused(tmp_path):
    many = dataclasses.replace(SETTINGS, devices=5, strategy="ddp")
    with pytest.raises(GlacierError, match="too few for 5 processes"):
        fit(MODEL, store(), tmp_path / "fit", settings=many, progress=False)


def test_what_lightning_does_not_have_is_told(tmp_path):
    wrong = {"strategy": "hope"}
    with pytest.raises(GlacierError, match="settings: "):
        fit(MODEL, store(), tmp_path / "fit", settings=dataclasses.replace(SETTINGS, **wrong),
            progress=False)  # fmt: skip
