"""Experiments, one YAML file each; read through `cgt.config`."""
