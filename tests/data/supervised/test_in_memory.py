"""A batch is a function of (seed, batch number, rank), and no row is lost or duplicated between batches and ranks."""

from itertools import chain, islice

import pytest
import torch
from torch import nn

from dlref.data.supervised.in_memory import InMemory
from dlref.data.supervised.spiral import Spiral
from dlref.errors import DataError
from dlref.interfaces import Shard

NET = nn.Linear(1, 1, dtype=torch.float64)
ALONE = Shard()


class Numbered(InMemory):
    """Row i holds the number i."""

    def __init__(self, rows: int, batch_size: int, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        self.classes = ["a"]
        numbers = torch.arange(rows)
        self.splits = {
            "train": (numbers[:, None], numbers),
            "eval": (numbers[:, None] + 100, numbers),
            "empty": (numbers[:0], numbers[:0]),
        }


def seen(data: InMemory, count: int, shard: Shard = ALONE, first: int = 0) -> list[list[int]]:
    return [batch.targets.tolist() for batch in islice(data.train_batches(NET, shard, first), count)]


@pytest.mark.parametrize(("rows", "size"), [(7, 3), (7, 7), (3, 8), (1, 4), (12, 4)])
def test_every_epoch_takes_each_row_once_in_another_order(rows: int, size: int) -> None:
    data = Numbered(rows, size)
    flat = [*chain(*seen(data, 6 * rows))]
    epochs = [flat[i : i + rows] for i in range(0, len(flat) - rows + 1, rows)]
    assert all(sorted(epoch) == list(range(rows)) for epoch in epochs)
    if rows > 3:
        assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_parts_of_all_ranks_are_the_whole_batch(ranks: int) -> None:
    data = Numbered(7, 4)
    shares = [seen(data, 9, Shard(rank, ranks)) for rank in range(ranks)]
    assert [[*chain(*parts)] for parts in zip(*shares, strict=True)] == seen(data, 9)
    targets = [batch.targets for rank in range(ranks) for batch in data.batches("eval", NET, Shard(rank, ranks))]
    assert torch.cat(targets).tolist() == list(range(7))


def test_a_batch_does_not_depend_on_earlier_ones() -> None:
    data = Numbered(7, 3)
    assert seen(data, 12)[5:] == seen(data, 7, first=5)


def test_seeds_shuffle_differently() -> None:
    assert seen(Numbered(50, 50, seed=0), 1) != seen(Numbered(50, 50, seed=1), 1)


def test_a_missing_split_is_refused_with_the_names_of_the_others() -> None:
    for split in ("test", "empty"):
        with pytest.raises(DataError, match=f"no '{split}' split; it has train, eval"):
            list(Numbered(3, 2).batches(split, NET, Shard()))


def test_batches_have_the_dtype_of_the_network() -> None:
    assert next(Numbered(3, 2).train_batches(NET, Shard(), 0)).inputs.dtype == torch.float64


def test_a_spiral_depends_on_its_seed_and_its_splits_share_no_point() -> None:
    a, again, b = Spiral(points=20), Spiral(points=20), Spiral(points=20, seed=1)
    assert torch.equal(a.splits["train"][0], again.splits["train"][0])
    assert not torch.equal(a.splits["train"][0], b.splits["train"][0])
    points = torch.cat([inputs for inputs, _ in a.splits.values()])
    assert len(points.unique(dim=0)) == 3 * 3 * 20
