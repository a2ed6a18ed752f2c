import numpy as np
import pytest
import torch
from stubs import BANDS, Scene, Store

from glacier_utils.errors import GlacierError
from glacier_utils.models.checkpoint import Segmenter, load_checkpoint, save_checkpoint
from glacier_utils.prediction import adaptation
from glacier_utils.prediction.mapper import predict_patches


def segmenter(normalisation: str = "scene", name: str = "glaciernet") -> Segmenter:
    torch.manual_seed(0)
    arguments = {"filters": [4, 8]} if name == "glaciernet" else {}
    made = Segmenter(
        name, BANDS, [0.3] * 4, [0.2] * 4, arguments=arguments, normalisation=normalisation
    )
    return made.eval()


def test_statistics_of_a_scene_leave_invalid_pixels_out():
    images = np.zeros((3, 4, 2, 2), np.float32)
    images[0, :, 0, 0], images[2, :, 1, 1] = 0.2, 0.6
    mean, std = adaptation.scene_statistics(images, np.array([0, 1, 2]))
    np.testing.assert_allclose(mean, [0.4] * 4, rtol=1e-6)
    np.testing.assert_allclose(std, [0.2] * 4, rtol=1e-6)
    with pytest.raises(GlacierError, match="no valid pixel"):
        adaptation.scene_statistics(images, np.array([1]))


def test_a_brighter_scene_looks_the_same_to_a_model_of_scenes():
    images = Store(size=16).images
    brighter = images * 1.4 + 0.1
    model = segmenter()
    one, other = (
        predict_patches(adaptation.adapt(model, part), part, precision="float32")
        for part in (images, brighter)
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
    plain = segmenter("training")
    assert adaptation.adapt(plain, brighter) is plain


def test_training_images_come_to_the_statistics_of_the_segmenter():
    store = Store(size=16)
    store.images[store.index["date"] == "2023-07"] *= 1.5
    model = segmenter()
    factor, offset = adaptation.scene_changes(store, model)
    for date in ("2023-07", "2023-08"):
        here = np.flatnonzero(store.index["date"] == date)
        changed = store.images[here] * factor[here][:, :, None, None]
        changed += offset[here][:, :, None, None]
        np.testing.assert_allclose(changed.mean(axis=(0, 2, 3)), [0.3] * 4, atol=1e-4)
        np.testing.assert_allclose(changed.std(axis=(0, 2, 3)), [0.2] * 4, atol=1e-4)


def test_training_and_prediction_see_the_same_images():
    store = Store(size=16)
    model = segmenter()
    factor, offset = adaptation.scene_changes(store, model)
    positions = store.select(date="2023-08")
    changed = store.images * factor[..., None, None] + offset[..., None, None]
    adapted = adaptation.adapt(model, store.images, positions=positions)
    given = model.normalise(torch.from_numpy(changed[positions].astype(np.float32)))
    met = adapted.normalise(torch.from_numpy(store.images[positions]))
    torch.testing.assert_close(given, met, atol=1e-4, rtol=1e-4)


def test_batch_statistics_are_those_of_the_images():
    images = Store(size=16).images
    model = segmenter("training")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    adapted = adaptation.adapt(model, images * 1.3, batch_norm=True, batch_size=4)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not adapted.training
    changed = [key for key, value in adapted.state_dict().items()
               if not torch.equal(value, before[key])]  # fmt: skip
    assert changed
    assert all(key.endswith(("running_mean", "running_var", "tracked")) for key in changed)
    # Of the first layer they can be said: its input does not depend on other statistics.
    first = next(m for m in adapted.modules() if isinstance(m, torch.nn.BatchNorm2d))
    layers = list(adapted.network.network.modules())
    conv = next(m for m in layers if isinstance(m, torch.nn.Conv2d))
    with torch.inference_mode():
        output = conv(model.normalise(torch.from_numpy(images * np.float32(1.3))))
    torch.testing.assert_close(first.running_mean, output.mean(dim=(0, 2, 3)), atol=0.02, rtol=0.02)


def test_models_without_batch_normalisation_stay_as_they_are():
    model = segmenter("training", "threshold")
    adapted = adaptation.adapt(model, Store(size=16).images, batch_norm=True)
    assert all(
        torch.equal(value, adapted.state_dict()[key]) for key, value in model.state_dict().items()
    )


def test_each_area_and_date_is_a_scene_of_its_own():
    store = Store(size=16)
    july = store.index["date"] == "2023-07"
    store.images[july] *= 1.5
    model = segmenter()
    everything = np.arange(len(store.index))[::-1]
    found = adaptation.predict_by_scene(model, store, everything)
    here = np.flatnonzero(july)
    alone = predict_patches(
        adaptation.adapt(model, store.images, positions=here), store.images, positions=here
    )
    np.testing.assert_array_equal(found[::-1][here], alone)


def test_windows_of_a_scene_are_spread_over_it():
    image = np.ones((4, 700, 1000), np.float32)
    image *= np.linspace(0.1, 0.9, 700, dtype=np.float32)[:, None]
    scene = Scene(image)
    windows = adaptation.sample_windows(scene, BANDS)
    assert windows.shape == (3 * 4, 4, 256, 256)
    assert windows.mean() == pytest.approx(0.5, abs=0.02)
    nothing = Scene(image, valid=np.zeros((700, 1000), bool))
    with pytest.raises(GlacierError, match="no valid pixel"):
        adaptation.sample_windows(nothing, BANDS)
    small = adaptation.sample_windows(Scene(image[:, :40, :30]), BANDS)
    assert small.shape == (1, 4, 40, 30)


def test_the_checkpoint_knows_its_normalisation(tmp_path):
    path = save_checkpoint(tmp_path / "model.pt", segmenter())
    assert load_checkpoint(path).normalisation == "scene"
    content = torch.load(path, weights_only=True)
    del content["normalisation"]  # of before there was a choice
    torch.save(content, path)
    assert load_checkpoint(path).normalisation == "training"


@pytest.mark.parametrize("name", ["deeplabv3plus-resnet18", "pspnet-resnet18", "unet-resnet18"])
def test_a_single_image_will_do(name):
    image = Store(size=32).images[:1]
    made = Segmenter(name, BANDS, [0.3] * 4, [0.2] * 4).eval()
    adapted = adaptation.adapt(made, image, batch_norm=True)
    assert np.isfinite(predict_patches(adapted, image)).all()


def test_windows_that_are_mostly_missing_do_not_count():
    image, valid = np.full((4, 512, 512), 0.5, np.float32), np.zeros((512, 512), bool)
    valid[:256, :256], valid[300:310, 300:310] = True, True
    assert adaptation.sample_windows(Scene(image, valid=valid), BANDS).shape[0] == 1
    valid[:200, :256] = False  # nothing better is there
    assert adaptation.sample_windows(Scene(image, valid=valid), BANDS).shape[0] == 1
