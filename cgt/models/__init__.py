"""Generators and discriminators, which need torch alone; `folder` keeps them on disk, `sampling` draws."""
