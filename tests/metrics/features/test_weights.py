"""Where weights are looked for, how they are fetched, and what is said where they are not there."""

import dataclasses
import multiprocessing

import huggingface_hub.constants
import pytest
import torch

from cgt import catalog
from cgt.errors import RunError, UserError
from cgt.files import sha256
from cgt.metrics.features import load_extractor
from cgt.metrics.features.base import PACKAGE
from cgt.metrics.features.inception_tf import WEIGHTS

NAMED = [name for name in catalog.names(PACKAGE) if name != "cnn"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Empty caches of weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def published(tmp_path):
    """A file of tensors at a URL."""
    path = tmp_path / "server" / "weights.pth"
    path.parent.mkdir()
    torch.save({"fc.weight": torch.arange(1000.0)}, path)
    return dataclasses.replace(WEIGHTS, url=path.as_uri(), sha256=sha256(path)[:8], other_names=("same.pth",))


@pytest.mark.parametrize("name", NAMED)
def test_an_extractor_without_its_weights_says_where_to_get_them_and_how_to_give_them(name, cache):
    if name == "dinov2":
        pytest.importorskip("transformers")
    with pytest.raises(UserError, match=r"https://.* --weights \(in a config: eval\.weights\).*download"):
        load_extractor(name)


def test_a_file_is_fetched_where_it_is_asked_for_and_kept(published, cache):
    path = published.find(type(cache)("download"))
    assert path == cache / "weights.pth"
    assert torch.equal(published.read(path)["fc.weight"], torch.arange(1000.0))
    path.write_bytes(b"mine")
    assert published.find(type(cache)("download")).read_bytes() == b"mine", "it is not fetched twice"
    assert published.find(None) == path


def test_the_same_file_under_another_name_is_taken(published, cache):
    cache.mkdir(parents=True)
    (cache / "same.pth").touch()
    assert published.find(None) == cache / "same.pth"


def test_a_file_named_download_is_a_file(published, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "download").touch()
    assert published.find(type(cache)("download")).name == "download"
    assert not cache.exists()


def test_a_file_that_came_damaged_is_not_kept(published, cache):
    with pytest.raises(RunError, match=r"weights\.pth came damaged: .* not 00000000"):
        dataclasses.replace(published, sha256="00000000").fetched()
    assert [path.name for path in cache.iterdir()] == [".weights.pth.lock"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/weights.pth", "file:/nowhere/weights.pth"])
def test_without_a_network_the_file_its_source_and_the_option_are_named(published, cache, url):
    with pytest.raises(RunError) as caught:
        dataclasses.replace(published, url=url).fetched()
    for part in (f"{url} can't be fetched", "get weights.pth (96 MB)", "--weights", str(cache)):
        assert part in str(caught.value)


def test_processes_that_want_the_same_file_at_once_all_get_it(published, cache):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=published.fetched) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sha256(cache / "weights.pth").startswith(published.sha256)
