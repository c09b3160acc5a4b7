"""Downloads, through `fetch`: against servers on this machine that cut, change and damage files."""

import gzip
import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from depalm.files import read_checked, sha256_json
from depalm.sources.kept import SourceError

CONTENT = bytes(range(256)) * 12_000  # 3 MB: several reads
WRONG = "0" * 64


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves on a free port of this machine until closed."""

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class FileHandler(BaseHTTPRequestHandler):
    """One file, `server.content`, at /data.bin; each of `server.cuts` cuts one answer short."""

    def do_GET(self):
        site = self.server
        site.ranges.append(self.headers["Range"])
        if self.path != "/data.bin":
            return self.send_error(404)
        start = 0
        if site.resumes and self.headers["Range"] and self.headers["If-Range"] == site.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(site.content):
                return self.send_error(416)
        body = site.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr("depalm.sources.http.RETRY_SECONDS", (0.0, 0.0))  # three attempts
    server = Server(FileHandler)
    server.content, server.etag, server.resumes, server.cuts, server.ranges = (
        CONTENT,
        '"1"',
        True,
        [],
        [],
    )
    yield server
    server.close()


# ---------------------------------------------------------------- https://


def test_url_ends_as_a_directory_with_its_provenance(site, get):
    uri = f"{site.url}/data.bin"
    part = get(uri, sha256(CONTENT))
    assert (part / "data.bin").read_bytes() == CONTENT
    assert sorted(path.name for path in part.iterdir()) == ["data.bin", "source.json"]
    assert read_checked(part / "source.json") == {
        "uri": uri,
        "sha256": sha256(CONTENT),
        "revision": None,
    }


def test_cut_connection_is_resumed(site, get):
    site.cuts = [1_000_000, 500_000]
    part = get(f"{site.url}/data.bin", sha256(CONTENT))
    assert (part / "data.bin").read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_cut_connection_starts_again_where_the_server_cannot_resume(site, get):
    site.resumes, site.cuts = False, [1_000_000]
    part = get(f"{site.url}/data.bin", sha256(CONTENT))
    assert (part / "data.bin").read_bytes() == CONTENT


def test_next_run_resumes_what_an_earlier_run_got(site, get, tmp_path):
    site.cuts = [400_000] * 3
    with pytest.raises(SourceError, match=r"data\.bin: .*cut after 1200000 of 3072000.*run again"):
        get(f"{site.url}/data.bin")
    assert not (tmp_path / "part").exists()
    part = get(f"{site.url}/data.bin")
    assert (part / "data.bin").read_bytes() == CONTENT
    assert site.ranges[-1] == "bytes=1200000-"


def test_a_changed_file_is_not_appended_to_the_old_part(site, get):
    site.cuts = [400_000] * 3
    with pytest.raises(SourceError):
        get(f"{site.url}/data.bin")
    site.content, site.etag = CONTENT[::-1], '"2"'
    part = get(f"{site.url}/data.bin")
    assert (part / "data.bin").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_a_part_of_no_certain_version_is_not_resumed(site, get, etag):
    site.etag, site.cuts = etag, [400_000]
    assert (get(f"{site.url}/data.bin") / "data.bin").read_bytes() == CONTENT
    assert site.ranges == [None, None]


def test_a_part_longer_than_the_file_is_dropped(site, get):
    site.cuts = [400_000] * 3
    with pytest.raises(SourceError):
        get(f"{site.url}/data.bin")
    site.content = b"short"
    assert (get(f"{site.url}/data.bin") / "data.bin").read_bytes() == b"short"


def test_wrong_checksum_says_both_and_leaves_nothing(site, get, tmp_path):
    with pytest.raises(SourceError) as error:
        get(f"{site.url}/data.bin", WRONG)
    for told in (f"{site.url}/data.bin", WRONG, sha256(CONTENT)):
        assert told in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


def test_a_kept_download_needs_no_network(site, get):
    get(f"{site.url}/data.bin", sha256(CONTENT))
    site.close()
    assert (get(f"{site.url}/data.bin", sha256(CONTENT)) / "data.bin").read_bytes() == CONTENT


def test_a_damaged_kept_download_is_fetched_again(site, get, tmp_path):
    get(f"{site.url}/data.bin", sha256(CONTENT))
    [kept] = (tmp_path / "downloads").rglob("data.bin")
    kept.write_bytes(CONTENT[:-1])
    part = get(f"{site.url}/data.bin", sha256(CONTENT))
    assert (part / "data.bin").read_bytes() == CONTENT


def test_an_old_destination_stays_when_fetching_fails(site, get, tmp_path):
    get(f"{site.url}/data.bin")
    with pytest.raises(SourceError):
        get(f"{site.url}/data.bin", WRONG)
    assert (tmp_path / "part" / "data.bin").read_bytes() == CONTENT


def test_refusal_of_the_server_is_not_tried_again(site, get):
    with pytest.raises(SourceError, match=r"/other\.bin: the server answers 404"):
        get(f"{site.url}/other.bin")
    assert len(site.ranges) == 1


def test_no_network(site, get):
    site.close()
    with pytest.raises(SourceError, match=rf"{site.url}/data\.bin: .*check the network"):
        get(f"{site.url}/data.bin")


def test_destination_is_not_the_kept_download_itself(site, get, tmp_path):
    """What rewrites a fetched file by renaming leaves the kept one alone."""
    part = get(f"{site.url}/data.bin", sha256(CONTENT))
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").replace(part / "data.bin")
    site.close()
    assert (get(f"{site.url}/data.bin", sha256(CONTENT)) / "data.bin").read_bytes() == CONTENT


# ---------------------------------------------------------------- hf://

COMMIT = "c" * 40


class HubHandler(BaseHTTPRequestHandler):
    """The hub's API for the model and the dataset tiny/model, whose files are `server.files`."""

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        path = self.path.partition("?")[0]
        path = path.replace("/api/datasets/", "/api/models/").removeprefix("/datasets")
        resolve = f"/tiny/model/resolve/{COMMIT}/"
        model = "/api/models/tiny/model/revision"
        revisions = ("/v1", "/refs%2Fpr%2F3")
        if path in ("/api/models/tiny/model", *(f"{model}{r}" for r in revisions)):
            siblings = [self.sibling(name) for name in self.server.files]
            body = json.dumps({"id": "tiny/model", "sha": COMMIT, "siblings": siblings}).encode()
        elif path.removeprefix(resolve) in self.server.files and path.startswith(resolve):
            body = self.server.files[path.removeprefix(resolve)]
            body = self.server.damage(body)
        else:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{sha256(body)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)
        return None

    def sibling(self, name):
        content = self.server.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        sibling = {"rfilename": name, "size": len(content), "blobId": blob}
        if name.endswith((".safetensors", ".parquet")):
            sibling["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 9}
        return sibling

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = Server(HubHandler)
    server.damage = lambda body: body
    server.files = {
        "config.json": b"{}",
        "tokenizer.json": b'{"version": "1.0"}',
        "model.safetensors": b"weights" * 1000,
        "consolidated.safetensors": b"the same in another layout",
        "pytorch_model.bin": b"pickle",
        "onnx/model.safetensors": b"for something else",
        "README.md": b"# tiny",
    }
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.close()


def test_hub_gives_what_is_needed_at_a_pinned_commit(hub, get):
    part = get("hf://tiny/model@v1")
    names = ["config.json", "model.safetensors", "source.json", "tokenizer.json"]
    assert sorted(path.name for path in part.iterdir()) == names
    assert (part / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert read_checked(part / "source.json") == {
        "uri": "hf://tiny/model@v1",
        "sha256": sha256(hub.files["model.safetensors"]),
        "revision": COMMIT,
    }


def test_hub_main_branch_sharded_weights(hub, get):
    del hub.files["model.safetensors"]
    hub.files["model-00001-of-00002.safetensors"] = b"first"
    hub.files["model-00002-of-00002.safetensors"] = b"second"
    hub.files["model.safetensors.index.json"] = b"{}"
    expected = sha256_json(
        {
            "model-00001-of-00002.safetensors": sha256(b"first"),
            "model-00002-of-00002.safetensors": sha256(b"second"),
        }
    )
    part = get("hf://tiny/model", expected)
    assert (part / "model.safetensors.index.json").exists()
    assert read_checked(part / "source.json")["sha256"] == expected


def test_hub_model_that_is_kept_needs_no_network(hub, get):
    get("hf://tiny/model@v1")
    hub.close()
    part = get("hf://tiny/model@v1", sha256(hub.files["model.safetensors"]))
    assert (part / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_hub_wrong_checksum(hub, get):
    with pytest.raises(SourceError, match=f"{sha256(hub.files['model.safetensors'])}.*{WRONG}"):
        get("hf://tiny/model@v1", WRONG)


def test_damage_is_found_by_the_hubs_own_digest_and_repaired_by_the_next_run(hub, get, tmp_path):
    hub.damage = lambda body: body[:-1] + b"!"
    with pytest.raises(SourceError, match=r"hf://tiny/model@v1: wrong checksum: config\.json has"):
        get("hf://tiny/model@v1")
    assert not (tmp_path / "part").exists()
    hub.damage = lambda body: body
    assert (get("hf://tiny/model@v1") / "config.json").read_bytes() == b"{}"


def test_hub_pickled_weights_are_not_read(hub, get):
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(
        SourceError, match=r"no weights as safetensors.*pytorch_model\.bin.*convert: pytorch"
    ):
        get("hf://tiny/model@v1")


@pytest.mark.parametrize(
    ("uri", "weights"),
    [
        ("hf://tiny/model@v1/consolidated.safetensors", ["consolidated.safetensors"]),
        ("hf://tiny/model/pytorch_model*.bin", ["pytorch_model.bin"]),
        (
            "hf://tiny/model@refs/pr/3/model-*.safetensors",
            ["model-1.safetensors", "model-2.safetensors"],
        ),
    ],
)
def test_hub_weights_that_are_named(hub, get, uri, weights):
    hub.files |= {"model-1.safetensors": b"first", "model-2.safetensors": b"second"}
    part = get(uri)
    names = ["config.json", *weights, "source.json", "tokenizer.json"]
    assert sorted(path.name for path in part.iterdir()) == names
    digests = {name: sha256(hub.files[name]) for name in weights}
    expected = sha256_json(digests) if len(weights) > 1 else digests[weights[0]]
    assert read_checked(part / "source.json")["sha256"] == expected


def test_hub_weights_that_are_named_but_not_there(hub, get):  # noqa: ARG001
    with pytest.raises(SourceError, match=r"no file other\.pt there; .*pytorch_model\.bin"):
        get("hf://tiny/model@v1/other.pt")


def test_hub_unknown_model_revision_or_no_network(hub, get):
    with pytest.raises(SourceError, match=r"hf://tiny/model@v9: the hub does not give it"):
        get("hf://tiny/model@v9")
    with pytest.raises(SourceError, match=r"hf://tiny/other@v1: the hub does not give it"):
        get("hf://tiny/other@v1")
    hub.close()
    with pytest.raises(SourceError, match="Check the network"):
        get("hf://tiny/model@v1")


def test_hub_dataset_gives_its_parquet_files_in_their_folders(hub, get):
    hub.files = {
        "data/train-00000-of-00001.parquet": b"train",
        "data/validation-00000-of-00001.parquet": b"val",
        "README.md": b"# tiny",
    }
    names = sorted(name for name in hub.files if name.endswith(".parquet"))
    expected = sha256_json({name: sha256(hub.files[name]) for name in names})
    part = get("hf://datasets/tiny/model@v1", expected)
    files = [str(path.relative_to(part)) for path in part.rglob("*") if path.is_file()]
    assert sorted(files) == [*names, "source.json"]
    assert (part / names[0]).read_bytes() == b"train"
    assert read_checked(part / "source.json")["revision"] == COMMIT
    hub.close()
    assert (get("hf://datasets/tiny/model@v1") / names[1]).read_bytes() == b"val"


def test_hub_dataset_without_parquet_files(hub, get):  # noqa: ARG001
    with pytest.raises(SourceError, match=r"datasets/tiny/model: no parquet files there"):
        get("hf://datasets/tiny/model")


def test_an_archive_from_a_server_is_resumed_and_unpacked(site, get):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("images/1.jpg", CONTENT)
    site.content, site.cuts = stream.getvalue(), [1_000_000]
    part = get(f"{site.url}/data.bin", sha256(site.content), unpack=True)
    assert (part / "images/1.jpg").read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=1000000-"]
    inode = (part / "images/1.jpg").stat().st_ino
    site.close()  # the next dataset that wants it needs neither the network nor the space
    again = get(f"{site.url}/data.bin", sha256(site.content), unpack=True)
    assert (again / "images/1.jpg").stat().st_ino == inode
    with pytest.raises(SourceError, match="check the network"):  # another archive is wanted now
        get(f"{site.url}/data.bin", WRONG, unpack=True)


# ---------------------------------------------------------------- what is no such file


def zipped(files, damage=None):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    content = bytearray(target.getvalue())
    if damage is not None:
        content[damage] ^= 255
    return bytes(content)


PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title><body>Please</body></html>"
WHOLE = {"a.txt": b"a" * 500, "b.txt": b"b" * 500}
BAD_FILES = {
    "weights.zip": (PAGE, r"gives a web page \('Sign in'\) in place of weights\.zip.* login"),
    "photo.jpg": (PAGE, "gives a web page"),
    "data.csv": (PAGE, "gives a web page"),
    "model.safetensors": (b"\x10\0\0\0\0\0\0\0{}", "model.safetensors is damaged"),
    "rows.parquet": (b"PAR1" + b"x" * 100, "rows.parquet is damaged: its end is missing"),
    "questions.json": (b'{"questions": [1, 2', "questions.json is damaged: its end is missing"),
    "words.json": (b"a,b\n", "it is no JSON"),
    "image.png": (b"\xff\xd8\xff", r"is no \.png file"),
    "cut.zip": (zipped(WHOLE)[:-40], "cut.zip is damaged"),
    "flipped.zip": (zipped(WHOLE, damage=60), "checksum of its member a.txt is wrong"),
    "cut.tgz": (gzip.compress(b"x" * 10000)[:20], "cut.tgz is damaged"),
    "empty.zip": (b"", "an empty file"),
}


@pytest.fixture
def any_name(monkeypatch):
    """The site gives its content under every name."""
    monkeypatch.setattr("depalm.sources.http.RETRY_SECONDS", ())

    class Handler(FileHandler):
        def do_GET(self):
            self.path = "/data.bin"
            return super().do_GET()

    server = Server(Handler)
    server.etag, server.resumes, server.cuts, server.ranges = '"1"', True, [], []
    yield server
    server.close()


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("unpack", [False, True])
def test_what_is_no_such_file_is_never_kept(any_name, get, tmp_path, name, unpack):
    any_name.content, reason = BAD_FILES[name]
    url = f"{any_name.url}/{name}"
    for _ in range(2):  # the second time too: nothing of it was kept
        with pytest.raises(SourceError, match=reason) as error:
            get(url, unpack=unpack)
        assert str(error.value).startswith(f"{url}: ")
    assert not (tmp_path / "part").exists()
    kept = [p for p in (tmp_path / "downloads").rglob("*") if p.is_file() and p.name != ".lock"]
    assert [path.name for path in kept if path.suffix != ".version"] == []


def test_an_archive_that_proves_damaged_is_fetched_again(any_name, get):
    """Its name says nothing of what it is."""
    url = f"{any_name.url}/download"
    any_name.content = zipped(WHOLE, damage=60)
    with pytest.raises(SourceError, match="cannot be unpacked: Bad CRC"):
        get(url, unpack=True)
    any_name.content, any_name.etag = zipped(WHOLE), '"2"'
    part = get(url, unpack=True)
    assert (part / "a.txt").read_bytes() == WHOLE["a.txt"]


def test_without_a_checksum_the_first_download_counts(any_name, get, tmp_path):
    url = f"{any_name.url}/table.csv"
    any_name.content = b"a,b\n1,2\n"
    get(url)
    [kept] = (tmp_path / "downloads").rglob("table.csv")
    kept.unlink()  # the place of one who has freed the disk
    get(url)
    kept.write_bytes(b"a,b\n1,3\n")  # damaged on the disk: fetched again
    assert (get(url) / "table.csv").read_bytes() == any_name.content
    any_name.content, any_name.etag = b"a,b\n1,4\n", '"2"'
    kept.unlink()
    with pytest.raises(SourceError, match=r"it has changed: .*delete .*table\.csv\.first\.json"):
        get(url)
    kept.with_name("table.csv.first.json").unlink()
    assert (get(url) / "table.csv").read_bytes() == any_name.content


def test_local_links_to_nothing_are_named(get, tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(SourceError, match=rf"file://{folder}: .*b\.txt is a link to nothing"):
        get(f"file://{folder}")
    with pytest.raises(SourceError, match=rf"file://{folder}/b\.txt: .* is a link to nothing"):
        get(f"file://{folder}/b.txt")
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(WHOLE, damage=60))
    with pytest.raises(SourceError, match=rf"file://{archive}: it cannot be unpacked: Bad CRC"):
        get(f"file://{archive}", unpack=True)
