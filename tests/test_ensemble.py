"""Several teachers as one: the mean of what each says of the scans at its own size."""

import numpy as np
import pytest
import torch
from PIL import Image

from octlet.compress.distil import Ensemble
from octlet.models.resnet import Outputs
from octlet.train.showing import resized


class Said(torch.nn.Module):
    """A teacher of one answer, which remembers the size that it was shown."""

    def __init__(self, seed: int, grid: int, width: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.cam = torch.randn(5, 4, grid, grid, generator=rng) * 3
        self.embedding = torch.randn(5, width, generator=rng)
        self.shown = 0

    def forward(self, scans: torch.Tensor) -> Outputs:
        self.shown = scans.shape[-1]
        return Outputs(self.cam.mean((2, 3)), self.cam, self.embedding)


def shares(logits: torch.Tensor) -> np.ndarray:
    powers = np.exp(logits.double().numpy())
    result: np.ndarray = powers / powers.sum(1, keepdims=True)
    return result


def test_an_ensemble_says_the_mean_of_what_its_members_say():
    one, other = Said(1, 4, 6), Said(2, 2, 3)
    found = Ensemble([one, other], [32, 16])(torch.zeros(5, 1, 32, 32))
    assert (one.shown, other.shown) == (32, 16)
    mean = (shares(one(torch.zeros(1)).logits) + shares(other(torch.zeros(1)).logits)) / 2
    np.testing.assert_allclose(np.exp(found.logits.numpy()), mean, rtol=1e-5)
    small = one.cam.numpy().reshape(5, 4, 2, 2, 2, 2).mean((3, 5))
    np.testing.assert_allclose(found.cam.numpy(), (small + other.cam.numpy()) / 2, atol=1e-6)
    np.testing.assert_array_equal(found.embedding, np.concatenate([one.embedding, other.embedding], 1))


class Left(torch.nn.Module):
    """Says of a scan what stands in its left half: its mirror image is another scan to it."""

    def forward(self, scans: torch.Tensor) -> Outputs:
        weights = torch.arange(1.0, 5.0)[None, :, None, None] * torch.linspace(1, 0, scans.shape[3])
        cam = scans * weights
        return Outputs(cam.mean((2, 3)), cam, cam.amax((2, 3)))


def test_a_mirrored_teacher_says_the_mean_of_a_scan_and_its_mirror_image():
    scans, net = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(2)), Left()
    one, other = net(scans), net(scans.flip(3))
    found = Ensemble([net], [8], mirror=True)(scans)
    mean = (shares(one.logits) + shares(other.logits)) / 2
    np.testing.assert_allclose(np.exp(found.logits.numpy()), mean, rtol=1e-5)
    torch.testing.assert_close(found.cam, (one.cam + other.cam.flip(3)) / 2)
    torch.testing.assert_close(found.embedding, torch.cat([one.embedding, other.embedding], 1))
    turned = Ensemble([net], [8], mirror=True)(scans.flip(3))
    torch.testing.assert_close(turned.logits, found.logits)
    torch.testing.assert_close(turned.cam, found.cam.flip(3))


def test_an_ensemble_of_one_says_what_it_says():
    one = Said(3, 4, 6)
    found = Ensemble([one], [32])(torch.zeros(5, 1, 32, 32))
    np.testing.assert_allclose(shares(found.logits), shares(one.cam.mean((2, 3))), rtol=1e-5)
    assert torch.equal(found.cam, one.cam)


@pytest.mark.parametrize("size", [16, 24, 48, 100])
def test_a_teacher_is_shown_what_pillow_makes_of_the_scans(size):
    scans = torch.randn(2, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    for ours, scan in zip(resized(scans, size), scans, strict=True):
        theirs = Image.fromarray(scan[0].numpy()).resize((size, size), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(ours[0], np.asarray(theirs), atol=1e-4)
    assert resized(scans, 40) is scans
