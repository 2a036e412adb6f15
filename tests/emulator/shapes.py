"""Comparison of answers with the documented ones: everything but the values."""

import json
from typing import Any

from itwin_export_async._protocol.messages import Response


def read(answer: Response) -> Any:
    """The JSON of an answer that has no error."""
    assert answer.headers["Content-Type"] == "application/json"
    return json.loads(answer.body)


def shape(value: object) -> object:
    """All member names and kinds of values, without the values."""
    match value:
        case dict():
            return {name: shape(inner) for name, inner in value.items()}
        case list():
            return [shape(inner) for inner in value]
        case _:
            return type(value).__name__
