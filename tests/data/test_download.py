"""Downloads from a server of this test's own: checked, unpacked, whole or not at all."""

import hashlib
import io
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sharpkit.data import DATASETS
from sharpkit.data.download import Download
from sharpkit.data.source import Access
from sharpkit.errors import InputError
from tests.data import formats


@pytest.fixture
def serve(monkeypatch):
    """Serve some bytes under a name; with `cut`, the connection ends early."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    contents, servers, asked = {}, [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path not in contents:
                self.send_error(404)
                return
            body, cut = contents[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    servers.append(server)

    def put(name, body, cut=False):
        contents[f"/{name}"] = body, cut
        return Download(f"http://127.0.0.1:{server.server_port}/{name}", hashlib.md5(body).hexdigest())

    put.asked = asked
    yield put
    server.shutdown()
    server.server_close()
    thread.join()


def archive(folder):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return packed.getvalue()


def test_an_archive_is_unpacked_and_the_data_set_loaded(serve, tmp_path):
    formats.write_cifar10(tmp_path / "source")
    download = serve("cifar-10-python.tar.gz", archive(tmp_path / "source/cifar-10-batches-py"))
    source, access = replace(DATASETS["cifar10"], downloads=(download,)), Access(tmp_path / "d", download=True)
    assert not source.where.holds(access.folder)
    assert len(source(access).train) == 40
    assert source.where.holds(access.folder)
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["cifar10"]
    assert sorted(p.name for p in (tmp_path / "d/cifar10").iterdir()) == ["cifar-10-batches-py"]
    source(access)
    source(Access(tmp_path / "d"))
    assert len(serve.asked) == 1


def test_files_are_put_into_their_folder_and_only_those_that_are_missing(serve, tmp_path):
    formats.write_fashion_mnist(tmp_path, packed=True)
    raw = sorted((tmp_path / "FashionMNIST/raw").iterdir())
    downloads = tuple(replace(serve(p.name, p.read_bytes()), to="FashionMNIST/raw") for p in raw)
    source, access = replace(DATASETS["fashion-mnist"], downloads=downloads), Access(tmp_path / "d", download=True)
    assert len(source(access).train) == 40
    (tmp_path / "d/fashion-mnist/FashionMNIST/raw" / raw[0].name).unlink()
    source(access)
    assert len(serve.asked) == 5


def test_nothing_is_downloaded_unless_asked_for(serve, tmp_path):
    source = replace(DATASETS["svhn"], downloads=(serve("train_32x32.mat", b"x"),))
    with pytest.raises(InputError, match="svhn is missing"):
        source(Access(tmp_path))
    assert not serve.asked


def test_a_file_with_another_checksum_is_refused_and_not_kept(serve, tmp_path):
    download = replace(serve("x.mat", b"content"), md5="0" * 32)
    with pytest.raises(InputError, match=r"has the MD5 checksum 9a0364b9e99bb480dd25e1f0284c8555, published is 0{32}"):
        download.fetch(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.mat", "x.tar.gz"])
def test_a_connection_that_ends_early_leaves_nothing(serve, tmp_path, name):
    with pytest.raises(InputError, match=r"cannot download|MD5"):
        serve(name, b"content" * 1000, cut=True).fetch(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_address_that_is_not_there_and_a_server_that_is_not(serve, tmp_path):
    download = serve("x.mat", b"x")
    with pytest.raises(InputError, match=r"cannot download http.*nothing"):
        replace(download, url=download.url.replace("x.mat", "nothing")).fetch(tmp_path)
    with pytest.raises(InputError, match=r"cannot download http://127\.0\.0\.1:9/x"):
        replace(download, url="http://127.0.0.1:9/x").fetch(tmp_path)


def test_an_archive_that_is_none_or_leaves_its_folder_is_refused(serve, tmp_path):
    with pytest.raises(InputError, match="cannot download"):
        serve("x.tar.gz", b"no archive").fetch(tmp_path)
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w:gz") as tar:
        info = tarfile.TarInfo("../escaped")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(InputError, match="cannot download"):
        serve("y.tar.gz", evil.getvalue()).fetch(tmp_path / "d")
    assert not list(tmp_path.rglob("escaped"))


def test_the_published_addresses_are_those_of_their_authors():
    hosts = {d.url.split("/")[2] for s in DATASETS.values() for d in getattr(s, "downloads", ())}
    assert hosts == {
        "www.cs.toronto.edu",
        "fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "ufldl.stanford.edu",
    }
    assert all(len(d.md5) == 32 for s in DATASETS.values() for d in getattr(s, "downloads", ()))
