"""Where words begin and end in any script, which answers say nothing, and that no list of texts is a single text."""

from __future__ import annotations

import re
import unicodedata
import warnings
from typing import Any

import pytest
import tiny

from steerlib import SteerlibError, distinct_n, fluency, highlight, mention_rate, perplexity, sentiment
from steerlib.evaluate.capability import names_job
from steerlib.evaluate.words import repeated, words_of

FOUND = [  # a phrase, and a text that holds it
    ("女人", "这是一个女人。"),
    ("女性", "彼は女性です。"),
    ("ナース", "このナースは忙しい。"),
    ("여자", "그 여자는 말했다."),
    ("여자", "여자들에게서 들었다."),
    ("مرأة", "والمرأة قالت"),
    ("مرأة", "للمرأة"),
    ("رجل", "قال الرَّجُلُ"),
    ("אישה", "והאישה אמרה"),
    ("महिला", "वह एक महिला है।"),
    ("женщина", "Это женщина."),
    ("woman", "A _woman_ and a **man**."),
    ("she", "she_id = 3"),
    ("woman", "これはwomanです"),
    ("woman", "그 woman은 의사다"),
    ("mujer", "«mujer»"),
    ("fiancé", unicodedata.normalize("NFD", "Her fiancé sings.")),
    (unicodedata.normalize("NFD", "fiancé"), "Her fiancé sings."),
    ("woman", "a wo\u00adman"),
]
INSIDE = [  # a phrase, and a text that holds it only inside another word
    ("ナース", "ナースコール"),
    ("여자", "여자친구가 왔다"),
    ("महिला", "महिलाएं"),
    ("man", "A mañana, a human and a mans_"),
    ("he", "they\u2011he and he\u2010goat"),
    ("cafe", unicodedata.normalize("NFD", "café")),
    ("رجل", "الرجلان"),
]


@pytest.mark.parametrize(("phrase", "text"), FOUND)
def test_a_word_is_found_in_its_script(phrase: str, text: str) -> None:
    assert mention_rate([text], {"it": [phrase]}).rate("it").value == 1
    assert "<mark" in re.sub("Marked: .*", "", highlight([text], {"it": [phrase]}).html)
    assert names_job(text, phrase)


@pytest.mark.parametrize(("phrase", "text"), INSIDE)
def test_a_word_is_not_found_inside_another(phrase: str, text: str) -> None:
    assert mention_rate([text], {"it": [phrase]}).rate("it").value == 0


def test_without_blanks_the_longest_phrase_wins() -> None:
    words = {"man": ["彼"], "woman": ["彼女"]}
    got = mention_rate(["彼女は医者です。", "彼は医者です。"], words)
    assert list(got.frame["mentions man"]) == [False, True] and list(got.frame["mentions woman"]) == [True, False]


@pytest.mark.parametrize(
    ("phrase", "script"), [("ผู้หญิง", "Thai"), ("ແມ່ຍິງ", "Lao"), ("ស្ត្រី", "Khmer"), ("မိန်းမ", "Myanmar")]
)
def test_scripts_that_need_a_dictionary_are_refused(phrase: str, script: str) -> None:
    for call in (lambda: mention_rate(["x"], {"it": [phrase]}), lambda: names_job("x", phrase)):
        with pytest.raises(
            SteerlibError, match=f"'{phrase}' cannot be counted: {script} text does not mark where words end"
        ):
            call()


@pytest.mark.parametrize("text", ["这是一个女人。", "นี่คือผู้หญิง", "это женщина", "그 여자는 말했다."])
def test_a_text_that_the_lists_cannot_read_is_never_a_silent_0(text: str) -> None:
    with pytest.warns(UserWarning, match="1 of 2 answers are in .* script, and no phrase is"):
        mention_rate([text, "A judge."])


def test_own_phrases_are_found_even_where_the_lists_call_them_neither() -> None:
    answers = ["He or she mends it.", "He mends it."]
    assert list(mention_rate(answers, {"both": ["he or she"]}).frame["mentions both"]) == [True, False]
    assert list(mention_rate(answers, {"man": ["he"]}).frame["mentions man"]) == [False, True]


def test_n_grams_are_of_words_in_every_script() -> None:
    assert words_of("_She_ isn't S/HE_2.") == ["she", "isn't", "s", "he", "2"]
    assert words_of("她说 OK") == ["她", "说", "ok"] and words_of("...") == []
    assert distinct_n(["她说她说她说"], 2).value == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("the the the the", True),
        ("he he he", False),
        ("hehehehehehe", True),
        ("!!!!!!!!!!!!", False),  # which is empty
        ("的的的的的的的的", True),
        ("The cook is a cook. The cook is a cook. The cook is a cook. The cook is a", True),
        ("A doctor, a woman with dark skin, who works in a hospital and is late.", False),
        ("No, no, no: the cook is late.", False),
        ("", False),
    ],
)
def test_a_text_repeats_itself(text: str, says: bool) -> None:
    assert repeated(text) is says


def test_ordinary_prose_is_not_repeated_however_long() -> None:
    from steerlib import plain_text

    assert not any(map(repeated, plain_text())) and not repeated(" ".join(plain_text()))


BROKEN = ["", " \n", "...", "the the the the the", "A judge."]


def test_a_destroyed_model_does_not_look_unbiased() -> None:
    with pytest.warns(UserWarning, match=r"4 of 5 answers are empty or repeat one phrase \(3 empty, 1 repeated\)"):
        got = mention_rate(BROKEN)
    assert got.rate().value == 0 and got.empty.value == 3 / 5 and got.repeated.value == 1 / 5
    lm = tiny.model("llama")
    with pytest.warns(UserWarning, match="4 of 5 answers"):
        reads = fluency(lm, ["Once there"] * 5, [f" {text}" for text in BROKEN])
    assert reads.empty.value == 3 / 5 and reads.repeated.value == 1 / 5
    with pytest.warns(UserWarning, match="4 of 5 answers"):
        sounds = sentiment(BROKEN)
    assert sounds.empty == got.empty and sounds.repeated == got.repeated
    for result in (reads, sounds):
        assert {"empty", "repeated"} <= set(result.table().index)


def test_a_few_empty_answers_are_counted_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = mention_rate(["A judge."] * 19 + [""])
    assert got.empty.value == 1 / 20 and got.repeated.value == 0


LM = tiny.model("llama")
ONE = "I love you"
CALLS: list[Any] = [
    lambda texts: mention_rate(texts),
    lambda texts: highlight(texts),
    lambda texts: sentiment(texts),
    lambda texts: distinct_n(texts, 1),
    lambda texts: perplexity(LM, texts),
    lambda texts: fluency(LM, ["Once there"], texts),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (ONE, "not one text: write \\[text\\] for a single one"),
        ([], "there are no"),
        ([ONE, None], "number 1 is 'None'"),
        ([float("nan")], "number 0 is 'nan'"),
        (3, "list of texts, not int"),
    ],
)
def test_what_is_not_a_list_of_texts_is_refused_everywhere(call: Any, texts: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as told:
        call(texts)
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


def test_arrays_and_series_of_texts_are_lists() -> None:
    import numpy as np
    import pandas as pd

    texts = ["A woman.", "A judge."]
    for same in (tuple(texts), np.array(texts), pd.Series(texts, index=[7, 8])):
        assert mention_rate(same).frame.equals(mention_rate(texts).frame)  # type: ignore[arg-type]
        assert distinct_n(same) == distinct_n(texts)  # type: ignore[arg-type]
