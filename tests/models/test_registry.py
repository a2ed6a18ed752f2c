"""The registry: every model keeps rows and columns, unknown names and what is gone are told."""

import re

import pytest
import torch

from glacier_utils.errors import GlacierError
from glacier_utils.models import registry

pytestmark = pytest.mark.usefixtures("one_thread")


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
        pytest.param("pan-vgg11", "pan-resnet18", marks=pytest.mark.slow),
        ("deeplabv3-densenet121", "deeplabv3-resnet18"),
        pytest.param("deeplabv3plus-vgg11", "deeplabv3plus-resnet18", marks=pytest.mark.slow),
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


def test_a_model_that_is_gone_is_told_with_the_remedy():
    with pytest.raises(GlacierError, match=r"'hedunet': HED-UNet went in version 0\.2\.0; choose"):
        registry.build("hedunet", 4)
