"""CIFAR-10: 60,000 photographs, 32 px, 10 classes (Krizhevsky, 2009)."""

from cgt.data.sources import Request, Source
from cgt.data.sources.cifar_archive import Layout, read_archive

INPUT = "the official cifar-10-python.tar.gz, or the folder cifar-10-batches-py in it"
SPLITS = ("train", "test", "all")
SIZE = 32
LAYOUT = Layout(
    folder="cifar-10-batches-py",
    meta="batches.meta",
    names=b"label_names",
    labels=b"labels",
    batches={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
)


def read(request: Request) -> Source:
    """The pictures of a split, in the archive's order."""
    return read_archive(LAYOUT, request)
