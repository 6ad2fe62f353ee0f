"""What counts as a mention, sentence by sentence; the shares, against counts by hand; the HTML, against its own text."""

from __future__ import annotations

import html
import re
from typing import Any

import pandas as pd
import pytest
import tiny

from steerlib import SteerlibError, chat, steer
from steerlib.evaluate import language
from steerlib.evaluate.language import fluency, sentiment
from steerlib.evaluate.mentions import attribute_words, highlight, mention_rate, mentions
from steerlib.steering.operations import Add, Steering
from steerlib.tasks import Portrait

SAYS = [  # a sentence, and the categories it mentions
    ("A woman with dark skin who works as a doctor.", {"gender", "skin colour"}),
    ("This is a pilot, a man with medium skin.", {"gender", "skin colour"}),
    ("This is a woman. She works as a judge, and her skin is light.", {"gender", "skin colour"}),
    ("They work as a farmer, and their skin is dark.", {"skin colour"}),
    ("The picture shows a firefighter.", set()),
    ("A person who works as a police officer.", set()),
    # gender
    ("The MEN are at work.", {"gender"}),
    ("It is the man's desk.", {"gender"}),
    ("He’s at work.", {"gender"}),
    ("This is Mr Clark, and Miss Lee is late.", {"gender"}),
    ("You cannot miss it.", set()),
    ("A businesswoman and a fireman.", {"gender"}),
    ("Yes, ma'am.", {"gender"}),
    ("Yes, ma’am.", {"gender"}),
    ("The manager of the German human museum performs a manual task with mankind's menu.", set()),
    ("A woman-owned shop sells man-made ice to the he-goat.", set()),
    ("The shed, the heat, the hero, the theme and hershey.", set()),
    ("He or she mends his or her tools; s/he is a mechanic, a man or a woman.", set()),
    ("He or she? I think she is.", {"gender"}),
    ("Its gender cannot be told.", set()),
    # skin colour
    ("Dark-skinned, with a medium-dark skin tone.", {"skin colour"}),
    ("A person of light complexion.", {"skin colour"}),
    ("The skin tone appears to be a light brown.", {"skin colour"}),
    ("Their skin looks very pale.", {"skin colour"}),
    ("A person against a dark background, in light clothes and medium size.", set()),
    ("Light falls on the dark wall of the brown skinny house.", set()),
    ("Skincare products, and a leather skin.", set()),
    ("An Asian person, a Black person, a person of color.", {"skin colour"}),
    ("A person of South-Asian descent.", {"skin colour"}),
    ("The doctor is African American.", {"skin colour"}),
    ("An Indian cook and two African students.", {"skin colour"}),
    ("Asian food in a white bowl on a black table.", set()),
    ("A white doctor's coat, a black police uniform.", set()),
    ("The wall is white, people pass.", set()),
    # age
    ("A young artist and an elderly teacher.", {"age"}),
    ("A middle-aged person, in their mid-forties.", {"age"}),
    ("An older female pilot.", {"age", "gender"}),
    ("The mechanic looks rather old.", {"age"}),
    ("A 25-year-old programmer, about 25 years old.", {"age"}),
    ("Perhaps forty years old.", {"age"}),
    ("In the late 60s, an old car in an old garage.", set()),
    ("A senior officer told a bold story of gold.", set()),
    # looks
    ("Someone with long, curly hair and blue eyes.", {"looks"}),
    ("Blonde, bearded, freckled, tattooed.", {"looks"}),
    ("A beautiful, tall person.", {"looks"}),
    ("A tall building in a beautiful blue landscape, and a short story.", set()),
    ("The hairdresser cuts hair with a blue-handled tool.", set()),
    ("The singer is very attractive.", {"looks"}),
    ("A bald man.", {"looks", "gender"}),
    ("A balding, slim, short person with grey hair.", {"looks"}),
    ("", set()),
]


@pytest.mark.parametrize(("sentence", "says"), SAYS)
def test_a_sentence_mentions_what_it_mentions(sentence: str, says: set[str]) -> None:
    row = mention_rate([sentence]).frame.iloc[0]
    assert {name for name in attribute_words() if row[f"mentions {name}"]} == says, row["words"]
    assert row["mentions any"] == bool(says) == bool(row["words"])


@pytest.mark.parametrize(
    "word", [w for words in attribute_words().values() for w in words if "{" not in w and "#" not in w]
)
def test_every_word_is_found_whole_and_nowhere_inside_another(word: str) -> None:
    for text, found in ((f"the {word}.", True), (f'"{word}"', True), (f"x{word}", False), (f"{word}x", False)):
        assert bool(mention_rate([text], {"it": [word]}).rate().value) == found, text
    assert mention_rate([word.upper()], {"it": [word]}).rate().value == (word == word.lower())


def test_no_phrase_is_listed_twice() -> None:
    for words in attribute_words().values():
        assert len(set(words)) == len(words)
    every = [phrase for words in attribute_words().values() for phrase in words]
    assert len(set(every)) == len(every)


def test_pronouns_count_unless_only_nouns_are_asked_for() -> None:
    answers = ["She paints.", "A woman paints.", "They paint."]
    assert mention_rate(answers).rate("gender").value == pytest.approx(2 / 3)
    assert mention_rate(answers, pronouns=False).rate("gender").value == pytest.approx(1 / 3)


ANSWERS = ["A man.", "A woman.", "A young man.", "A judge.", "She works.", "A cook.", "An old man.", "A woman."]
GENDER = ["man", "woman"] * 4
TONE = ["dark", "dark", "light", "light"] * 2
JOB = ["judge"] * 4 + ["cook"] * 4


def scored(clusters: Any = JOB) -> Any:
    return mention_rate(ANSWERS, groups={"gender": GENDER, "tone": TONE}, clusters=clusters, resamples=200)


def test_rates_are_shares_of_answers() -> None:
    got = scored()
    assert got.rate().value == got.rate("any").value == pytest.approx(6 / 8) and got.rate().n == 2
    assert got.rate("gender").value == pytest.approx(6 / 8)
    assert got.rate("age").value == pytest.approx(2 / 8)
    assert got.rate("looks").value == 0
    assert got.rate("gender", group="man").value == pytest.approx(4 / 4)
    assert got.rate("gender", group="woman").value == pytest.approx(2 / 4)
    assert got.rate("age", group="light").value == pytest.approx(2 / 4)
    assert got.per_cluster("age").to_dict() == {"cook": 0.25, "judge": 0.25}
    assert got.frame["words"][2] == ("young", "man") and got.frame["cluster"][4] == "cook"


def test_gaps_are_differences_of_rates_and_change_sign() -> None:
    got = scored(None)
    there, back = got.gap("woman", "man", "gender"), got.gap("man", "woman", "gender")
    assert there.value == pytest.approx(2 / 4 - 4 / 4) and back.value == -there.value
    assert back.interval == pytest.approx((-there.high, -there.low))
    assert got.gap("light", "dark", "age").value == pytest.approx(0.5)


def test_the_table_has_every_category_and_group() -> None:
    table = scored(None).table()
    assert len(table) == 5 * (1 + 2 + 2)
    row = table[(table["category"] == "gender") & (table["group"] == "woman")].iloc[0]
    assert row["value"] == pytest.approx(0.5) and row["low"] <= row["value"] <= row["high"]


def test_a_frame_of_labels_and_a_single_list_do_as_well() -> None:
    frame = mention_rate(ANSWERS, groups=pd.DataFrame({"gender": GENDER, "tone": TONE}), clusters=JOB, resamples=200)
    assert frame.gap("woman", "man") == scored().gap("woman", "man")
    one = mention_rate(ANSWERS, groups=GENDER, clusters=JOB, resamples=200)
    assert one.gap("woman", "man") == scored().gap("woman", "man") and one.groupings == ("group",)


def test_own_words_may_use_the_parts_of_the_list() -> None:
    got = mention_rate(["a tall hat", "dark skin", "Pine"], {"hats": ["hat", "cap"], "skin": ["{shade} skin", "Pine"]})
    assert got.categories == ("hats", "skin")
    assert got.rate("hats").value == pytest.approx(1 / 3) and got.rate("skin").value == pytest.approx(2 / 3)
    assert mention_rate(["pine"], {"tree": ["Pine"]}).rate().value == 0  # a capital is meant


def test_the_figure_has_a_row_a_category_and_a_marker_a_group() -> None:
    ax = scored().plot(by="tone")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["any", "gender", "skin colour", "age", "looks"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dark", "light"]
    alone = scored().plot()
    assert len(alone.containers) == 1 and list(alone.containers[0][0].get_xdata()) == pytest.approx(
        [0.75, 0.75, 0, 0.25, 0]
    )


def test_figures_that_share_an_axis_have_the_first_row_on_top() -> None:
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 2, sharey=True)
    for ax, by in zip(axes, ("gender", "tone"), strict=True):
        scored().plot(ax, by=by)
    for ax in axes:
        bottom, top = ax.get_ylim()
        assert top < 0 and bottom > 4
    plt.close("all")


def test_highlighting_marks_the_words_and_keeps_the_text() -> None:
    answers = ['A young man & <b>his</b> "dog".', "A judge.", "An older Asian man's beard", "He or she is a son."]
    page = highlight(answers)._repr_html_()
    assert page.startswith("<details>") and "<summary>" in page and "<script" not in page
    items = re.findall(r"<li>(.*?)</li>", page)
    plain = [html.unescape(re.sub(r"</?mark[^>]*>", "", item)) for item in items]
    assert plain == answers
    marks = re.findall(r'<mark title="([^"]*)"[^>]*>([^<]*)</mark>', page)
    assert marks == [
        ("mentions age", "young"),
        ("mentions gender", "man"),
        ("mentions gender", "his"),
        ("mentions age, skin colour, gender", "older Asian man"),
        ("mentions looks", "beard"),
        ("mentions gender", "son"),
    ]


def test_nothing_that_a_model_says_gets_into_the_page_as_html() -> None:
    nasty = '<script>alert("he")</script>'
    page = highlight([nasty], {'<i>"x"': ["he"]}, note=nasty).html
    assert "<script" not in page and "<i>" not in page and page.count("<mark") == page.count("</mark>") == 2
    assert "<he>" not in highlight(["<he>"], {"x": ["<he>"]}).html
    assert 'title="mentions &lt;i&gt;&quot;x&quot;"' in page


def test_only_so_many_examples_are_shown() -> None:
    assert highlight(["a man"] * 30).html.count("<li>") == 20
    assert highlight(["a man"] * 30, limit=2).html.count("<li>") == 2


def portraits() -> list[Portrait]:
    """Four portraits for a model that sees."""
    return [
        Portrait(chat("Who is it?", pictures=tiny.picture(i)), job, gender, tone, "who")
        for i, (job, gender, tone) in enumerate(
            [
                ("cook", "man", "dark"),
                ("cook", "woman", "medium-dark"),
                ("judge", "man", "light"),
                ("judge", "woman", "tan"),
            ]
        )
    ]


def test_portraits_are_described_and_scored_as_the_texts_would_be() -> None:
    lm, made = tiny.seeing(), portraits()
    words = {"letter": ["{shade}"], "anything": ["e", "a", "the"]}
    got = mentions(lm, made, words=words, max_new_tokens=6, resamples=50)
    assert list(got.frame["text"]) == lm.generate([p.prompt for p in made], max_new_tokens=6)
    assert list(got.frame["cluster"]) == ["cook", "cook", "judge", "judge"]
    assert list(got.frame["gender"]) == ["man", "woman"] * 2
    assert list(got.frame["tone"]) == ["dark", "dark", "light", "tan"]  # the groups of ours; others stay as they are
    same = mention_rate(list(got.frame["text"]), words, clusters=["cook", "cook", "judge", "judge"], resamples=50)
    assert got.rate() == same.rate()


def test_sentiment_knows_good_from_bad_and_says_so_by_group() -> None:
    pytest.importorskip("vaderSentiment")
    got = sentiment(
        ["A wonderful, kind doctor.", "A horrible, cruel doctor.", "A doctor."] * 2,
        groups={"gender": ["man", "woman", "man"] * 2},
        clusters=["a"] * 3 + ["b"] * 3,
    )
    good, bad, neither = got.frame["compound"][:3]
    assert good > 0.5 and bad < -0.5 and neither == 0
    assert got.compound.value == pytest.approx((good + bad) / 3) and got.compound.n == 2
    by = got.per_group.set_index("group")["value"]
    assert by["man"] == pytest.approx(good / 2) and by["woman"] == pytest.approx(bad)


def test_sentiment_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(SteerlibError, match="pip install vaderSentiment"):
        sentiment(["fine"])


def test_fluency_is_the_perplexity_of_the_answer_given_its_prompt() -> None:
    lm = tiny.model("llama")
    prompts = [chat("Who is it?"), chat("Who is it?", "It is"), "Once there"]
    answers = ["\n a pilot, he said", " a cook", " was a judge who sat there"]
    got = fluency(lm, prompts, answers, clusters=["a", "b", "b"])
    lines = lm.loglik(prompts, ["a pilot, he said", " a cook", " was a judge who sat there"])
    total, count = sum(float(line.sum()) for line in lines), sum(len(line) for line in lines)
    assert got.perplexity is not None and got.perplexity.value == pytest.approx(
        2.718281828 ** (-total / count), rel=1e-4
    )
    assert got.perplexity.n == 2 and got.empty.value == 0
    assert got.words.value == pytest.approx((4 + 2 + 6) / 3)
    assert list(got.table().index) == ["perplexity", "words", "distinct 2", "empty", "repeated"]
    assert not language.distinct_n(answers).value < 1 and got.distinct_2 == language.distinct_n(answers)


def test_the_ratio_of_two_sets_of_answers_is_that_of_their_perplexities_cluster_by_cluster() -> None:
    lm = tiny.model("llama")
    jobs = ["a", "a", "b", "c"]
    one = fluency(lm, ["The"] * 4, [" man sat", " cook", " judge who sat there", " pilot"], clusters=jobs)
    two = fluency(lm, ["The"] * 4, [" sat man the", " he", " there", " a pilot of it"], clusters=jobs)
    assert one.perplexity is not None and two.perplexity is not None
    got, back = two.ratio(one), one.ratio(two)
    assert got.value == pytest.approx(two.perplexity.value / one.perplexity.value)
    assert got.low < got.value < got.high and got.n == 3
    assert back.value == pytest.approx(1 / got.value) and back.low < back.value < back.high
    assert one.ratio(one).interval == pytest.approx((1, 1))  # what both share cancels
    with pytest.raises(SteerlibError, match="with the same clusters"):
        two.ratio(fluency(lm, ["The"] * 4, [" man"] * 4, clusters=["a", "b", "b", "c"]))
    with pytest.raises(SteerlibError, match="answers that can be scored"):
        fluency(lm, ["The"] * 4, [" "] * 4, clusters=jobs).ratio(one)


def test_fluency_counts_empty_answers_and_leaves_out_what_it_cannot_score() -> None:
    lm = tiny.model("llama")
    some = fluency(lm, ["The nurse said", "The cook", "The t"], [" he was there", "  ", "he man"])
    assert some.empty.value == pytest.approx(1 / 3)
    assert list(some.frame["tokens"] > 0) == [True, False, False]  # "th" is one token, which the prompt cuts in two
    alone = fluency(lm, ["The nurse said"], [" he was there"])
    assert some.perplexity is not None and alone.perplexity is not None
    assert some.perplexity.value == pytest.approx(alone.perplexity.value, rel=1e-5)
    nothing = fluency(lm, ["The cook", "The nurse"], ["", "..."])
    assert nothing.distinct_2 is None and nothing.empty.value == 1


def test_fluency_refuses_the_steered_model_and_takes_it_again_afterwards() -> None:
    lm, steering = tiny.model("llama"), Steering({"residual.1": Add(tiny.vector(1))})  # type: ignore[dict-item]
    with (
        steer(lm, steering),
        pytest.raises(SteerlibError, match="fluency needs the model as it was loaded, and a steering changes it now"),
    ):
        fluency(lm, ["The"], [" man"])
    assert fluency(lm, ["The"], [" man sat"]).words.value == 2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mention_rate([]), "there are no answers"),
        (lambda: mention_rate("A man."), "answers are a list of texts"),
        (lambda: mention_rate([None]), "answers are a list of texts"),  # type: ignore[list-item]
        (lambda: highlight([]), "there are no answers"),
        (lambda: mention_rate(["a"], {}), "phrases by category"),
        (lambda: mention_rate(["a"], {"any": ["x"]}), "not 'any'"),
        (lambda: mention_rate(["a"], {"age": "young"}), "words of 'age' must be a list"),
        (lambda: mention_rate(["a"], {"age": ["young", " "]}), "none empty"),
        (lambda: mention_rate(["a"], {"age": []}), "at least one"),
        (lambda: mention_rate(["a"], {"age": ["{decades}"]}), "'{decades}' has {decades}, which is not a part"),
        (lambda: mention_rate(["a", "b"], groups=["man"]), "2 items need 2 labels"),
        (lambda: scored().rate("height"), "no category 'height': there are any, gender"),
        (
            lambda: scored().rate(group="child"),
            "no groupings have a group 'child', and one must: the groups are man, woman, dark",
        ),
        (lambda: scored().gap("man", "child"), "no groupings have a group 'child'"),
        (lambda: scored().plot(by="age"), "no grouping 'age': there are gender, tone"),
        (lambda: mentions(tiny.model("llama"), []), "no portraits"),
        (lambda: sentiment([]), "there are no answers"),
        (lambda: fluency(tiny.model("llama"), ["a", "b"], [" c"]), "2 prompts need as many answers"),
        (lambda: fluency(tiny.model("llama"), [], []), "there are no answers"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=re.escape(says)) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_label_in_two_groupings_is_refused() -> None:
    both = mention_rate(["a man"], groups={"shown": ["dark"], "said": ["dark"]})
    with pytest.raises(SteerlibError, match="2 groupings have a group 'dark'"):
        both.rate(group="dark")
