"""A Kubernetes control plane of real processes: etcd, kube-apiserver, kube-controller-manager and kube-scheduler.

No node and no kubelet: pods are admitted, counted and, where a test adds nodes, scheduled, but nothing runs in them.
The binaries come from the folder that KUBEBUILDER_ASSETS names, as for envtest.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VARIABLE = "KUBEBUILDER_ASSETS"
BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
SERVICE_RANGE = "10.96.0.0/16"
_START_SECONDS = 180.0
_STOP_SECONDS = 20.0

Object = dict[str, Any]


def missing() -> str | None:
    """Why no control plane can be started here; None: it can."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return f"{VARIABLE} is not set: it names the folder of {', '.join(BINARIES)}"
    absent = [name for name in BINARIES if not os.access(Path(folder) / name, os.X_OK)]
    return f"{VARIABLE}={folder} lacks {', '.join(absent)}" if absent else None


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


def wait_until(what: str, check: Callable[[], Any], *, seconds: float = 60.0, every: float = 0.2) -> Any:
    """The first true value of ``check``. Raises TimeoutError with what it was last, or last raised."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            last = check()
            if last:
                return last
        except (OSError, KeyError, ApiError) as error:
            last = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g}s; last: {last!r}"[:2000])
        time.sleep(every)


def with_this_process() -> list[str]:
    """What stands before a command that the kernel ends where the thread that starts it is gone, by a SIGKILL too; nothing where
    there is no setpriv.
    """
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


class ApiError(Exception):
    """An answer of the API server that was not good."""

    def __init__(self, status: int, body: str) -> None:
        self.status = status
        try:
            self.message = str(json.loads(body)["message"])
        except (ValueError, KeyError, TypeError):
            self.message = body
        super().__init__(f"HTTP {status}: {self.message}")


class Authority:
    """A certificate authority in a folder; every file that it writes only its owner may read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-control-plane")])
        builder = self._builder(self._name, self._key.public_key())
        self._certificate = builder.add_extension(x509.BasicConstraints(True, None), critical=True).sign(
            self._key, hashes.SHA256()
        )
        self.file = folder / "ca.crt"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, name: str, organizations: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> tuple[Path, Path]:
        """Certificate and key of ``name``, in the groups ``organizations``; with ``hosts`` also for a server there."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        builder = self._builder(x509.Name(subject), key.public_key()).add_extension(
            x509.ExtendedKeyUsage(usages), critical=False
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        stem = name.replace(":", "-").replace("/", "-")
        crt, pem = self.folder / f"{stem}.crt", self.folder / f"{stem}.key"
        crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        write_key(pem, key)
        return crt, pem

    def _builder(self, subject: x509.Name, key: rsa.RSAPublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
        )


def write_key(path: Path, key: rsa.RSAPrivateKey) -> None:
    """Write a private key that only its owner may read."""
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class ControlPlane:
    """The processes, and how to talk to them. Made by ``running``.

    Attributes:
        folder: Logs, certificates, kubeconfigs and etcd's data.
        url: Of the API server.
        authority: Signs further certificates, e.g. of a kubelet.
        admin_kubeconfig: Of a member of system:masters.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address
        self.port = free_port(address)
        self.url = f"https://{address}:{self.port}"
        self.authority = Authority(folder / "pki")
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._commands: dict[str, Sequence[str]] = {}
        self._kinds: dict[str, Object] = {}
        self.admin_kubeconfig = self.kubeconfig("admin", groups=["system:masters"])

    # -- identities --------------------------------------------------------------------------------------------

    def kubeconfig(
        self,
        user: str,
        *,
        groups: Sequence[str] = (),
        token: str | None = None,
        impersonate: str | None = None,
        namespace: str = "default",
    ) -> Path:
        """A kubeconfig of ``user``: by ``token``, or as the admin who acts as ``impersonate``, else by a certificate
        with these groups. Its context has the user's name.
        """
        if token is not None:
            who: Object = {"token": token}
        elif impersonate is not None:
            who = {**self._certificate_of("admin", ["system:masters"]), "as": impersonate}
        else:
            who = self._certificate_of(user, groups)
        server = {"server": self.url, "certificate-authority": str(self.authority.file)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": server}],
            "users": [{"name": user, "user": who}],
            "contexts": [
                {"name": user, "context": {"cluster": "here", "user": user, "namespace": namespace}}
            ],
            "current-context": user,
        }
        path = self.folder / f"{user.replace(':', '-').replace('/', '-')}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    def account_token(self, namespace: str, name: str, *, while_there: str | None = None) -> str:
        """A token of a ServiceAccount, by TokenRequest, as a kubelet gets it for a pod; with ``while_there`` it ends with the
        Secret of that name.
        """
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        spec: Object = {"expirationSeconds": 3600}
        if while_there:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Secret", "name": while_there}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return str(self.request("POST", path, body)["status"]["token"])

    def account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a ServiceAccount's own token."""
        return self.kubeconfig(
            f"{namespace}-{name}", token=self.account_token(namespace, name), namespace=namespace
        )

    def _certificate_of(self, user: str, groups: Sequence[str]) -> Object:
        crt, key = self.authority.issue(user, groups)
        return {"client-certificate": str(crt), "client-key": str(key)}

    # -- requests ----------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
        **query: Any,
    ) -> Object:
        """The JSON that the API server answers to the admin, or to the bearer of ``token``. Raises ApiError."""
        address = self.url + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data=data, headers=headers, method=method)
        context = self._anonymous_context if token is not None else self._admin_context
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, error.read().decode(errors="replace")) from None
        try:
            return dict(json.loads(text))
        except ValueError:
            return {"text": text}

    def path_of(self, body: Object, namespace: str | None = None, *, is_new: bool = False) -> str:
        """Where an object is read and changed; with ``is_new`` where it is created. By the server's own list of kinds.

        Raises KeyError where the server does not know the kind.
        """
        version, kind = body["apiVersion"], body["kind"]
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        resources = self.request("GET", root)["resources"] if root not in self._kinds else []
        for resource in resources:
            if "/" not in resource["name"]:
                self._kinds.setdefault(root, {})[resource["kind"]] = resource
        if kind not in self._kinds[root]:
            del self._kinds[root]  # it may come yet
            raise KeyError(f"{version} {kind}")
        resource = self._kinds[root][kind]
        where = namespace or body.get("metadata", {}).get("namespace")
        path = f"{root}/namespaces/{where}" if resource["namespaced"] else root
        return f"{path}/{resource['name']}" + ("" if is_new else f"/{body['metadata']['name']}")

    def create(self, body: Object, namespace: str | None = None, **query: Any) -> Object:
        """Create one object; with ``dryRun="All"`` only let the server check it."""
        return self.request("POST", self.path_of(body, namespace, is_new=True), body, **query)

    def get(self, body: Object, namespace: str | None = None) -> Object:
        """The object as it is on the server; of ``body`` only apiVersion, kind and name are used."""
        return self.request("GET", self.path_of(body, namespace))

    def delete(self, body: Object, namespace: str | None = None) -> Object:
        """Delete one object; what it owns follows."""
        return self.request("DELETE", self.path_of(body, namespace), propagationPolicy="Background")

    def apply(self, body: Object, namespace: str | None = None, **query: Any) -> Object:
        """Server-side apply of one object."""
        return self.request(
            "PATCH",
            self.path_of(body, namespace),
            body,
            content_type="application/apply-patch+yaml",
            fieldManager="tests",
            force="true",
            **query,
        )

    def stream(self, path: str, *, seconds: float = 120.0, **query: Any) -> Iterator[bytes]:
        """Lines of an answer to the admin that comes bit by bit, e.g. of a watch; ``seconds`` of silence raise OSError."""
        address = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=seconds, context=self._admin_context) as answer:
                yield from answer
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, error.read().decode(errors="replace")) from None

    @functools.cached_property
    def _anonymous_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.file))

    @functools.cached_property
    def _admin_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.file))
        context.load_cert_chain(self.authority.folder / "admin.crt", self.authority.folder / "admin.key")
        return context

    # -- processes ---------------------------------------------------------------------------------------------

    def log_of(self, name: str) -> Path:
        """What a process printed."""
        return self.folder / f"{name}.log"

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start one of the binaries; it is stopped with the others."""
        self.start_command(name, [str(Path(os.environ[VARIABLE]) / name), *arguments])

    def start_command(self, name: str, command: Sequence[str]) -> None:
        """Start any process that belongs to it, under a name."""
        self._commands[name] = command
        with self.log_of(name).open("ab") as log:
            process = subprocess.Popen(
                [*with_this_process(), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes.append((name, process))

    def kill(self, name: str) -> None:
        """End one of its processes as the loss of its machine does; what it had written stays."""
        [process] = [process for known, process in self._processes if known == name]
        process.kill()
        process.wait()
        self._processes = [(known, process) for known, process in self._processes if known != name]

    def start_again(self, name: str) -> None:
        """Start one again that was killed, as it was started then."""
        self.start_command(name, self._commands[name])

    def wait(self, name: str, url: str, *, is_ours: bool = True) -> None:
        """Until a health page says ok; raises at once with the log's end where the process has ended."""
        process = next(process for known, process in self._processes if known == name)
        context = self._admin_context if is_ours else ssl._create_unverified_context()

        def is_healthy() -> bool:
            if process.poll() is not None:
                end = self.log_of(name).read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{end}")
            try:
                with urllib.request.urlopen(
                    url, timeout=5, context=context if url.startswith("https") else None
                ) as answer:
                    return bool(answer.status == 200)
            except urllib.error.HTTPError as error:
                raise ApiError(error.code, error.read().decode(errors="replace")) from None

        wait_until(f"{name} is healthy", is_healthy, seconds=_START_SECONDS)

    def stop(self) -> None:
        """Stop every process, the last started first."""
        for _, process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


def start_etcd(plane: ControlPlane) -> str:
    """Start etcd; returns its URL."""
    url, peers = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    plane.start(
        "etcd",
        [
            f"--data-dir={plane.folder / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peers}",
        ],
    )
    plane.wait("etcd", f"{url}/health")
    return url


def start_api_server(plane: ControlPlane, etcd: str, arguments: Sequence[str]) -> None:
    """Start kube-apiserver with RBAC and the default admission plugins, and wait for all its health checks."""
    address, pki = plane.address, plane.authority.folder
    first_service = str(ipaddress.ip_network(SERVICE_RANGE)[1])
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names.append("kubernetes.default.svc.cluster.local")
    crt, key = plane.authority.issue("kube-apiserver", hosts=[*names, address, "127.0.0.1", first_service])
    kubelet_crt, kubelet_key = plane.authority.issue("kube-apiserver-kubelet-client", ["system:masters"])
    write_key(pki / "accounts.key", rsa.generate_private_key(public_exponent=65537, key_size=2048))
    # an endpoint of the Service "kubernetes" may not be a loopback address
    is_loopback = ipaddress.ip_address(address).is_loopback
    plane.start(
        "kube-apiserver",
        [
            f"--etcd-servers={etcd}",
            f"--bind-address={address}",
            f"--advertise-address={address}",
            f"--secure-port={plane.port}",
            f"--endpoint-reconciler-type={'none' if is_loopback else 'lease'}",
            f"--tls-cert-file={crt}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={plane.authority.file}",
            f"--kubelet-client-certificate={kubelet_crt}",
            f"--kubelet-client-key={kubelet_key}",
            f"--kubelet-certificate-authority={plane.authority.file}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki / 'accounts.key'}",
            f"--service-account-signing-key-file={pki / 'accounts.key'}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            *arguments,
        ],
    )
    plane.wait("kube-apiserver", f"{plane.url}/healthz")
    plane.wait("kube-apiserver", f"{plane.url}/readyz")


def start_component(plane: ControlPlane, name: str, arguments: Sequence[str]) -> None:
    """Start the controller manager or the scheduler under its own name, and wait for its health page."""
    config = plane.kubeconfig(f"system:{name}")
    port = free_port()
    plane.start(
        name,
        [
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={plane.folder / name}",
            "--leader-elect=false",
            *arguments,
        ],
    )
    plane.wait(name, f"https://127.0.0.1:{port}/healthz", is_ours=False)


@contextlib.contextmanager
def running(
    folder: Path,
    *,
    address: str = "127.0.0.1",
    api_server_arguments: Sequence[str] = (),
    controller_manager_arguments: Sequence[str] = (),
    scheduler_arguments: Sequence[str] = (),
) -> Iterator[ControlPlane]:
    """A control plane while the context is open.

    Args:
        folder: Where everything is written.
        address: That the API server listens on; one that pods reach, where there are any.
        api_server_arguments, controller_manager_arguments, scheduler_arguments: Further flags, the last one of a
            name holds.
    """
    plane = ControlPlane(folder, address)
    try:
        start_api_server(plane, start_etcd(plane), api_server_arguments)
        accounts = plane.authority.folder / "accounts.key"
        start_component(
            plane,
            "kube-controller-manager",
            [
                f"--service-account-private-key-file={accounts}",
                f"--root-ca-file={plane.authority.file}",
                "--use-service-account-credentials=true",
                *controller_manager_arguments,
            ],
        )
        start_component(plane, "kube-scheduler", scheduler_arguments)
        wait_until(
            "the default ServiceAccount",
            lambda: plane.request("GET", "/api/v1/namespaces/default/serviceaccounts/default"),
        )
        yield plane
    finally:
        plane.stop()
