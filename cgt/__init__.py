"""Grow a class-conditional image generator by new classes from few pictures, without spoiling what it already makes."""

__version__ = "0.1.0"
