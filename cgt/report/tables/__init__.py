"""The tables, one YAML file each; read through `cgt.report.paper`."""
