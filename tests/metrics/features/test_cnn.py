"""The small classifier: what it learns, what is held out, and its folder."""

import json

import pytest
import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.features import cnn, load_extractor
from cgt.metrics.features.cnn_training import CnnTraining, augmented, batch_indices, split, train
from cgt.models.classifier import widths

CLASSES = ("left", "right", "middle")


def pictures(per_class: int = 20, size: int = 8) -> tuple[Tensor, Tensor]:
    """A bright column at a place that depends on the class, over noise."""
    y_N = torch.arange(len(CLASSES)).repeat(per_class)
    x_N3RR = torch.randint(100, (len(y_N), 3, size, size), dtype=torch.uint8)
    for label, column in enumerate((1, size - 2, size // 2)):
        x_N3RR[y_N == label, :, :, column] += 150
    return x_N3RR, y_N


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    x, y = pictures()
    losses: list[float] = []
    model, description = train(x, y, CLASSES, CnnTraining(steps=30), losses.append)
    assert len(losses) == 30
    return model, description


@pytest.fixture
def folder(trained, tmp_path):
    cnn.save(tmp_path / "features", *trained)
    return tmp_path / "features"


def test_a_short_training_tells_easy_classes_apart_in_pictures_it_never_saw(trained):
    model, description = trained
    x, y = pictures(per_class=50)
    logits = model(x).logits_NK
    assert (logits.argmax(1) == y).float().mean() > 0.95
    assert description.held_out_accuracy > 0.8


def test_equal_seeds_give_equal_weights_and_other_seeds_others():
    x, y = pictures()

    def weights(seed: int) -> list[Tensor]:
        model, _ = train(
            x, y, CLASSES, CnnTraining(steps=3, seed=seed, shift=1, flip=True), lambda loss: None
        )
        return list(model.state_dict().values())

    first = weights(0)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, weights(1), strict=True))


def test_training_leaves_the_global_generator_and_the_number_of_threads_alone():
    x, y = pictures()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    before = torch.get_num_threads()
    train(x, y, CLASSES, CnnTraining(steps=1), lambda loss: None)
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == before


def test_features_are_64_and_do_not_depend_on_the_batch(trained):
    model, _ = trained
    x, _ = pictures()
    whole = model(x).pooled_ND
    assert whole.shape == (60, 64)
    assert torch.allclose(torch.cat([model(part).pooled_ND for part in x.split(7)]), whole, atol=1e-5)


def test_the_folder_gives_the_same_extractor_back(trained, folder):
    model, description = trained
    loaded = load_extractor(str(folder))
    x, _ = pictures()
    assert torch.equal(loaded(x).pooled_ND, model(x).pooled_ND)
    assert torch.equal(loaded(x).logits_NK, model(x).logits_NK)
    assert (loaded.name, loaded.classes, loaded.resolution, loaded.dim) == ("cnn", CLASSES, 8, 64)
    assert not loaded.training
    config = json.loads((folder / "config.json").read_text())
    assert config["held_out_accuracy"] == description.held_out_accuracy
    assert config["sha256"] == loaded.sha256


def test_saving_replaces_a_folder_whole(trained, folder):
    (folder / "stray").touch()
    cnn.save(folder, *trained)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    "damage",
    ["weights", "no weights", "no config", "not JSON", "version", "widths", "no widths", "another extractor"],
)
def test_a_damaged_folder_is_refused(folder, damage):
    config = json.loads((folder / "config.json").read_text())
    if damage == "weights":
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "model.safetensors").write_bytes(content)
    elif damage == "no weights":
        (folder / "model.safetensors").unlink()
    elif damage == "no config":
        (folder / "config.json").unlink()
    elif damage == "not JSON":
        (folder / "config.json").write_text("{")
    else:
        changes = {
            "version": {"format_version": 2},
            "widths": {"widths": [8]},
            "no widths": {"widths": []},
            "another extractor": {"extractor": "vgg"},
        }
        (folder / "config.json").write_text(json.dumps(config | changes[damage]))
    with pytest.raises(
        UserError, match="train it again|train the extractor again|holds no feature|extractor is called"
    ):
        load_extractor(str(folder))


def test_held_out_pictures_are_a_share_of_each_class_and_none_is_trained_on():
    _, y = pictures(per_class=20)
    training, held_out = split(y, CLASSES, CnnTraining(held_out_share=0.25))
    assert torch.equal(y[held_out].bincount(), torch.tensor([5, 5, 5]))
    assert torch.equal(torch.cat([training, held_out]).sort().values, torch.arange(60))


def test_a_class_of_one_picture_is_refused_by_name():
    y = torch.tensor([0, 0, 1, 1, 2])
    with pytest.raises(UserError, match="'middle' has 1 picture"):
        split(y, CLASSES, CnnTraining())


def test_a_single_class_is_refused():
    x, y = pictures()
    with pytest.raises(UserError, match="two classes"):
        train(x, y, ("only",), CnnTraining(steps=1), lambda loss: None)


def test_an_epoch_shows_every_picture_once():
    seen = torch.cat([batch_indices(100, step, seed=0) for step in range(25)])
    assert torch.equal(seen.bincount(), torch.full((100,), 16))
    assert torch.equal(seen[:100].sort().values, torch.arange(100))
    assert not torch.equal(seen[:100], seen[100:200])


def test_flips_mirror_about_half_of_the_pictures():
    x, _ = pictures(per_class=100)
    flipped = augmented(x, 0, CnnTraining(flip=True))
    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    assert torch.equal(flipped[~mirrored], x[~mirrored])
    assert 0.4 < mirrored.float().mean() < 0.6


def test_shifts_move_pictures_by_at_most_what_is_asked():
    x = torch.zeros(200, 3, 9, 9, dtype=torch.uint8)
    x[:, :, 4, 4] = 255
    places = augmented(x, 0, CnnTraining(shift=2))[:, 0].nonzero()
    assert len(places) == 200
    offsets = places[:, 1:] - 4
    assert {tuple(offset) for offset in offsets.tolist()} == {
        (i, j) for i in range(-2, 3) for j in range(-2, 3)
    }


@pytest.mark.parametrize("size", [4, 8, 28, 32, 128])
def test_any_picture_size_ends_in_64_features(size):
    model = cnn.SmallCnn(CLASSES, size, widths(size)).eval()
    assert model(torch.zeros(1, 3, size, size, dtype=torch.uint8)).pooled_ND.shape == (1, 64)
    assert widths(size)[-1] == model.dim == 64
