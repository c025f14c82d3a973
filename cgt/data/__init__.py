"""Shards: pictures on disk, read in a seeded order."""

from cgt.data.pictures import DataConfig, Pictures, open_pictures

__all__ = ["DataConfig", "Pictures", "open_pictures"]
