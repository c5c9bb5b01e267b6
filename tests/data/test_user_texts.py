"""What a user's function may return as texts, and what it may not."""

import numpy as np
import pytest
import torch

from sharpkit.data.text import Corpus
from sharpkit.data.user_texts import holds_texts, texts_from_user
from sharpkit.errors import InputError

TEXTS = ["good", "bad", "fine", "dull", "fair", "grim"]
NAMES = ["pos", "neg", "pos", "neg", "pos", "neg"]
PAIRS = [(a, b) for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]


@pytest.mark.parametrize("shape", [list, tuple, np.array, lambda x: np.array(x, dtype=object)])
@pytest.mark.parametrize(
    ("labels", "targets"),
    [
        (NAMES, [1, 0] * 3),
        ([1, 0] * 3, [1, 0] * 3),
        (np.array([1, 0] * 3, np.int8), [1, 0] * 3),
        (torch.tensor([1, 0] * 3), [1, 0] * 3),
        ([True, False] * 3, [1, 0] * 3),
        (["10", "9"] * 3, [1, 0] * 3),
    ],
)
def test_texts_with_labels(shape, labels, targets):
    given = (shape(TEXTS), labels)
    assert holds_texts(given)
    corpus = texts_from_user("f.t", given)
    assert (corpus.name, corpus.train.first, corpus.train.second) == ("f.t", tuple(TEXTS), None)
    assert all(type(text) is str for text in corpus.train.first)
    assert corpus.train.targets.tolist() == targets
    assert corpus.train.targets.dtype == torch.int64
    assert (corpus.test, corpus.classes, corpus.metrics) == (None, 2, ("acc",))


@pytest.mark.parametrize("outer", [list, tuple])
@pytest.mark.parametrize("inner", [list, tuple])
def test_a_test_part_of_two_texts_is_no_pair(outer, inner):
    """Two texts with two names look like two pairs of texts at first sight."""
    given = outer([outer([inner(TEXTS[:2]), inner(NAMES[:2])]), outer([inner(TEXTS[2:4]), inner(NAMES[:2])])])
    corpus = texts_from_user("f.t", given)
    assert (corpus.train.first, corpus.train.second) == (("good", "bad"), None)
    assert (corpus.test.first, corpus.test.targets.tolist()) == (("fine", "dull"), [1, 0])


def test_pairs_and_a_class_that_only_the_numbers_say():
    corpus = texts_from_user("f.t", ((PAIRS, [0, 2] * 3), ([list(pair) for pair in PAIRS[:2]], [1, 1])))
    assert (corpus.train.first, corpus.train.second) == (tuple(TEXTS), tuple(TEXTS[::-1]))
    assert (corpus.test.second, corpus.classes) == (("grim", "fair"), 3)
    assert texts_from_user("f.t", (PAIRS[:2], [1, 1])).train.second == ("grim", "fair")


def test_numbers_to_be_predicted():
    corpus = texts_from_user("f.t", ((TEXTS, [0.0, 1, 2.5, 1, 1, 1]), (TEXTS[:2], [1, 2])))
    assert (corpus.classes, corpus.metrics) == (1, ("pearson", "spearman"))
    assert corpus.train.targets.tolist() == [0, 1, 2.5, 1, 1, 1]
    assert corpus.test.targets.dtype == torch.float32


def test_a_corpus_is_taken_as_it_is_and_numbers_are_no_texts():
    made = texts_from_user("f.t", (TEXTS, NAMES))
    assert isinstance(made, Corpus)
    assert holds_texts(made)
    assert texts_from_user("other", made) is made
    assert not holds_texts((torch.zeros(3, 2), torch.zeros(3)))
    assert not holds_texts(([[1.0, 2.0]], [0]))
    assert not holds_texts([])
    assert not holds_texts(None)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (TEXTS, r"returned other texts: allowed are \(texts, labels\), "),
        ("text", "returned other texts"),
        ((TEXTS, NAMES, NAMES), "returned other texts"),
        (((TEXTS, NAMES), (TEXTS, NAMES, NAMES)), "returned other texts"),
        ((TEXTS, NAMES[:5]), "there are 6 texts and 5 labels"),
        (([], []), "labels are neither"),
        (([*TEXTS[:5], 3], NAMES), "text 5 is 3, allowed are strings"),
        (([*TEXTS[:5], ("a", "b", "c")], NAMES), r"text 5 is \('a', 'b', 'c'\), allowed are strings"),
        ((TEXTS, [*NAMES[:5], 1]), "labels are neither all names nor all numbers"),
        ((TEXTS, [None] * 6), "labels are neither all names nor all numbers"),
        ((TEXTS, ["pos"] * 6), "class numbers up to 0"),
        ((TEXTS, [-1, 0, 1, 1, 1, 1]), "class numbers up to 1, allowed are 0, 1"),
        ((TEXTS, [0, 700, 1, 1, 1, 1]), "6 texts have class numbers up to 700"),
        ((TEXTS, [0.5] * 6), "labels are numbers to be predicted, and no test set can be cut"),
        (((TEXTS, [0.5] * 6), (TEXTS, [float("nan")] * 6)), "not finite"),
        ((TEXTS[:2], NAMES[:2]), "2 texts are too few"),
        (((TEXTS, NAMES), (TEXTS[:1], ["other"])), "the class 'other' is not in the training texts"),
        (([*TEXTS[:5], PAIRS[0]], NAMES), "some texts are pairs, and some are not"),
        (((TEXTS, NAMES), (PAIRS, NAMES)), "some texts are pairs, and some are not"),
    ],
)  # fmt: skip
def test_what_is_refused(returned, told):
    with pytest.raises(InputError, match=told) as caught:
        texts_from_user("f.t", returned)
    assert caught.value.exit_code == 3
