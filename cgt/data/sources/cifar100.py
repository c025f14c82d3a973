"""CIFAR-100 with its fine labels: 60,000 photographs, 32 px, 100 classes (Krizhevsky, 2009)."""

from cgt.data.sources import Request, Source
from cgt.data.sources.cifar_archive import Layout, read_archive

INPUT = "the official cifar-100-python.tar.gz, or the folder cifar-100-python in it"
SPLITS = ("train", "test", "all")
SIZE = 32
LAYOUT = Layout(
    folder="cifar-100-python",
    meta="meta",
    names=b"fine_label_names",
    labels=b"fine_labels",
    batches={"train": ("train",), "test": ("test",)},
)


def read(request: Request) -> Source:
    """The pictures of a split, in the archive's order."""
    return read_archive(LAYOUT, request)
