"""Scratch: a fresh pair of the source's shape on the new classes alone, as a baseline (Sec. 5.2).

The old classes are given up.
"""

from cgt.transfer.base import Method, MethodConfig


class Scratch(Method[MethodConfig]):
    """Pretraining on the new classes."""


METHOD = Scratch
