"""The nine tasks of GLUE, from the files that the benchmark publishes.

A. Wang, A. Singh, J. Michael, F. Hill, O. Levy, S. Bowman (2019), "GLUE: A Multi-Task Benchmark and Analysis Platform
for Natural Language Understanding". The labels of its test parts are not published, so the development part is the test
set here, as in most papers. Class numbers are those of the Hugging Face data set `glue`. Quotation marks are a part of
the text, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sharpkit.data.source import Access, Size, Stored
from sharpkit.data.text import Corpus, Texts, read_table

PREFIX = "glue:"

_ARCHIVES = "https://dl.fbaipublicfiles.com/glue/data/"
_UNLABELLED = ("", "-1", "-")
_BINARY = ("0", "1")
_INFERENCE = ("entailment", "not_entailment")


@dataclass(frozen=True)
class Task:
    """A task of GLUE and the form of its files.

    Args:
        folder: Of its files, as GLUE names it.
        what: In a few words.
        size: Labelled samples for training and in the development part, as published.
        texts: The columns of a text or a pair.
        label: The column of the label.
        classes: The labels in the order of their class numbers; none for scores.
        metrics: What GLUE judges it by.
        columns: Where the files have no header.
        parts: The files with labels: for training, for testing, and for further tests with their names.
        archive: That holds the files, at `_ARCHIVES`; by default named as the folder.
        skip_short: Whether rows are damaged in the published file, which others leave out too.
    """

    folder: str
    what: str
    size: tuple[int, int]
    texts: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    metrics: tuple[str, ...] = ("acc",)
    columns: tuple[str, ...] | None = None
    parts: tuple[str, str] = ("train.tsv", "dev.tsv")
    further: tuple[tuple[str, str], ...] = ()
    archive: str = ""
    skip_short: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """All files with labels, below the folder of GLUE."""
        names = (*self.parts, *(name for _, name in self.further))
        return tuple(f"{self.folder}/{name}" for name in names)

    def read(self, path: Path) -> Texts:
        """Return the labelled texts of a file.

        Raises:
            InputError: If it does not hold what it should.
        """
        first, second = self.texts[0], self.texts[1] if len(self.texts) == 2 else None
        number: Callable[[str], float] = self.classes.index if self.classes else _score
        table = read_table(path, self.columns)
        return table.texts(first, second, self.label, number, unlabelled=_UNLABELLED, skip_short=self.skip_short)


TASKS: dict[str, Task] = {
    "cola": Task(
        "CoLA",
        "linguistic acceptability of sentences",
        (8551, 1043),
        ("sentence",),
        "label",
        _BINARY,
        metrics=("mcc",),
        columns=("source", "label", "mark", "sentence"),
    ),
    "sst2": Task("SST-2", "sentiment of sentences of film reviews", (67_349, 872), ("sentence",), "label", _BINARY),
    "mrpc": Task(
        "MRPC",
        "whether two sentences of the news mean the same",
        (3668, 408),
        ("#1 String", "#2 String"),
        "Quality",
        _BINARY,
        metrics=("acc", "f1"),
    ),
    "stsb": Task(
        "STS-B",
        "similarity of two sentences, scores from 0 to 5",
        (5749, 1500),
        ("sentence1", "sentence2"),
        "score",
        (),
        metrics=("pearson", "spearman"),
    ),
    "qqp": Task(
        "QQP",
        "whether two questions mean the same",
        (363_846, 40_430),
        ("question1", "question2"),
        "is_duplicate",
        _BINARY,
        metrics=("acc", "f1"),
        archive="QQP-clean",
        skip_short=True,
    ),
    "mnli": Task(
        "MNLI",
        "whether a sentence follows from another one, contradicts it or neither",
        (392_702, 9815),
        ("sentence1", "sentence2"),
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        parts=("train.tsv", "dev_matched.tsv"),
        further=(("mismatched", "dev_mismatched.tsv"),),
    ),
    "qnli": Task(
        "QNLI",
        "whether a sentence answers a question",
        (104_743, 5463),
        ("question", "sentence"),
        "label",
        _INFERENCE,
        archive="QNLIv2",
    ),
    "rte": Task(
        "RTE",
        "whether a sentence follows from another one",
        (2490, 277),
        ("sentence1", "sentence2"),
        "label",
        _INFERENCE,
    ),
    "wnli": Task(
        "WNLI",
        "whether a pronoun stands for a name",
        (635, 71),
        ("sentence1", "sentence2"),
        "label",
        _BINARY,
    ),
}
"""The tasks by their short names."""


def corpus(name: str, folder: Path, access: Access) -> Corpus:
    """Return a task's texts.

    Args:
        name: Its short name.
        folder: Holds the folders of the tasks.
        access: Not used.

    Raises:
        InputError: If a file does not hold what it should.
    """
    task = TASKS[name]
    train, test = (task.read(folder / task.folder / part) for part in task.parts)
    further = {part: task.read(folder / task.folder / file) for part, file in task.further}
    return Corpus(f"glue-{name}", train, test, len(task.classes) or 1, task.metrics, further)


def canonical(name: str) -> str:
    """Return the table's name of a task however it is written: glue:SST-2 is glue:sst2; other names stay."""
    if not name.lower().startswith(PREFIX):
        return name
    return PREFIX + name[len(PREFIX) :].lower().replace("-", "").replace("_", "")


def _score(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 5:
        raise ValueError(text)
    return value


def _source(name: str, task: Task) -> Stored:
    load = partial(corpus, name)
    load.__doc__ = f"GLUE {task.folder}: {task.what}."
    return Stored(
        PREFIX + name,
        load,
        Size(*task.size, (), len(task.classes) or 1),
        files=tuple((file,) for file in task.files),
        remedy=f"the folder {task.folder} of GLUE, with {' and '.join(file.partition('/')[2] for file in task.files)},",
        home="glue",
        by_hand="https://gluebenchmark.com/tasks says how it is made"
        if name == "mrpc"
        else f"it is {task.archive or task.folder}.zip of {_ARCHIVES}, to be unpacked there",
    )


GLUE: dict[str, Stored] = {PREFIX + name: _source(name, task) for name, task in TASKS.items()}
"""The tasks as data sets."""
