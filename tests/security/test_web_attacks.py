"""Dagster's pages behind the guard: what another site can make a browser send is refused."""

from __future__ import annotations

import base64
import functools
import http.client
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets.sync.client as websockets_client
from webserver import free_port
from websockets.exceptions import InvalidStatus

from m3h_pipeline.cli.out_folder import prepare_folder

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
DISGUISED = {"Content-Type": "text/plain; x=application/json"}
CROSS_SITE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
EVIL = "http://evil.example"
# What a page of another site would want: a mutation that anybody may send to a bare Dagster.
MUTATION = "mutation { setNuxSeen }"
QUERY = "{ version }"
TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("guarded") / "out"
    prepare_folder(folder, "demo", None, "tiny")
    return folder


def _serve(out: Path, **environment: str) -> tuple[subprocess.Popen[bytes], int]:
    port = free_port()
    command = [sys.executable, "-m", "m3h_pipeline.webserver", "--port", str(port)]
    settings = {"DAGSTER_HOME": str(out / "dagster"), "M3H_OUT": str(out), **environment}
    process = subprocess.Popen(command, env=dict(os.environ) | settings)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            _send(port, "GET", "/server_info")
            return process, port
        except ConnectionRefusedError:
            time.sleep(0.2)
    process.kill()
    pytest.fail(f"the webserver did not come up: {process.poll()}")


@pytest.fixture(scope="module")
def port(out) -> Iterator[int]:
    process, port = _serve(out)
    yield port
    process.terminate()
    process.wait(30)


def _send(
    port: int, method: str, path: str, headers: dict[str, str] | None = None, body: str = ""
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body or None, headers or {})
    response = connection.getresponse()
    return response.status, response.read().decode()


def _body(query: str) -> str:
    return json.dumps({"query": query})


def test_own_pages_and_programs_pass(port):
    status, answer = _send(port, "POST", "/graphql", JSON, _body(QUERY))
    assert (status, "version" in answer) == (200, True)
    own = JSON | {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
    assert _send(port, "POST", "/graphql", own, _body(MUTATION))[0] == 200
    assert _send(port, "GET", "/")[0] == 200
    assert _send(port, "GET", "/", {"Host": f"localhost:{port}"})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/graphql?query=mutation%20%7BsetNuxSeen%7D", {}, "", 405),
        ("GET", "/graphql/?query=mutation%20%7BsetNuxSeen%7D", {}, "", 405),
        ("HEAD", "/graphql?query=mutation%20%7BsetNuxSeen%7D", {}, "", 405),
        ("POST", "/graphql?query=mutation%20%7BsetNuxSeen%7D", {}, "", 415),
        ("POST", "/graphql", FORM, "query=mutation{setNuxSeen}", 415),
        ("POST", "/graphql", {"Content-Type": "application/graphql"}, MUTATION, 415),
        ("POST", "/graphql", {"Content-Type": "text/plain"}, _body(MUTATION), 415),
        ("POST", "/graphql", DISGUISED, _body(MUTATION), 415),
        ("POST", "/graphql", JSON | {"Origin": EVIL}, _body(MUTATION), 403),
        ("POST", "/graphql", JSON | {"Origin": "null"}, _body(MUTATION), 403),
        ("POST", "/graphql", JSON | {"Origin": "http://127.0.0.1:1"}, _body(MUTATION), 403),
        ("POST", "/graphql", JSON | {"Sec-Fetch-Site": "cross-site"}, _body(MUTATION), 403),
        ("POST", "/graphql", JSON | {"Sec-Fetch-Site": "same-site"}, _body(MUTATION), 403),
        ("POST", "/graphql", JSON | {"Host": "evil.example"}, _body(QUERY), 403),
        ("GET", "/", {"Host": "evil.example:3000"}, "", 403),
        ("GET", "/", {"Host": "127.0.0.1@evil.example"}, "", 403),
        ("GET", "/", CROSS_SITE | {"Sec-Fetch-Dest": "iframe"}, "", 403),
        ("POST", "/report_asset_materialization/m3h_model", {"Origin": EVIL}, "", 403),
        ("POST", "/report_asset_materialization/m3h_model?description=x", {}, "", 415),
    ],
)  # fmt: skip
def test_what_another_site_could_send_is_refused(port, method, path, headers, body, status):
    assert _send(port, method, path, headers, body)[0] == status


def test_link_from_another_site_opens_a_page(port):
    link = CROSS_SITE | {"Sec-Fetch-Dest": "document"}
    status, _ = _send(port, "GET", "/runs", link)
    assert status == 200
    assert _send(port, "GET", "/graphql?query=%7Bversion%7D", link)[0] == 405


def test_web_sockets_of_other_origins_are_refused(port):
    # Not asyncio: the browser's tests leave a running loop in this thread.
    def connect(origin: str | None) -> None:
        address = f"ws://127.0.0.1:{port}/graphql"
        with websockets_client.connect(address, origin=origin, subprotocols=["graphql-ws"]):
            pass

    connect(f"http://127.0.0.1:{port}")
    connect(None)
    for origin in (EVIL, "http://127.0.0.1:1", "null"):
        with pytest.raises(InvalidStatus):
            connect(origin)


def test_token_is_asked_for(out):
    process, port = _serve(out, M3H_UI_TOKEN=TOKEN)
    try:
        basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
        wrong = base64.b64encode(b"anybody:0123456789abcdef").decode()
        assert _send(port, "GET", "/")[0] == 401
        assert _send(port, "GET", "/", {"Authorization": f"Basic {basic}"})[0] == 200
        assert _send(port, "GET", "/", {"Authorization": f"Bearer {TOKEN}"})[0] == 200
        assert _send(port, "GET", "/", {"Authorization": f"Basic {wrong}"})[0] == 401
        assert _send(port, "GET", "/", {"Authorization": "Basic !"})[0] == 401
    finally:
        process.terminate()
        process.wait(30)


def test_short_token_is_refused(out):
    command = [sys.executable, "-m", "m3h_pipeline.webserver", "--port", str(free_port())]
    environment = dict(os.environ) | {"M3H_UI_TOKEN": "secret"}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert ended.returncode == 1
    assert "fewer than 16 characters" in ended.stderr


ATTACK = """
<!doctype html><title>waiting</title>
<form id="form" method="post" action="TARGET/graphql" target="frame">
  <input name="query" value="mutation { setNuxSeen }"></form>
<iframe name="frame" id="framed" src="TARGET/"></iframe>
<script>
async function attempt(send) { try { return (await send()).status } catch { return "blocked" } }
function socket() {
  return new Promise(done => {
    const opened = new WebSocket("TARGET/graphql".replace("http", "ws"), "graphql-ws");
    opened.onopen = () => done("open");
    opened.onerror = () => done("blocked");
  });
}
async function attack() {
  const body = JSON.stringify({query: "mutation { setNuxSeen }"});
  const headers = {"Content-Type": "application/json"};
  const results = {
    json: await attempt(() => fetch("TARGET/graphql", {method: "POST", body, headers})),
    text: await attempt(() => fetch("TARGET/graphql", {method: "POST", body, mode: "no-cors"})),
    get: await attempt(() => fetch("TARGET/graphql?query=mutation{setNuxSeen}", {mode: "no-cors"})),
    socket: await socket(),
  };
  document.getElementById("form").submit();
  return results;
}
</script>
"""


class _Recording(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def evil_site(tmp_path, port) -> Iterator[str]:
    """A page of another origin that attacks Dagster's."""
    (tmp_path / "index.html").write_text(ATTACK.replace("TARGET", f"http://127.0.0.1:{port}"))
    handler = functools.partial(_Recording, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()


def test_page_of_another_site_gets_nowhere(browser, evil_site, port):
    page = browser.new_page()
    answers: list[tuple[str, str, int]] = []
    page.on(
        "response",
        lambda answer: answers.append((answer.request.method, answer.url, answer.status)),
    )
    page.goto(evil_site)
    results = page.evaluate("attack()")
    page.wait_for_timeout(1000)
    page.close()
    assert results["json"] == "blocked"
    assert results["socket"] == "blocked"
    reached = [answer for answer in answers if f":{port}/" in answer[1]]
    assert {method for method, _, _ in reached} >= {"GET", "POST"}
    refused = {403, 405, 415}
    assert all(status in refused for method, _, status in reached if method != "OPTIONS"), reached


def test_dagster_s_own_page_works_behind_the_guard(browser, out, port):
    page = browser.new_page()
    failures: list[str] = []
    page.on(
        "response", lambda answer: failures.append(answer.url) if answer.status >= 400 else None
    )
    page.goto(f"http://127.0.0.1:{port}/asset-groups")
    page.get_by_text("ingestion", exact=True).first.wait_for(timeout=60_000)
    page.close()
    assert failures == []
