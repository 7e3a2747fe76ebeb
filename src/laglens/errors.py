"""The one error class that laglens raises for anything a person can mend."""


class LaglensError(RuntimeError):
    """Something is wrong with an input, a model or a setting; the message names it and the way out."""
