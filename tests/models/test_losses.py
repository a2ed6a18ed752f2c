import math
from functools import partial

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from glacier_utils.errors import GlacierError
from glacier_utils.models.losses import LOSSES, NOISE, Loss, bce_dice, edge_distance

# Two pixels, glacier and not, both at p = 1/2.
PAIR = torch.tensor([[[1, 0]]], dtype=torch.uint8)


def sensible(smoothings=(0.0, 0.1)):
    """Every combination of loss, noise and smoothing that makes sense."""
    found = []
    for name in LOSSES:
        for noise in NOISE:
            for smoothing in smoothings:
                try:
                    found.append(Loss(name, smoothing=smoothing, noise=noise))
                except GlacierError:
                    continue
    return found


def of(loss):
    return f"{loss.name}-{loss.noise}-{loss.smoothing}"


def random_labels(generator, shape=(2, 6, 6)):
    labels = torch.randint(0, 3, shape, generator=generator).to(torch.uint8)
    labels[labels == 2] = 255
    return labels


# ---- known answers


def test_loss_of_known_answers():
    labels = torch.tensor([[[1, 0]]], dtype=torch.uint8)
    logits = torch.zeros(1, 1, 2)
    # cross-entropy log 2; Dice 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert bce_dice(logits, labels).item() == pytest.approx(np.log(2) + 1 / 3)
    perfect = torch.tensor([[[50.0, -50.0]]])
    assert bce_dice(perfect, labels).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("bce", math.log(2)),
        ("focal", math.log(2) / 4),
        ("dice", 1 / 3),
        # Errors 1 and 1; the Jaccard loss of both wrong is 1.
        ("lovasz", 1.0),
        # Both pixels weigh the same.
        ("boundary", math.log(2) + 1 / 3),
    ],
)
def test_each_loss_of_two_undecided_pixels(name, answer):
    assert LOSSES[name](torch.zeros(1, 1, 2), PAIR).item() == pytest.approx(answer)


def test_lovasz_is_one_minus_iou_of_decided_pixels():
    labels = torch.tensor([[[1, 1, 1, 0, 0, 255]]], dtype=torch.uint8)
    # One hit of three, one false alarm: IoU 1/4. A wrong pixel at -1 or 1 errs by 2.
    logits = torch.tensor([[[1.0, -1.0, -1.0, 1.0, -1.0, 9.0]]])
    assert LOSSES["lovasz"](logits, labels).item() == pytest.approx(2 * (1 - 1 / 4))


def test_the_boundary_loss_minds_errors_at_the_edge_more():
    labels = torch.zeros(1, 1, 24, dtype=torch.uint8)
    labels[..., 12:] = 1
    losses = []
    for wrong in (12, 23):
        logits = torch.where(labels == 1, 5.0, -5.0)
        logits[..., wrong] = -5
        losses.append((Loss("boundary")(logits, labels), Loss("bce_dice")(logits, labels)))
    assert losses[0][1].item() == pytest.approx(losses[1][1].item())
    assert losses[0][0].item() > 2 * losses[1][0].item()


# ---- laws of all losses


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), value=st.floats(-1e4, 1e4) | st.sampled_from([np.nan, np.inf]))
def test_values_under_unknown_labels_change_neither_loss_nor_gradient(seed, value):
    generator = torch.Generator().manual_seed(seed)
    labels = random_labels(generator)
    logits = torch.randn(2, 6, 6, generator=generator)
    for loss in sensible():
        results = []
        for filling in (0.0, value):
            filled = torch.where(labels == 255, filling, logits).requires_grad_()
            result = loss(filled, labels)
            result.backward()
            results.append((result.item(), filled.grad[labels != 255], filled.grad[labels == 255]))
        assert results[0][0] == results[1][0], loss
        assert torch.equal(results[0][1], results[1][1]), loss
        assert (results[1][2] == 0).all(), loss


@pytest.mark.parametrize("loss", sensible(), ids=of)
def test_a_batch_without_known_pixels_has_no_loss_and_no_gradient(loss):
    logits = torch.randn(2, 4, 4, requires_grad=True)
    result = loss(logits, torch.full((2, 4, 4), 255, dtype=torch.uint8))
    result.backward()
    assert result.item() == 0
    assert (logits.grad == 0).all()


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_no_prediction_beats_the_perfect_one(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = random_labels(generator)
    perfect = torch.where(labels == 1, 40.0, -40.0)
    other = 3 * torch.randn(2, 6, 6, generator=generator)
    for loss in sensible(smoothings=(0.0,)):
        assert loss(perfect, labels).item() == pytest.approx(0, abs=1e-6), loss
        assert loss(other, labels).item() >= loss(perfect, labels).item(), loss


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "lovasz"])
def test_the_smoothed_target_is_the_best_answer(name):
    labels = torch.tensor([[[1, 1, 0, 0]]], dtype=torch.uint8)
    loss = Loss(name, smoothing=0.2)
    best = torch.where(labels == 1, 1.0, -1.0) * math.log(9)  # p = 0.9 and 0.1
    at_best = loss(best, labels).item()
    for factor in (0.8, 1.25, 10):
        assert loss(factor * best, labels).item() > at_best


@pytest.mark.parametrize("name", list(LOSSES))
def test_autocast_leaves_the_loss_in_float32(name):
    generator = torch.Generator().manual_seed(1)
    labels = random_labels(generator)
    logits = torch.randn(2, 6, 6, generator=generator).bfloat16()
    expected = LOSSES[name](logits.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = LOSSES[name](logits, labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["bce_dice", "focal", "boundary"])
@pytest.mark.parametrize("noise", ["none", "soft_band"])
def test_gradients_are_those_of_finite_differences(name, noise):
    if name == "boundary" and noise != "none":
        noise = "none"
    labels = random_labels(torch.Generator().manual_seed(2), (1, 3, 4))
    logits = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    loss = Loss(name, noise=noise)
    assert torch.autograd.gradcheck(lambda values: loss(values, labels), (logits,))


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="differ"):
        bce_dice(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8))


# ---- what segmentation-models-pytorch has


LIBRARY = {
    "bce": smp.losses.SoftBCEWithLogitsLoss,
    "focal": partial(smp.losses.FocalLoss, "binary", gamma=2.0),
    "dice": partial(smp.losses.DiceLoss, "binary", smooth=0.5),
    "lovasz": partial(smp.losses.LovaszLoss, "binary"),
}


def both(name, labels, **arguments):
    """Loss and gradient of random logits, by this package and by the library."""
    results = []
    for loss in (LOSSES[name], LIBRARY[name](ignore_index=255, **arguments)):
        logits = torch.randn(labels.shape, generator=torch.Generator().manual_seed(7))
        logits.requires_grad_()
        truth = labels if loss is LOSSES[name] else labels[:, None].float()
        result = loss(logits if loss is LOSSES[name] else logits[:, None], truth)
        result.backward()
        results.append((result.detach(), logits.grad))
    return results


@pytest.mark.parametrize("name", list(LIBRARY))
def test_where_every_pixel_is_known_the_librarys_losses_are_the_same(name):
    labels = torch.randint(0, 2, (3, 8, 8), generator=torch.Generator().manual_seed(3))
    (ours, our_gradient), (theirs, their_gradient) = both(name, labels.to(torch.uint8))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=0, atol=1e-6)


def test_unknown_pixels_and_missing_glacier_are_why_they_are_not_taken():
    labels = random_labels(torch.Generator().manual_seed(3), (3, 8, 8))
    known = (labels != 255).float().mean()
    (ours, _), (theirs, _) = both("bce", labels)
    assert theirs.item() == pytest.approx((ours * known).item())  # divided by all pixels
    (ours, _), (theirs, _) = both("dice", torch.zeros_like(labels))
    assert ours > 0.5
    assert theirs == 0  # false alarms alone cost nothing
    (ours, _), (theirs, _) = both("focal", torch.full_like(labels, 255))
    assert ours == 0
    assert torch.isnan(theirs)


# ---- doubt about labels


def test_smoothing_moves_the_target():
    logits = torch.tensor([[[2.0, -1.0]]])
    target = torch.tensor([[[0.95, 0.05]]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    assert Loss("bce", smoothing=0.1)(logits, PAIR).item() == pytest.approx(expected.item())


def test_bootstrapping_trusts_label_and_network_in_parts():
    logits = torch.tensor([[[-4.0, -4.0]]], requires_grad=True)
    probability = logits.detach().sigmoid()
    target = 0.8 * torch.tensor([[[1.0, 0.0]]]) + 0.2 * probability
    loss = Loss("bce", noise="bootstrap")
    result = loss(logits, PAIR)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits.detach(), target)
    assert result.item() == pytest.approx(expected.item())
    result.backward()
    # The network's own part is a constant: the gradient is (p - target) / 2 pixels.
    torch.testing.assert_close(logits.grad, (probability - target) / 2)


def row(text):
    """A label of one row: 0, 1 and ? for unknown."""
    return torch.tensor([[[255 if c == "?" else int(c) for c in text]]], dtype=torch.uint8)


def test_a_band_along_the_edge_is_ignored():
    logits = torch.randn(1, 1, 8)
    found = Loss("bce", noise="ignore_band")(logits, row("00001111"))
    assert found.item() == Loss("bce")(logits, row("00????11")).item()


def test_a_band_along_the_edge_is_weighed_down():
    logits = torch.randn(1, 1, 8)
    weight = torch.tensor([1, 1, 0.75, 0.25, 0.25, 0.75, 1, 1])
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[0, 0], row("00001111")[0, 0].float(), reduction="none"
    )
    expected = (entropy * weight).sum() / weight.sum()
    found = Loss("bce", noise="soft_band")(logits, row("00001111"))
    assert found.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("text", ["11111111", "111???00", "?1111111", "????????"])
def test_frame_and_unknown_ground_are_no_edges(text):
    assert torch.isinf(edge_distance(row(text), 3)).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(9, 9), (1, 7), (12, 5)]),
    reach=st.integers(0, 6),
)
def test_distances_to_the_edge_are_euclidean(seed, shape, reach):
    generator = np.random.default_rng(seed)
    labels = ndimage.uniform_filter(generator.random(shape), 3, mode="nearest") > 0.5
    labels = np.where(generator.random(shape) < 0.1, 255, labels).astype(np.uint8)
    beside = np.zeros(shape, bool)
    for r, c in np.ndindex(shape):
        for s, d in ((r + 1, c), (r, c + 1)):
            if s < shape[0] and d < shape[1] and {labels[r, c], labels[s, d]} == {0, 1}:
                beside[r, c] = beside[s, d] = True
    expected = np.full(shape, np.inf)
    if beside.any():
        expected = ndimage.distance_transform_edt(~beside) + 0.5
    expected[expected > reach + 0.5] = np.inf
    found = edge_distance(torch.from_numpy(labels)[None], reach)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# ---- user mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tversky"}, "loss 'tversky': unknown; known are bce_dice"),
        ({"name": "lovas"}, "did you mean 'lovasz'"),
        ({"noise": "softband"}, "did you mean 'soft_band'"),
        ({"smoothing": 1.0}, "smoothing is 1.0"),
        ({"smoothing": math.nan}, "smoothing is nan"),
        ({"name": "lovasz", "smoothing": 0.1}, "lovasz takes no soft targets"),
        ({"name": "lovasz", "noise": "bootstrap"}, "'none' or 'ignore_band'"),
        ({"name": "lovasz", "noise": "soft_band"}, "'none' or 'ignore_band'"),
        ({"name": "boundary", "noise": "ignore_band"}, "silences"),
        ({"name": "boundary", "noise": "soft_band"}, "silences"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(GlacierError, match=message):
        Loss(**arguments)
