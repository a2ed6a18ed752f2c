"""GlacierNet, and the frame that lets networks take images of any size."""

import pytest
import torch

from glacier_utils.models.networks import GlacierNet, Padded

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_single_image_is_doubled_in_training_alone():
    seen = []

    class Watching(torch.nn.Module):
        def forward(self, images):
            seen.append(tuple(images.shape))
            return images[:, :1]

    network = Padded(Watching(), 8, 16)
    image = torch.arange(30.0).reshape(1, 1, 3, 10)
    assert torch.equal(network(image), image[0])
    assert torch.equal(network.eval()(image), image[0])
    network.train()(torch.zeros(3, 1, 17, 16))
    assert seen == [(2, 1, 16, 16), (1, 1, 16, 16), (3, 1, 24, 16)]


def test_a_sliver_thinner_than_the_padding_is_taken():
    network = GlacierNet(4, filters=(4, 8))
    network = Padded(network, network.multiple).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 4, 1, 9)).shape == (1, 1, 9)


def test_glaciernet_unpools_to_the_places_of_the_maxima():
    network = GlacierNet(4, filters=(4, 8))
    image = torch.zeros(1, 4, 8, 8)
    image[0, 0, 3, 5] = 1.0
    pooled, places = network.pool(image)
    assert torch.equal(network.unpool(pooled, places), image)
    assert network.multiple == 4
