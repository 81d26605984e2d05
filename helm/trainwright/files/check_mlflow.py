"""Run by `helm test`: the MLflow server answers, refuses strangers, and accepts the jobs' user.

check_mlflow.py URL yes|no      (whether a password is asked for)
"""

import base64
import sys
import urllib.error
import urllib.request
from pathlib import Path

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


def status(url: str, credentials: str = "") -> int:
    """The HTTP status of a GET."""
    request = urllib.request.Request(url)
    if credentials:
        request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def main() -> None:
    """Check, and say in a sentence what is wrong."""
    url, auth = sys.argv[1], sys.argv[2] == "yes"
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else Path("/secrets/jobs")
    if (got := status(url + "/health")) != 200:
        sys.exit(f"{url}/health answered {got}, expected 200")
    if (got := status(url + SEARCH)) != (401 if auth else 200):
        sys.exit(f"without a password the server answered {got}, expected {401 if auth else 200}")
    if auth:
        user = (folder / "username").read_text().strip()
        if (got := status(url + SEARCH, f"{user}:{(folder / 'password').read_text().strip()}")) != 200:
            sys.exit(f"the jobs' user {user!r} was answered {got}, expected 200")
    print(f"{url}: healthy, {'asks for a password and accepts the jobs user' if auth else 'open to all'}")


if __name__ == "__main__":
    main()
