"""What a kubelet does with a command in a pod: input, output, errors and how it ended, over channels of a websocket."""

import contextlib
import json
import subprocess
import sys
import threading

STDIN, STDOUT, STDERR, ERROR = range(4)
CLOSE = 255
"""From v5 of the protocol on: the channel that the next byte names has ended."""


def say_over(connection, text):
    """What a command printed that ended well, whose output is known already."""
    connection.send(bytes([STDOUT]) + text.encode())
    connection.send(bytes([ERROR]) + json.dumps({"status": "Success"}).encode())
    connection.close()


def run_over(connection, words, cut_off_after_bytes=None):
    """Run a command's words here and carry what it is sent and prints; hang up when so much of its input has come."""
    here = [sys.executable if words[0] == "python" else words[0], *words[1:]]
    carry_over(connection, start(here), cut_off_after_bytes)


def start(command):
    """A process whose input, output and errors can be carried."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def carry_over(connection, process, cut_off_after_bytes=None):
    """Carry what a process is sent and prints, until it ends; hang up when so much of its input has come."""
    lock = threading.Lock()

    def carry(stream, channel):
        while piece := stream.read1(65536):
            with lock, contextlib.suppress(OSError):
                connection.send(bytes([channel]) + piece)

    def feed():
        fed = 0
        with contextlib.suppress(
            OSError, ValueError
        ):  # a command that ends first closes the connection under it
            while (frame := connection.receive()) is not None and frame != bytes([CLOSE, STDIN]):
                fed += len(frame) - 1
                if cut_off_after_bytes is not None and fed >= cut_off_after_bytes:
                    process.stdin.write(frame[1 : len(frame) - (fed - cut_off_after_bytes)])
                    break
                process.stdin.write(frame[1:])
                process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()

    feeding = threading.Thread(target=feed, daemon=True)
    carrying = [
        threading.Thread(target=carry, args=pair)
        for pair in ((process.stdout, STDOUT), (process.stderr, STDERR))
    ]
    for thread in (feeding, *carrying):
        thread.start()
    if cut_off_after_bytes is not None:
        feeding.join()
    for thread in carrying:
        thread.join()
    code = process.wait()
    process.stdout.close()
    process.stderr.close()
    if cut_off_after_bytes is not None:
        return
    said: dict = {"status": "Success"}
    if code != 0:
        causes = [{"reason": "ExitCode", "message": str(code)}]
        said = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
    with contextlib.suppress(OSError):
        connection.send(bytes([ERROR]) + json.dumps(said).encode())
        connection.close()
