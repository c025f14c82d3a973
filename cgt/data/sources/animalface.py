"""AnimalFace (Si and Zhu, "Learning Hybrid Image Templates", PAMI 2012): heads of animals, a folder each.

The set's twenty-first folder, `Natural`, holds landscapes and no animal: it is left out.
"""

from cgt.data.sources import Request, Source
from cgt.data.sources.folder import of_classes
from cgt.data.sources.picture_files import inside, subfolders
from cgt.errors import UserError

INPUT = "the folder of AnimalFace, with one subfolder of pictures (BearHead, CatHead ...) for each animal"
SPLITS = ("all",)
SIZE = 128
INNER = "Image"
"""The folder of the archive that holds the classes."""
_NO_ANIMAL = "natural"


def read(request: Request) -> Source:
    """Every picture file of every animal, sorted.

    Raises:
        UserError: the input is no folder or has no animal's subfolder, or a link in it leads elsewhere.
    """
    assert request.path is not None
    if not request.path.is_dir():
        raise UserError(f"{request.path} is not a folder: the input of animalface is {INPUT}.")
    root = request.path.resolve()
    if inside(root / INNER, root).is_dir():
        root /= INNER
    classes = [name for name in subfolders(root, root) if name.casefold() != _NO_ANIMAL]
    if not classes:
        raise UserError(f"{request.path} has no animal's subfolder: the input of animalface is {INPUT}.")
    return of_classes(root, classes)
