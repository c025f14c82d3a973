"""Generators and discriminators; needs torch alone."""
