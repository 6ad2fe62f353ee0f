"""The one error that bad input raises: a sentence saying what was wrong, where, and what would be right."""


class SteerlibError(ValueError):
    """Raised for every input that steerlib refuses; its text is one sentence meant to be read by a person."""
