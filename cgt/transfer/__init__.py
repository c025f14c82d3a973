"""Transfer methods, one file each.

A module here defines `METHOD`, a subclass of `cgt.transfer.base.Method`; its file name is the name in
`method:` of a config.
"""

INFRASTRUCTURE = frozenset({"base", "extension", "nearest", "propagation", "starting", "supervised"})
