"""The server's end of a websocket (RFC 6455), as far as a Kubernetes client speaks it: whole binary and text frames."""

import base64
import hashlib
import struct

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE = 2, 8
_NORMAL = 1000


class Websocket:
    """Of a request that asks for one."""

    def __init__(self, handler):
        self._in, self._out = handler.rfile, handler.wfile
        key = hashlib.sha1(handler.headers["Sec-WebSocket-Key"].encode() + _GUID).digest()
        handler.send_response(101)
        handler.send_header("Upgrade", "websocket")
        handler.send_header("Connection", "Upgrade")
        handler.send_header("Sec-WebSocket-Accept", base64.b64encode(key).decode())
        handler.send_header(
            "Sec-WebSocket-Protocol", handler.headers["Sec-WebSocket-Protocol"].partition(",")[0].strip()
        )
        handler.end_headers()

    def receive(self):
        """The next frame's content; None where the client has gone or says goodbye."""
        head = self._in.read(2)
        if len(head) < 2:
            return None
        length = head[1] & 0x7F
        if length >= 126:
            size, code = (2, ">H") if length == 126 else (8, ">Q")
            length = struct.unpack(code, self._in.read(size))[0]
        mask, content = self._in.read(4), self._in.read(length)
        if len(content) < length or head[0] & 0x0F == _CLOSE:
            return None
        long_mask = (mask * (length // 4 + 1))[:length]
        return (int.from_bytes(content) ^ int.from_bytes(long_mask)).to_bytes(length)

    def send(self, content):
        size = len(content)
        if size > 0xFFFF:
            head = struct.pack(">BQ", 127, size)
        else:
            head = bytes([size]) if size < 126 else struct.pack(">BH", 126, size)
        self._out.write(bytes([0x80 | _BINARY]) + head + content)
        self._out.flush()

    def close(self):
        self._out.write(bytes([0x80 | _CLOSE, 2]) + struct.pack(">H", _NORMAL))
        self._out.flush()
