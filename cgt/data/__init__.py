"""Shards: pictures on disk, read in a seeded order."""
