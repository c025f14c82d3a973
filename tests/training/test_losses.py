"""Losses by hand."""

import torch

from cgt.training.losses import hinge_discriminator, hinge_generator, lecam, mode_seeking


def test_hinge_counts_only_logits_on_the_wrong_side_of_the_margin() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    torch.testing.assert_close(
        hinge_discriminator(real, fake), torch.tensor((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3)
    )
    torch.testing.assert_close(hinge_generator(fake), torch.tensor((3 - 0 - 1) / 3))


def test_mode_seeking_is_large_where_pictures_ignore_the_latent() -> None:
    z_NZ = torch.tensor([[0.0, 0.0], [1.0, 3.0], [2.0, 2.0], [2.0, 0.0]])
    same = torch.zeros(4, 3, 2, 2)
    assert mode_seeking(same, z_NZ).item() == torch.tensor(1 / 0.01).item()
    differing = torch.tensor([0.0, 1.0, 0.0, 0.5]).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    # Pairs (0, 1) and (2, 3): |dx| = 1 and 0.5, |dz| = 2 and 1, both ratios 0.5.
    torch.testing.assert_close(mode_seeking(differing, z_NZ), torch.tensor(1 / 0.51))
    torch.testing.assert_close(
        mode_seeking(torch.cat([differing, same[:1]]), torch.cat([z_NZ, z_NZ[:1]])), torch.tensor(1 / 0.51)
    )


def test_lecam_pulls_logits_to_the_average_of_the_other_kind() -> None:
    """Beside each logit's own part: (D(x) - a_F)^2 and (D(G(z)) - a_R)^2, of 3 and 2 pictures."""
    real = torch.tensor([2.0, 0.5, -1.0], requires_grad=True)
    fake = torch.tensor([-3.0, 1.0], requires_grad=True)
    a_R, a_F = 0.75, -0.5
    value = lecam(real, fake, a_R, a_F)
    of_real = [(2.0 + 0.5) ** 2, (0.5 + 0.5) ** 2, (-1.0 + 0.5) ** 2]
    of_fake = [(-3.0 - 0.75) ** 2, (1.0 - 0.75) ** 2]
    torch.testing.assert_close(value.item(), sum(of_real) / 3 + sum(of_fake) / 2)
    value.backward()
    torch.testing.assert_close(real.grad, torch.tensor([2 * 2.5, 2 * 1.0, 2 * -0.5]) / 3)
    torch.testing.assert_close(fake.grad, torch.tensor([2 * -3.75, 2 * 0.25]) / 2)
