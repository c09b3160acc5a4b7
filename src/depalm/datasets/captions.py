"""Readers of captioning datasets other than COCO; all captions of a file are its references."""

import re
from collections.abc import Iterator
from pathlib import Path

from depalm.datasets.annotations import (
    Annotation,
    find_media,
    is_text,
    one_line,
    read_csv,
    read_rows,
    texts,
)
from depalm.errors import AnnotationError

NUMBER = re.compile(r"\d+(\.\d+)?")
CLIP_TIMES = re.compile(r"[_-](\d+(?:\.\d+)?)(?:[_-]\d+(?:\.\d+)?)?")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".webm", ".mkv")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov")
VIDEO_FOLDERS = ("videos/all", "videos", "TrainValVideo", "TestVideo")


def read_textcaps(root: Path, split: str) -> Iterator[Annotation]:
    """TextCaps 0.1: train, val (21,953, 3,166 images, five captions each).

    TextCaps_0.1_{split}.json has a row for each caption; the images of both splits are
    train_images/{image_id}.jpg. Those of test have no published captions.
    """
    path = root / f"TextCaps_0.1_{split}.json"
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(read_rows(path, "data")):
        match row:
            case {"image_id": str(image), "caption_str": str(caption)}:
                captions.setdefault(image, []).append(one_line(caption))
            case _:
                raise AnnotationError(f"{path}: row {number} is not {TEXTCAPS_CAPTION}")
    for image, lines in captions.items():
        yield Annotation(image, f"train_images/{image}.jpg", "", lines)


def read_audiocaps(root: Path, split: str) -> Iterator[Annotation]:
    """AudioCaps (Kim et al. 2019): train, val, test (49,838, 495, 975 clips).

    {split}.csv has the columns audiocap_id, youtube_id, start_time, caption: one row for each clip
    of train, five for each of val and test. Clips lie in {split}/, audio/{split}/, audio/, or in
    these folders of another split; the name of one is an AudioCaps id of its rows, or its YouTube
    id, after a Y or not, alone or with its start, and with its end (see `names_clip`).
    """
    path = root / f"{split}.csv"
    folders = [split, f"audio/{split}", "audio"]
    folders += [f"{way}{other}" for other in AUDIOCAPS_SPLITS for way in ("", "audio/")]
    clips = find_media(root, dict.fromkeys(folders), AUDIO_SUFFIXES)
    of_video: dict[str, list[str]] = {}
    for name in clips:
        for video in {name[:11], name.removeprefix("Y")[:11]}:
            of_video.setdefault(video, []).append(name)
    captions: dict[tuple[str, str], dict[str, str]] = {}
    seen: set[str] = set()
    for number, row in enumerate(read_csv(path)):
        known = row.keys() == AUDIOCAPS_COLUMNS and NUMBER.fullmatch(row["start_time"])
        if not known or not row["youtube_id"] or row["audiocap_id"] in seen:
            raise AnnotationError(
                f"{path}: row {number} is not {', '.join(sorted(AUDIOCAPS_COLUMNS))}, with an "
                "audiocap_id of its own"
            )
        seen.add(row["audiocap_id"])
        clip = captions.setdefault((row["youtube_id"], row["start_time"]), {})
        clip[row["audiocap_id"]] = one_line(row["caption"])
    for (video, start), lines in captions.items():
        named = [key for key in lines if key in clips]
        named += [name for name in of_video.get(video, []) if names_clip(name, video, start)]
        media = clips[named[0]] if named else f"{split}/{video}_{start}.wav"
        yield Annotation(f"{video}_{start}", media, "", list(lines.values()))


def names_clip(name: str, video: str, start: str) -> bool:
    """Whether a file's name without suffix is that of the clip of a YouTube video that starts at
    `start` seconds: {video}, or {video}_{start}, or {video}_{start}_{end}, in seconds or
    milliseconds, with any number of zeros in front or behind, and maybe after a Y.

    Another start is another clip, and anything else (.temp, .part, .f140) no whole one.
    """
    for known in (video, f"Y{video}"):
        rest = name.removeprefix(known)
        if rest == "":
            return True
        found = CLIP_TIMES.fullmatch(rest)
        if rest != name and found is not None:
            return float(found[1]) in (float(start), 1000 * float(start))
    return False


def read_msrvtt(root: Path, split: str) -> Iterator[Annotation]:
    """MSR-VTT (Xu et al. 2016): train, test (7,010, 2,990 videos, twenty captions each).

    Either msrvtt_caption_train7k.json and msrvtt_caption_test.json, lists of {video, caption} with
    one or all captions of a video; or the official train_val_videodatainfo.json, whose `train` and
    `validate` videos both are train, and test_videodatainfo.json. Videos are {video_id}.mp4 (or
    .avi, .mkv, .webm, .mov) in videos/all/, videos/, TrainValVideo/ or TestVideo/.
    """
    if split not in MSRVTT_FILES:
        raise AnnotationError(f"MSR-VTT has the splits {sorted(MSRVTT_FILES)}, no {split!r}")
    listed, official = (root / name for name in MSRVTT_FILES[split])
    if not listed.is_file() and not official.is_file():
        raise AnnotationError(f"{root} holds neither {listed.name} nor {official.name}")
    clips = find_media(root, VIDEO_FOLDERS, VIDEO_SUFFIXES)
    captions = _listed_videos(listed) if listed.is_file() else _official_videos(official)
    for video, lines in captions.items():
        media = clips.get(video, f"{VIDEO_FOLDERS[0]}/{video}.mp4")
        yield Annotation(video, media, "", [one_line(line) for line in lines])


def _listed_videos(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(read_rows(path)):
        match row:
            case {"video": str(name), "caption": str(line)}:
                lines = [line]
            case {"video": str(name), "caption": list(lines)} if all(map(is_text, lines)):
                pass
            case _:
                raise AnnotationError(f"{path}: row {number} is not {MSRVTT_VIDEO}")
        captions.setdefault(Path(name).stem, []).extend(lines)
    return captions


def _official_videos(path: Path) -> dict[str, list[str]]:
    videos = texts(read_rows(path, "videos"), "video_id", f"{path}: videos")
    captions: dict[str, list[str]] = {video: [] for video in videos}
    if len(captions) < len(videos):
        raise AnnotationError(f"{path}: videos has a video_id twice")
    for number, row in enumerate(read_rows(path, "sentences")):
        match row:
            case {"video_id": str(video), "caption": str(caption)} if video in captions:
                captions[video].append(caption)
            case _:
                raise AnnotationError(f"{path}: sentence {number} is not {MSRVTT_SENTENCE}")
    return captions


TEXTCAPS_CAPTION = '{"image_id", "caption_str"}'
AUDIOCAPS_SPLITS = ("train", "val", "test")
AUDIOCAPS_COLUMNS = {"audiocap_id", "youtube_id", "start_time", "caption"}
MSRVTT_VIDEO = '{"video", "caption": text or [text, ...]}'
MSRVTT_SENTENCE = '{"video_id" (of one of the videos), "caption"}'
MSRVTT_FILES = {
    "train": ("msrvtt_caption_train7k.json", "train_val_videodatainfo.json"),
    "test": ("msrvtt_caption_test.json", "test_videodatainfo.json"),
}
