"""Media inside of tar shards and parquet tables: read without unpacking, from manifest to rows."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from depalm.cache.store import open_folder
from depalm.datasets.containers import ContainerError, container_of, local_file, read_inside
from depalm.datasets.manifest import Manifest, build_manifest, media_keys
from depalm.errors import AnnotationError
from depalm.features.encoder import Encoder
from depalm.features.extract import Extraction, extract
from depalm.media.pool import ChangedFile
from depalm.rejects import RejectError
from tests.support.specs import rows_spec
from tests.support.vit import VIT, tiny_vit

COLOURS = [(200, 30, 30), (30, 160, 60), (40, 60, 210), (90, 90, 90), (0, 0, 0)]


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20 + number, 16), COLOURS[number % len(COLOURS)]).save(stream, "png")
    return stream.getvalue()


def write_tars(root: Path, split: str = "train", shards: int = 2, samples: int = 5) -> None:
    """As img2dataset writes them: image, caption, and metadata as JSON."""
    (root / split).mkdir(parents=True)
    for shard in range(shards):
        with webdataset.TarWriter(str(root / split / f"{shard:05}.tar")) as writer:
            for i in range(samples):
                number = shard * samples + i
                writer.write(
                    {
                        "__key__": f"{number:09}",
                        "png": picture(number),
                        "txt": f"picture {number}",
                        "json": {"url": f"https://host/{number}", "answers": [f"a{number}", "b"]},
                    }
                )


def write_parquet(root: Path, name: str = "data/train-00000-of-00001.parquet") -> None:
    """As the Hub has them: an image is a struct of bytes and path."""
    rows = [
        {
            "image": {"bytes": picture(i), "path": f"{i}.png"},
            "question": f"which is {i}?",
            "answers": [f"a{i}", "b"],
            "question_id": 100 + i,
        }
        for i in range(10)
    ]
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), root / name, row_group_size=3)


def manifest(root: Path, reader: str, split: str = "train", **columns: str) -> Manifest:
    template = "{question} A:" if "question" in columns else ""
    spec = {"reader": reader, "splits": [split], "templates": {"texts": [template]}}
    return build_manifest(root, rows_spec({**spec, "columns": columns}), split)


TAR = {"media": "png", "references": "txt"}
TABLE = {"media": "image", "question": "question", "references": "answers", "id": "question_id"}


def test_tar_shards_of_image_text_pairs_are_a_dataset(tmp_path: Path) -> None:
    write_tars(tmp_path)
    samples, rejects, files = manifest(tmp_path, "webdataset", **TAR)
    assert (len(samples), rejects) == (10, [])
    assert samples[7].id == "train/00001.tar/000000007"
    assert samples[7].media == "train/00001.tar/000000007.png"
    assert samples[7].references == ["picture 7"]
    assert samples[7].sha256 == hashlib.sha256(picture(7)).hexdigest()
    assert ("annotations", "train/00001.tar") in files
    answers, *_ = manifest(tmp_path, "webdataset", media="png", references="answers", id="url")
    assert (answers[3].id, answers[3].references) == ("https://host/3", ["a3", "b"])


def test_parquet_tables_with_media_inside_are_a_dataset(tmp_path: Path) -> None:
    write_parquet(tmp_path)
    samples, rejects, _ = manifest(tmp_path, "parquet", **TABLE)
    assert (len(samples), rejects) == (10, [])
    assert (samples[8].id, samples[8].prompt) == ("108", "which is 8? A:")
    assert samples[8].references == ["a8", "b"]
    assert samples[8].sha256 == hashlib.sha256(picture(8)).hexdigest()
    write_parquet(tmp_path, "data/validation-00000-of-00001.parquet")
    assert len(manifest(tmp_path, "parquet", "val", **TABLE).samples) == 10


@pytest.mark.parametrize("reader", ["webdataset", "parquet"])
def test_their_media_are_extracted_as_those_of_files_are(tmp_path: Path, reader: str) -> None:
    root, columns = tmp_path / "data", TAR if reader == "webdataset" else TABLE
    if reader == "webdataset":
        write_tars(root)
    else:
        write_parquet(root)
    tiny_vit(tmp_path / "vit")
    encoder, settings = Encoder("vit", VIT, tmp_path / "vit"), Extraction(batch_size=4)
    keys = media_keys(manifest(root, reader, **columns).samples)
    done = extract(encoder, root, keys, ["cls"], tmp_path / "store", settings, "cpu")
    assert (done.forwarded, done.rejects) == (10, [])
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    files = {f"{i}.png": hashlib.sha256(picture(i)).hexdigest() for i in range(10)}
    again = extract(encoder, tmp_path, files, ["cls"], tmp_path / "store", settings, "cpu")
    assert again.forwarded == 0  # the same rows
    assert len(open_folder(done.folder, {}).media) == 10
    other = dict.fromkeys(list(keys)[:1], "0" * 64)
    with pytest.raises(ChangedFile, match="has changed since its manifest"):
        extract(encoder, root, other, ["cls"], tmp_path / "store", settings, "cpu")
    gone = {
        "train/00000.tar/none.png" if reader == "webdataset" else "data/x.parquet/a/1": "0" * 64
    }
    with pytest.raises(ChangedFile, match="run Snakemake again"):
        extract(encoder, root, gone, ["cls"], tmp_path / "store", settings, "cpu")


def test_what_lies_in_a_container_is_found_and_nothing_else(tmp_path: Path) -> None:
    write_tars(tmp_path)
    write_parquet(tmp_path)
    tar, table = tmp_path / "train/00000.tar", tmp_path / "data/train-00000-of-00001.parquet"
    assert read_inside(tar / "000000002.txt", tar) == b"picture 2"
    assert read_inside(table / "image/9", table) == picture(9)
    assert container_of(tar / "a/b") == tar
    for path in (tar, tmp_path / "train", tmp_path / "absent/x"):
        assert container_of(path) is None
    for path in (tar / "000000009.txt", table / "image/10", table / "question/1", table / "x/1"):
        with pytest.raises(ContainerError, match="holds no medium"), local_file(path):
            pass
    with local_file(tar / "000000001.png") as copy:
        assert copy.read_bytes() == picture(1)
    assert not copy.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"references": "caption"}, r"caption must be a text or a list of texts, not None"),
        ({"question": "url2"}, r"url2 must be a text"),
    ],
)
def test_what_a_tar_shard_lacks_is_named(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    write_tars(tmp_path)
    with pytest.raises(AnnotationError, match=rf"00000\.tar: 000000000: {message}"):
        manifest(tmp_path, "webdataset", **{**TAR, **change})


def test_what_a_table_lacks_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path)
    with pytest.raises(AnnotationError, match=r"no column 'answer'; did you mean 'answers'\?"):
        manifest(tmp_path, "parquet", **{**TABLE, "references": "answer"})
    with pytest.raises(AnnotationError, match=r"no shards of test; they are looked for at test/\*"):
        manifest(tmp_path, "parquet", "test", **TABLE)


def test_a_sample_without_its_medium_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "train" / "0.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        for name, content in {"a.txt": b"one", "b.png": picture(1), "b.txt": b"two"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    spec: dict[str, Any] = {
        "reader": "webdataset",
        "splits": ["train"],
        "templates": {"texts": [""]},
        "columns": TAR,
    }
    samples, rejects, _ = build_manifest(tmp_path, rows_spec(spec), "train", None, 0.5)
    assert [sample.references for sample in samples] == [["two"]]
    assert [(r.media, r.reason) for r in rejects] == [
        ("train/0.tar/a.png", "the medium cannot be read")
    ]
    with pytest.raises(RejectError):
        build_manifest(tmp_path, rows_spec(spec), "train")


def test_json_that_is_no_object_is_an_error_of_its_sample(tmp_path: Path) -> None:
    path = tmp_path / "train" / "0.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a.json")
        content = json.dumps({"caption": 3}).encode()[:-1]
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    with pytest.raises(AnnotationError, match=r"0\.tar: a: "):
        manifest(tmp_path, "webdataset", media="png", references="caption")
