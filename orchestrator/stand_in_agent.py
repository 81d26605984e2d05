"""A process in the place of an agent of Ray's that has nothing to do: it waits for the end of Ray's own process, or of the
one that started Ray, whose id it is given.
"""

import os
import select
import sys


def main() -> None:
    """The parent alone would not do: it may have ended before it is asked for."""
    parent = os.getppid()
    try:
        starter = os.pidfd_open(int(sys.argv[1]))
    except ProcessLookupError:
        return
    while os.getppid() == parent and not select.select([starter], [], [], 1)[0]:
        pass


if __name__ == "__main__":
    main()
