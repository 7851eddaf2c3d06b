"""The one exception that means "the user asked for something that cannot be done"."""


class BadInput(ValueError):
    """A mistake in what the caller gave; its message is one line: what is wrong, and what would be right."""
