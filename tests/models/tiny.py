"""A classifier of Hugging Face transformers that takes no time, with a vocabulary of a few words, in a folder."""

import contextlib
import io

import torch

_WORDS = ("good", "bad", "film", "dull", "fine", "a", "plot", "of", "wit", "##s", "and", "so", "quoted", '"', "'")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]


def write_model(folder, classes=None, dropout=0.1, **options):
    """Write config, weights and tokenizer of a two-layer BERT; without `classes` it has no head.

    Returns:
        What --model takes.
    """
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    config = BertConfig(
        **{
            "vocab_size": len(VOCABULARY),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 128,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            **({} if classes is None else {"num_labels": classes}),
            **options,
        }
    )
    with torch.random.fork_rng(), contextlib.redirect_stderr(io.StringIO()):
        torch.manual_seed(1)
        (BertModel if classes is None else BertForSequenceClassification)(config).save_pretrained(folder)
        BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return f"hf:{folder}"
