"""The way to and from the Hugging Face hub, with the hub's client in the place of the network."""

import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelHubMixin
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from cgt.errors import RunError, UserError
from cgt.models import hub
from cgt.models.biggan import Generator
from cgt.models.folder import load_generator, load_model, save_model
from tests import tiny

PROVENANCE = {"method": "bsa", "step": 7}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tiny.source(tiny.PER_LAYER)
    save_model(tmp_path / "model", source.generator, source.discriminator, provenance=PROVENANCE)
    return tmp_path / "model"


def pictures(generator: Generator) -> torch.Tensor:
    return generator.sample(n=3, seed=5)


def test_a_folder_is_loaded_as_load_generator_does(folder: Path) -> None:
    generator = Generator.from_pretrained(str(folder))
    assert torch.equal(pictures(generator), pictures(load_generator(folder)))
    assert generator.folded
    assert not generator.training
    assert generator.provenance == PROVENANCE


def test_a_discriminator_is_neither_needed_nor_read(folder: Path) -> None:
    expected = pictures(load_generator(folder))
    (folder / "discriminator.safetensors").unlink()
    assert torch.equal(pictures(Generator.from_pretrained(folder)), expected)


@pytest.mark.parametrize("fold", [True, False])
def test_what_is_saved_comes_back_to_the_bit(fold: bool, folder: Path, tmp_path: Path) -> None:
    generator = load_generator(folder, fold=fold)
    assert generator.save_pretrained(tmp_path / "again") is None
    again, _ = load_model(tmp_path / "again")
    assert again.folded == fold
    assert again.state_dict().keys() == generator.state_dict().keys()
    assert all(
        torch.equal(tensor, again.state_dict()[name]) for name, tensor in generator.state_dict().items()
    )
    assert again.provenance == PROVENANCE
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert names == {"config.json", "generator.safetensors", "README.md", "samples.png"}


def test_a_licence_is_kept_with_the_model_and_shown(folder: Path, tmp_path: Path) -> None:
    load_generator(folder).save_pretrained(tmp_path / "one", license="cc-by-4.0")
    load_generator(tmp_path / "one").save_pretrained(tmp_path / "two")
    front = (tmp_path / "two" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"


def test_what_stands_there_is_replaced_only_if_asked(folder: Path) -> None:
    generator = load_generator(folder)
    before = (folder / "config.json").read_bytes()
    with pytest.raises(UserError, match="exists already: .* add overwrite=True"):
        generator.save_pretrained(folder)
    assert (folder / "config.json").read_bytes() == before
    generator.save_pretrained(folder, overwrite=True)
    assert load_generator(folder).folded


def test_a_generator_in_training_is_not_saved(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training mode"):
        load_generator(folder).train().save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_arguments_of_an_upload_without_one_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="private: only with push_to_hub=True"):
        load_generator(folder).save_pretrained(tmp_path / "again", private=True)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["./models/none", "/models/none", "a/b/none", "models/none/"])
def test_a_folder_that_is_not_there_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(UserError, match=f"there is no folder {name}, and it is no name of a repository"):
        Generator.from_pretrained(name)


def test_what_could_be_either_is_said_to_be_neither(tmp_path: Path) -> None:
    rule = "no folder models/none, and the repository of that name .* is not in the cache"
    with pytest.raises(RunError, match=rule):
        Generator.from_pretrained("models/none", cache_dir=tmp_path, local_files_only=True)


class Hub:
    """Repositories in memory, with the methods of the hub's client that are used."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.repositories: dict[str, dict[str, bytes]] = {}

    def __call__(self, **options: Any) -> "Hub":
        self.asked.append(options)
        return self

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> SimpleNamespace:
        assert exist_ok
        self.asked.append({"private": private})
        self.repositories.setdefault(f"me/{repo_id}" if "/" not in repo_id else repo_id, {})
        return SimpleNamespace(repo_id=list(self.repositories)[-1])

    def upload_folder(self, *, repo_id: str, repo_type: str, folder_path: Path, **options: Any) -> str:
        assert repo_type == "model"
        self.asked.append(options)
        self.repositories[repo_id] = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        return f"https://huggingface.co/{repo_id}/commit/0"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """In place of the hub's client and of its download."""
    there = Hub()

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], **options: Any) -> str:
        there.asked.append(options)
        if repo_id not in there.repositories:
            raise LocalEntryNotFoundError("Cannot find it.")
        snapshot = tmp_path / "cache" / "models--me--tiny"
        snapshot.mkdir(parents=True)
        for name, content in there.repositories[repo_id].items():
            if name in allow_patterns:
                (snapshot / name).write_bytes(content)
        return str(snapshot)

    monkeypatch.setattr(hub, "HfApi", there)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return there


def test_what_is_pushed_is_what_is_fetched(folder: Path, client: Hub, tmp_path: Path) -> None:
    generator = load_generator(folder)
    address = generator.push_to_hub("me/tiny", private=True, token="t", branch="b", license="cc0-1.0")
    assert address == "https://huggingface.co/me/tiny/commit/0"
    opened, made, uploaded = client.asked
    assert (opened["token"], made["private"], uploaded["revision"]) == ("t", True, "b")
    assert set(client.repositories["me/tiny"]) == {
        "config.json",
        "generator.safetensors",
        "README.md",
        "samples.png",
    }
    again = Generator.from_pretrained("me/tiny", revision="b", token=False)
    assert (client.asked[-1]["revision"], client.asked[-1]["token"]) == ("b", False)
    assert torch.equal(pictures(again), pictures(generator))
    fetched = {path.name for path in (tmp_path / "cache" / "models--me--tiny").iterdir()}
    assert fetched == {"config.json", "generator.safetensors", "README.md"}


def test_saving_can_push_as_well(folder: Path, client: Hub, tmp_path: Path) -> None:
    address = load_generator(folder).save_pretrained(
        tmp_path / "tiny", push_to_hub=True, commit_message="First"
    )
    assert address == "https://huggingface.co/me/tiny/commit/0"
    assert client.asked[-1]["commit_message"] == "First"
    assert client.repositories["me/tiny"]["config.json"] == (tmp_path / "tiny" / "config.json").read_bytes()


def test_a_repository_without_a_model_is_refused(client: Hub) -> None:
    client.repositories["me/tiny"] = {"weights.bin": b""}
    with pytest.raises(
        UserError, match=r"me/tiny on the Hugging Face hub is no model of cgt, .* config\.json"
    ):
        Generator.from_pretrained("me/tiny")


@pytest.mark.parametrize(
    ("error", "kind", "rule"),
    [
        (
            HFValidationError("Bad name."),
            UserError,
            "'me/tiny' can't be the name of a repository \\(Bad name",
        ),
        (ConnectionError("No route.\nto host"), RunError, "me/tiny could not be uploaded .*: No route.$"),
        # The client's own errors of transport are of no kind of Python's.
        (Exception("Connection refused"), RunError, "me/tiny could not be uploaded .*: Connection refused.$"),
    ],
)
def test_an_upload_that_fails_says_why(
    error: Exception, kind: type[Exception], rule: str, folder: Path, client: Hub, monkeypatch: Any
) -> None:
    def create_repo(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(client, "create_repo", create_repo)
    with pytest.raises(kind, match=rule):
        load_generator(folder).push_to_hub("me/tiny")


@pytest.mark.parametrize("method", ["from_pretrained", "save_pretrained", "push_to_hub"])
def test_the_methods_take_what_those_of_the_hub_s_mixin_take(method: str) -> None:
    """But for a config and a template of a card, which a model folder has no use for."""
    own, theirs = (inspect.signature(getattr(kind, method)) for kind in (Generator, ModelHubMixin))
    needless = {"config", "model_card_kwargs", "model_kwargs"}
    for name, parameter in theirs.parameters.items():
        if name not in needless:
            assert own.parameters[name].kind == parameter.kind, name


def test_the_hub_s_package_is_imported_only_where_it_is_needed(folder: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from cgt import Generator
generator = Generator.from_pretrained({str(folder)!r})
generator.sample()
generator.save_pretrained({str(tmp_path / "again")!r})
sys.exit("huggingface_hub" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
