"""What to do about the known causes of failed exports.

https://bentleysystems.service-now.com/community?id=kb_article_view&sysparm_article=KB0041879

The service documents no error codes for them, so they are recognised by their words.
"""

_MAX_TEXT = 4000  # characters; an explanation is not longer

TOO_MANY_ELEMENTS = (
    "the model has more than 1.5 million elements: export a saved view with fewer elements, or "
    "only some of its models (model_ids)"
)
NO_WRITE_ACCESS = (
    "the user that started the run needs write access to the target folder in Storage; a folder's "
    "rights can be stricter than the role in the iTwin"
)
NO_READ_ACCESS = (
    "the user that started the run needs a role that may read the iModel (imodels_read)"
)
BAD_MAPPING = (
    "the mapping file does not fit its schema: start again from the current default mapping file; "
    "the log file (save_logs) names the line"
)
NO_IMODEL = "the iModel was not found: check its id, and that it was not deleted"

# a hint fits a text that has one word of each group
_WORDS: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    (
        TOO_MANY_ELEMENTS,
        (("element",), ("1.5 million", "1,500,000", "1500000", "too many", "toomany", "exceed")),
    ),
    (BAD_MAPPING, (("mapping",),)),
    (NO_IMODEL, (("imodel",), ("not found", "notfound", "does not exist", "doesn't exist"))),
    (
        NO_WRITE_ACCESS,
        (
            ("folder", "storage"),
            ("write", "upload", "create"),
            ("access", "permission", "right", "denied", "forbidden", "unauthori"),
        ),
    ),
    (
        NO_READ_ACCESS,
        (
            ("imodel",),
            ("read", "view", "open"),
            ("access", "permission", "right", "denied", "forbidden", "unauthori"),
        ),
    ),
)


def find_hint(*texts: str) -> str | None:
    """The remedy of the cause that the service's texts describe, None for an unknown cause."""
    text = " ".join(text[:_MAX_TEXT] for text in texts).casefold()
    for hint, groups in _WORDS:
        if all(any(word in text for word in group) for group in groups):
            return hint
    return None
