"""Sources: wheels and folders that the tests make (what needs a server is in test_download.py)."""

import hashlib
import subprocess
import zipfile

import pytest

from depalm.files import read_checked, sha256_file, sha256_tree
from depalm.sources.kept import SourceError

WRONG = "0" * 64


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---------------------------------------------------------------- pypi://


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A folder with the wheel demo_data 1.0, which pip takes for a package index."""
    folder = tmp_path_factory.mktemp("index")
    with zipfile.ZipFile(folder / "demo_data-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("demo_data/weights.onnx", b"weights")
        wheel.writestr("demo_data/data/train/questions.json", "[]")
        wheel.writestr("demo_data/data/answers.txt", "red\n")
        wheel.writestr("demo_data/database.txt", "not in the folder data")
        wheel.writestr("demo_data/unsafe/../../outside.txt", "x")
        info = "demo_data-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo-data\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


@pytest.fixture
def wheel(index, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return next(index.glob("*.whl"))


def test_wheel_gives_a_file(wheel, get):
    uri = "pypi://demo-data==1.0/demo_data/weights.onnx"
    part = get(uri, sha256_file(wheel))
    assert (part / "weights.onnx").read_bytes() == b"weights"
    assert read_checked(part / "source.json") == {
        "uri": uri,
        "sha256": sha256_file(wheel),
        "revision": None,
    }


def test_wheel_gives_the_contents_of_a_folder(wheel, get):  # noqa: ARG001
    part = get("pypi://demo-data==1.0/demo_data/data")
    files = sorted(str(path.relative_to(part)) for path in part.rglob("*") if path.is_file())
    assert files == ["answers.txt", "source.json", "train/questions.json"]


def test_parts_share_one_kept_wheel(wheel, get, monkeypatch, tmp_path):
    get("pypi://demo-data==1.0/demo_data/data", sha256_file(wheel))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))  # an index without it
    part = get("pypi://demo-data==1.0/demo_data/weights.onnx", sha256_file(wheel))
    assert (part / "weights.onnx").exists()


def test_missing_file_in_the_wheel_lists_near_names(wheel, get):  # noqa: ARG001
    with pytest.raises(
        SourceError, match=r"holds no demo_data/weight\.onnx.*demo_data/weights\.onnx"
    ):
        get("pypi://demo-data==1.0/demo_data/weight.onnx")


def test_wheel_is_checked_before_it_is_opened(wheel, get, monkeypatch):
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    with pytest.raises(SourceError, match=f"{sha256_file(wheel)}.*{WRONG}"):
        get("pypi://demo-data==1.0/demo_data/data", WRONG)


def test_path_that_leads_out_of_the_wheel_is_refused(wheel, get, tmp_path):  # noqa: ARG001
    with pytest.raises(SourceError, match="unsafe"):
        get("pypi://demo-data==1.0/demo_data/unsafe")
    assert not list(tmp_path.rglob("outside.txt"))


def test_package_that_the_index_does_not_have(wheel, get):  # noqa: ARG001
    with pytest.raises(
        SourceError, match=r"pypi://demo-data==2\.0/x: pip cannot download.*network"
    ):
        get("pypi://demo-data==2.0/x")


def test_source_package_is_not_taken(index, get, monkeypatch, tmp_path):
    """To download a source package, pip would run its set-up code."""
    folder = tmp_path / "sdist" / "evil-1.0"
    folder.mkdir(parents=True)
    (folder / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    subprocess.run(["tar", "czf", "evil-1.0.tar.gz", "evil-1.0"], cwd=folder.parent, check=True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{folder.parent} {index}")
    with pytest.raises(SourceError, match="pip cannot download"):
        get("pypi://evil==1.0/evil")
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- file://


def test_local_file_and_folder(tmp_path, get):
    folder = tmp_path / "my data"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "0.png").write_bytes(b"png")
    uri = f"file://{tmp_path}/my%20data"
    part = get(uri, sha256_tree(folder))
    assert (part / "images" / "0.png").read_bytes() == b"png"
    assert read_checked(part / "source.json")["sha256"] == sha256_tree(folder)

    part = get(f"{uri}/images/0.png", sha256(b"png"))
    assert sorted(path.name for path in part.iterdir()) == ["0.png", "source.json"]
    (part / "0.png").write_bytes(b"changed")
    assert (folder / "images" / "0.png").read_bytes() == b"png"

    with pytest.raises(SourceError, match=f"{sha256(b'png')}.*{WRONG}"):
        get(f"{uri}/images/0.png", WRONG)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("file:///no/such/folder", "there is no /no/such/folder"),
        ("file://relative/path", "not an absolute path"),
        ("ftp://host/file", "unknown kind of source; write one of hf://"),
        ("just/a/path", "unknown kind of source"),
        ("pypi://package/path", "write pypi://package==version/path"),
        ("pypi://package==1.0", "write pypi://package==version/path"),
        ("hf://only-a-name", "write hf://owner/name@revision"),
        ("https://host", "names no file"),
    ],
)
def test_a_source_that_cannot_be_is_named_with_what_to_write(get, tmp_path, uri, told):
    with pytest.raises(SourceError) as error:
        get(uri)
    assert str(error.value).startswith(f"{uri}: ")
    assert told in str(error.value)
    assert not (tmp_path / "part").exists()
