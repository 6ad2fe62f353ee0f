"""Figures: what must be on them is on them."""

from __future__ import annotations

import pytest
from helpers import need
from matplotlib import pyplot as plt

from steerlib import SteerlibError, plots
from steerlib.tasks import GENDERS, OCCUPATIONS, PERSON_IS_MAN, STYLES, TONES


@pytest.mark.parametrize("style", STYLES)
def test_the_contact_sheet_names_all_that_it_shows(style: str) -> None:
    need(style)
    figure = plots.contact_sheet(size=16, style=style)
    names = [[label.get_text() for label in ax.get_xticklabels()] for ax in figure.axes]
    jobs = [name.replace("\n", " ") for row in names[:2] for name in row]
    assert [name.rstrip("*") for name in jobs] == list(OCCUPATIONS)
    assert {name.rstrip("*") for name in jobs if "*" in name} == (set(PERSON_IS_MAN) if style == "openmoji" else set())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(GENDERS)
    assert [name.replace("\n", "") for name in names[2][:6]] == list(TONES)
    assert len(names[3]) == 10 and {name.split("\n")[0] for name in names[3]} == {"train", "test"}
    assert names[4][:4] == ["whole", "face", "small", "blurred"]
    for row, ax in zip(names, figure.axes, strict=True):  # under each name a picture
        (image,) = ax.get_images()
        page = image.get_array()
        step = page.shape[1] // 10
        for i in range(len(row)):
            assert page[:, i * step : (i + 1) * step].std() > 5
        assert (page[:, len(row) * step :] == 255).all()
    plt.close(figure)


def test_a_contact_sheet_of_nobody_is_refused() -> None:
    with pytest.raises(SteerlibError, match="no picture of 'wizard'"):
        plots.contact_sheet(occupation="wizard")
    plt.close("all")
