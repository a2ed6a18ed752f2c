import time
import urllib.error
import urllib.request
from importlib import resources
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from glacier_utils.errors import GlacierError
from glacier_utils.models import pretrained
from glacier_utils.models.checkpoint import Segmenter, load_checkpoint, save_checkpoint
from glacier_utils.models.pretrained import csmask_fits, start

BANDS = ("red", "green", "blue", "nir")
B4 = "unet-efficientnet-b4"
SMALL = {"filters": [4, 8]}
needs_csmask = pytest.mark.skipif(
    find_spec("ukis_csmask") is None, reason="ukis-csmask is not installed (extra cloud)"
)


def segmenter(name="glaciernet", bands=BANDS, seed=0, **arguments):
    torch.manual_seed(seed)
    if name == "glaciernet":
        arguments = SMALL | arguments
    zeros, ones = [0.0] * len(bands), [1.0] * len(bands)
    return Segmenter(name, bands, zeros, ones, arguments=arguments).eval()


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


# ---- words


@pytest.mark.parametrize("word", ["none", "auto"])
def test_a_start_from_nothing_changes_nothing(word):
    model = segmenter()
    before = state_of(model)
    assert start(model, word) == "none"
    assert same(before, state_of(model))


def test_an_unknown_word_is_told_with_the_known_ones(tmp_path):
    with pytest.raises(GlacierError, match=r"imagenett.*none, auto, csmask, imagenet"):
        start(segmenter(), "imagenett")
    with pytest.raises(GlacierError, match=r"gone\.pt.*nor a checkpoint"):
        start(segmenter(), str(tmp_path / "gone.pt"))


def test_a_pixel_model_takes_no_weights():
    with pytest.raises(GlacierError, match=r"threshold.*choose weights none"):
        start(segmenter("threshold"), "imagenet")
    assert start(segmenter("threshold"), "auto") == "none"


# ---- csmask


def test_where_the_cloud_networks_weights_fit(monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: True)
    assert csmask_fits(B4, BANDS)
    assert csmask_fits("fpn-efficientnet-b4", (*BANDS, "swir"), reflectance=True)
    assert not csmask_fits("unet-resnet18", BANDS)
    assert not csmask_fits("unet-timm-efficientnet-b4", BANDS)
    assert not csmask_fits("glaciernet", BANDS)
    assert not csmask_fits(B4, ("red", "green", "blue"))
    assert not csmask_fits(B4, BANDS, reflectance=False)
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    assert not csmask_fits(B4, BANDS)


def test_csmask_where_it_does_not_fit_says_why(monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: True)
    with pytest.raises(GlacierError, match=r"of the encoder efficientnet-b4, glaciernet has"):
        start(segmenter(), "csmask")
    with pytest.raises(GlacierError, match="need the band blue, the images have red, nir"):
        start(segmenter(B4, ("red", "nir")), "csmask")
    model = segmenter("unet-efficientnet-b4")
    with pytest.raises(GlacierError, match="surface reflectance"):
        start(model, "csmask", reflectance=False)
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(GlacierError, match="ukis_csmask is missing: pip install"):
        start(model, "csmask")
    assert start(model, "auto") == "none"


@needs_csmask
def test_the_loaded_network_answers_as_the_package_does():
    onnxruntime = pytest.importorskip("onnxruntime")
    import segmentation_models_pytorch as smp

    network = smp.Unet(
        "efficientnet-b4", encoder_weights=None, in_channels=4, classes=3
    ).eval()  # fmt: skip
    missing, unexpected = network.load_state_dict(pretrained._csmask_network()[0], strict=False)
    assert unexpected == []
    unused = ("encoder._conv_head", "encoder._bn1")
    assert all(key.startswith(unused) or key.endswith("_tracked") for key in missing)

    image = np.random.default_rng(0).normal(size=(1, 4, 256, 256)).astype(np.float32)
    with resources.as_file(resources.files("ukis_csmask") / "model_4b_l2a.onnx") as path:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        theirs = session.run(None, {session.get_inputs()[0].name: image})[0]
    with torch.no_grad():
        ours = network(torch.from_numpy(image)).numpy()
    # The package computes in half precision: 11 bits, rounded after each of some hundred layers.
    assert np.abs(ours - theirs).max() < 0.01 * np.abs(theirs).max()
    assert np.abs(ours - theirs).mean() < 1e-3 * np.abs(theirs).max()
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.999


@needs_csmask
def test_bands_in_any_order_and_beyond_the_four_give_the_same_features():
    theirs, ours = segmenter(B4, pretrained._CSMASK_BANDS), segmenter(B4, ("swir", *BANDS), seed=1)
    told = [start(model, "csmask") for model in (theirs, ours)]
    assert told[0].startswith("csmask: encoder and decoder of ukis-csmask")
    assert told[1] == told[0] + "; first layer 0 for swir"
    image = torch.rand(1, 5, 64, 64)
    order = [1 + BANDS.index(band) for band in pretrained._CSMASK_BANDS]
    with torch.no_grad():
        expected = theirs.network.network.encoder(theirs.normalise(image[:, order]))
        found = ours.network.network.encoder(ours.normalise(image))
    for first, second in zip(expected[1:], found[1:], strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


@needs_csmask
def test_statistics_are_those_of_the_weights_and_further_bands_keep_theirs():
    model = segmenter(B4, ("swir", *BANDS))
    model.mean.fill_(7.0)
    start(model, "csmask")
    _, mean, std = pretrained._csmask_network()
    assert model.mean.flatten().tolist() == pytest.approx([7.0, mean[2], mean[1], mean[0], mean[3]])
    assert model.std.flatten().tolist() == pytest.approx([1.0, std[2], std[1], std[0], std[3]])
    # They are of reflectance from 0 to 1.
    assert 0.05 < mean.min() < mean.max() < 1


@needs_csmask
def test_other_decoders_take_the_encoder_alone_and_the_head_stays_random():
    model, untouched = segmenter("fpn-efficientnet-b4"), segmenter("fpn-efficientnet-b4")
    random_state = torch.get_rng_state()
    assert start(model, "auto").startswith("csmask: encoder of")
    assert torch.equal(random_state, torch.get_rng_state())
    ours, before = model.network.network, untouched.network.network
    assert same(ours.decoder.state_dict(), before.decoder.state_dict())
    taken = ours.encoder.state_dict()
    expected = pretrained._csmask_encoder(BANDS)
    assert same(expected, {key: taken[key] for key in expected})


@needs_csmask
def test_training_does_not_change_the_weights_that_are_held():
    model = segmenter(B4)
    start(model, "csmask")
    with torch.no_grad():
        model.network.network.encoder._bn0.weight.zero_()
    assert pretrained._csmask_encoder(BANDS)["_bn0.weight"].abs().max() > 0


def test_a_damaged_package_ends_in_one_line(monkeypatch, tmp_path):
    pretrained._csmask_network.cache_clear()
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    (tmp_path / "model_4b_l2a.json").write_text('{"data": {}}')
    with pytest.raises(GlacierError, match="install the package again"):
        pretrained._csmask_network()
    pretrained._csmask_network.cache_clear()


@needs_csmask
def test_damaged_weights_end_in_one_line(monkeypatch, tmp_path):
    facts = resources.files("ukis_csmask") / "model_4b_l2a.json"
    (tmp_path / "model_4b_l2a.json").write_bytes(facts.read_bytes())
    (tmp_path / "model_4b_l2a.onnx").write_bytes(b"no protobuf")
    pretrained._csmask_network.cache_clear()
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(GlacierError, match="install the package again"):
        start(segmenter(B4), "csmask")
    pretrained._csmask_network.cache_clear()


# ---- ImageNet


def test_imagenet_without_a_network_fails_at_once_and_names_the_other_ways(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "_hub_answers", lambda: False)
    model = segmenter("unet-resnet18")
    before = state_of(model)
    offline, started = constants.HF_HUB_OFFLINE, time.perf_counter()
    with pytest.raises(GlacierError, match=r"need a download.*none, or for the encoder"):
        start(model, "imagenet")
    # The hub's own client would wait 23 s and more between its attempts.
    assert time.perf_counter() - started < 15
    assert offline == constants.HF_HUB_OFFLINE
    assert same(before, state_of(model))


def test_a_download_that_breaks_off_is_told(monkeypatch):
    def broken(model):
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(pretrained, "_imagenet_state", broken)
    monkeypatch.setattr(pretrained, "_hub_answers", lambda: True)
    with pytest.raises(GlacierError, match=r"need a download.*reset by peer.*none"):
        start(segmenter("unet-resnet18"), "imagenet")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (urllib.error.URLError("no route"), False),
        (TimeoutError(), False),
        (urllib.error.HTTPError("https://x", 403, "forbidden", None, None), True),
    ],
)
def test_any_answer_of_the_hub_counts_and_none_does_not(monkeypatch, answer, expected):
    def urlopen(request, timeout):
        assert timeout <= 5
        raise answer

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert pretrained._hub_answers() is expected
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pretrained._hub_answers() is False


def test_imagenets_colours_go_to_their_own_bands(monkeypatch):
    model = segmenter("unet-resnet18", ("nir", "blue", "green", "red"))
    trained = segmenter("unet-resnet18", ("nir", "blue", "green", "red"), seed=1)
    encoder = trained.network.network.encoder
    with torch.no_grad():  # as the library lays them out: red, green, blue, red
        for channel, value in enumerate((1.0, 2.0, 3.0, 1.0)):
            encoder.conv1.weight[:, channel] = value
    asked = []

    def build(name, bands, **arguments):
        asked.append((name, bands, arguments))
        return trained.network

    monkeypatch.setattr(pretrained.registry, "build", build)
    monkeypatch.setattr(pretrained, "_hub_answers", lambda: True)
    assert start(model, "imagenet") == "imagenet: encoder resnet18"
    assert asked == [("unet-resnet18", 4, {"encoder_weights": "imagenet"})]
    found = model.network.network.encoder
    assert found.conv1.weight[0, :, 0, 0].tolist() == [1.0, 3.0, 2.0, 1.0]
    assert torch.equal(found.layer4[1].conv2.weight, encoder.layer4[1].conv2.weight)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("glaciernet", "no encoder"), ("unet-dpn68b", "no imagenet weights")],
)
def test_a_model_without_imagenet_weights_says_so(monkeypatch, name, reason):
    model = segmenter("glaciernet" if name == "glaciernet" else "unet-resnet18")
    model.name = name
    with pytest.raises(GlacierError, match=reason):
        start(model, "imagenet")


# ---- checkpoints


def saved(path, model):
    return str(save_checkpoint(path, model))


def test_a_checkpoint_of_the_same_model_is_taken_whole(tmp_path):
    source, model = segmenter(seed=1), segmenter(seed=2)
    source.mean.fill_(0.3)
    count = len(source.network.state_dict())
    told = start(model, saved(tmp_path / "old.pt", source))
    assert told == f"old.pt (glaciernet): {count} of {count} tensors"
    assert same(source.network.state_dict(), model.network.state_dict())
    assert model.mean.flatten().tolist() == pytest.approx([0.3] * 4)
    assert model.threshold == 0.5


@settings(max_examples=8)
@given(st.permutations([*BANDS, "swir"]))
def test_a_checkpoint_answers_the_same_whatever_the_order_of_bands(tmp_path_factory, bands):
    path = tmp_path_factory.mktemp("weights") / "old.pt"
    source, model = segmenter(seed=1), segmenter(bands=tuple(bands), seed=2)
    source.mean.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 4, 1, 1))
    assert start(model, saved(path, source)).endswith("; first layer 0 for swir")
    image = torch.rand(1, 5, 16, 16)
    order = [bands.index(band) for band in BANDS]
    with torch.no_grad():
        torch.testing.assert_close(
            source(image[:, order]), model(image), rtol=1e-3, atol=1e-4
        )  # fmt: skip


def test_bands_that_are_gone_leave_the_first_layer_alone(tmp_path):
    source = segmenter(seed=1)
    model = segmenter(bands=("red", "green", "blue", "swir"), seed=2)
    before = state_of(model)
    told = start(model, saved(tmp_path / "old.pt", source))
    assert "not the first layer, which is for red, green, blue, nir" in told
    stem = pretrained._stem(model.network, 4)
    after = model.network.state_dict()
    assert torch.equal(before[f"network.{stem}"], after[stem])
    assert torch.equal(before["mean"], model.mean)
    assert sum(not torch.equal(after[k], v) for k, v in source.network.state_dict().items()) == 1


def test_another_decoder_takes_the_encoder(tmp_path):
    source, model = segmenter("fpn-resnet18", seed=1), segmenter("unet-resnet18", seed=2)
    told = start(model, saved(tmp_path / "old.pt", source))
    taken, total = len(source.network.network.encoder.state_dict()), len(model.network.state_dict())
    assert told == f"old.pt (fpn-resnet18): {taken} of {total} tensors"
    assert same(
        source.network.network.encoder.state_dict(), model.network.network.encoder.state_dict()
    )


def test_another_network_is_refused_by_name_and_nothing_is_touched(tmp_path):
    model = segmenter("unet-resnet18", seed=2)
    before = state_of(model)
    with pytest.raises(GlacierError, match=r"old\.pt: its network glaciernet shares 0 of the 11"):
        start(model, saved(tmp_path / "old.pt", segmenter(seed=1)))
    assert same(before, state_of(model))


def test_a_file_that_is_no_checkpoint_is_told(tmp_path):
    (tmp_path / "old.pt").write_bytes(b"nothing")
    with pytest.raises(GlacierError, match=r"old\.pt: not a readable checkpoint"):
        start(segmenter(), str(tmp_path / "old.pt"))


def test_the_builtin_network_starts_its_like_and_no_other():
    model = segmenter("unet-small", seed=2)
    count = len(model.network.state_dict())
    assert start(model, "builtin") == f"builtin.pt (unet-small): {count} of {count} tensors"
    assert same(load_checkpoint(pretrained.BUILTIN).network.state_dict(), state_of(model.network))
    with pytest.raises(GlacierError, match=r"builtin\.pt: its network unet-small shares 0 of"):
        start(segmenter(seed=2), "builtin")


def test_the_builtin_checkpoint_is_small_and_says_where_it_comes_from():
    assert pretrained.BUILTIN.stat().st_size < 12e6
    network = load_checkpoint(pretrained.BUILTIN)
    assert set(network.bands) == set(BANDS)
    assert network.provenance["dataset"] == "varied"
