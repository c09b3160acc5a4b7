"""The dataset readers on small real data, where it is (DEPALM_SHARED)."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from depalm.datasets.manifest import unique_media
from depalm.errors import AnnotationError
from depalm.rejects import RejectError
from tests.support.annotations import TEN, answers, manifest, put, read
from tests.support.media_files import SHARED


@pytest.fixture(scope="module")
def shared() -> Path:
    """The folder of small real data, see its SOURCES.md."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data: {SHARED} does not exist; set DEPALM_SHARED to its folder")
    return SHARED


def test_real_coco(shared: Path) -> None:
    counts = {}
    for reader, split in [
        ("coco_karpathy", "train"),
        ("coco_karpathy", "val"),
        ("coco_karpathy", "test"),
        ("coco_2017", "train"),
        ("coco_2017", "val"),
    ]:
        samples, rejects = manifest(reader, shared / "image-caption", split)
        assert rejects == {}
        assert all(len(sample.references) >= 5 for sample in samples)
        counts[reader, split] = len(samples)
    assert counts["coco_2017", "train"] == 46
    assert counts["coco_2017", "val"] == 51
    assert counts["coco_karpathy", "val"] + counts["coco_karpathy", "test"] == 26
    official = {
        row.id: row
        for split in ("train", "val")
        for row in read("coco_2017", shared / "image-caption", split)
    }
    for row in read("coco_karpathy", shared / "image-caption", "val"):
        assert row.media == official[row.id].media
        assert sorted(row.references) == sorted(official[row.id].references)


def test_real_vqav2(shared: Path) -> None:
    template = {"texts": ["{question}\n\nAnswer:\n"]}
    root = shared / "vqa"
    samples, rejects = manifest("vqav2", root, "train", tolerated=1.0, templates=template)
    assert len(samples) + len(rejects) == 175
    assert set(rejects.values()) <= {"no such media file"}
    assert len(samples) > 100
    assert all(len(sample.references) == 10 for sample in samples)
    assert all(sample.prompt.endswith("?\n\nAnswer:\n") for sample in samples)
    assert all((root / media).is_file() for media in unique_media(samples))


def test_real_okvqa_questions(shared: Path, tmp_path: Path) -> None:
    """Real questions and images; the official answers are not there, so the test writes some."""
    questions = shared / "vqa/okvqa/OpenEnded_mscoco_val2014_questions.json"
    shutil.copy(questions, tmp_path)
    (tmp_path / "val2014").symlink_to(shared / "vqa/val2014")
    rows = [
        {"question_id": row["question_id"], "answers": answers(TEN)}
        for row in json.loads(questions.read_text())["questions"]
    ]
    put(tmp_path / "mscoco_val2014_annotations.json", {"annotations": rows})
    samples, rejects = manifest("okvqa", tmp_path, "val", tolerated=1.0)
    assert len(samples) + len(rejects) == 44
    assert len(samples) > 20
    assert all(sample.media.startswith("val2014/COCO_val2014_") for sample in samples)


def test_real_aokvqa(shared: Path, tmp_path: Path) -> None:
    subset = tmp_path / "subset"
    subset.mkdir()
    source = shared / "vqa/aokvqa"
    shutil.copy(source / "aokvqa_v1p0_val.subset.json", subset / "aokvqa_v1p0_val.json")
    for folder in ("train2014", "val2014"):
        (subset / folder).symlink_to(shared / "vqa" / folder)
    for folder in ("train2017", "val2017"):
        (subset / folder).symlink_to(shared / "image-caption" / folder)
    rows = json.loads((source / "aokvqa_v1p0_val.json").read_text())
    hard = sum(row["difficult_direct_answer"] for row in rows)
    assert (len(rows), hard) == (1145, 70)
    samples, rejects = manifest("aokvqa", subset, "val")
    assert (len(samples), len(unique_media(samples)), rejects) == (32, 31, {})
    everything = read("aokvqa", source, "val")
    assert len(everything) == 1075
    assert all(len(row.references) == 10 for row in everything)
    assert len(read("aokvqa_choices", source, "val")) == 1145


def test_real_audiocaps(shared: Path, tmp_path: Path) -> None:
    source = shared / "audio-caption"
    assert len(read("audiocaps", source, "val")) == 495
    everything, rejects = manifest("audiocaps", source, "test", tolerated=0.99)
    assert (len(everything), len(rejects)) == (13, 962)
    assert set(rejects.values()) == {"no such media file"}
    with pytest.raises(RejectError, match="962 of 975 rejected"):
        manifest("audiocaps", source, "test", tolerated=0.5)

    shutil.copy(source / "test.subset13.csv", tmp_path / "test.csv")
    (tmp_path / "audio").symlink_to(source / "test")
    samples, rejects = manifest("audiocaps", tmp_path, "test")
    assert (len(samples), rejects) == (13, {})
    assert all(len(sample.references) == 5 for sample in samples)
    assert all(sample.media == f"audio/{sample.id}.wav" for sample in samples)

    shutil.copy(source / "train.first500.csv", tmp_path / "train.csv")
    assert {len(row.references) for row in read("audiocaps", tmp_path)} == {1}


def test_real_msrvtt_annotations(shared: Path, tmp_path: Path) -> None:
    for name in ("train_val_annotation.zip", "test_videodatainfo.json.zip"):
        with zipfile.ZipFile(shared / "video-caption/msrvtt_official" / name) as archive:
            archive.extractall(tmp_path)
    for split, count in (("train", 7010), ("test", 2990)):
        rows = read("msrvtt", tmp_path, split)
        assert len(rows) == count
        assert {len(row.references) for row in rows} == {20}
    assert rows[0].media == "videos/all/video7010.mp4"


def test_real_clips_in_msrvtts_form(shared: Path) -> None:
    samples, rejects = manifest("msrvtt", shared / "video-caption", "test")
    assert (len(samples), rejects) == (10, {})
    assert {Path(sample.media).suffix for sample in samples} == {".avi", ".mp4"}


def test_real_msvd_clips_by_a_users_own_manifest(shared: Path, tmp_path: Path) -> None:
    source = shared / "video-caption"
    (tmp_path / "videos").symlink_to(source / "videos")
    rows = json.loads((source / "msvd_testing_label.subset5.json").read_text())
    lines = [{"media": f"videos/all/{r['id']}", "references": r["caption"]} for r in rows]
    (tmp_path / "manifest.test.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    samples, rejects = manifest("generic", tmp_path, "test")
    assert (len(samples), rejects) == (5, {})
    assert sum(len(sample.references) for sample in samples) == 82


def test_real_textvqa_questions(shared: Path, tmp_path: Path) -> None:
    """Those of test have no answers, which is named; with answers of VQA's form they are read."""
    source = shared / "vqa/textvqa"
    content = json.loads((source / "TextVQA_0.5.1_test.first100.json").read_text())
    put(tmp_path / "TextVQA_0.5.1_train.json", content)
    with pytest.raises(AnnotationError, match=r"row 0 is not .*answers"):
        read("textvqa", tmp_path)
    rows = [{**row, "answers": TEN} for row in content["data"]]
    put(tmp_path / "TextVQA_0.5.1_train.json", {**content, "data": rows})
    assert len(read("textvqa", tmp_path)) == 100
