"""The one ancestor of all expected errors: what a user can mend, told in one message."""


class DepalmError(Exception):
    """Something that a user can mend; the message says what is wrong, where, and what to do.

    A job that ends with one prints the message; any other exception is a bug, and keeps its
    traceback.
    """


class AnnotationError(DepalmError):
    """Annotations that are missing or not in their format; the message names the file and row."""
