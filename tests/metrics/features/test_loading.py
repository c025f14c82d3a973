"""How an extractor is found by what a person types."""

import pytest

from cgt.errors import UserError
from cgt.metrics.features import load_extractor


def test_a_misspelt_name_is_refused_with_a_guess():
    with pytest.raises(UserError, match=r"'inception-ft' \(did you mean 'inception-tf'\?\)"):
        load_extractor("inception-ft")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*/mine.*cgt features train"):
        load_extractor(str(tmp_path / "mine"))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "biggan"}')
    with pytest.raises(UserError, match="holds no feature extractor"):
        load_extractor(str(tmp_path))


def test_weights_beside_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds weights of its own"):
        load_extractor(str(tmp_path), "file.pth")


def test_the_trained_extractor_needs_a_folder():
    with pytest.raises(UserError, match="is a folder of its own"):
        load_extractor("cnn")
