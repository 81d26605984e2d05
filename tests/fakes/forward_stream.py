"""What a kubelet does with a connection to a pod's port: its bytes, and what goes wrong, over two channels of a websocket."""

import contextlib
import socket
import struct
import threading

DATA, ERRORS = range(2)


def forward_over(connection, port, address, open_ones):
    """Carry bytes between a websocket and what listens at an address in the port's place, until one of them ends.

    The websocket says goodbye where the listener does, and is cut off where ``open_ones``' socket is closed by force.
    """
    for channel in (DATA, ERRORS):
        connection.send(bytes([channel]) + struct.pack("<H", port))
    try:
        there = socket.create_connection(address, timeout=10)
    except OSError as error:
        connection.send(bytes([ERRORS]) + f"error forwarding port {port}: {error.strerror}".encode())
        connection.close()
        return
    there.settimeout(None)
    open_ones.append(there)

    def feed():
        with contextlib.suppress(OSError, ValueError):  # the websocket may be closed under it
            while (frame := connection.receive()) is not None:
                assert frame[0] == DATA
                there.sendall(frame[1:])
        with contextlib.suppress(OSError):
            there.shutdown(socket.SHUT_RDWR)

    feeding = threading.Thread(target=feed, daemon=True)
    feeding.start()
    try:
        while piece := there.recv(65536):
            connection.send(bytes([DATA]) + piece)
        connection.close()
    except OSError:
        pass
    finally:
        there.close()
        open_ones.remove(there)
