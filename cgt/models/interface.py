"""What a generator offers by name: pictures of its classes, and the way to and from the Hugging Face hub.

The methods of the hub have the names and arguments of `huggingface_hub.ModelHubMixin`. Not its code: that
writes a config and a card of its own, takes the old config away before there is a new one, and would have to
be imported with every generator.

Shapes: N pictures, Z latent size, J classes that are mixed, R resolution.
"""

import inspect
import math
import operator
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.models.mixes import Wanted, wanted_mixes

if TYPE_CHECKING:
    import cgt

LEAST_TRUNCATION = 0.01
"""As `cgt sample` has it."""


class GeneratorInterface:
    """Of `Generator`, what is neither a layer nor arithmetic."""

    provenance: Mapping[str, Any] = {}
    """How the model came to be, in plain values, as its folder says; of a fresh one there is nothing."""

    def sample(
        self,
        classes: Wanted = None,
        n: SupportsIndex = 1,
        *,
        truncation: float | None = None,
        seed: SupportsIndex = 0,
        batch_size: int = 64,
    ) -> Tensor:
        """Pictures of chosen classes: uint8 (len(classes) * n, 3, R, R) in 0..255, on the CPU.

        First the n pictures of the first class, then those of the second. They are those that `cgt sample`
        writes into a folder with the same seed and truncation: a picture is a function of the seed, the name
        of its class and its number, whatever else is drawn with it. (Batches of another size are rounded
        otherwise, which can move a colour by 1.) So more pictures of a class begin with the fewer ones.

        Args:
            classes: names, ids (indices into `classes`), and mixes of classes such as
                "tench:0.5+alley:0.5"; or one of these; None for all classes.
            n: pictures of each, from 1.
            truncation: draw latents from N(0, 1) cut off at plus and minus this, from 0.01: less variety,
                better pictures. None for all of N(0, 1). Where statistics go by truncation (published
                BigGAN-deep): multiply latents cut off at 2 by this, at most 1; None for 1.
            seed: from 0.
            batch_size: pictures made at once, on the device where the generator is.

        Raises:
            UserError: an argument is out of these ranges, or the generator is in training mode.
            RunError: the generator makes values that are not finite.

        >>> images = generator.sample(["alley", "tench"], n=2, truncation=0.5)
        >>> images.shape, images.dtype
        (torch.Size([4, 3, 8, 8]), torch.uint8)
        >>> generator.sample("tench:0.5+alley:0.5", n=3, seed=1).shape
        torch.Size([3, 3, 8, 8])
        >>> generator.sample(["aley"])
        Traceback (most recent call last):
        cgt.errors.UserError: classes 'aley': the model has no class 'aley' (did you mean 'alley'?). ...
        """
        from cgt.models.sampling import latent_range, own_latents, pictures_of

        generator = cast("cgt.Generator", self)
        generator.refuse_training()
        if truncation is not None and not LEAST_TRUNCATION <= truncation < math.inf:
            raise UserError(
                f"truncation={truncation!r}: give a number from {LEAST_TRUNCATION} on, such as 0.5, or None."
            )
        count, seed = _whole("n", n, 1), _whole("seed", seed, 0)
        batch_size = _whole("batch_size", batch_size, 1)
        latent_range(generator, truncation)  # refuses what it has no statistics for
        mixes = wanted_mixes(classes, generator.classes)
        wanted = [(mix, number) for mix in mixes for number in range(count)]
        drawn = own_latents(generator, wanted, seed=seed, truncation=truncation)
        return torch.stack(list(pictures_of(generator, drawn, batch_size, truncation=truncation)))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> Self:
        """What `cgt.load_generator` gives of a folder, or of a repository of the Hugging Face hub.

        Of a repository `config.json`, `generator.safetensors` and `README.md` are fetched, into the hub's
        cache, and nothing else; nothing in them is executed. A folder needs no network.

        Args:
            pretrained_model_name_or_path: a model folder or a run folder; else a repository, "owner/name".
            force_download: fetch again what is in the cache.
            token: of the hub; None for the one that `hf auth login` stored, False for none.
            cache_dir: in place of the hub's cache.
            local_files_only: take what is in the cache, and ask no other host.
            revision: a branch, a tag or a commit of the repository.

        Raises:
            UserError: there is no such folder or repository, or it holds no model that can be read.
            RunError: the hub can't be reached.

        >>> from cgt import Generator
        >>> Generator.from_pretrained("models/source").classes
        ['tench', 'alley']
        """
        import cgt

        path = Path(pretrained_model_name_or_path)
        if not path.is_dir():
            from cgt.models.hub import fetched

            path = fetched(
                str(pretrained_model_name_or_path),
                force_download=force_download,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                revision=revision,
            )
        return cast(Self, cgt.load_generator(path))

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        license: str | None = None,  # noqa: A002
        overwrite: bool = False,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write a model folder, whole or not at all: config, weights, a card with a grid of pictures.

        What `load_generator` gave is folded, and so is the folder: smaller, quicker to load, and no place to
        train all of the generator from. To keep that, take `load_generator(path, fold=False)`.

        Args:
            save_directory: its place.
            repo_id: with `push_to_hub`, the repository; by default it is called as the folder.
            push_to_hub: upload it as well.
            license: of the model, as the hub writes licences ("cc-by-4.0"), for the card. By default what
                the model's provenance has, or that it is unknown.
            overwrite: replace the model folder that stands there.
            push_to_hub_kwargs: further arguments of `push_to_hub`.

        Returns:
            The address of the upload, or None.

        Raises:
            UserError: the folder exists, and `overwrite` is false or it is no model folder; or the generator
                is in training mode.
            RunError: the disk is full.

        >>> generator.save_pretrained("models/again", license="cc-by-4.0")
        >>> type(generator).from_pretrained("models/again").provenance["license"]
        'cc-by-4.0'
        """
        import cgt

        if push_to_hub_kwargs and not push_to_hub:
            raise TypeError(f"{', '.join(push_to_hub_kwargs)}: only with push_to_hub=True")
        generator = cast("cgt.Generator", self)
        generator.refuse_training()
        if push_to_hub:  # what it does not take is refused before anything is written
            inspect.signature(self.push_to_hub).bind("", **push_to_hub_kwargs)
        provenance = {**self.provenance, **({} if license is None else {"license": license})}
        folder = Path(save_directory)
        cgt.save_model(folder, generator, provenance=provenance, overwrite=overwrite)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.resolve().name, license=license, **push_to_hub_kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload a generator of cgt",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        allow_patterns: list[str] | str | None = None,
        ignore_patterns: list[str] | str | None = None,
        delete_patterns: list[str] | str | None = None,
        license: str | None = None,  # noqa: A002
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub, in one commit.

        Args:
            repo_id: the repository, "owner/name"; it is made where there is none.
            commit_message: of the commit.
            private: whether a repository that is made is private; None for the owner's default.
            token: of the hub; None for the one that `hf auth login` stored.
            branch: of the repository, which must be there; None for `main`.
            create_pr: open a pull request with the commit.
            allow_patterns: upload the files alone that match one of these.
            ignore_patterns: leave out those that match one of these.
            delete_patterns: remove files of the repository that match one of these.
            license: as `save_pretrained` has it.

        Returns:
            The address of the commit.

        Raises:
            UserError: no name of a repository, or the generator is in training mode.
            RunError: the hub can't be reached, or refuses.
        """
        from cgt.models.hub import published

        with tempfile.TemporaryDirectory(prefix="cgt-") as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder, license=license)
            return published(
                folder,
                repo_id,
                private=private,
                token=token,
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
                delete_patterns=delete_patterns,
            )

    def refuse_training(self) -> None:
        """Refuse a generator whose pictures would be of batch statistics, and change its running ones.

        Raises:
            UserError: it is in training mode.
        """
        if cast("cgt.Generator", self).training:
            raise UserError("the generator is in training mode: call its eval() first.")


def check_inputs(z_NZ: Tensor, y: Tensor, dim_z: int, ids: range) -> None:
    """Refuse latents of another size and, on the CPU, ids that no class has.

    On a GPU a look at the ids would have to wait for all that was asked of it before; there they end in
    torch's own error. What is traced has no values to look at.

    Args:
        z_NZ: latents.
        y: int64 ids of any shape.
        dim_z: Z of the generator.
        ids: those that there are.

    Raises:
        ValueError: naming the size, or an id that is out of range.
    """
    if z_NZ.shape[1] != dim_z:
        raise ValueError(
            f"z has {z_NZ.shape[1]} numbers a picture, and this generator takes {dim_z}: use its dim_z"
        )
    traced = torch.compiler.is_compiling() or type(y) is not Tensor
    if not traced and y.device.type == "cpu" and y.numel():
        least, most = map(int, y.aminmax())
        if least < ids.start or most >= ids.stop:
            raise ValueError(
                f"there is no class {least if least < ids.start else most}: ids are {ids.start} to "
                f"{ids.stop - 1}, indices into the generator's classes"
                + (", of its last bank while it is trained" if ids.start else "")
            )


def _whole(name: str, value: SupportsIndex, least: int) -> int:
    """A whole number of at least `least`."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise UserError(f"{name}={value!r}: give a whole number from {least} on.")
    return number
