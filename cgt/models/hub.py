"""Model folders on the Hugging Face hub."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cgt.errors import RunError, UserError
from cgt.models.record import FILE

FETCHED = (FILE, "generator.safetensors", "README.md")
"""All that is fetched of a repository."""


def fetched(
    name: str, *, local_files_only: bool = False, revision: str | None = None, **options: Any
) -> Path:
    """The folder of the hub's cache with the generator of a repository.

    Args:
        name: "owner/name", which is no folder here.
        local_files_only: ask no other host.
        revision: a branch, a tag or a commit.
        options: others of `snapshot_download`.

    Raises:
        UserError: no name, no such repository or revision, or one that has no model.
        RunError: it is not in the cache, and the hub can't be reached or refuses.
    """
    here = f"there is no folder {name}"
    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=list(FETCHED),
                library_name="cgt",
                **options,
            )
        )
    except HFValidationError:
        raise UserError(
            f"{here}, and it is no name of a repository either: name a model folder, or OWNER/NAME of the "
            "Hugging Face hub."
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f"{name} on the Hugging Face hub has no revision {revision!r}: name another."
        ) from None
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{here}, and the Hugging Face hub shows no repository of that name ({_first_line(error)}): "
            "check the path, or the name; private ones need a token."
        ) from error
    except LocalEntryNotFoundError as error:
        raise RunError(
            f"{here}, and the repository of that name on the Hugging Face hub is not in the cache "
            f"({_first_line(error)}): check the path, or try again with a network."
        ) from error
    except OSError as error:
        raise RunError(
            f"{here}, and {name} could not be fetched from the Hugging Face hub: {_first_line(error)}."
        ) from error
    if not (folder / FILE).is_file():
        raise UserError(
            f"{name} on the Hugging Face hub is no model of cgt, it has no {FILE}: name one that "
            "`push_to_hub` made."
        )
    return folder


def published(folder: Path, name: str, *, private: bool | None, token: str | None, **options: Any) -> str:
    """Upload a model folder in one commit, and return the commit's address.

    Args:
        folder: complete.
        name: "owner/name" of the repository, which is made where there is none.
        private: whether it is private then.
        token: of the hub; None for the one that is stored.
        options: others of `HfApi.upload_folder`.

    Raises:
        UserError: no name of a repository.
        RunError: the hub can't be reached, or refuses.
    """
    api = HfApi(token=token, library_name="cgt")
    try:
        made = api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=made.repo_id, repo_type="model", folder_path=folder, **options))
    except HFValidationError as error:
        raise UserError(
            f"{name!r} can't be the name of a repository ({_first_line(error)}): give OWNER/NAME."
        ) from None
    except Exception as error:  # transport errors of the client are of no kind that all its versions share
        raise RunError(
            f"{name} could not be uploaded to the Hugging Face hub: {_first_line(error)}."
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
