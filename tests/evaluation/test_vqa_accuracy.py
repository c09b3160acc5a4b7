"""The official VQA rule; expected values worked out by hand from the published script."""

import pytest

from depalm.evaluation.vqa_accuracy import (
    CONTRACTIONS,
    answer_accuracy,
    aokvqa_accuracy,
    choice_accuracy,
    normalise_answer,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),  # lower case
        ("  two   dogs ", "2 dogs"),  # number words, spaces
        ("none", "0"),
        ("zero", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),  # the table ends at ten
        ("tone", "tone"),  # whole words only
        ("the cat on a mat", "cat on mat"),  # articles
        ("an apple", "apple"),
        ("theatre", "theatre"),
        ("a", ""),
        ("yes.", "yes"),  # a period goes unless a digit follows
        ("3.5", "3.5"),
        ("5.", "5"),
        (".5", ".5"),
        ("a.m.", "am"),
        ("u.s.a", "usa"),
        ("x" + "." * 40, "x" + "." * 8),  # only the first 32 periods
        ("2,000", "2000"),  # comma between digits: removed, and so is all punctuation
        ("2,000-3,000", "20003000"),
        ("red,blue", "red blue"),  # no space around: a space
        ("red, blue", "red blue"),  # space around: removed
        ("red ,blue", "red blue"),
        ("red , blue,green", "red bluegreen"),  # one is enough for every comma
        ("red/blue", "red blue"),
        ("black-and-white - yes", "blackandwhite yes"),
        ("well-known", "well known"),
        ("what?!", "what"),
        ('"stop"', "stop"),
        ("[x] (y) {z} <w>", "x y z w"),
        ("a+b=c", "b c"),  # a+b=c -> a b c, and "a" is an article
        ("back\\slash_and`tick@home;now", "back slash and tick home now"),
        ("10:30", "10:30"),  # colons stay
        ("dog's", "dog's"),  # apostrophes stay
        ("dont", "don't"),  # contractions
        ("Cant", "can't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("y'allll", "y'all'll"),
        ("'ows'at", "'ow's'at"),
        ("twas", "'twas"),
        ("somebody'd", "somebodyd"),  # as the official table has it
        ("Im", "im"),  # its capital keys never match
        ("lets", "lets"),
        ("couldntve", "couldntve"),  # two missing apostrophes are not restored
        ("", ""),
    ],
)
def test_normalisation(answer: str, expected: str) -> None:
    assert normalise_answer(answer) == expected


def test_contractions_table_has_the_official_size() -> None:
    # 120 entries, less the 4 with a capital and the 2 that map to themselves, none of which acts
    assert len(CONTRACTIONS) == 114
    for wrong, right in CONTRACTIONS.items():
        assert wrong != right
        assert wrong.replace("'", "") == right.replace("'", "")


@pytest.mark.parametrize(
    ("matching", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)]
)
def test_average_over_the_answer_left_out(matching: int, expected: float) -> None:
    answers = ["cat"] * matching + ["dog"] * (9 - matching) + ["bird"]
    assert answer_accuracy(answers, "cat") == pytest.approx(expected)


def test_answers_are_normalised_unless_unanimous() -> None:
    assert answer_accuracy(["Two."] * 9 + ["three"], "2") == 1.0
    assert answer_accuracy(["Two."] * 10, "2") == 0.0
    assert answer_accuracy(["Two."] * 10, "Two.") == 1.0
    # two spellings of one answer are not unanimous, though they are the same once normalised
    assert answer_accuracy(["two"] * 9 + ["2"], "the 2!") == 1.0


def test_line_breaks_and_outer_space_never_count() -> None:
    assert answer_accuracy(["ice cream"] * 10, " ice\ncream\t") == 1.0
    assert answer_accuracy([" ice\tcream\n"] * 10, "ice cream") == 1.0
    assert answer_accuracy(["yes"] * 5 + ["yes\n"] * 5, "Yes") == 0.0  # still unanimous, so raw


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_right_prediction_is_right_with_few_answers(count: int) -> None:
    assert answer_accuracy(["circle"] * count, "circle") == 1.0
    assert answer_accuracy(["circle"] * count, "square") == 0.0


def test_few_answers_need_all_the_others() -> None:
    assert answer_accuracy(["cat", "dog"], "cat") == 0.5
    assert answer_accuracy(["cat", "cat", "dog"], "cat") == pytest.approx((0.5 + 0.5 + 1) / 3)


def test_an_empty_prediction_matches_only_an_empty_answer() -> None:
    assert answer_accuracy(["cat"] * 9 + ["dog"], "") == 0.0
    assert answer_accuracy(["the"] * 9 + ["dog"], "") == 1.0


def test_mean_over_questions() -> None:
    references = {"q1": ["red"], "q2": ["blue"], "q3": ["yes"] * 2 + ["no"] * 8}
    predictions = {"q3": "yes", "q2": "red", "q1": "red"}
    assert vqa_accuracy(references, predictions).scores[0] == pytest.approx((1 + 0 + 0.6) / 3)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [("bus", 1.0), ("taxi", 2 / 3), ("ride", 1 / 3), ("Bus", 0.0), ("bus.", 0.0), ("", 0.0)],
)
def test_direct_answers_of_aokvqa_are_counted_as_they_are(prediction: str, expected: float) -> None:
    """min(1, matches / 3) of all ten: none left out, none normalised."""
    answers = ["bus"] * 7 + ["taxi"] * 2 + ["ride"]
    assert aokvqa_accuracy({"1": answers}, {"1": prediction}).scores[0] == pytest.approx(expected)
    two = {"1": answers, "2": ["x"] * 10}
    assert aokvqa_accuracy(two, {"1": prediction, "2": "x"}).scores[0] == pytest.approx(
        (expected + 1) / 2
    )


def test_a_choice_is_right_to_the_letter() -> None:
    references = {"1": ["cab"], "2": ["red car"], "3": ["tree"]}
    predictions = {"1": "cab", "2": "red", "3": "Tree"}
    assert choice_accuracy(references, predictions).scores[0] == pytest.approx(1 / 3)
