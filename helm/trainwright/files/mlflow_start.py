"""Start the MLflow server of the chart: read secrets from files, migrate, make the users, and serve.

Secrets are files, one a key, below /secrets/{mlflow,jobs,database,teams/NAME}; none is on a command line or in the
pod's specification. Everything else comes from the environment that the Deployment sets.
"""

import os
import secrets
import sys
from configparser import ConfigParser
from pathlib import Path

SECRETS = Path(os.environ.get("TRAINWRIGHT_SECRETS", "/secrets"))
RUNTIME = Path(os.environ.get("TRAINWRIGHT_RUNTIME", "/tmp"))
MEMBERS = "members"
"""The role of each workspace's users."""


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


def ensure_workspace(database_uri: str, name: str) -> None:
    """Create a workspace of this name where there is none."""
    from mlflow.entities.workspace import Workspace
    from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(database_uri)
    if name not in {workspace.name for workspace in store.list_workspaces()}:
        store.create_workspace(Workspace(name=name, description="A team of trainwright's chart"))


def ensure_member(auth_uri: str, workspace: str, username: str, permission: str) -> None:
    """Let a user create in a workspace, and do there with what others made what ``permission`` says: by a role of the
    workspace that people can be given, too.
    """
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(auth_uri)
    roles = {role.name: role for role in store.list_roles([workspace])}
    role = roles.get(MEMBERS) or store.create_role(MEMBERS, workspace, "Made by trainwright's chart")
    wanted = {"workspace": "USE"}
    if permission != "NO_PERMISSIONS":
        wanted |= {"experiment": permission, "registered_model": permission}
    found = {one.resource_type: one for one in store.list_role_permissions(role.id)}
    for kind, level in wanted.items():
        if kind not in found:
            store.add_role_permission(role.id, kind, "*", level)
        elif found[kind].permission != level:
            store.update_role_permission(found[kind].id, level)
    for kind in {"experiment", "registered_model"} & (found.keys() - wanted.keys()):
        store.remove_role_permission(found[kind].id)
    user = store.get_user(username)
    if role.id not in {one.id for one in store.list_user_roles(user.id)}:
        store.assign_role_to_user(user.id, role.id)


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
        permission = environment["TRAINWRIGHT_DEFAULT_PERMISSION"]
        teams = environment.get("TRAINWRIGHT_MLFLOW_TEAMS", "").split()
        members = {"default": users[1][0]}
        for team in teams:
            secret = f"teams/{team}"
            users.append((read_secret(secret, "username"), read_secret(secret, "password"), False))
            members[team] = users[-1][0]
        if len({username for username, _, _ in users}) < len(users):
            sys.exit(
                "two of the Secrets hold the same username: the administrator, jobs and each team need one each"
            )
        environment["MLFLOW_AUTH_CONFIG_PATH"] = str(write_auth_config(auth_uri, permission))
        environment["MLFLOW_AUTH_ADMIN_USERNAME"] = users[0][0]
        environment["MLFLOW_AUTH_ADMIN_PASSWORD"] = users[0][1]
        environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = read_secret("mlflow", "flask-secret-key")
        os.environ.update(environment)
        ensure_users(auth_uri, users)
        if teams:
            for workspace, username in members.items():
                ensure_workspace(backend_uri, workspace)
                ensure_member(auth_uri, workspace, username, permission)
            arguments += ["--enable-workspaces"]
        arguments += ["--app-name", "basic-auth"]
    else:
        environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_hex(32)
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments], environment)


if __name__ == "__main__":
    main()
