"""The article of a noun, by its sound: tricky words of every kind, and the occupations that ship."""

from __future__ import annotations

import pytest

from steerlib import SteerlibError
from steerlib.tasks import TEMPLATES, occupations
from steerlib.tasks.article import article

A = """baker|Cook|hotel manager|housekeeper|historian|human resources manager|herbalist|university lecturer|union organizer
unicyclist|uniform designer|unit clerk|user researcher|usability engineer|utility worker|urologist|ukulele player|UX designer
UN interpreter|UK diplomat|US senator|UNESCO official|UFO hunter|European lawyer|eulogist|euphonium player|one-man band
one-star general|once-famous actor|NASA engineer|NATO officer|SWAT officer|STEM teacher|NICU nurse|CEO|PhD student|DJ|BBC reporter
T-shirt printer|U-boat captain|3D artist|100-metre runner|wheelwright|yoga teacher|McDonald's worker|NURSE|Ukrainian translator
used-car dealer|Ugandan farmer|Q&A tester|ufologist|GP|TV presenter|vet|VIP host|1000-mile walker"""
AN = """engineer|Engineer|ENGINEER|actor|Artist|usher|umpire|undertaker|underwriter|upholsterer|uninsured driver|unidentified caller
unimpressed critic|urban planner|Uber driver|hourly worker|hour-glass maker|heir|heiress|honest broker|honorary consul|honourable judge
HR manager|MRI technician|hr manager|HVAC technician|NHS nurse|FBI agent|EMT|ER nurse|IT consultant|AI researcher
SEO specialist|SQL developer|RN|LPN|MBA student|MSc student|MPhil student|NGO worker|NYPD officer|LGBTQ activist|RAF pilot|X-ray technician
F-16 pilot|A-list actor|e-commerce manager|S&P analyst|R&D engineer|H.R. manager|M.D.|8th-grade teacher|80-year-old farmer
11th-grade teacher|18-wheeler driver|1800s scholar|11,000-metre runner|élite runner|état-major officer|à la carte cook|iOS developer
eBay seller|ophthalmologist|oneirologist|office worker|au pair|X"""


def listed(text: str) -> list[str]:
    return [noun for line in text.splitlines() for noun in line.split("|")]


@pytest.mark.parametrize("noun", listed(A))
def test_it_is_a(noun: str) -> None:
    assert article(noun) == f"a {noun}"


@pytest.mark.parametrize("noun", listed(AN))
def test_it_is_an(noun: str) -> None:
    assert article(noun) == f"an {noun}"


def test_the_occupations_that_ship_keep_their_article() -> None:
    for noun in occupations()["occupation"]:
        assert article(noun) == f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def test_capitals_blanks_and_quotes_do_not_change_the_sound() -> None:
    for noun in occupations()["occupation"]:
        kind = article(noun).split()[0]
        for same in (noun.capitalize(), noun.title(), f'"{noun}"', f"({noun})", noun.replace(" ", "-")):
            assert article(same) == f"{kind} {same}"


def test_a_template_uses_it() -> None:
    wording = next(t for t in TEMPLATES if t.name == "alarm")
    assert "is an HR manager." in str(wording.prompt("HR manager", "man"))


@pytest.mark.parametrize("noun", ["", "  ", None, 3, float("nan")])
def test_no_noun_is_told_in_one_sentence(noun: object) -> None:
    with pytest.raises(SteerlibError, match="an article goes before a noun, such as 'nurse', not before"):
        article(noun)  # type: ignore[arg-type]
