"""A classifier of Hugging Face transformers that takes no time, with a vocabulary of a few words, in a folder."""

import contextlib
import io
import json

import torch

_WORDS = ("good", "bad", "film", "dull", "fine", "a", "plot", "of", "wit", "##s", "and", "so", "quoted", '"', "'")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]


def write_model(folder, classes=None, dropout=0.1, **options):
    """Write config, weights and tokenizer of a two-layer BERT; without `classes` it has no head.

    Returns:
        What --model takes.
    """
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    BertWordPieceTokenizer({word: i for i, word in enumerate(VOCABULARY)}).save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 128}
    kind |= {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
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
    return f"hf:{folder}"
