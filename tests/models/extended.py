"""A tiny generator with banks of all kinds that need no classifier."""

import torch

from cgt.models.biggan import Generator, GeneratorConfig
from tests import tiny
from tests.transfer.methods import make

MINED = ("owl", "yak")


def extended(config: GeneratorConfig) -> Generator:
    """The source's own bank, one of mined classes, and one of tables, with statistics of their own."""
    generator = tiny.source(config).generator
    generator.append(make("minegan", config, MINED).networks()[0].last_bank.stored())
    bank = generator.new_class_bank(tiny.NEW)
    with torch.no_grad():
        tables = bank.tables()
        for table in (*tables.of_classes, *tables.of_latents):
            table.normal_(0, 0.3)
        for site in bank.site_statistics():
            site.mean.normal_(0, 0.2)
            site.var.uniform_(0.5, 2)
    generator.append(bank)
    return generator.eval().requires_grad_(False)
