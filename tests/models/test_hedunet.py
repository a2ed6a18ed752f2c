"""HED-UNet: what an edge is, what its loss counts, and where the network must work."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.distributed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.parallel import DistributedDataParallel

from glacier_utils.models import registry
from glacier_utils.models.losses import bce_dice
from glacier_utils.models.networks import HEDUNet, LevelAttention, balanced_bce, edge_labels

pytestmark = pytest.mark.usefixtures("one_thread")


def small(**arguments) -> registry.PaddedWithEdges:
    torch.manual_seed(0)
    return registry.build("hedunet", 4, filters=(4, 8, 8), **arguments)


def scene(count: int = 2, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose brighter half is glacier, with a border at a different column in each."""
    labels = torch.zeros(count, size, size, dtype=torch.uint8)
    for number in range(count):
        labels[number, :, size // 4 * (number % 2 + 1) :] = 1
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 4, size, size, generator=generator) * 0.1
    return labels[:, None].float() * 2 - 1 + noise, labels


def test_an_edge_is_where_both_labels_are_near():
    labels = torch.zeros(1, 6, 8, dtype=torch.uint8)
    labels[0, :, 4:] = 1
    assert edge_labels(labels)[0, 2].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    labels[0, 0, 0] = 255
    edges = edge_labels(labels)
    assert edges[0, :3, :3].tolist() == [[255, 255, 0], [255, 255, 0], [0, 0, 0]]
    assert edges.dtype == torch.uint8


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6), cols=st.integers(1, 6))
def test_edges_are_those_of_the_definition(seed, rows, cols):
    generator = np.random.default_rng(seed)
    labels = generator.choice(np.uint8([0, 1, 255]), (rows, cols), p=[0.5, 0.4, 0.1])
    found = edge_labels(torch.from_numpy(labels[None]))[0].numpy()
    for row in range(rows):
        for col in range(cols):
            near = set(labels[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2].ravel())
            assert found[row, col] == (255 if 255 in near else int({0, 1} <= near))


def test_both_classes_of_an_edge_weigh_the_same():
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, 0, 0] = 1
    labels[0, 3] = 255
    logits = torch.zeros(1, 4, 4)
    logits[0, 0, 0] = -2.0  # the one edge is missed
    logits[0, 3] = 99.0  # not known, so it must not count
    missed, right = np.log1p(np.exp(2.0)), np.log(2.0)
    assert balanced_bce(logits, labels).item() == pytest.approx((missed + right) / 2, rel=1e-6)
    assert balanced_bce(logits, torch.full_like(labels, 255)).item() == 0


def test_attention_chooses_the_level_to_listen_to():
    attention = LevelAttention([1, 1])
    with torch.no_grad():
        for head, favour in zip(attention.heads, (20.0, -20.0), strict=True):
            head.weight.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
            head.bias.copy_(torch.tensor([0.0, favour]))
    coarse, fine = torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 4, 4), -5.0)
    combined, sides = attention([coarse, fine])
    assert combined.shape == (1, 4, 4)
    assert torch.allclose(combined, torch.tensor(3.0))
    assert sides[0, :, 0, 0].tolist() == [3.0, -5.0]


@pytest.mark.parametrize("size", [(32, 32), (50, 37), (1, 9)])
def test_mask_and_edge_are_as_large_as_the_image(size):
    network = small()
    images = torch.randn(2, 4, *size)
    assert network(images).shape == (2, *size)
    loss = network.auxiliary_loss(torch.randint(0, 2, (2, *size), dtype=torch.uint8))
    loss.backward()
    assert torch.isfinite(loss)
    assert network.eval().edges(images).shape == (2, *size)


def test_the_default_is_small():
    count = registry.parameter_count(registry.build("hedunet", 4))
    assert 1_000_000 < count < 3_000_000


def test_the_auxiliary_loss_is_the_sum_of_its_parts():
    network = small(edge_weight=0.25, side_weight=2.0).network
    images, labels = scene()
    network(images)
    levels = network.levels(images)
    _, mask_sides = network.mask(levels)
    edge, edge_sides = network.edge(levels)
    targets = edge_labels(labels)
    of_edges = balanced_bce(edge, targets)
    of_edges += sum(balanced_bce(edge_sides[:, i], targets) for i in range(3)) / 3
    of_masks = sum(bce_dice(mask_sides[:, i], labels) for i in range(3)) / 3
    found = network.auxiliary_loss(labels)
    torch.testing.assert_close(found, 0.25 * of_edges + 2.0 * of_masks)


def test_unknown_pixels_change_no_loss():
    images, labels = scene()
    labels[:, :8] = 255
    found = []
    for value in (0, 1):
        network = small()
        # Only what is laid over unknown labels differs, after the network has seen the images.
        network(images)
        hidden = network.network._sides
        keep = (labels != 255)[:, None]
        network.network._sides = (
            torch.where(keep, hidden[0], 50.0 * value),
            torch.where(keep[:, 0], hidden[1], 50.0 * value),
            torch.where(keep, hidden[2], 50.0 * value),
        )
        found.append(network.auxiliary_loss(labels).item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_batch_without_known_pixels_costs_nothing_but_still_has_gradients():
    network = small()
    images, labels = scene()
    logits = network(images)
    loss = network.auxiliary_loss(torch.full_like(labels, 255)) + 0 * logits.sum()
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_each_forward_pass_in_training_gives_one_auxiliary_loss():
    network = small()
    images, labels = scene()
    with pytest.raises(RuntimeError, match="forward pass in train mode"):
        network.auxiliary_loss(labels)
    network(images)
    copy.deepcopy(network)  # as folding and averaging of weights do
    network.auxiliary_loss(labels)
    with pytest.raises(RuntimeError, match="forward pass in train mode"):
        network.auxiliary_loss(labels)
    network(images)
    network.eval()(images)
    with pytest.raises(RuntimeError, match="forward pass in train mode"):
        network.auxiliary_loss(labels)


def test_a_single_patch_has_the_loss_of_two_equal_ones():
    images, labels = scene(1)
    losses = []
    for copies in (1, 2):
        network = small()
        network(images.repeat(copies, 1, 1, 1))
        losses.append(network.auxiliary_loss(labels.repeat(copies, 1, 1)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_losses_are_float32_under_bfloat16():
    network = small().to(memory_format=torch.channels_last)
    images, labels = scene()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(images.contiguous(memory_format=torch.channels_last))
        loss = network.auxiliary_loss(labels)
    assert logits.dtype == loss.dtype == torch.float32
    loss.backward()
    reference = small()
    reference(images)
    assert loss.item() == pytest.approx(reference.auxiliary_loss(labels).item(), rel=0.05)


def test_it_learns_mask_and_edge():
    network = small()
    images, labels = scene(4)
    optimiser = torch.optim.AdamW(network.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        loss = bce_dice(network(images), labels)
        (loss + network.auxiliary_loss(labels)).backward()
        optimiser.step()
    network.eval()
    with torch.inference_mode():
        assert ((network(images) > 0) == labels.bool()).float().mean() > 0.98
        edges, targets = network.edges(images) > 0, edge_labels(labels).bool()
    # With balanced classes a false alarm costs little: the edges are all found, but too wide.
    assert edges[targets].float().mean() > 0.95
    assert edges[~targets].float().mean() < 0.1


def test_it_trains_under_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        network = DistributedDataParallel(small())
        images, labels = scene()
        for _ in range(2):  # the second pass fails where the first left a parameter out
            loss = bce_dice(network(images), labels) + network.module.auxiliary_loss(labels)
            loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_other_networks_have_no_auxiliary_loss():
    assert isinstance(small().network, HEDUNet)
    assert hasattr(small(), "auxiliary_loss")
    assert not hasattr(registry.build("glaciernet", 4, filters=(4, 8)), "auxiliary_loss")
