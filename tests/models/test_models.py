import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from glacier_utils.errors import GlacierError
from glacier_utils.models import registry
from glacier_utils.models.baselines import RandomForest, ThresholdRule
from glacier_utils.models.checkpoint import Segmenter, load_checkpoint, save_checkpoint
from glacier_utils.models.networks import GlacierNet

BANDS = ("red", "green", "blue", "nir")


pytestmark = pytest.mark.usefixtures("one_thread")


def forest_data(seed: int, count: int = 3000, bands: int = 4):
    generator = np.random.default_rng(seed)
    pixels = generator.normal(size=(count, bands)).astype(np.float32)
    noisy = pixels[:, 0] + pixels[:, 1] * pixels[:, -1] + generator.normal(0, 0.5, count)
    return pixels, (noisy > 0).astype(np.uint8)


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize(("bands", "size"), [(4, (64, 64)), (4, (50, 37)), (3, (64, 64))])
def test_every_model_keeps_rows_and_columns(name, bands, size):
    network = registry.build(name, bands).eval()
    with torch.inference_mode():
        logits = network(torch.randn(2, bands, *size))
    assert logits.shape == (2, *size)
    assert torch.isfinite(logits).all()
    assert registry.parameter_count(network) > 0
    assert registry.describe(name)
    assert registry.reference(name)


SMALL = {
    **dict.fromkeys(registry.DECODERS, "tu-test_resnet"),
    "segformer": "mit_b0",
    "dpt": "tu-test_vit",
}
LIGHT = {
    "dpt": {"decoder_intermediate_channels": [8, 8, 8, 8], "decoder_fusion_channels": 8},
    "pspnet": {"psp_out_channels": 16},
    "upernet": {"decoder_channels": 16},
    "unetplusplus": {"decoder_channels": [32, 16, 16, 8, 8]},
    "manet": {"decoder_channels": [32, 16, 16, 8, 8]},
}


def test_every_decoder_of_the_library_is_registered():
    import segmentation_models_pytorch as smp

    assert (
        set(registry.DECODERS) == set(smp.MODEL_ARCHITECTURES_MAPPING) == set(registry.decoders())
    )


@pytest.mark.parametrize("decoder", registry.DECODERS)
def test_every_decoder_takes_any_bands_and_sizes(decoder):
    name = f"{decoder}-{SMALL[decoder]}"
    network = registry.build(name, 5, **LIGHT.get(decoder, {}))
    assert network.training
    assert network(torch.randn(2, 5, 1, 9)).shape == (2, 1, 9)
    logits = network(torch.randn(2, 5, 50, 37))
    assert logits.shape == (2, 50, 37)
    logits.mean().backward()
    network.eval()
    with torch.inference_mode():
        for size in ((128, 128), (50, 37), (9, 1)):
            logits = network(torch.randn(2, 5, *size))
            assert logits.shape == (2, *size)
            assert torch.isfinite(logits).all()


@pytest.mark.parametrize("decoder", registry.DECODERS)
def test_every_decoder_trains_on_a_single_small_patch(decoder):
    network = registry.build(f"{decoder}-{SMALL[decoder]}", 4, **LIGHT.get(decoder, {}))
    network.to(memory_format=torch.channels_last)
    images = torch.randn(1, 4, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(images)
    assert logits.shape == (1, 32, 32)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("decoder", registry.DECODERS)
def test_every_decoder_is_described_with_its_paper(decoder):
    name = f"{decoder}-{SMALL[decoder]}"
    assert registry.describe(f"{decoder}-resnet34").endswith(", with the encoder resnet34")
    year = re.search(r"\((\d{4})\): .+\. .+\.$", registry.reference(name))
    assert year, registry.reference(name)
    assert f" {year[1]})" in registry.describe(name)


@pytest.mark.parametrize(
    ("name", "works"),
    [
        ("dpt-resnet18", "dpt-tu-vit_tiny_patch16_224"),
        ("dpt-tu-resnet18", "dpt-tu-vit_tiny_patch16_224"),
        ("linknet-mit_b0", "linknet-resnet18"),
        ("unetplusplus-mit_b0", "unetplusplus-resnet18"),
        ("pan-vgg11", "pan-resnet18"),
        ("deeplabv3-densenet121", "deeplabv3-resnet18"),
        ("deeplabv3plus-vgg11", "deeplabv3plus-resnet18"),
        ("unet-tu-test_vit", "unet-resnet18"),
    ],
)
def test_an_encoder_that_does_not_fit_is_a_user_mistake(name, works):
    decoder, _, encoder = name.partition("-")
    message = f"{decoder} cannot take the encoder {encoder}: .+; {works} works"
    with pytest.raises(GlacierError, match=message):
        registry.build(name, 4)


@pytest.mark.parametrize("encoder", ["mit_b0", "tu-test_convnext", "tu-test_efficientnet"])
@pytest.mark.parametrize("decoder", ["unet", "fpn", "upernet", "pan"])
def test_encoders_of_other_kinds_are_taken(decoder, encoder):
    network = registry.build(f"{decoder}-{encoder}", 4, **LIGHT.get(decoder, {}))
    assert network(torch.randn(2, 4, 40, 33)).shape == (2, 40, 33)


def test_the_encoders_that_are_named_as_working_are_there():
    known = registry.encoders()
    assert all(decoder.encoder in known for decoder in registry.DECODERS.values())
    assert registry.encoders("MIT_B") == [f"mit_b{number}" for number in range(6)]
    assert "tu-vit_tiny_patch16_224" in registry.encoders("vit_tiny")


def test_a_single_image_is_doubled_in_training_alone():
    seen = []

    class Watching(torch.nn.Module):
        def forward(self, images):
            seen.append(tuple(images.shape))
            return images[:, :1]

    network = registry.Padded(Watching(), 8, 16)
    image = torch.arange(30.0).reshape(1, 1, 3, 10)
    assert torch.equal(network(image), image[0])
    assert torch.equal(network.eval()(image), image[0])
    network.train()(torch.zeros(3, 1, 17, 16))
    assert seen == [(2, 1, 16, 16), (1, 1, 16, 16), (3, 1, 24, 16)]


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("unet-resnet81", "unet-resnet18"),
        ("random-forest", "random_forest"),
        ("glacernet", "glac"),
        ("unet", "unet-resnet18"),
        ("dpt-vit_tiny", "dpt-tu-vit_tiny"),
        ("uent-resnet34", "unet-resnet34"),
    ],
)
def test_unknown_name_suggests_the_nearest(wrong, nearest):
    with pytest.raises(GlacierError, match=nearest):
        registry.build(wrong, 4)
    with pytest.raises(GlacierError):
        registry.is_pixel_model(wrong)


def test_arguments_that_the_model_does_not_take_are_user_mistakes():
    with pytest.raises(GlacierError, match="glaciernet: cannot be built"):
        registry.build("glaciernet", 4, depth=3)
    with pytest.raises(GlacierError, match=r"unet-resnet18: cannot be built with \{'depth': 3\}"):
        registry.build("unet-resnet18", 4, depth=3)
    with pytest.raises(GlacierError, match="depth must be between 1 and 20, not 21"):
        registry.build("gradient_boosting", 4, depth=21)


def test_pixel_models_are_told_apart():
    pixel = [name for name in registry.names() if registry.is_pixel_model(name)]
    assert pixel == ["threshold", "random_forest", "gradient_boosting"]


def test_a_sliver_thinner_than_the_padding_is_taken():
    network = registry.build("glaciernet", 4, filters=(4, 8)).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 4, 1, 9)).shape == (1, 1, 9)


def test_glaciernet_unpools_to_the_places_of_the_maxima():
    network = GlacierNet(4, filters=(4, 8))
    image = torch.zeros(1, 4, 8, 8)
    image[0, 0, 3, 5] = 1.0
    pooled, places = network.pool(image)
    assert torch.equal(network.unpool(pooled, places), image)
    assert network.multiple == 4


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), depth=st.integers(1, 9), leaf=st.integers(1, 30))
def test_the_forest_of_tensors_equals_scikit_learn(seed, depth, leaf):
    pixels, labels = forest_data(seed)
    forest = RandomForestClassifier(
        n_estimators=5, max_depth=depth, min_samples_leaf=leaf, random_state=seed
    ).fit(pixels, labels)
    network = RandomForest(4, trees=5, depth=depth)
    network.take(forest)
    image = torch.from_numpy(pixels.T.reshape(1, 4, 50, 60).copy())
    probability = network(image).sigmoid().numpy().ravel()
    np.testing.assert_allclose(probability, forest.predict_proba(pixels)[:, 1], atol=2e-6)


def test_the_forest_agrees_on_pixels_that_lie_on_a_threshold():
    pixels = np.repeat(np.float32([[0.1], [0.2], [0.3], [0.7]]), 10, axis=0)
    labels = np.uint8([0] * 10 + [1] * 10 + [0] * 20)
    forest = RandomForestClassifier(n_estimators=3, random_state=0).fit(pixels, labels)
    network = RandomForest(1, trees=3, depth=5)
    network.take(forest)
    on = np.unique(np.concatenate([tree.tree_.threshold for tree in forest.estimators_]))
    on = on.astype(np.float32).reshape(1, 1, 1, -1)
    expected = forest.predict_proba(on.reshape(-1, 1))[:, 1]
    np.testing.assert_allclose(
        network(torch.from_numpy(on)).sigmoid().numpy().ravel(), expected, atol=2e-6
    )


def test_a_forest_that_saw_one_class_says_so_everywhere():
    pixels = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    network = RandomForest(2, trees=2, depth=3)
    network.fit(pixels, np.zeros(100, dtype=np.uint8), bands="ab", mean=[0, 0], std=[1, 1])
    assert (network(torch.randn(1, 2, 4, 4)).sigmoid() < 1e-5).all()


def test_a_forest_of_another_size_is_refused():
    pixels, labels = forest_data(0)
    forest = RandomForestClassifier(n_estimators=3).fit(pixels, labels)
    with pytest.raises(GlacierError, match="expected 5 trees on 4 bands, got 3 on 4"):
        RandomForest(4, trees=5).take(forest)


def test_the_threshold_rule_finds_the_box_that_separates():
    # Ice is bright; rock is dark, vegetation bright in the near infrared.
    spectra = {1: [(0.5, 0.5, 0.5, 0.4)], 0: [(0.1, 0.1, 0.1, 0.1), (0.1, 0.3, 0.1, 0.9)]}
    generator = np.random.default_rng(1)
    pixels, labels = [], []
    for label, surfaces in spectra.items():
        for surface in surfaces:
            pixels.append(np.array(surface) + generator.normal(0, 0.01, (500, 4)))
            labels += [label] * 500
    pixels, labels = np.concatenate(pixels).astype(np.float32), np.uint8(labels)
    mean, std = pixels.mean(axis=0), pixels.std(axis=0)
    rule = ThresholdRule(4)
    rule.fit((pixels - mean) / std, labels, bands=BANDS, mean=mean, std=std)
    image = torch.from_numpy(((pixels - mean) / std).T.reshape(1, 4, 30, 50).copy())
    logits = rule(image).flatten()
    assert ((logits > 0).numpy() == labels).all()
    assert rule.fitted_numbers() == 3
    bright, low, high = rule.thresholds.tolist()
    assert 0.0 < bright < 0.5
    assert -0.5 < low < 0.1
    assert high == 2.0  # nothing to keep out above, so no threshold there


def test_the_threshold_rule_does_without_near_infrared():
    pixels = np.float32([[0.1, 0.1, 0.1]] * 50 + [[0.6, 0.6, 0.6]] * 50)
    rule = ThresholdRule(3)
    labels = np.uint8([0] * 50 + [1] * 50)
    rule.fit(pixels, labels, bands=("red", "green", "blue"), mean=[0] * 3, std=[1] * 3)
    image = torch.from_numpy(pixels.T.reshape(1, 3, 10, 10).copy())
    assert ((rule(image).flatten() > 0).numpy() == labels).all()


@pytest.mark.parametrize(
    "name", ["threshold", "random_forest", "glaciernet", "unet-resnet18", "hedunet"]
)
def test_a_checkpoint_brings_everything_back(tmp_path, name):
    arguments = {
        "glaciernet": {"filters": [4, 8]},
        "hedunet": {"filters": [4, 8]},
        "random_forest": {"trees": 3, "depth": 4},
    }
    segmenter = Segmenter(
        name,
        BANDS,
        [0.2, 0.2, 0.2, 0.3],
        [0.1, 0.1, 0.1, 0.2],
        arguments=arguments.get(name),
        threshold=0.45,
        temperature=1.5,
        provenance={"store": "abc", "dates": ["2023-08"], "settings": {"epochs": 3}},
    ).eval()
    if name == "random_forest":
        pixels, labels = forest_data(3)
        segmenter.network.fit(pixels, labels, bands=BANDS, mean=[0] * 4, std=[1] * 4)
    loaded = load_checkpoint(save_checkpoint(tmp_path / "deep" / "checkpoint.pt", segmenter))
    for attribute in ("name", "bands", "arguments", "threshold", "temperature", "provenance"):
        assert getattr(loaded, attribute) == getattr(segmenter, attribute)
    image = torch.rand(2, 4, 32, 32)
    with torch.inference_mode():
        # Another memory layout sums in another order: equal to rounding.
        torch.testing.assert_close(loaded(image), segmenter(image), rtol=1e-4, atol=1e-5)
    state = segmenter.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["checkpoint.pt"]


def test_temperature_divides_the_logits_and_invalid_pixels_count_as_the_mean():
    segmenter = Segmenter("threshold", BANDS, [0.5] * 4, [0.25] * 4, temperature=2.0)
    image = torch.full((1, 4, 1, 2), 0.75)
    image[..., 1] = 0.0
    assert segmenter.normalise(image)[0, 0, 0].tolist() == [1.0, 0.0]
    hot, segmenter.temperature = segmenter(image), 1.0
    assert torch.allclose(hot * 2, segmenter(image))


def test_bad_checkpoints_are_user_mistakes(tmp_path):
    with pytest.raises(GlacierError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    text = tmp_path / "text.pt"
    text.write_text("not weights")
    with pytest.raises(GlacierError, match=r"text.pt: not a readable checkpoint"):
        load_checkpoint(text)
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(GlacierError, match="not a checkpoint of this project"):
        load_checkpoint(tmp_path / "other.pt")
    good = save_checkpoint(tmp_path / "good.pt", Segmenter("glaciernet", BANDS, [0] * 4, [1] * 4))
    content = torch.load(good, weights_only=True)
    torch.save(content | {"arguments": {"filters": [2, 2]}}, tmp_path / "unfit.pt")
    with pytest.raises(GlacierError, match="do not fit the network"):
        load_checkpoint(tmp_path / "unfit.pt")
    del content["threshold"]
    torch.save(content, tmp_path / "lacking.pt")
    with pytest.raises(GlacierError, match="lacks 'threshold'"):
        load_checkpoint(tmp_path / "lacking.pt")


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"format": 1, "name": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(GlacierError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")


def test_statistics_must_match_the_bands():
    with pytest.raises(GlacierError, match="4 bands, but 3 means"):
        Segmenter("threshold", BANDS, [0] * 3, [1] * 4)
