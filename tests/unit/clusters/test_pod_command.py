"""A command in a pod, by the official client over real TLS."""

import http.client
import io
import socket
import ssl
import threading
import time
from types import SimpleNamespace

from cluster_cases import kubernetes_profile
from control_plane import Authority
from exec_stream import say_over
from kubernetes import client
from websockets_of_tests import Websocket

from orchestrator.clusters.kubernetes.pod_command import PodCommand


class TlsExec(threading.Thread):
    """An API server that sends a whole command's output, its end and its goodbye in one TLS record."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        authority = Authority(folder)
        self.ca = str(authority.file)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*authority.issue("api", hosts=["127.0.0.1"]))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}"
        self.start()

    def run(self):
        with self._listening:
            plain, _ = self._listening.accept()
        with (
            self._context.wrap_socket(plain, server_side=True) as connection,
            connection.makefile("rb") as asked,
        ):
            headers = http.client.parse_headers((asked.readline(), asked)[1])
            out = io.BytesIO()
            handler = SimpleNamespace(
                rfile=asked,
                wfile=out,
                headers=headers,
                send_response=lambda code: out.write(b"HTTP/1.1 101 Switching Protocols\r\n"),
                send_header=lambda name, value: out.write(f"{name}: {value}\r\n".encode()),
                end_headers=lambda: out.write(b"\r\n"),
            )
            websocket = Websocket(handler)
            connection.sendall(out.getvalue())
            out.seek(0)
            out.truncate()
            say_over(websocket, "all of it")
            connection.sendall(out.getvalue())
            connection.recv(1000)  # until the client goes


def test_what_comes_in_one_piece_is_read_at_once(tmp_path):
    """The client's own reading waits for the network while TLS holds the end already."""
    server = TlsExec(tmp_path)
    configuration = client.Configuration(host=server.url)
    configuration.ssl_ca_cert = server.ca
    command = PodCommand(kubernetes_profile(), client.ApiClient(configuration), "pod", ["list"])
    began = time.monotonic()
    assert command.result() == "all of it"
    assert time.monotonic() - began < 20
