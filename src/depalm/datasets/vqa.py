"""Readers of question answering datasets; all answers that the humans gave are references."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from depalm.datasets.annotations import Annotation, is_text, read_rows, texts
from depalm.datasets.coco import coco_id, coco_media, karpathy_rows
from depalm.errors import AnnotationError
from depalm.progress import logger


class Official(NamedTuple):
    """What VQA's annotations say of a question."""

    answers: Sequence[str] = ()
    question_type: str = ""
    answer_type: str = ""


def read_easy_vqa(root: Path, split: str) -> Iterator[Annotation]:
    """easy-VQA 1.0 (package `easy-vqa`, folder data).

    {split}/questions.json is a list of [question, answer, image number], and the images are
    {split}/images/{number}.png.
    """
    path = root / split / "questions.json"
    for number, row in enumerate(read_rows(path)):
        match row:
            case [str(question), str(answer), int(image)]:
                media = f"{split}/images/{image}.png"
                yield Annotation(f"{split}-{number}", media, question, [answer])
            case _:
                raise AnnotationError(f"{path}: row {number} is not [question, answer, image]")


def read_vqav2(root: Path, split: str) -> Iterator[Annotation]:
    """VQAv2 in its official split: train, val (443,757, 214,354 questions, ten answers each).

    v2_OpenEnded_mscoco_{split}2014_questions.json and v2_mscoco_{split}2014_annotations.json, on
    COCO images (see depalm.datasets.coco.coco_media). Those of test have no published answers.
    """
    for _, row in _official_pair(root, "v2_", split):
        yield row


def read_okvqa(root: Path, split: str, key: str = "raw_answer") -> Iterator[Annotation]:
    """OKVQA: train, val (9,009, 5,046 questions; the answers of five people, each twice).

    OpenEnded_mscoco_{split}2014_questions.json and mscoco_{split}2014_annotations.json, on COCO
    images (see depalm.datasets.coco.coco_media). References are the answers as people wrote them
    (`raw_answer`, as in the paper) or under another `key`: the official evaluation takes the
    stemmed ones (`answer`).
    """
    for _, row in _official_pair(root, "", split, key):
        yield row


def read_vqav2_karpathy(root: Path, split: str) -> Iterator[Annotation]:
    """VQAv2 in Karpathy's split: train, val, test (605,102, 26,729, 26,280 questions).

    Either karpathy_{split}.json of VL-T5 (Cho et al. 2021), a list of {question_id, img_id, sent},
    with the answers in it or else the official ones. Or, without it, the official pairs of train
    and val (see read_vqav2) and dataset_coco.json: the questions about the images of Karpathy's val
    and test are val and test, all others train: the same split, by its counts.
    """
    path = root / f"karpathy_{split}.json"
    if path.is_file():
        yield from _karpathy_questions(root, path)
        return
    parts = {image: part for image, part, _ in karpathy_rows(root) if part in ("val", "test")}
    for official in ("train", "val"):
        for image, row in _official_pair(root, "v2_", official):
            if parts.get(image, "train") == split:
                yield row


def _karpathy_questions(root: Path, path: Path) -> Iterator[Annotation]:
    media = coco_media(root)
    rows = read_rows(path)
    official: dict[int, Official] = {}
    if not all(isinstance(row, dict) and "answers" in row for row in rows):
        official = _official_answers(root, "v2_", "train") | _official_answers(root, "v2_", "val")
    for number, row in enumerate(rows):
        where = f"{path}: row {number}"
        match row:
            case {"question_id": int(key), "img_id": str(name), "sent": str(question)}:
                given, known = row.get("answers"), official.get(key, Official())
                answers = list(known.answers) if given is None else _answers(given, where)
                image = media(coco_id(name, where))
                yield Annotation(str(key), image, question, answers, None, *known[1:])
            case _:
                raise AnnotationError(f"{where} is not {KARPATHY_QUESTION}")


def _official_pair(
    root: Path, prefix: str, split: str, answer: str = "answer"
) -> Iterator[tuple[int, Annotation]]:
    """Image id and sample of each question; one without annotation has no references."""
    media = coco_media(root)
    answers = _official_answers(root, prefix, split, answer)
    path = root / f"{prefix}OpenEnded_mscoco_{split}2014_questions.json"
    asked = set()
    for number, row in enumerate(read_rows(path, "questions")):
        match row:
            case {"question_id": int(key), "image_id": int(image), "question": str(question)}:
                asked.add(key)
                known = answers.get(key, Official())
                text = question, list(known.answers), None
                yield image, Annotation(str(key), media(image), *text, *known[1:])
            case _:
                raise AnnotationError(f"{path}: row {number} is not {QUESTION}")
    if unasked := len(answers.keys() - asked):
        logger.warning("%s lacks the questions of %d annotations", path, unasked)


def _official_answers(
    root: Path, prefix: str, split: str, answer: str = "answer"
) -> dict[int, Official]:
    """What is known of each question, by its id; each answer stands under the key `answer`."""
    path = root / f"{prefix}mscoco_{split}2014_annotations.json"
    answers: dict[int, Official] = {}
    for number, row in enumerate(read_rows(path, "annotations")):
        match row:
            case {"question_id": int(key), "answers": given} if key not in answers:
                types = (str(row.get(name, "")) for name in ("question_type", "answer_type"))
                given = _answers(given, f"{path}: row {number}", answer)
                answers[key] = Official(given, *types)
            case {"question_id": int(key)} if key in answers:
                raise AnnotationError(f"{path}: row {number} is a second one of question {key}")
            case _:
                raise AnnotationError(f"{path}: row {number} is not {QUESTION_ANSWERS}")
    return answers


def _answers(rows: object, where: str, key: str = "answer") -> list[str]:
    """VQA's [{"answer": ...}, ...]."""
    if not isinstance(rows, list):
        raise AnnotationError(f"{where}: answers is no list")
    return texts(rows, key, f"{where}, answers,")


def read_aokvqa(root: Path, split: str) -> Iterator[Annotation]:
    """A-OKVQA 1.0: train, val (17,056, 1,145 questions); references are the ten direct answers.

    aokvqa_v1p0_{split}.json, on COCO images (see depalm.datasets.coco.coco_media). Questions that
    are marked as hard to answer directly are trained on, but not among those of val: the official
    score of direct answers leaves them out. Those of test have no published answers.
    """
    media = coco_media(root)
    path = root / f"aokvqa_v1p0_{split}.json"
    left_out = 0
    for number, row in enumerate(read_rows(path)):
        match row:
            case {
                "question_id": str(key),
                "image_id": int(image),
                "question": str(question),
                "direct_answers": list(answers),
            } if all(map(is_text, answers)):
                if split != "train" and row.get("difficult_direct_answer") is True:
                    left_out += 1
                else:
                    yield Annotation(key, media(image), question, answers)
            case _:
                raise AnnotationError(f"{path}: row {number} is not {AOKVQA_QUESTION}")
    if left_out:
        logger.info("%s: %d questions that are hard to answer directly left out", path, left_out)


def read_aokvqa_choices(root: Path, split: str) -> Iterator[Annotation]:
    """A-OKVQA 1.0 with its four choices behind each question (see read_aokvqa for the files): the
    reference is the right one.
    """
    media = coco_media(root)
    path = root / f"aokvqa_v1p0_{split}.json"
    for number, row in enumerate(read_rows(path)):
        match row:
            case {
                "question_id": str(key),
                "image_id": int(image),
                "question": str(question),
                "choices": list(choices),
                "correct_choice_idx": int(right),
            } if all(map(is_text, choices)) and 0 <= right < len(choices):
                asked = f"{question}\nChoices: {', '.join(choices)}"
                yield Annotation(key, media(image), asked, [choices[right]])
            case _:
                raise AnnotationError(f"{path}: row {number} is not {AOKVQA_CHOICES}")


def read_textvqa(root: Path, split: str) -> Iterator[Annotation]:
    """TextVQA 0.5.1: train, val (34,602, 5,000 questions, ten answers each).

    TextVQA_0.5.1_{split}.json; the images of both splits are train_images/{image_id}.jpg. Those of
    test have no published answers. The hub's parquet form becomes this one by converter
    `textvqa_parquet`.
    """
    path = root / f"TextVQA_0.5.1_{split}.json"
    for number, row in enumerate(read_rows(path, "data")):
        match row:
            case {
                "question_id": int(key),
                "image_id": str(image),
                "question": str(question),
                "answers": list(answers),
            } if all(map(is_text, answers)):
                yield Annotation(str(key), f"train_images/{image}.jpg", question, answers)
            case _:
                raise AnnotationError(f"{path}: row {number} is not {TEXTVQA_QUESTION}")


QUESTION = '{"question_id", "image_id", "question"}'
QUESTION_ANSWERS = '{"question_id", "answers"}'
KARPATHY_QUESTION = '{"question_id", "img_id", "sent"}'
AOKVQA_QUESTION = '{"question_id", "image_id", "question", "direct_answers": [text, ...]}'
AOKVQA_CHOICES = (
    '{"question_id", "image_id", "question", "choices": [text, ...], "correct_choice_idx"}'
)
TEXTVQA_QUESTION = '{"question_id", "image_id", "question", "answers": [text, ...]}'
