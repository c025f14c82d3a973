"""`python -m cgt`."""

from cgt.cli import script

script()
