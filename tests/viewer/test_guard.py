"""The guard: Host, Origin, tokens, sizes, headers, static files, errors that tell no secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from monoscope.errors import ConfigError, FormatError
from monoscope.viewer.app import create_app
from monoscope.viewer.config import ViewerConfig, beside
from monoscope.viewer.serve import page_address, settings
from tests.viewer.made_up import make

BASE = "http://127.0.0.1:8642"
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("guard") / "atlas")


@pytest.fixture(scope="module")
def client(atlas: Path) -> Iterator[TestClient]:
    app = create_app(ViewerConfig(atlas=atlas, max_body=2000))

    @app.get("/api/v1/broken")
    def broken() -> None:
        raise RuntimeError("the secret is in /home/somebody")

    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def remote(atlas: Path) -> Iterator[TestClient]:
    """A viewer that other machines can reach."""
    app = create_app(ViewerConfig(atlas=atlas, host="0.0.0.0", token=TOKEN))
    with TestClient(app, base_url="http://192.168.1.20:8642") as client:
        yield client


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9999", "127.0.0.1:8642", "[::1]:8642", "LOCALHOST"]
)
def test_this_machine_is_served_under_its_names(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8642", "192.168.1.20", "",
     "127.0.0.1@evil.example", "[", "evil.example#127.0.0.1"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/v1/atlas", "/static/app.js"])
def test_a_rebound_name_is_refused(client, host, path):
    answer = client.get(path, headers={"host": host})
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://[", "127.0.0.1:8642"]
)
def test_another_sites_request_is_refused(client, origin):
    put = {"url": "/api/v1/features/1/label", "json": {"text": "x"}}
    assert client.put(**put, headers={"origin": origin}).status_code == 403
    assert client.get("/api/v1/atlas", headers={"origin": origin}).status_code == 403


def test_the_pages_own_requests_pass_and_plain_links_to_it_too(client):
    assert client.get("/api/v1/atlas", headers={"origin": BASE}).status_code == 200
    cross = {"sec-fetch-site": "cross-site"}
    assert client.get("/f/3", headers=cross).status_code == 200
    assert client.get("/api/v1/atlas", headers=cross).status_code == 403


def test_security_headers_are_on_every_answer(client):
    for path in ("/", "/static/app.js", "/api/v1/atlas", "/api/v1/none", "/api/docs"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    refused = client.get("/", headers={"host": "evil.example"})
    assert refused.headers["x-content-type-options"] == "nosniff"


def test_pages_hold_no_inline_script_or_style(client):
    for path in ("/", "/api/docs"):
        text = client.get(path).text
        assert (
            " style=" not in text and "<style" not in text and " on" not in text.split("<body")[1]
        )
        for script in text.split("<script")[1:]:
            assert 'src="/static/' in script.split(">")[0] and script.split(">")[1].startswith("<")


def test_a_body_too_large_is_refused_declared_or_not(client):
    text = "x" * 3000
    answer = client.put("/api/v1/features/1/note", json={"text": text})
    assert answer.status_code == 413 and "2,000 bytes" in answer.json()["expected"]
    parts = (chunk for chunk in ['{"text": "', *["x" * 500] * 6, '"}'])
    chunked = client.put(
        "/api/v1/features/1/note",
        content=(part.encode() for part in parts),
        headers={"content-type": "application/json"},
    )
    assert chunked.status_code == 413
    small = client.put("/api/v1/features/1/note", content=iter([b'{"text": ', b'" "}']),
                       headers={"content-type": "application/json"})  # fmt: skip
    assert small.status_code == 200
    assert client.get("/", headers={"content-length": "many"}).status_code == 400


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd",
     "/static/%2fetc%2fpasswd", "/static/pages/..%2f..%2f..%2fapp.py", "/static/\x00", "/static/"],
)  # fmt: skip
def test_no_path_leads_out_of_the_static_folder(client, path):
    answer = client.get(path.replace("\x00", "%00"))
    assert answer.status_code in (400, 404, 405)
    assert "import" not in answer.text and "root:" not in answer.text


def test_a_failure_inside_tells_no_secret(client, caplog):
    answer = client.get("/api/v1/broken")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text and "Traceback" not in answer.text
    assert "the secret is in" in caplog.text  # the terminal has it


@pytest.mark.parametrize("body", ["{", "[]", '{"text": 3}', '{"text": "' + "x" * 500 + '"}'])
def test_a_bad_body_is_a_problem(client, body):
    answer = client.put(
        "/api/v1/features/1/label", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


# ---------------------------------------------------------------- tokens


def test_an_open_address_wants_the_token(remote):
    for path in ("/", "/static/app.js", "/api/v1/atlas"):
        answer = remote.get(path)
        assert answer.status_code == 401 and TOKEN not in answer.text
    assert remote.get("/api/v1/atlas", headers={"authorization": f"Bearer {TOKEN}"}).is_success
    for wrong in ("Bearer wrong", "Bearer ", f"Basic {TOKEN}", "Bearer é"):
        headers = {"authorization": wrong.encode()}
        assert remote.get("/api/v1/atlas", headers=headers).status_code == 401


def test_the_printed_address_lets_a_browser_in_and_leaves_no_token_behind(atlas):
    app = create_app(ViewerConfig(atlas=atlas, host="0.0.0.0", token=TOKEN))
    with TestClient(app, base_url="http://192.168.1.20:8642") as browser:
        first = browser.get(f"/f/3?q=a+b&token={TOKEN}", follow_redirects=False)
        assert first.status_code == 303 and first.headers["location"] == "/f/3?q=a+b"
        cookie = first.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert browser.get("/api/v1/atlas").is_success
        away = browser.get(f"//evil.example/?token={TOKEN}", follow_redirects=False)
        assert not away.headers.get("location", "/").startswith("//")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "fd00::7", "192.168.1.20", "Lab-Box.example"])
def test_the_address_that_is_printed_is_the_one_that_is_served(atlas, monkeypatch, host):
    monkeypatch.setattr("socket.gethostname", lambda: "Lab_Box.local")
    config = settings(str(atlas), port=8642, host=host)
    printed = page_address(config)
    assert config.token is not None and f"?token={config.token}" in printed
    with TestClient(create_app(config), base_url=printed.partition("?")[0]) as browser:
        assert browser.get(printed).status_code == 200  # by way of the cookie
        assert browser.get("/api/v1/atlas").is_success
        assert browser.get("/", headers={"host": "evil.example"}).status_code == 403


def test_an_open_address_is_served_under_addresses_but_not_foreign_names(remote):
    good = {"authorization": f"Bearer {TOKEN}"}
    assert remote.get("/", headers=good | {"host": "10.0.0.3:8642"}).is_success
    assert remote.get("/", headers=good | {"host": "evil.example"}).status_code == 403


def test_a_browser_at_a_wrong_address_gets_the_page_and_a_program_a_problem(client):
    page = client.get("/nothing", headers={"accept": "text/html,*/*"})
    assert page.status_code == 404 and page.headers["content-type"].startswith("text/html")
    for path in ("/nothing", "/api/v1/nothing", "/static/nothing.js"):
        accept = {"accept": "text/html" if "/" in path[1:] else "*/*"}
        answer = client.get(path, headers=accept)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


def test_settings_are_checked(atlas, tmp_path):
    with pytest.raises(ConfigError, match="needs a token"):
        ViewerConfig(atlas=atlas, host="0.0.0.0")
    with pytest.raises(ConfigError, match="too short"):
        ViewerConfig(atlas=atlas, token="short")
    with pytest.raises(ConfigError, match="port"):
        ViewerConfig(atlas=atlas, port=70_000)
    with pytest.raises(FormatError, match="is not an atlas"):
        settings(str(tmp_path), port=0)
    made = settings(str(atlas), port=0, host="192.168.1.20")
    assert made.token is not None and made.token in page_address(made)
    local = settings(str(atlas), port=8642)
    assert local.token is None and page_address(local) == "http://127.0.0.1:8642/"
    assert local.sae is None and beside(atlas, "0" * 64) is None
