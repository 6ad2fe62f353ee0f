"""Where the project is: its repository, its site, and the release that readers install. `tools/address.py` changes them everywhere."""

from __future__ import annotations

REPOSITORY = "https://github.com/steerlib/steering-away-from-bias"
SITE = "https://steerlib.github.io/steering-away-from-bias/"
RELEASE = "v0.1.0"  # a tag of the repository; the notebooks of its Colab edition have the tag colab-v0.1.0
INSTALL = f"""import sys

if "google.colab" in sys.modules:
    %pip install --quiet git+{REPOSITORY}@{RELEASE}"""
"""The first cell of every chapter."""


def colab(name: str) -> str:
    """The address at which Colab opens a chapter of the release.

    >>> colab("add-or-ablate")
    'https://colab.research.google.com/github/steerlib/steering-away-from-bias/blob/colab-v0.1.0/add-or-ablate.ipynb'
    """
    return f"{REPOSITORY.replace('github.com', 'colab.research.google.com/github')}/blob/colab-{RELEASE}/{name}.ipynb"
