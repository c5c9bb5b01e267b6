"""Classifiers of Hugging Face transformers in a folder: what is loaded, what is new, what is refused."""

import json
import shutil
import socket
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from sharpkit import Batch, Supervised
from sharpkit.core.layers import layerwise
from sharpkit.errors import InputError, UsageError
from sharpkit.models.huggingface import Classifier, huggingface, notes_of, tokenizer
from sharpkit.models.libraries import from_library
from tests.models.tiny import VOCABULARY, write_model

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("hf") / "tiny"
    write_model(place, classes=2)
    return place


@pytest.fixture
def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for something")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_squared_gradients_of_texts_come_from_one_pass(folder):
    """Texts of different lengths, against one text at a time without its padding."""
    model = from_library(f"hf:{folder}")((5,), 2).double().eval()
    batch, targets = tokens(4), torch.tensor([0, 1, 1, 0])
    batch["attention_mask"] = (torch.arange(5) < torch.tensor([5, 3, 2, 5])[:, None]).long()
    batch["input_ids"] *= batch["attention_mask"]
    params = list(model.parameters())
    sums = layerwise(model, Supervised(model, functional.cross_entropy), params, Batch(batch, targets))
    expected = [torch.zeros_like(p) for p in params]
    for i, length in enumerate([5, 3, 2, 5]):
        loss = functional.cross_entropy(
            model(**{k: t[i : i + 1, :length] for k, t in batch.items()}), targets[i : i + 1]
        )
        for total, g in zip(expected, torch.autograd.grad(loss, params), strict=True):
            total += g.detach() ** 2
    torch.testing.assert_close(sums, [total.detach() for total in expected], rtol=0, atol=1e-12)


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    save_file(edit(dict(weights)), folder / "model.safetensors", metadata={"format": "pt"})


def tokens(count=3, length=5):
    ids = torch.arange(5, 5 + count * length).view(count, length) % len(VOCABULARY)
    return {"input_ids": ids, "token_type_ids": 0 * ids, "attention_mask": torch.ones_like(ids)}


def test_the_weights_are_those_of_the_folder_as_float32(folder, copied):
    model = from_library(f"hf:{folder}")((5,), 2)
    assert notes_of(model) == ()
    stored = load_file(folder / "model.safetensors")
    own = model.state_dict()
    assert set(stored) == {name.removeprefix("module.") for name, _ in model.named_parameters()}
    assert all(torch.equal(own[f"module.{name}"], value) for name, value in stored.items())
    change(copied, lambda weights: {name: value.half() for name, value in weights.items()})
    assert {p.dtype for p in from_library(f"hf:{copied}")((5,), 2).parameters()} == {torch.float32}


def test_a_model_returns_its_logits_and_keeps_its_dropout(folder):
    model = huggingface(f"hf:{folder}", (5,), 2)
    assert model.eval()(**tokens()).shape == (3, 2)
    assert torch.equal(model(**tokens()), model(**tokens()))
    model.train()
    assert not torch.equal(model(**tokens()), model(**tokens()))
    assert model.module.config.hidden_dropout_prob == 0.1


def test_padding_does_not_change_what_is_said_of_a_text(folder):
    model = huggingface(f"hf:{folder}", (5,), 2).eval()
    short = tokens()
    long = {name: functional.pad(value, (0, 4)) for name, value in short.items()}
    torch.testing.assert_close(model(**long), model(**short), rtol=0, atol=1e-6)


def test_attention_has_second_derivatives(folder):
    """The product of the Hessian with a vector against a difference of gradients, in double precision."""
    model = huggingface(f"hf:{folder}", (5,), 2).eval().double()
    params = list(model.parameters())
    targets = torch.tensor([0, 1, 1])
    vector = [
        torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype) for i, p in enumerate(params)
    ]

    def gradient(graph=False):
        loss = functional.cross_entropy(model(**tokens()), targets)
        return torch.autograd.grad(loss, params, create_graph=graph)

    product = torch.autograd.grad(gradient(graph=True), params, vector, allow_unused=True)
    ends = []
    for sign in (1, -2, 1):
        with torch.no_grad():
            for p, v in zip(params, vector, strict=True):
                p.add_(v, alpha=sign * 1e-5)
        ends.append(gradient())
    for found, up, down in zip(product, ends[0], ends[1], strict=True):
        there = torch.zeros_like(up) if found is None else found
        torch.testing.assert_close(there, (up - down) / 2e-5, rtol=1e-5, atol=1e-5)


def test_another_number_of_classes_gives_a_new_head(folder):
    torch.manual_seed(3)
    model = huggingface(f"hf:{folder}", (5,), 4)
    (note,) = notes_of(model)
    assert note.endswith(
        "a new head (classifier.bias, classifier.weight), since the folder has another number of classes"
    )
    torch.manual_seed(3)
    again = huggingface(f"hf:{folder}", (5,), 4)
    assert torch.equal(model.module.classifier.weight, again.module.classifier.weight)
    torch.manual_seed(4)
    assert not torch.equal(
        model.module.classifier.weight, huggingface(f"hf:{folder}", (5,), 4).module.classifier.weight
    )


def test_a_folder_without_a_head_gets_one(tmp_path):
    name = write_model(tmp_path / "base")
    (note,) = notes_of(huggingface(name, (5,), 1))
    assert "a new head (classifier.bias, classifier.weight), since the folder has no such tensors" in note


def test_weights_that_lack_more_than_a_head_are_refused(copied):
    change(copied, lambda weights: {name: v for name, v in weights.items() if "layer.1.attention" not in name})
    with pytest.raises(InputError, match=r"lack 10 tensors.*bert.encoder.layer.1.attention.*, \.\.\..*belong to its"):
        huggingface(f"hf:{copied}", (5,), 2)


def test_weights_of_another_shape_are_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "intermediate_size": 20}))
    with pytest.raises(InputError, match=r"in another shape: bert\.encoder\.layer\.0\.intermediate\.dense\.bias"):
        huggingface(f"hf:{copied}", (5,), 2)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.safetensors", b"\0" * 40), ("config.json", b"{"), ("config.json", b'{"model_type": "nothing"}')],
)
def test_what_cannot_be_read_is_told_in_one_line(copied, file, content):
    (copied / file).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read: ") as caught:
        huggingface(f"hf:{copied}", (5,), 2)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_weights_that_are_missing(copied):
    (copied / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be read: "):
        huggingface(f"hf:{copied}", (5,), 2)


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_older_weights_are_read_and_code_in_them_is_not_run(folder, copied, monkeypatch):
    monkeypatch.chdir(copied)
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")
    model, expected = (huggingface(f"hf:{place}", (5,), 2).eval() for place in (copied, folder))
    assert torch.equal(model(**tokens()), expected(**tokens()))
    torch.save({**weights, "x": Evil()}, copied / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be read: "):
        huggingface(f"hf:{copied}", (5,), 2)
    assert not (copied / "ran").exists()


def test_code_in_the_folder_is_not_run(copied):
    config = json.loads((copied / "config.json").read_text())
    auto = {"AutoModelForSequenceClassification": "evil.Model", "AutoConfig": "evil.Config"}
    (copied / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": auto}))
    (copied / "evil.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(InputError, match="cannot be read"):
        huggingface(f"hf:{copied}", (5,), 2)


def test_a_folder_that_is_not_there_or_holds_no_model(tmp_path):
    with pytest.raises(InputError, match=r"hf:nowhere does not exist.*a folder that is there"):
        tokenizer("hf:nowhere")
    with pytest.raises(InputError, match=r"has no config.json.*save_pretrained"):
        huggingface(f"hf:{tmp_path}", (5,), 2)


def test_other_inputs_than_texts_are_refused(folder):
    with pytest.raises(UsageError, match=r"needs texts, the data have shape \(1, 8, 8\)"):
        huggingface(f"hf:{folder}", (1, 8, 8), 2)


def test_a_missing_library_is_told_with_its_remedy(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r'which is not installed.*pip install "sharpkit\[hf\]"'):
        huggingface(f"hf:{folder}", (5,), 2)


BERT_LIKE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BART_LIKE = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 32))}
OTHERS = {
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "roberta": {**BERT_LIKE, "max_position_embeddings": 130},
    "albert": {**BERT_LIKE, "embedding_size": 8},
    "electra": {**BERT_LIKE, "embedding_size": 8},
    "deberta-v2": BERT_LIKE,
    "modernbert": {**BERT_LIKE, "cls_token_id": 2, "sep_token_id": 3},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "bart": {"d_model": 16, **BART_LIKE, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
}
"""Encoders, a decoder, and two with both, whose embeddings are tied."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_models_ignore_padding_and_have_second_derivatives(kind, tmp_path):
    import transformers

    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3, "num_labels": 2}
    config = transformers.AutoConfig.for_model(kind, **{**special, "vocab_size": len(VOCABULARY), **OTHERS[kind]})
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    model = huggingface(f"hf:{tmp_path}", (8,), 2).eval()
    assert notes_of(model) == ()
    ids = torch.tensor([[2, 5, 7, 10, 3], [2, 6, 8, 9, 3]])
    short = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    long = {name: functional.pad(value, (0, 3)) for name, value in short.items()}
    torch.testing.assert_close(model(**long), model(**short), rtol=0, atol=1e-5)
    params = list(model.parameters())
    loss = functional.cross_entropy(model(**long), torch.tensor([0, 1]))
    grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    square = sum((g * g).sum() for g in grads if g is not None)
    found = torch.autograd.grad(square, params, allow_unused=True)
    assert any(bool(h.any()) for h in found if h is not None)


def test_the_tokenizer_is_that_of_the_folder(folder):
    made = tokenizer(f"hf:{folder}")
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    assert (made.longest, made.padding["input_ids"]) == (128, ids["[PAD]"])
    found = made(["Good films", "zzz"], None, 40)
    assert found["input_ids"] == [[2, ids["good"], ids["film"], ids["##s"], 3], [2, ids["[UNK]"], 3]]
    pair = made(["good film"], ["a plot of wit"], 7)
    assert pair["input_ids"] == [[2, ids["good"], ids["film"], 3, ids["a"], ids["plot"], 3]]
    assert pair["token_type_ids"] == [[0, 0, 0, 0, 1, 1, 1]]


def test_a_tokenizer_that_is_missing(copied):
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (copied / file).unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"has no tokenizer.*tokenizer.json"):
        tokenizer(f"hf:{copied}")


def test_a_tokenizer_of_another_model(tmp_path):
    write_model(tmp_path / "m", vocab_size=9)
    with pytest.raises(InputError, match=rf"numbers up to {len(VOCABULARY) - 1}, the model knows 9"):
        tokenizer(f"hf:{tmp_path / 'm'}")


def test_nothing_of_the_library_is_said_on_the_streams(folder, capfd):
    huggingface(f"hf:{folder}", (5,), 4)
    tokenizer(f"hf:{folder}")
    assert capfd.readouterr() == ("", "")


def test_a_models_own_notes_are_not_taken_from_other_models():
    other = torch.nn.Linear(1, 1)
    other.notes = ("mine",)
    assert notes_of(other) == ()
    assert isinstance(Classifier(other, ("x",)), torch.nn.Module)
