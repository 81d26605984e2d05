"""A process in the place of an agent of Ray's that has nothing to do: it waits for the end of Ray's own."""

import os
import time

if __name__ == "__main__":
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
