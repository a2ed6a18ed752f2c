"""Batches, the learning rate, trainings that are killed and go on or run in several processes."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import Store

from glacier_utils.errors import GlacierError
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.training import module
from glacier_utils.training.fitting import fit
from glacier_utils.training.module import Batches, Patches, schedule
from glacier_utils.training.settings import Settings

TESTS = Path(__file__).parents[1]
# Dropout, averaged weights and every augmentation: all that has a state or draws numbers.
MODEL = "segformer-mit_b0"
SETTINGS = Settings(
    epochs=6, batch_size=3, learning_rate=1e-3, threads=1, average=0.5,
    augmentation="strong", patience=6,
)  # fmt: skip


def store() -> Store:
    return Store()


def script(body: str) -> list[str]:
    head = f"""
    import sys
    sys.path.insert(0, {str(TESTS)!r})
    from glacier_utils.training import fitting, module
    from glacier_utils.training.fitting import fit
    from training.test_module import MODEL, SETTINGS, store
    """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoint.pt").state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


# ---- batches


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(2, 20), st.integers(0, 5))
def test_batches_hold_every_patch_once_and_never_one_alone(count, batch_size, epoch):
    batches = Batches(np.arange(count), batch_size, seed=1, epoch=lambda: epoch)
    parts = list(batches)
    assert len(parts) == len(batches)
    assert sorted(np.concatenate(parts)) == list(range(count))
    assert min(map(len, parts)) >= 2
    assert max(map(len, parts)) <= batch_size + 1
    assert all(np.array_equal(a, b) for a, b in zip(parts, batches, strict=True))


def test_the_order_changes_from_epoch_to_epoch():
    first, second = (
        np.concatenate(list(Batches(np.arange(40), 8, seed=1, epoch=lambda epoch=epoch: epoch)))
        for epoch in (0, 1)
    )
    assert not np.array_equal(first, second)


@settings(deadline=None)
@given(st.integers(4, 60), st.integers(2, 20), st.integers(2, 4), st.integers(0, 5))
def test_several_processes_share_every_batch(count, batch_size, processes, epoch):
    shares = [
        list(
            Batches(
                np.arange(count),
                batch_size,
                1,
                rank=rank,
                processes=processes,
                epoch=lambda: epoch,
            )
        )
        for rank in range(processes)
    ]
    alone = list(Batches(np.arange(count), batch_size, 1, epoch=lambda: epoch))
    assert len({len(share) for share in shares}) == 1 or count < processes
    joined = [np.sort(np.concatenate(parts)) for parts in zip(*shares, strict=False)]
    assert sorted(np.concatenate(joined)) == list(range(count))
    if len(joined) == len(alone):
        assert all(np.array_equal(one, two) for one, two in zip(joined, alone, strict=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_patches_read_from_a_file_do_not_stay_in_memory(tmp_path):
    def mapped_mb() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("RssFile"))
        return int(line.split()[1]) / 1024

    shape = {"images": (200, 4, 128, 128), "labels": (200, 128, 128)}
    for name, dtype in (("images", np.float32), ("labels", np.uint8)):
        np.save(tmp_path / f"{name}.npy", np.ones(shape[name], dtype))
    arrays = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in shape}
    patches = Patches(SimpleNamespace(**arrays))
    before = mapped_mb()
    for start in range(0, 200, 10):
        images, labels = patches[np.arange(start, start + 10)]
        assert images.min() == labels.min() == 1
    assert mapped_mb() - before < 5  # of 53 MB
    assert arrays["images"][100].sum() > before  # which reads the file again: it is still mapped
    assert mapped_mb() - before > 0.2


# ---- learning rate


def rates(chosen, steps):
    """The learning rate of each step, and the one that is set after the last."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([weight], chosen.learning_rate)
    scheduler = schedule(optimiser, chosen, steps)
    found = []
    for _ in range(steps + 1):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return np.array(found)


def formula(chosen, steps):
    """The rates of version 0.1, which wrote them out."""
    own = steps * chosen.averaging_from() // chosen.epochs if chosen.average else steps

    def half_cosine(part):
        return 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))

    def fraction(step):
        if step >= own:
            return 0.1
        if chosen.schedule == "constant":
            return 1.0
        done = step / max(own - 1, 1)
        if chosen.schedule == "cosine":
            return max(half_cosine(done), 1e-5)
        if done < 0.2:
            return 0.04 + 0.96 * (1 - half_cosine(done / 0.2))
        return max(half_cosine((done - 0.2) / 0.8), 4e-6)

    return chosen.learning_rate * np.array([fraction(step) for step in range(steps + 1)])


@pytest.mark.parametrize("name", ["one_cycle", "cosine", "constant"])
@pytest.mark.parametrize("average", [0.0, 0.3])
@pytest.mark.parametrize("steps", [2, 3, 10, 100, 497])
def test_the_learning_rate_of_each_step_is_that_of_version_0_1(name, average, steps):
    chosen = Settings(epochs=10, schedule=name, average=average)
    np.testing.assert_allclose(rates(chosen, steps), formula(chosen, steps), rtol=1e-11)


def test_in_long_trainings_only_the_last_steps_differ_by_a_hundred_thousandth():
    for name in ("one_cycle", "cosine"):
        chosen = Settings(epochs=10, schedule=name, learning_rate=1.0)
        found, expected = rates(chosen, 2000), formula(chosen, 2000)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[:1980], expected[:1980], rtol=1e-9)


def test_the_rate_stays_while_weights_are_averaged():
    chosen = Settings(epochs=10, average=0.3, schedule="one_cycle", learning_rate=1.0)
    found = rates(chosen, 100)
    np.testing.assert_allclose(found[70:], 0.1)
    assert found[69] < 1e-4
    assert 10 <= found.argmax() <= 18


# ---- what is killed goes on


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "fit"
    fit(MODEL, store(), folder, settings=SETTINGS, progress=False)
    return folder


# Where a process kills itself: as a state gets its name, as the network is judged after its last
# epoch, and between the two renames that put a new fit in the place of an old one.
MOMENTS = {
    "a save": "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    "validation": "fitting._validate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    "the rename": """
        replace = os.replace
        def second(one, other):
            if str(other) == FOLDER:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(one, other)
        os.replace = second""",
}


@pytest.mark.slow
def test_a_training_killed_at_any_moment_comes_to_the_same_weights(tmp_path, undisturbed):
    folder = tmp_path / "fit"
    folder.mkdir()
    (folder / "fit.json").write_text("{}", encoding="utf-8")  # an older fit in the same place

    def work(moment: str = "") -> subprocess.Popen:
        body = f"""
        import os, signal
        FOLDER = {str(folder)!r}
        module.SAVE_EVERY_S = 0
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path):
    folder = tmp_path / "fit"
    work = script(f"""
    import torch
    several = SETTINGS.changed(
        epochs=30, batch_size=4, learning_rate=2e-2, accelerator="cpu", devices=2,
        strategy="ddp", average=0.0, augmentation="none", patience=30,
    )
    result = fit("glaciernet", store(), {str(folder)!r}, settings=several,
                 arguments={{"filters": [4, 8]}}, progress=False)
    # An encoder with weights that nothing uses.
    fit("unet-efficientnet-b0", store(), {str(tmp_path)!r} + "/b0", progress=False,
        settings=several.changed(epochs=1))
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
    made = ["b0", "fit", "rank0", "rank1", "several.py"]
    assert sorted(path.name for path in tmp_path.iterdir()) == made


def test_fewer_patches_than_processes_are_refused(tmp_path):
    many = SETTINGS.changed(devices=5, strategy="ddp")
    with pytest.raises(GlacierError, match="too few for 5 processes"):
        fit(MODEL, store(), tmp_path / "fit", settings=many, progress=False)


def test_what_lightning_does_not_have_is_told(tmp_path):
    with pytest.raises(GlacierError, match="settings: "):
        fit(MODEL, store(), tmp_path / "fit", settings=SETTINGS.changed(strategy="hope"),
            progress=False)  # fmt: skip
