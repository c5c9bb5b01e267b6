"""Every recipe on a transformer whose inputs are several tensors of texts of different lengths."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sharpkit import RECIPES
from sharpkit.core.task import Batch
from sharpkit.models.huggingface import Classifier
from sharpkit.recipes.optimizer import SharpnessAware
from tests.recipes.test_trajectories import MODULES, text

transformers = pytest.importorskip("transformers")

FULL = [text(name, case) for name in RECIPES for case in MODULES[name].CASES[:1]]
"""Every recipe where it does all that it can."""

NAMES = list(dict.fromkeys([*RECIPES, *FULL]))
SHORT = [rule for rule in RECIPES if not rule.startswith("ssam")]
"""What needs no gradients of single samples, of which a transformer has one pass each."""

CASES = [rule if rule in SHORT else pytest.param(rule, marks=pytest.mark.slow) for rule in NAMES]
STEPS, SIZE, WORDS = 4, 7, 30
FIELDS = ("input_ids", "token_type_ids", "attention_mask")


class Stacked(nn.Module):
    """The same network with its inputs as one tensor, (B, 3, L), which is how every other model is called."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, inputs):
        return self.classifier(**dict(zip(FIELDS, inputs.unbind(1), strict=True)))


def network(dropout):
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=3,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    return Classifier(transformers.BertForSequenceClassification(config)).double()


def texts(seed, count=SIZE):
    """Inputs as a dict, with every text of another length, and targets."""
    draws = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (count,), generator=draws)
    width = int(lengths.max())
    mask = (torch.arange(width) < lengths[:, None]).long()
    ids = torch.randint(1, WORDS, (count, width), generator=draws) * mask
    kinds = (torch.arange(width) >= (lengths // 2)[:, None]).long() * mask
    return dict(zip(FIELDS, (ids, kinds, mask), strict=True)), torch.randint(0, 3, (count,), generator=draws)


def trained(rule, *, stacked=False, dropout=0.0, accumulate=1):
    """The weights after some steps, and what was counted."""
    model = network(dropout)
    whole = Stacked(model) if stacked else model

    def form(inputs):
        return torch.stack([inputs[name] for name in FIELDS], 1) if stacked else inputs

    def draw(count, generator):
        inputs, targets = texts(99, count)
        return form(inputs), targets

    options = {"total_steps": STEPS, "steps_per_epoch": 2, "samples": 3 * SIZE, "draw": draw, "accumulate": accumulate}
    base = torch.optim.AdamW(whole.parameters(), lr=1e-3, eps=1e-4)  # or rounding decides where a gradient is zero
    opt = SharpnessAware(whole, base, rule, loss=functional.cross_entropy, **options)
    torch.manual_seed(0)
    whole.train()
    for t in range(STEPS):
        inputs, targets = texts(t % 2)
        opt.step(Batch(form(inputs), targets, torch.arange(SIZE) + SIZE * (t % 2)))
    return [p.detach().clone() for p in model.parameters()], opt.counters()


@pytest.mark.parametrize("rule", CASES)
def test_several_tensors_are_trained_on_as_one_is(rule):
    """Bit for bit, dropout included: shards, chosen rows, kept batches and drawn samples are cut alike."""
    several, counted = trained(rule, dropout=0.1)
    one, expected = trained(rule, stacked=True, dropout=0.1)
    assert counted == expected
    assert all(torch.equal(a, b) for a, b in zip(several, one, strict=True))
    start = network(0.1)
    assert all(
        not torch.equal(a, p) for (name, p), a in zip(start.named_parameters(), several, strict=True)
        if "position" not in name and "key.bias" not in name  # softmax does not see a shift of all its inputs
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("rule", NAMES)
def test_micro_batches_of_texts_add_up_to_the_batch(rule):
    whole, _ = trained(rule)
    cut, _ = trained(rule, accumulate=3)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-10)


def test_an_embedding_that_is_not_used_has_no_gradient_and_stays():
    """Without weight decay a word that never occurs keeps its vector through both passes."""
    model = network(0.0)
    opt = SharpnessAware(model, torch.optim.SGD(model.parameters(), lr=0.1), "sam", loss=functional.cross_entropy)
    inputs, targets = texts(0)
    unused = torch.tensor([i for i in range(WORDS) if i not in inputs["input_ids"]])
    before = model.module.bert.embeddings.word_embeddings.weight.detach().clone()
    opt.step((inputs, targets))
    after = model.module.bert.embeddings.word_embeddings.weight.detach()
    assert len(unused) > 0
    assert torch.equal(before[unused], after[unused])
    assert not torch.equal(before, after)
