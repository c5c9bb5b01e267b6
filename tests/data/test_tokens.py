"""Token numbers on the device: batches as long as their longest text, the same whatever else is in them."""

from dataclasses import replace

import pytest
import torch

from sharpkit.data.loader import Loader
from sharpkit.data.part import drawn, in_order
from sharpkit.data.split import split
from sharpkit.data.text import Corpus, Texts
from sharpkit.data.tokens import tokenised
from sharpkit.errors import UsageError


class Letters:
    """A token a letter; fields as BERT's, padded with 9 and 7 so that a mix-up shows."""

    padding = {"input_ids": 9, "token_type_ids": 7}  # noqa: RUF012
    longest = 12

    def __call__(self, first, second, length):
        pairs = zip(first, second or [""] * len(first), strict=True)
        ids, types = [], []
        for a, b in pairs:
            ids.append([ord(c) for c in (a + b)[:length]])
            types.append(([0] * len(a) + [1] * len(b))[:length])
        return {"input_ids": ids, "token_type_ids": types}


def dataset(length=6, **options):
    train = Texts(("abc", "d", "efghijkl", "mn", "o"), ("", "xy", "", "z", ""), torch.tensor([0, 1, 0, 1, 1]))
    return tokenised(Corpus("letters", train, train, 2), Letters(), length, **options)


def letters(ids):
    return ["".join(chr(i) for i in row) for row in ids.tolist()]


def test_a_batch_is_as_long_as_its_longest_text():
    part = dataset().train
    assert (len(part), part.shape) == (5, (6,))
    (batch,) = part.batches([(torch.tensor([3, 0, 4]), 0)])
    assert letters(batch.inputs["input_ids"]) == ["mnz", "abc", "o\t\t"]  # 9 is a tab
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0], [0, 7, 7]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
    assert (batch.targets.tolist(), batch.indices.tolist()) == ([1, 0, 1], [3, 0, 4])
    assert {t.dtype for t in batch.inputs.values()} == {torch.int64}


def test_a_long_text_is_cut_and_a_length_beyond_the_models_is_refused():
    (batch,) = dataset(4).train.batches([(torch.tensor([2]), 0)])
    assert letters(batch.inputs["input_ids"]) == ["efgh"]
    with pytest.raises(UsageError, match=r"max-length is 13, the model takes 12.*--max-length 12"):
        dataset(13)


def test_even_batches_have_one_length():
    shapes = {b.inputs["input_ids"].shape for b in dataset(even=True).train.batches(in_order(4, 2))}
    assert shapes == {(2, 6)}


def test_taking_drawing_and_splitting_keep_texts_and_targets_together():
    data = dataset()
    taken = data.train.take(torch.tensor([4, 2, 1]))
    assert letters(taken.together().inputs["input_ids"]) == ["o\t\t\t\t\t", "efghij", "dxy\t\t\t"]
    assert taken.indices.tolist() == [4, 2, 1]
    inputs, targets = drawn(data.train, 3, torch.Generator().manual_seed(0))
    rows = torch.randperm(5, generator=torch.Generator().manual_seed(0))[:3]
    assert torch.equal(targets, data.train.targets[rows])
    assert letters(inputs["input_ids"]) == letters(data.train.take(rows).together().inputs["input_ids"])
    parts = split(data, val_frac=0.4, label_noise=0, limit=None, seed=0)
    assert sorted([*parts.train.indices.tolist(), *parts.val.indices.tolist()]) == [0, 1, 2, 3, 4]


def test_a_pass_over_all_goes_from_short_to_long_and_misses_nothing():
    part = replace(dataset().train)
    order = torch.cat([rows for rows, _ in part.whole()])
    assert order.tolist() == [4, 0, 1, 3, 2]
    wide = dataset(12).train
    chunks = [rows for rows, _ in replace(wide, fields={"input_ids": torch.zeros(5, 2**13)}).whole()]
    assert [len(rows) for rows in chunks] == [2, 2, 1]


def test_a_loader_shuffles_by_seed_and_epoch():
    data = dataset()
    first, again, other = (
        [b.indices.tolist() for b in Loader(data.train, 2, 3, data).epoch(number)] for number in (0, 0, 1)
    )
    assert first == again != other


def test_the_checksum_sees_tokens_lengths_and_targets():
    part = dataset().train
    ids = part.fields["input_ids"].clone()
    ids[0, 0] += 1
    others = [
        replace(part, fields={**part.fields, "input_ids": ids}),
        replace(part, lengths=part.lengths + 1),
        part.relabelled(1 - part.targets),
    ]
    assert len({p.checksum(0) for p in (part, *others)}) == 4


def test_a_corpus_without_a_test_part_is_cut_class_by_class():
    train = Texts(tuple("abcdefghi"), None, torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1]))
    data = tokenised(Corpus("cut", train, None, 2), Letters(), 4)
    assert sorted(data.test.targets.tolist()) == [0, 1, 1]
    assert len(data.train) == 6
