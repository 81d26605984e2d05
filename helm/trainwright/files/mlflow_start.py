"""Start the MLflow server of the chart: read secrets from files, migrate, make the users, and serve.

Secrets are files, one a key, below /secrets/{mlflow,jobs,database}; none is on a command line or in the
pod's specification. Everything else comes from the environment that the Deployment sets.
"""

import os
import secrets
import sys
from configparser import ConfigParser
from pathlib import Path

SECRETS = Path(os.environ.get("TRAINWRIGHT_SECRETS", "/secrets"))
RUNTIME = Path(os.environ.get("TRAINWRIGHT_RUNTIME", "/tmp"))


def read_secret(name: str, key: str) -> str:
    """One key of a mounted Secret. Exits with a sentence where it is missing or empty."""
    path = SECRETS / name / key
    try:
        value = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        value = ""
    if not value:
        sys.exit(f"{path} is missing or empty: the Secret mounted at {path.parent} needs the key {key!r}")
    return value


def migrate(database_uri: str) -> None:
    """Bring the database's schema to this version, as ``mlflow db upgrade`` does."""
    from mlflow.db import upgrade

    upgrade.callback(database_uri)


def write_auth_config(database_uri: str, default_permission: str) -> Path:
    """The authentication app's configuration, readable by the server alone."""
    config = ConfigParser(interpolation=None)
    config["mlflow"] = {
        "default_permission": default_permission,
        "database_uri": database_uri.replace("%", "%%"),  # MLflow reads the file with interpolation
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    path = RUNTIME / "auth.ini"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        config.write(out)
    return path


def ensure_users(database_uri: str, users: list[tuple[str, str, bool]]) -> None:
    """Create the chart's users, and give them the passwords that the Secrets hold now."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(database_uri)
    for username, password, is_admin in users:
        if not store.has_user(username):
            store.create_user(username, password, is_admin=is_admin)
            print(f"created user {username!r}", flush=True)
        elif not store.authenticate_user(username, password):
            store.update_user(username, password=password)
            print(f"changed the password of user {username!r} to the Secret's", flush=True)


def main() -> None:
    """Prepare the environment, then become the server."""
    environment = dict(os.environ)
    if (SECRETS / "database").is_dir():
        environment["MLFLOW_BACKEND_STORE_URI"] = read_secret("database", "uri")
    backend_uri = environment["MLFLOW_BACKEND_STORE_URI"]
    arguments = sys.argv[1:]
    migrate(backend_uri)
    if environment.get("TRAINWRIGHT_MLFLOW_AUTH") == "true":
        auth_uri = environment.get("TRAINWRIGHT_AUTH_URI") or backend_uri
        users = [(read_secret("mlflow", "username"), read_secret("mlflow", "password"), True)]
        users.append((read_secret("jobs", "username"), read_secret("jobs", "password"), False))
        environment["MLFLOW_AUTH_CONFIG_PATH"] = str(
            write_auth_config(auth_uri, environment["TRAINWRIGHT_DEFAULT_PERMISSION"])
        )
        environment["MLFLOW_AUTH_ADMIN_USERNAME"] = users[0][0]
        environment["MLFLOW_AUTH_ADMIN_PASSWORD"] = users[0][1]
        environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = read_secret("mlflow", "flask-secret-key")
        os.environ.update(environment)
        ensure_users(auth_uri, users)
        arguments += ["--app-name", "basic-auth"]
    else:
        environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_hex(32)
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments], environment)


if __name__ == "__main__":
    main()
