"""Generators and discriminators, which need torch alone; `folder` and `record` keep them on disk."""
