"""A browser on this machine, and nobody else, gets through to a dashboard inside a cluster."""

import base64
import contextlib
import hashlib
import http.client
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
import websocket
from cluster_cases import kubernetes_profile
from fake_kubernetes import FakeKubernetes
from programmable_server import Answer, ProgrammableServer, wait_until

from orchestrator.clusters.kubernetes.dashboards import mlflow_dashboard, ray_dashboard
from orchestrator.clusters.shared.gateway import Gateway
from orchestrator.errors import InfrastructureError, NotFoundError

ADDRESS = "http://train-mlflow.training.svc:5000"
SIGNED_IN = f"Basic {base64.b64encode(b'jobs:s3cret').decode()}"


class Dashboard(ProgrammableServer):
    """In a pod, as MLflow and Ray's dashboard are: what it is asked is kept."""

    password = SIGNED_IN

    def route(self, asked):
        if asked.headers.get("authorization") != self.password:
            return Answer(401, b"who?", {"WWW-Authenticate": 'Basic realm="mlflow"'})
        match asked.path:
            case "/large":
                return Answer(body=LARGE, headers={"Content-Type": "application/octet-stream"})
            case "/lines":
                return Answer(body=(b"line %d\n" % number for number in range(3)))
            case "/grows":
                return Answer(body=self.growing())
            case "/cookie":
                return Answer(body={}, headers={"Set-Cookie": "session=theirs; Path=/"})
            case "/moved":
                return Answer(302, headers={"Location": f"{ADDRESS}/lines"})
            case "/socket":
                return Answer(101, body=self.echo)
            case "/nothing":
                return Answer(304, b"")
        return Answer(body={"sha256": hashlib.sha256(asked.body).hexdigest()})

    def growing(self):
        yield b"first"
        self.closing.wait(30)
        yield b"last"

    @staticmethod
    def echo(connection):
        while (said := connection.receive()) is not None:
            connection.send(said.upper())


LARGE = bytes(range(256)) * 40_000
"""10 MB."""


def put_mlflow(server, there, pod="mlflow-1"):
    server.put(
        "services",
        {
            "metadata": {"name": "train-mlflow"},
            "spec": {"selector": {"app": "mlflow"}, "ports": [{"port": 5000, "targetPort": "http"}]},
        },
    )
    container = {"name": "mlflow", "ports": [{"name": "http", "containerPort": 5001}]}
    server.put(
        "pods",
        {
            "metadata": {"name": pod, "labels": {"app": "mlflow"}},
            "spec": {"containers": [container]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        },
    )
    server.listening[pod, 5001] = urlsplit(there.url).port


def secret(name, **values):
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"metadata": {"name": name}, "data": data}


@pytest.fixture
def server(tmp_path, monkeypatch):
    with FakeKubernetes() as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path)))
        running.put("secrets", secret("jobs-login", username="jobs", password="s3cret"))
        yield running


@pytest.fixture
def there(server):
    with Dashboard() as running:
        put_mlflow(server, running)
        yield running


@pytest.fixture
def profile():
    return kubernetes_profile(mlflow=ADDRESS, secrets={"mlflow_secret": "jobs-login"})


@pytest.fixture
def gateway(there, profile):
    dashboard, _ = mlflow_dashboard(profile, ADDRESS, "/#/experiments")
    with Gateway(dashboard) as running:
        yield running
    wait_until(lambda: threads_of_gateways() == [], "the end of all threads", 5.0)


def threads_of_gateways():
    return [one.name for one in threading.enumerate() if "gateway" in one.name]


@pytest.fixture(autouse=True)
def no_browser_left():
    yield
    while Browser.opened:
        Browser.opened.pop().close()


class Browser:
    """One connection that is kept, and the cookies that it was given."""

    opened: ClassVar[list] = []

    def __init__(self, gateway, *, opens=True):
        self.gateway, self.cookies = gateway, {}
        self.connection = http.client.HTTPConnection("127.0.0.1", urlsplit(gateway.url).port, timeout=30)
        self.opened.append(self.connection)
        if opens:
            answer = self.ask("GET", gateway.link.removeprefix(gateway.url))
            assert (answer.status, answer.getheader("Location")) == (303, "/#/experiments")

    def ask(self, method, path, body=None, **headers):
        told = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(
            method, path, body, {**told, **given}, encode_chunked="Transfer-Encoding" in given
        )
        answer = self.connection.getresponse()
        answer.content = answer.read()
        for one in answer.headers.get_all("Set-Cookie", []):
            name, _, value = one.partition(";")[0].partition("=")
            self.cookies[name] = value
            self.said = one
        return answer


def test_who_has_the_link_is_signed_in_and_asks_as_a_pod_would(gateway, there):
    browser = Browser(gateway)
    assert re.fullmatch(r"trainwright-\d+=[\w-]{40,}; HttpOnly; SameSite=Strict; Path=/", browser.said)
    assert browser.ask("GET", "/lines").content == b"line 0\nline 1\nline 2\n"
    asked = there.asked[-1]
    assert asked.headers["host"] == "train-mlflow.training.svc:5000"
    assert "cookie" not in asked.headers
    assert "token" not in str([one.query for one in there.asked])
    # what the browser knows of other servers of this machine stays here, and an own user counts for nothing
    browser.cookies["jupyter"] = "secret"
    assert browser.ask("GET", "/cookie", Authorization="Basic b3RoZXI=").status == 200
    assert browser.ask("GET", "/cookie").status == 200
    assert there.asked[-1].headers["cookie"] == "session=theirs"
    assert browser.ask("GET", "/moved").getheader("Location") == "/lines"
    assert browser.ask("GET", "/nothing").status == 304
    assert browser.ask("HEAD", "/large").getheader("Content-Length") == str(len(LARGE))
    assert browser.ask("GET", "/large").content == LARGE


def test_requests_of_one_browser_share_a_connection_into_the_pod(gateway, server):
    browser = Browser(gateway)
    for _ in range(5):
        assert browser.ask("GET", "/lines").status == 200
    assert server.count("GET", "/portforward$") == 1


@pytest.mark.parametrize("path", ["/?token=wrong", "/?token=", "/", "/lines"])
def test_without_the_link_nothing_passes(gateway, there, path):
    answer = Browser(gateway, opens=False).ask("GET", path)
    assert (answer.status, answer.content.count(b"\n"), there.asked) == (403, 1, [])


def test_a_link_works_once_and_a_cookie_of_another_gateway_not_at_all(gateway, there, profile):
    browser = Browser(gateway)
    assert Browser(gateway, opens=False).ask("GET", gateway.link.removeprefix(gateway.url)).status == 403
    assert (
        browser.ask("GET", gateway.link.removeprefix(gateway.url)).status == 303
    )  # a page that is loaded again
    [value] = browser.cookies.values()
    with Gateway(mlflow_dashboard(profile, ADDRESS, "/")[0]) as other:
        stranger = Browser(other, opens=False)
        stranger.cookies = {f"trainwright-{urlsplit(other.url).port}": value}
        assert stranger.ask("GET", "/lines").status == 403
    assert there.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example.com"},
        {"Host": "localhost:1"},
        {"Origin": "http://evil.example.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_pages_and_names_are_refused_whatever_they_have(gateway, there, headers, method):
    browser = Browser(gateway)
    answer = browser.ask(method, "/lines", **headers)
    assert (answer.status, there.asked) == (403, [])
    assert browser.ask("POST", "/ok", Origin=gateway.url, Sec_Fetch_Site="same-origin").status == 200


def test_bodies_arrive_whole_by_length_and_in_chunks(gateway, there):
    browser = Browser(gateway)
    digest = hashlib.sha256(LARGE).hexdigest()
    assert digest in browser.ask("PUT", "/upload", LARGE).content.decode()
    pieces = [LARGE[start : start + 300_001] for start in range(0, len(LARGE), 300_001)]
    answer = browser.ask("PUT", "/upload", iter(pieces), Transfer_Encoding="chunked")
    assert digest in answer.content.decode()
    assert there.asked[-1].headers["transfer-encoding"] == "chunked"
    assert browser.ask("GET", "/lines").status == 200  # on the same connection


def test_two_browsers_at_once(there, profile):
    dashboard, _ = mlflow_dashboard(profile, ADDRESS, "/#/experiments")
    with Gateway(dashboard) as gateway:
        first = Browser(gateway)

        def fetch(number):
            one = Browser(gateway, opens=False)
            one.cookies = first.cookies
            return [one.ask("GET", "/large").content == LARGE, one.ask("PUT", "/x", LARGE).status == 200]

        with ThreadPoolExecutor(4) as many:
            assert all(all(found) for found in many.map(fetch, range(4)))


@pytest.mark.parametrize(
    "head",
    [
        b"POST /x HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: -3\r\n",
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"GET http://evil.example.com/ HTTP/1.1\r\n",
    ],
)
def test_a_request_that_two_servers_could_read_in_two_ways_is_refused(gateway, there, head):
    browser = Browser(gateway)
    [(name, value)] = browser.cookies.items()
    with socket.create_connection(("127.0.0.1", urlsplit(gateway.url).port)) as raw:
        raw.sendall(head + f"Host: {gateway.url[7:]}\r\nCookie: {name}={value}\r\n\r\nabc".encode())
        raw.settimeout(30)
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert there.asked == []


def test_what_comes_slowly_is_shown_as_it_comes(gateway, there):
    browser = Browser(gateway)
    [(name, value)] = browser.cookies.items()
    browser.connection.request("GET", "/grows", headers={"Cookie": f"{name}={value}"})
    answer = browser.connection.getresponse()
    assert answer.read1(100) == b"first"
    there.closing.set()
    assert answer.read() == b"last"


def test_a_websocket_passes(gateway, there):
    browser = Browser(gateway)
    [(name, value)] = browser.cookies.items()
    address = gateway.url.replace("http", "ws")
    options = {"cookie": f"{name}={value}", "subprotocols": ["v1"], "timeout": 30}
    with contextlib.closing(
        websocket.create_connection(f"{address}/socket", origin=gateway.url, header=["X: y"], **options)
    ) as opened:
        for said in (b"hello", LARGE):
            opened.send_binary(said)
            assert opened.recv() == said.upper()
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        websocket.create_connection(f"{address}/socket", origin="http://evil.example.com", **options)


def test_a_pod_that_goes_cuts_an_answer_off_and_the_next_one_takes_its_place(gateway, there, server):
    browser = Browser(gateway)
    [(name, value)] = browser.cookies.items()
    browser.connection.request("GET", "/grows", headers={"Cookie": f"{name}={value}"})
    answer = browser.connection.getresponse()
    assert answer.read1(100) == b"first"
    server.objects["pods"].pop("mlflow-1")
    [forwarded] = server.forwarded
    forwarded.shutdown(socket.SHUT_RDWR)
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    browser.connection.close()
    gone = browser.ask("GET", "/lines")
    assert (gone.status, gone.content.count(b"\n")) == (502, 1)
    assert (
        b"MLflow can't be reached: no pod of service train-mlflow in namespace training is ready"
        in gone.content
    )
    put_mlflow(server, there, "mlflow-2")
    assert browser.ask("GET", "/lines").status == 200


def test_a_connection_that_ended_unused_is_made_again(gateway, there, server):
    browser = Browser(gateway)
    assert browser.ask("POST", "/x", b"1").status == 200
    server.forwarded[0].shutdown(socket.SHUT_RDWR)
    wait_until(lambda: not server.forwarded, "the end of the connection")
    assert browser.ask("POST", "/x", b"1").status == 200
    assert server.count("GET", "/portforward$") == 2


def test_a_pod_where_nothing_listens_is_told(gateway, server):
    server.listening.clear()
    answer = Browser(gateway).ask("GET", "/lines")
    assert (answer.status, answer.content.count(b"\n")) == (502, 1)
    assert b"error forwarding port 5001: Connection refused" in answer.content


def test_a_user_that_the_server_does_not_take_is_told(gateway, there):
    there.password = "another"
    answer = Browser(gateway).ask("GET", "/lines")
    assert (answer.status, answer.getheader("WWW-Authenticate")) == (502, None)
    assert b"does not take the user" in answer.content


@pytest.mark.parametrize("why", ["denied", "gone"])
def test_who_may_not_read_the_secret_signs_in_by_hand(there, server, profile, why):
    if why == "denied":
        server.denied.add(("get", "secrets"))
    else:
        server.objects["secrets"].clear()
    dashboard, how = mlflow_dashboard(profile, ADDRESS, "/#/experiments")
    assert "it asks for a user" in how
    assert "Secret jobs-login of namespace training" in how
    with Gateway(dashboard) as gateway:
        browser = Browser(gateway)
        asked = browser.ask("GET", "/lines")
        assert (asked.status, asked.getheader("WWW-Authenticate")) == (401, 'Basic realm="mlflow"')
        assert browser.ask("GET", "/lines", Authorization=SIGNED_IN).status == 200


def test_a_page_is_shown_beyond_the_token_with_which_it_was_opened(gateway, server, tmp_path):
    browser = Browser(gateway)
    assert browser.ask("GET", "/lines").status == 200
    server.token = "next"
    another = Browser(gateway, opens=False)  # another connection, so another tunnel
    another.cookies = browser.cookies
    assert another.ask("GET", "/lines").status == 502
    server.kubeconfig(tmp_path)
    again = Browser(gateway, opens=False)
    again.cookies = browser.cookies
    assert again.ask("GET", "/lines").status == 200


@pytest.mark.parametrize(
    ("verb", "resource", "says"),
    [
        ("create", "pods/portforward", "no right to create pods/portforward in namespace training"),
        ("get", "services", "no right to get services in namespace training"),
    ],
)
def test_a_right_that_is_missing_is_named(there, server, profile, verb, resource, says):
    server.denied.add((verb, resource))
    dashboard, _ = mlflow_dashboard(profile, ADDRESS, "/")
    with pytest.raises(InfrastructureError, match=f"{says}.*-dashboards does"):
        dashboard.connect()


def test_ray_s_dashboard_is_that_of_the_run_s_newest_head(server, profile):
    labels = {"trainwright/run": "digits-abcdefgh", "ray.io/node-type": "head", "ray.io/cluster": "digits-x1"}
    with pytest.raises(NotFoundError, match="no head of run digits-abcdefgh is there"):
        ray_dashboard(profile, "digits-abcdefgh")
    for name, made in (("old", "2026-01-01T00:00:00Z"), ("new", "2026-01-02T00:00:00Z")):
        server.put("pods", {"metadata": {"name": name, "labels": labels, "creationTimestamp": made}})
    server.put("secrets", secret("digits-x1", auth_token="token-of-ray"))
    with Dashboard() as there:
        there.password = "Bearer token-of-ray"
        server.listening["new", 8265] = urlsplit(there.url).port
        dashboard, how = ray_dashboard(profile, "digits-abcdefgh")
        assert how == "signed in"
        dashboard.connect().close()
        with Gateway(dashboard) as gateway:
            browser = Browser(gateway, opens=False)
            browser.ask("GET", gateway.link.removeprefix(gateway.url))
            assert browser.ask("GET", "/lines").status == 200


def test_its_end_ends_connections_and_threads(there, profile):
    gateway = Gateway(mlflow_dashboard(profile, ADDRESS, "/#/experiments")[0])
    browser, idle = Browser(gateway), Browser(gateway, opens=False)
    [(name, value)] = browser.cookies.items()
    browser.connection.request("GET", "/grows", headers={"Cookie": f"{name}={value}"})
    answer = browser.connection.getresponse()
    assert answer.read1(100) == b"first"
    idle.connection.connect()
    gateway.close()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    wait_until(lambda: threads_of_gateways() == [], "the end of all threads", 5.0)
    with pytest.raises(OSError, match=r"[Rr]efused"):
        socket.create_connection(("127.0.0.1", urlsplit(gateway.url).port), timeout=5)
