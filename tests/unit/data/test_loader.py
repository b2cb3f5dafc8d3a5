"""Batches as pure functions: the stream of permutations, ranks, copies, augmentation, text windows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.augmentation import all_crops_and_flips
from pennyweight.data import Augment, ImageDataset, TextDataset, batch_at, eval_batches, load_dataset, text_batch_at
from pennyweight.errors import DataError

AUGMENT = Augment(crop_padding=2, flip=True, cutout=3)


def dataset(count: int = 10, channels: int = 1, size: int = 6) -> ImageDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    centre = (128 / 255,) * channels
    labels = torch.arange(count) % 3
    return ImageDataset(
        images=images, labels=labels, num_classes=3, mean=centre, std=centre, name="noise", split="train"
    )


DATA = dataset()


def test_each_epoch_is_a_permutation_of_its_own() -> None:
    epochs = [batch_at(DATA, first_sample=10 * e, batch_size=10, seed=0).indices for e in range(3)]
    assert all(epoch.sort().values.equal(torch.arange(10)) for epoch in epochs)
    assert not epochs[0].equal(epochs[1])
    assert not epochs[0].equal(batch_at(DATA, first_sample=0, batch_size=10, seed=1).indices)


@settings(max_examples=40, deadline=None)
@given(first=st.integers(0, 60), cut=st.integers(1, 24), size=st.integers(2, 25))
def test_the_stream_does_not_depend_on_how_it_is_cut(first: int, cut: int, size: int) -> None:
    cut = min(cut, size - 1)
    whole = batch_at(DATA, first_sample=first, batch_size=size, seed=3, augment=AUGMENT)
    left = batch_at(DATA, first_sample=first, batch_size=cut, seed=3, augment=AUGMENT)
    right = batch_at(DATA, first_sample=first + cut, batch_size=size - cut, seed=3, augment=AUGMENT)
    assert torch.cat([left.indices, right.indices]).equal(whole.indices)
    assert torch.cat([left.inputs, right.inputs]).equal(whole.inputs)
    assert torch.cat([left.targets, right.targets]).equal(whole.targets)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_the_batch_of_one(world_size: int) -> None:
    whole = batch_at(DATA, first_sample=5, batch_size=13, seed=0, augment=AUGMENT)
    for rank in range(world_size):
        part = batch_at(DATA, first_sample=5, batch_size=13, seed=0, augment=AUGMENT, rank=rank, world_size=world_size)
        assert part.indices.equal(whole.indices[rank::world_size])
        assert part.inputs.equal(whole.inputs[rank::world_size])
        assert part.targets.equal(whole.targets[rank::world_size])


def test_copies_lie_one_after_another_and_differ() -> None:
    batch = batch_at(DATA, first_sample=0, batch_size=8, seed=0, augment=AUGMENT, copies=3)
    assert batch.inputs.shape == (24, 1, 6, 6)
    copies = batch.inputs.reshape(3, 8, 1, 6, 6)
    assert copies[0].equal(batch_at(DATA, first_sample=0, batch_size=8, seed=0, augment=AUGMENT).inputs)
    assert not copies[0].equal(copies[1])
    assert not copies[1].equal(copies[2])
    assert batch.targets.reshape(3, 8).eq(batch.targets[:8]).all()
    assert batch.indices.reshape(3, 8).eq(batch.indices[:8]).all()


def test_augmentation_changes_from_epoch_to_epoch_and_seed_to_seed() -> None:
    one = dataset(count=1)
    views = [
        batch_at(one, first_sample=epoch, batch_size=1, seed=seed, augment=Augment(crop_padding=2)).inputs
        for seed in range(2)
        for epoch in range(10)
    ]
    assert len({view.numpy().tobytes() for view in views}) > 8


def test_every_view_is_one_the_oracle_knows_and_all_occur() -> None:
    data = dataset(count=2, channels=2, size=4)
    centre = torch.arange(2)
    views: dict[int, set[bytes]] = {0: set(), 1: set()}
    batch = batch_at(data, first_sample=0, batch_size=2, seed=0, augment=Augment(crop_padding=1, flip=True), copies=300)
    codes = (batch.inputs * 128 + 128).to(torch.uint8)
    for index, picture in zip(batch.indices.tolist(), codes.numpy(), strict=True):
        views[index].add(picture.tobytes())
    for index in centre.tolist():
        assert views[index] == all_crops_and_flips(data.images[index].numpy(), 1, mirror=True)


def test_one_setting_does_not_shift_the_draws_of_another() -> None:
    flipped = batch_at(DATA, first_sample=0, batch_size=10, seed=0, augment=Augment(flip=True)).inputs
    both = batch_at(DATA, first_sample=0, batch_size=10, seed=0, augment=Augment(flip=True, cutout=2)).inputs
    kept = both != 0
    assert both[kept].equal(flipped[kept])


def test_without_augmentation_inputs_are_the_normalised_samples() -> None:
    batch = batch_at(DATA, first_sample=4, batch_size=9, seed=0)
    assert batch.inputs.equal(DATA.normalize(DATA.images[batch.indices]))
    assert batch.targets.equal(DATA.labels[batch.indices])
    assert len(batch) == 9


def test_the_global_generator_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    batch_at(DATA, first_sample=0, batch_size=4, seed=0, augment=AUGMENT, copies=2)
    assert torch.random.get_rng_state().equal(state)


def test_the_stream_is_pinned() -> None:
    """Golden: a change here changes every recorded training run."""
    batch = batch_at(load_dataset("digits"), first_sample=1433, batch_size=8, seed=7, augment=Augment(crop_padding=1))
    assert batch.indices.tolist() == [830, 412, 753, 534, 1015, 705, 1185, 1137]
    assert int((batch.inputs * 128).sum()) == -29709


def test_image_size_resizes_after_the_augmentation() -> None:
    batch = batch_at(DATA, first_sample=0, batch_size=4, seed=0, augment=AUGMENT, image_size=12)
    assert batch.inputs.shape == (4, 1, 12, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"copies": 0}, "copies=0"),
        ({"image_size": 0}, "image_size=0"),
        ({"world_size": 0}, "world_size=0"),
        ({"first_sample": -1}, "first_sample=-1"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"rank": -1, "world_size": 2}, "rank=-1"),
        ({"world_size": 5}, "at least one sample"),
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, int], message: str) -> None:
    fields = {"first_sample": 0, "batch_size": 4, "seed": 0, **changes}
    with pytest.raises(DataError, match=message):
        batch_at(DATA, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_evaluation_sees_every_sample_once_in_order(batch_size: int) -> None:
    batches = list(eval_batches(DATA, batch_size))
    assert torch.cat([batch.indices for batch in batches]).equal(torch.arange(10))
    assert torch.cat([batch.inputs for batch in batches]).equal(DATA.normalize(DATA.images))
    assert torch.cat([batch.targets for batch in batches]).equal(DATA.labels)
    assert next(iter(eval_batches(DATA, batch_size, image_size=9))).inputs.shape[2:] == (9, 9)


def test_evaluation_refuses_an_empty_batch_at_once() -> None:
    with pytest.raises(DataError, match="batch_size=0"):
        eval_batches(DATA, 0)


TEXT = TextDataset(tokens=torch.arange(23), vocabulary=tuple("abcdefghijklmnopqrstuvw"), name="abc", split="train")


def test_text_rows_continue_from_step_to_step() -> None:
    first, second = (text_batch_at(TEXT, step=s, batch_size=2, sequence_length=3) for s in (0, 1))
    assert first.inputs.tolist() == [[0, 1, 2], [11, 12, 13]]
    assert first.targets.tolist() == [[1, 2, 3], [12, 13, 14]]
    assert second.inputs.tolist() == [[3, 4, 5], [14, 15, 16]]
    assert second.indices.tolist() == [3, 14]


def test_text_starts_again_after_the_last_whole_window() -> None:
    windows = (11 - 1) // 3
    assert text_batch_at(TEXT, step=windows, batch_size=2, sequence_length=3).inputs.tolist() == [
        [0, 1, 2],
        [11, 12, 13],
    ]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 2, 11), "too few"),
        ((0, 30, 1), "too few"),
        ((-1, 2, 3), "step=-1"),
        ((0, 0, 3), "batch_size=0"),
        ((0, 2, 0), "sequence_length=0"),
    ],
)
def test_text_numbers_out_of_range(numbers: tuple[int, int, int], message: str) -> None:
    step, batch_size, sequence_length = numbers
    with pytest.raises(DataError, match=message):
        text_batch_at(TEXT, step=step, batch_size=batch_size, sequence_length=sequence_length)
