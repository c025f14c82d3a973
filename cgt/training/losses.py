"""The adversarial losses.

Shapes: N pictures, Z latent size; all losses are scalars, means over the batch.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def hinge_discriminator(real_N: Tensor, fake_N: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))), of logits (Lim & Ye, 2017)."""
    return F.relu(1 - real_N).mean() + F.relu(1 + fake_N).mean()


def hinge_generator(fake_N: Tensor) -> Tensor:
    """-D(G(z))."""
    return -fake_N.mean()


def softplus_discriminator(real_N: Tensor, fake_N: Tensor) -> Tensor:
    """-log sigmoid(D(x)) - log sigmoid(-D(G(z))), of logits (Goodfellow et al., 2014)."""
    return F.softplus(-real_N).mean() + F.softplus(fake_N).mean()


def softplus_generator(fake_N: Tensor) -> Tensor:
    """-log sigmoid(D(G(z))): the form that does not saturate."""
    return F.softplus(-fake_N).mean()


def lecam(real_N: Tensor, fake_N: Tensor, average_real: Tensor, average_fake: Tensor) -> Tensor:
    """mean (D(x) - a_F)^2 + mean (D(G(z)) - a_R)^2, of logits and the averages of earlier ones, a_R on real
    and a_F on generated pictures (Tseng et al., "Regularizing Generative Adversarial Networks under Limited
    Data", 2021).

    It holds D's outputs on the two kinds of pictures together. This is the paper's formula; its program
    (github.com/google/lecam-gan) leaves out logits on the wrong side: relu(D(x) - a_F), relu(a_R - D(G(z))).
    """
    return (real_N - average_fake).square().mean() + (fake_N - average_real).square().mean()


def mode_seeking(x_N3RR: Tensor, z_NZ: Tensor, mean: Callable[[Tensor], Tensor] = lambda own: own) -> Tensor:
    """1 / (|dx| / |dz| + 0.01) over neighbouring pairs of the batch, which must share their class (Mao et
    al., 2019).

    Without it a small generator learns to ignore z. An odd last picture is left out. `mean` makes a mean over
    all ranks of this rank's mean, before the quotient is taken.
    """
    pairs = len(x_N3RR) // 2
    first_x, second_x = x_N3RR[: 2 * pairs].float().unflatten(0, (pairs, 2)).unbind(1)
    first_z, second_z = z_NZ[: 2 * pairs].unflatten(0, (pairs, 2)).unbind(1)
    ratio: Tensor = (first_x - second_x).abs().mean((1, 2, 3)) / (first_z - second_z).abs().mean(1)
    return 1 / (mean(ratio.mean()) + 0.01)
