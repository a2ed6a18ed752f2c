"""Batches, the learning rate, trainings that are killed and go on or run in several processes."""

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
from glacier_utils.training.module import Patches, Steps, Windows, schedule
from glacier_utils.training.settings import Settings
from glacier_utils.training.windows import TrainingGround

TESTS = Path(__file__).parents[1]
# Dropout, averaged weights and every augmentation: all that has a state or draws numbers.
MODEL = "segformer-mit_b0"
SETTINGS = Settings(
    steps=21, batch_size=3, learning_rate=1e-3, threads=1, average=0.9, augmentation="strong",
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


# ---- steps


@settings(deadline=None)
@given(st.integers(1, 500))
def test_validations_cut_a_training_into_equal_parts(steps):
    chosen = Settings(steps=steps)
    epochs = [list(Steps(chosen.steps_between, lambda n=n: n)) for n in range(chosen.validations)]
    assert np.concatenate(epochs).tolist() == list(range(chosen.whole_steps))
    assert steps <= chosen.whole_steps < steps + chosen.steps_between
    assert chosen.validations <= 20


def test_windows_follow_from_seed_process_and_step():
    ground = TrainingGround(store(), np.arange(6))
    batches = {
        (seed, rank, step): Windows(ground, 3, [seed, rank])[step][0]
        for seed in (0, 1)
        for rank in (0, 1)
        for step in (0, 1)
    }
    assert len({batch.numpy().tobytes() for batch in batches.values()}) == len(batches)
    assert torch.equal(Windows(ground, 3, [1, 0])[1][0], batches[1, 0, 1])


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


def rates(chosen):
    """The learning rate of each step, and the one that is set after the last."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([weight], chosen.learning_rate)
    scheduler = schedule(optimiser, chosen)
    found = []
    for _ in range(chosen.whole_steps + 1):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return np.array(found)


@pytest.mark.parametrize("steps", [2, 3, 10, 100, 500])
def test_the_learning_rate_goes_down_by_half_a_cosine(steps):
    chosen = Settings(steps=steps, learning_rate=2.0)
    expected = 1 + np.cos(np.pi * np.arange(steps + 1) / steps)
    np.testing.assert_allclose(rates(chosen), expected, atol=1e-9)


def test_one_cycle_goes_up_for_a_fifth_and_down_to_nothing():
    found = rates(Settings(steps=500, schedule="one_cycle", learning_rate=1.0))
    assert found[0] == pytest.approx(0.04)
    assert abs(found.argmax() - 100) <= 1
    assert found.max() == pytest.approx(1, abs=1e-3)
    assert 0 < found[499] < 1e-4


def test_a_constant_rate_stays():
    assert set(rates(Settings(steps=50, schedule="constant", learning_rate=0.5))) == {0.5}


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

    process = work()  # killed somewhere between two validations
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
    assert result.history["step"].tolist() == list(range(2, 23, 2))
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
def test_a_training_broken_off_in_a_step_goes_on_from_the_last_validation(
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
    saved = (step - 1) // 2  # two steps between two validations
    assert len(list(tmp_path.glob(".fit.*.partial"))) == (saved > 0)
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
        patch.setattr(module.Task, "on_train_epoch_start", _fail_at(2))
        with pytest.raises(RuntimeError, match="power cut"):
            fit(MODEL, store(), tmp_path / "fit", settings=SETTINGS, progress=False)
    (state,) = tmp_path.glob(".fit.*.partial/state.ckpt")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(GlacierError, match=r"state.ckpt.*remove"):
        fit(MODEL, store(), tmp_path / "fit", settings=SETTINGS, progress=False)


def _fail_at(epoch: int):
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
        steps=60, batch_size=4, learning_rate=2e-2, accelerator="cpu", devices=2,
        strategy="ddp", average=0.0, augmentation="none",
    )
    result = fit("glaciernet", store(), {str(folder)!r}, settings=several,
                 arguments={{"filters": [4, 8]}}, progress=False)
    # An encoder with weights that nothing uses.
    fit("unet-efficientnet-b0", store(), {str(tmp_path)!r} + "/b0", progress=False,
        settings=several.changed(steps=2))
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


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.72, 0.75, 0.73], 1),
        ([0.7, 0.4, 0.5, 0.45], 3),  # nothing above 0.7: an untrained network is no best state
        ([0.7, 0.4, 0.75, 0.72], 2),
        ([float("nan")] * 3, 2),
    ],
)
def test_the_best_state_is_kept_and_the_last_where_none_beats_all_glacier(tmp_path, scores, kept):
    history = module.History(tmp_path / "state.ckpt", SETTINGS, "name", False, least=0.7)
    trainer = SimpleNamespace(
        optimizers=[SimpleNamespace(param_groups=[{"lr": 1e-3}])], should_stop=False, world_size=1,
        strategy=SimpleNamespace(broadcast=lambda due: due),
    )  # fmt: skip
    for trainer.current_epoch, score in enumerate(scores):
        trainer.callback_metrics = {"validation_iou": torch.tensor(score)}
        layer = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(layer.weight, trainer.current_epoch)
        history.on_train_epoch_end(trainer, SimpleNamespace(validated=lambda own=layer: own))
    assert history.best["weight"].item() == kept


@pytest.mark.parametrize(("least", "stops"), [(0.0, True), (0.7, False)])
def test_patience_begins_with_the_first_state_of_use(tmp_path, least, stops):
    settings = SETTINGS.changed(patience=2 * SETTINGS.steps_between)
    history = module.History(tmp_path / "state.ckpt", settings, "name", False, least)
    history.rows = [{"validation_iou": score} for score in (0.7, 0.4, 0.5)]
    assert history.finished() is stops


def test_what_has_to_be_beaten_counts_known_ground_alone():
    labels = np.array([[[1, 1], [0, 255]], [[1, 255], [255, 255]], [[0, 0], [0, 0]]], np.uint8)
    own = SimpleNamespace(labels=labels)
    assert module.least_iou(own, np.array([0, 1])) == pytest.approx(0.75, abs=0.002)
    assert module.least_iou(own, np.array([], int)) < 0.01


def test_fewer_patches_than_processes_are_refused(tmp_path):
    many = SETTINGS.changed(devices=5, strategy="ddp")
    with pytest.raises(GlacierError, match="too few for 5 processes"):
        fit(MODEL, store(), tmp_path / "fit", settings=many, progress=False)


def test_what_lightning_does_not_have_is_told(tmp_path):
    with pytest.raises(GlacierError, match="settings: "):
        fit(MODEL, store(), tmp_path / "fit", settings=SETTINGS.changed(strategy="hope"),
            progress=False)  # fmt: skip
