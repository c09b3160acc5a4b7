"""Official VQA accuracy (Antol et al. 2015; the evaluation script of visualqa.org).

A question has several human answers, ten in VQAv2, OKVQA, A-OKVQA and TextVQA. Against all of them
but one a prediction scores min(1, matches / 3), and its accuracy is the mean of that over the one
left out. Answers are normalised before they are compared, unless the humans all gave the same one:
then they are compared raw.
"""

import re
from collections.abc import Sequence
from statistics import fmean

from depalm.evaluation.measured import Measured, Predictions, References

MATCHES = 3  # so many equal human answers make a prediction fully right
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
MAX_PERIODS = 32  # the official script passes re.UNICODE, which is 32, where a count belongs
ARTICLES = {"a", "an", "the"}
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}

_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're
    you've
"""
# each is restored where one of its apostrophes is missing; "somebody'd" goes the wrong way in the
# official table
CONTRACTIONS = {"somebody'd": "somebodyd"} | {
    word[: mark.start()] + word[mark.end() :]: word
    for word in _CONTRACTED.split()
    for mark in re.finditer("'", word)
}


def normalise_answer(answer: str) -> str:
    """The form in which answers are compared: lower case, digits, no articles, no punctuation.

    A punctuation mark is removed if it stands beside a space anywhere in the answer, or if the
    answer has a comma between digits; else a space takes its place. A period stays only before a
    digit. Apostrophes and colons stay.
    """
    has_number = COMMA_IN_NUMBER.search(answer) is not None
    text = answer
    for mark in PUNCTUATION:
        joins = has_number or f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if joins else " ")
    words = PERIOD.sub("", text, count=MAX_PERIODS).lower().split()
    kept = [word for word in (DIGITS.get(word, word) for word in words) if word not in ARTICLES]
    return " ".join(CONTRACTIONS.get(word, word) for word in kept)


def answer_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Accuracy of a prediction against the human answers (at least one), from 0 to 1.

    With fewer than four answers there are no three others to agree with. Then all the others have
    to, and a single answer has to be matched itself, so that a right prediction always scores 1.
    """
    answers, prediction = [_one_line(answer) for answer in answers], _one_line(prediction)
    if len(set(answers)) > 1:
        answers, prediction = [normalise_answer(a) for a in answers], normalise_answer(prediction)
    matches = [answer == prediction for answer in answers]
    if len(answers) == 1:
        return float(matches[0])
    needed = min(MATCHES, len(answers) - 1)
    return fmean(min(1.0, (sum(matches) - own) / needed) for own in matches)


def vqa_accuracy(references: References, predictions: Predictions) -> Measured:
    """The accuracy of each question, and their mean, both given by question id."""
    return Measured.mean(
        answer_accuracy(texts, predictions[key]) for key, texts in references.items()
    )


def aokvqa_accuracy(references: References, predictions: Predictions) -> Measured:
    """A-OKVQA's score of direct answers: the mean of min(1, matches / 3) with the ten answers, none
    of them left out and none normalised (Schwenk et al. 2022, eval_predictions.py).
    """
    return Measured.mean(
        min(1.0, list(answers).count(predictions[key]) / MATCHES)
        for key, answers in references.items()
    )


def choice_accuracy(references: References, predictions: Predictions) -> Measured:
    """The part of the questions whose prediction is the right choice to the letter (A-OKVQA's score
    of multiple choice).
    """
    return Measured.mean(float(predictions[key] in answers) for key, answers in references.items())


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
