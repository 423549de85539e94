"""The errors a user of the pack can mend; every message says what was wrong, with the value, and what to do."""


class SubjectError(ValueError):
    """An input that cannot be used: a picture, a category, a prompt, a subject that does not fit a model."""


class CheckpointError(SubjectError):
    """A model file or folder that is missing, unreadable, incomplete or of another kind."""
