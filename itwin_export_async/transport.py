"""HTTP messages, for transports of your own: `ExportClient(..., transport=...)`.

A transport sends one `Request` and returns its `Response`, or raises `TransportError`.
"""

from itwin_export_async._errors import TransportError
from itwin_export_async._protocol.messages import Request, Response, StreamedResponse, Transport
from itwin_export_async._redaction import Secret

__all__ = ["Request", "Response", "Secret", "StreamedResponse", "Transport", "TransportError"]

for _class in (Request, Response, Secret, StreamedResponse, Transport):
    _class.__module__ = __name__  # pickles survive a new layout
