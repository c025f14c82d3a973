"""TransferGAN (Wang et al., "Transferring GANs: generating images from limited data", ECCV 2018).

All of G and D goes on from the source, with new class tables and a new class embedding, and is fine-tuned.
The old classes are given up.
"""

from cgt.models.biggan import Discriminator, Generator
from cgt.transfer.base import Method, MethodConfig, fine_tuned_discriminator, fine_tuned_generator


class TransferGAN(Method[MethodConfig]):
    """Fine-tuning of everything."""

    def networks(self) -> tuple[Generator, Discriminator]:
        """The source's pair, but for what is of classes."""
        return fine_tuned_generator(self.task), fine_tuned_discriminator(self.task)


METHOD = TransferGAN
