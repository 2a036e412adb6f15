"""A server of files that is faster than any client here: it sends the same MiB again and again."""

import json
import re
import socket
from multiprocessing.connection import Connection
from threading import Thread

MIB = 1024 * 1024
_PIECE = memoryview(bytes(range(256)) * (16 * MIB // 256))
_RANGE = re.compile(rb"\r\n(?:x-ms-range|range): bytes=(\d+)-(\d*)\r\n", re.IGNORECASE)
_PATH = re.compile(rb"GET /(storage/files|blobs(?:/container)?)/(\d+)(/download)?[ ?]")


def serve_files(ours: Connection) -> None:
    """Serve Storage and its blobs until ended; the id of a file is its size in MiB.

    Sends the base URL. Each connection has a thread.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ours.send(base_url)
        while True:
            connection, _ = listener.accept()
            Thread(target=_serve, args=(connection, base_url), daemon=True).start()


def _serve(connection: socket.socket, base_url: str) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    try:
        with connection:
            while chunk := connection.recv(65536):
                received += chunk
                while b"\r\n\r\n" in received:
                    head, _, received = received.partition(b"\r\n\r\n")
                    _respond(connection, base_url, head + b"\r\n")
    except ConnectionError:  # the client has left
        return


def _respond(connection: socket.socket, base_url: str, head: bytes) -> None:
    match = _PATH.match(head)
    if match is None:
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    size = int(match[2]) * MIB
    if match[1].startswith(b"blobs"):
        _send_blob(connection, head, size)
    elif match[3]:
        url = f"{base_url}/blobs/{size // MIB}?sig=signature"
        words = f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(words.encode())
    else:
        name = f"{size // MIB}.ifc"
        file = {"id": f"{size // MIB}", "displayName": name, "size": size, "path": name}
        body = json.dumps({"file": file}).encode()
        words = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(words.encode() + body)


def _send_blob(connection: socket.socket, head: bytes, size: int) -> None:
    start, end, status = 0, size, "200 OK"
    if found := _RANGE.search(head):
        start, status = int(found[1]), "206 Partial Content"
        end = min(int(found[2]) + 1, size) if found[2] else size
    words = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {end - start}",
        f"Content-Range: bytes {start}-{end - 1}/{size}" if found else "Accept-Ranges: bytes",
        'ETag: "1"',
        "Content-Type: application/octet-stream",
        "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT",
        "x-ms-blob-type: BlockBlob",
        "\r\n",
    ]
    connection.sendall("\r\n".join(words).encode())
    left = end - start
    while left > 0:
        piece = _PIECE[: min(left, len(_PIECE))]
        connection.sendall(piece)
        left -= len(piece)
