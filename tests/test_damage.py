"""Damage to a file of the workflow's own is noticed when it is read, wherever a byte has flipped,
and the same command makes the file anew.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depalm.cache.store import read_receipt
from depalm.datasets.manifest import Sample, read_manifest, write_manifest
from depalm.errors import DamagedFile, DepalmError
from depalm.evaluation.metrics import METRICS, measure
from depalm.evaluation.runs import TableError
from depalm.evaluation.samples import read_sample_scores, write_sample_scores
from depalm.files import read_checked, require_sha256, sha256_file, write_checked, write_json
from depalm.identity import folder_identity
from depalm.jobs.script import set_aside
from depalm.parquet import digest, read_parquet, write_parquet

SAMPLES = [
    Sample(f"q{i}", f"{i % 7}.jpg", f"Is it {i}?", ["yes", "no"], "0" * 64) for i in range(60)
]
FLIPS = 400  # of the bytes of a file


def flipped(path: Path) -> Any:
    """The file with each of some bytes flipped in turn, evenly spread over it."""
    content = path.read_bytes()
    for place in np.unique(np.linspace(0, len(content) - 1, FLIPS).astype(int)):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        path.write_bytes(bytes(damaged))
        yield int(place)
    path.write_bytes(content)


SCORES = {"metrics": {"cider": 12.5}, "label": "é", "n": 3}
RECEIPT = {"store": "vit-0/view0", "arrays": ["cls"], "sha256": "0" * 64, "rejected": {}}


@pytest.mark.parametrize(("read", "content"), [(read_checked, SCORES), (read_receipt, RECEIPT)])
def test_a_flipped_byte_of_json_is_noticed(
    read: Callable[[Path], dict[str, Any]], content: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    write_checked(path, content)
    assert read(path) == content
    for place in flipped(path):
        try:
            found = read(path)
        except DamagedFile:
            continue
        # but for white space
        assert {key: found.get(key) for key in content} == content, f"byte {place}"


def test_a_flipped_byte_of_where_a_model_is_from_is_noticed(tmp_path: Path) -> None:
    """It would make tokens of the same weights those of others; the folder is what to delete."""
    write_checked(tmp_path / "source.json", {"uri": "hf://a/b", "sha256": "0" * 64})
    known = folder_identity(tmp_path)
    noticed = []
    for _ in flipped(tmp_path / "source.json"):
        try:
            found = folder_identity(tmp_path)
        except DamagedFile as error:
            noticed.append(error.path)
        else:
            assert found == known
    assert len(noticed) > 100
    assert set(noticed) == {tmp_path}


def test_json_of_earlier_versions_has_no_checksum(tmp_path: Path) -> None:
    write_json(tmp_path / "old.json", {"a": 1})
    assert read_checked(tmp_path / "old.json") == {"a": 1}


def test_a_flipped_byte_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(path, SAMPLES)
    assert read_manifest(path) == SAMPLES
    noticed = 0
    for place in flipped(path):
        try:
            found = read_manifest(path)
        except DepalmError:
            noticed += 1
        else:
            assert found == SAMPLES, f"byte {place} of {path.stat().st_size}"
    assert noticed > FLIPS / 2


def test_a_flipped_byte_of_sample_scores_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    texts = {sample.id: "yes" for sample in SAMPLES}
    scores = measure({sample.id: sample.references for sample in SAMPLES}, texts, ["vqa_accuracy"])
    write_sample_scores(path, SAMPLES, scores)
    expected = read_sample_scores(path, ["vqa_accuracy"]).scores["vqa_accuracy"]
    assert "vqa_accuracy" in METRICS
    for _ in flipped(path):
        try:
            found = read_sample_scores(path, ["vqa_accuracy"]).scores["vqa_accuracy"]
        except (DamagedFile, TableError):
            continue
        np.testing.assert_array_equal(found, expected)


def test_a_file_whose_sha256_is_known_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("a\n")
    known = sha256_file(path)
    require_sha256(path, known)
    require_sha256(path, None)  # of an earlier version
    path.write_text("b\n")
    with pytest.raises(DamagedFile, match=r"texts\.jsonl is damaged: its SHA-256 is .*, but was"):
        require_sha256(path, known)


def test_a_damaged_input_is_set_aside(tmp_path: Path) -> None:
    """As long as it is there, Snakemake holds it for done; a file that is no input stays."""
    inside, other = tmp_path / "in.json", tmp_path / "other.json"
    for path in (inside, other):
        path.touch()
    with pytest.raises(DepalmError, match=r"give the same command again"), set_aside([inside]):
        raise DamagedFile(inside, "its content has another checksum")
    assert not inside.exists()
    assert (tmp_path / "in.json.damaged").exists()
    with pytest.raises(DamagedFile, match=r"delete it"), set_aside([inside]):
        raise DamagedFile(other, "its content has another checksum")
    assert other.exists()


def test_the_digest_of_a_table_is_of_its_values_alone() -> None:
    """Not of its chunks; a value, its place, its type and whether it is there do count."""
    table = pa.table(
        {
            "text": ["ab", None, "", "ünï"],
            "list": [["x", "yz"], [], None, [None]],
            "number": [1, None, 0, -5],
            "flag": [True, False, None, True],
        }
    )
    known = digest(table)
    cut = pa.concat_tables([table.slice(0, 1), table.slice(1, 2), table.slice(3)])
    assert digest(cut) == digest(cut.combine_chunks()) == known
    others = [
        table.set_column(0, "text", pa.array(["a", None, "b", "ünï"])),
        table.set_column(0, "text", pa.array(["ab", "", None, "ünï"])),
        table.set_column(1, "list", pa.array([["xy", "z"], [], None, [None]])),
        table.set_column(1, "list", pa.array([["x"], ["yz"], None, [None]])),
        table.set_column(2, "number", pa.array([1, 0, None, -5])),
        table.set_column(2, "number", pa.array([1, None, 0, -5], pa.int32())),
        table.rename_columns(["text", "list", "number", "flags"]),
        table.slice(0, 3),
    ]
    assert len({known, *map(digest, others)}) == 1 + len(others)
    assert digest(table.slice(0, 0)) != digest(table.slice(0, 0).rename_columns(list("abcd")))


def test_parquet_of_others_has_no_digest(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2]})
    pq.write_table(table, tmp_path / "theirs.parquet")
    write_parquet(tmp_path / "ours.parquet", table)
    for name in ("theirs", "ours"):
        assert read_parquet(tmp_path / f"{name}.parquet").equals(table, check_metadata=True)
