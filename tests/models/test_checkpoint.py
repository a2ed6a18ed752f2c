"""Checkpoints: they bring everything back, run no code, and say what they used that is gone."""

import numpy as np
import pytest
import torch

from glacier_utils.errors import GlacierError
from glacier_utils.models.checkpoint import Segmenter, load_checkpoint, save_checkpoint

BANDS = ("red", "green", "blue", "nir")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["threshold", "random_forest", "glaciernet", "unet-resnet18"])
def test_a_checkpoint_brings_everything_back(tmp_path, name):
    arguments = {
        "glaciernet": {"filters": [4, 8]},
        "random_forest": {"trees": 3, "depth": 4},
    }
    torch.manual_seed(0)
    segmenter = Segmenter(
        name,
        BANDS,
        [0.2, 0.2, 0.2, 0.3],
        [0.1, 0.1, 0.1, 0.2],
        arguments=arguments.get(name),
        threshold=0.45,
        temperature=1.5,
        provenance={"store": "abc", "dates": ["2023-08"], "settings": {"steps": 3}},
    ).eval()
    if name == "random_forest":
        pixels = np.random.default_rng(3).normal(size=(3000, 4)).astype(np.float32)
        segmenter.network.fit(pixels, (pixels[:, 0] > pixels[:, 1]).astype(np.uint8))
    loaded = load_checkpoint(save_checkpoint(tmp_path / "deep" / "checkpoint.pt", segmenter))
    for attribute in ("name", "bands", "arguments", "threshold", "temperature", "provenance"):
        assert getattr(loaded, attribute) == getattr(segmenter, attribute)
    image = torch.rand(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        # Another memory layout sums in another order: equal to rounding.
        torch.testing.assert_close(loaded(image), segmenter(image), rtol=1e-3, atol=1e-4)
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


def test_a_checkpoint_of_before_loads_or_says_what_is_gone(tmp_path):
    path = save_checkpoint(tmp_path / "a.pt", Segmenter("threshold", BANDS, [0] * 4, [1] * 4))
    content = torch.load(path, weights_only=True)
    torch.save(content | {"normalisation": "training"}, path)
    assert load_checkpoint(path).name == "threshold"
    torch.save(content | {"normalisation": "scene"}, path)
    with pytest.raises(GlacierError, match=r"a\.pt: .*per-scene normalisation.* 0\.2\.0"):
        load_checkpoint(path)
    torch.save(content | {"name": "hedunet"}, path)
    with pytest.raises(GlacierError, match=r"a\.pt: model 'hedunet': HED-UNet went in .*0\.2\.0"):
        load_checkpoint(path)
