"""The service of docs/deployment.md as it stands there, and the serverless handler: right answers, and hostile ones."""

import asyncio
import base64
import ctypes
import gc
import importlib.util
import json
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from portraits import load_model, write_people
from programs import ROOT

for name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(name, reason=f"needs {name}: make setup-extras")
for name in ("fastapi", "httpx", "multipart"):
    pytest.importorskip(name, reason=f"needs {name}: make setup-extras")

import httpx  # noqa: E402
from quick_export import quick  # noqa: E402

import main  # noqa: E402
import models  # noqa: E402
from models.onnx.runtime import Recognizer, read_image  # noqa: E402

READER = ("runtime", "finding", "image_header", "service", "handler")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"), num=4)


@pytest.fixture(scope="module")
def home(tmp_path_factory, people):
    """A folder with `deploy`, thresholds included, the service and the handler."""
    root = tmp_path_factory.mktemp("home")
    model = load_model(root / "last.ckpt")
    models.calibrate(model, people, plan=models.Plan((0.5,), num_draws=100)).save(root / "last.calibration.json")
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        assert main.main(["export", str(root / "last.ckpt"), str(root / "deploy"), "--preprocess"]) == 0
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/deployment.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 90
    (root / "service.py").write_text(code, encoding="utf-8")
    (root / "handler.py").write_text((ROOT / "docs/deployment/handler.py").read_text(encoding="utf-8"))
    return root


def imported(home, name, monkeypatch):
    """Return a module of the folder, imported as another program would; it is gone after the test."""
    monkeypatch.setenv("DEPLOY_FOLDER", str(home / "deploy"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for each in READER:
        monkeypatch.delitem(sys.modules, each, raising=False)
    spec = importlib.util.spec_from_file_location(name, home / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # FastAPI looks annotations up there
    spec.loader.exec_module(module)
    for each in ("runtime", "finding", "image_header"):
        monkeypatch.setitem(sys.modules, each, sys.modules[each])
    return module


@pytest.fixture
def service(home, monkeypatch):
    return imported(home, "service", monkeypatch)


@pytest.fixture(scope="module")
def photographs(people):
    return [(people / f"p{p}" / f"{n}.png").read_bytes() for p in range(4) for n in range(2)]


def ask(service, *questions):
    """Return the answers to questions (path, files by name, query) that are asked all at once."""

    async def every():
        transport = httpx.ASGITransport(app=service.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            asked = [client.post(path, files=files, params=query) for path, files, query in questions]
            return await asyncio.gather(*asked)

    return asyncio.run(every())


def pair(first, second, **query):
    return "/verify", {"first": ("../../etc/passwd", first), "second": ("b", second)}, query


def test_concurrent_requests_are_answered_with_the_numbers_of_one(service, home, photographs):
    reader = Recognizer(home / "deploy")
    chosen = [(photographs[k % 8], photographs[3 * k % 8]) for k in range(24)]
    found = ask(service, *(pair(*each) for each in chosen))
    assert [answer.status_code for answer in found] == [200] * 24
    wanted = [reader.verify(*map(read_image, each)) for each in chosen]
    assert [answer.json() for answer in found] == json.loads(json.dumps(wanted))
    assert {answer.json()["verified"] for answer in found} == {True, False}
    (faces,) = ask(service, ("/faces", {"image": ("a", photographs[0])}, {}))
    (face,) = faces.json()
    assert face["box"] is None and 0 <= face["visibility"] <= 1
    np.testing.assert_allclose(np.linalg.norm(face["embedding"]), 1, rtol=1e-6)


def hostile():
    huge = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (30000).to_bytes(4, "big") * 2 + b"\x08\2\0\0\0" + bytes(64)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", noise)[1].tobytes()
    passes = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    scan = passes[passes.rindex(b"\xff\xda") : -2]
    return {
        "a bomb": (huge, 422, "30000 x 30000 pixels, more than"),
        "too many bytes": (b"\xff\xd8\xff" + bytes(8 * 2**20), 422, "more than 8388608 bytes"),
        "a text": (b"http://localhost/secret", 422, "not an image"),
        "nothing": (b"", 422, "not an image"),
        "very many passes": (passes[:-2] + 100 * scan + passes[-2:], 422, "more than 100 scans"),
        "a script": (b"<svg onload=alert(1)>", 422, "not an image"),
        "cut off": (jpeg[:20], 422, "its header does not tell its size"),
        "no crop": (jpeg, 422, "there is no detector"),
        "a video": (b"RIFF\0\0\0\0AVI LIST", 422, "its header does not tell its size"),
    }


def test_hostile_uploads_are_refused_with_no_word_of_this_machine(service, home, photographs):
    cases = hostile()
    questions = [pair(photographs[0], data) for data, _, _ in cases.values()]
    found = ask(service, *questions, pair(photographs[0], photographs[1], far=0.001), pair(*[bytes(9 * 2**20)] * 2))
    for answer, (_, status, text) in zip(found, cases.values(), strict=False):
        assert (answer.status_code, text in answer.json()["detail"]) == (status, True), answer.text
    assert "no threshold of fused for this rate" in found[-2].json()["detail"]
    assert (found[-1].status_code, found[-1].json()) == (413, {"detail": "the request is too large"})
    (wrong,) = ask(service, ("/verify", {"first": ("a", photographs[0])}, {"second": "http://localhost/a.jpg"}))
    assert wrong.status_code == 422
    for answer in [*found, wrong]:
        assert not any(word in answer.text for word in (str(home), "/home", ".py", "Traceback", "passwd"))


def test_what_fails_waits_or_takes_too_long_is_ended(service, photographs, monkeypatch):
    question = pair(photographs[0], photographs[1])

    def broken(*_):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(service.RECOGNIZER, "verify", broken)
    (answer,) = ask(service, question)
    assert (answer.status_code, answer.json()) == (500, {"detail": "internal error"})
    monkeypatch.setattr(service.RECOGNIZER, "verify", lambda *_: time.sleep(0.5))
    monkeypatch.setattr(service, "SECONDS", 0.2)
    monkeypatch.setattr(service, "PLACES", asyncio.Semaphore(2))
    found = ask(service, *[question] * 4)
    assert sorted(answer.status_code for answer in found) == [503, 503, 504, 504]


def test_a_request_that_is_never_sent_to_its_end_is_ended(service, monkeypatch):
    monkeypatch.setattr(service, "SECONDS", 0.1)
    sent = []

    async def never():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/verify"},
        **{"raw_path": b"/verify", "root_path": "", "scheme": "http", "query_string": b"", "client": None},
        **{"server": None, "headers": [(b"content-type", b"multipart/form-data; boundary=x")]},
    }
    asyncio.run(service.app(scope, never, send))
    assert sent[0]["status"] == 408 and b"the request took too long" in sent[1]["body"]


def test_the_serverless_handler_answers_likewise(home, photographs, monkeypatch):
    handler = imported(home, "handler", monkeypatch).handler
    first, second = (base64.b64encode(data).decode() for data in photographs[:2])
    reply = handler({"body": json.dumps({"first": first, "second": second, "far": 0.5})}, None)
    wanted = Recognizer(home / "deploy").verify(*map(read_image, photographs[:2]))
    assert reply["statusCode"] == 200 and json.loads(reply["body"]) == json.loads(json.dumps(wanted))
    for body, status in (("[", 400), ("{}", 400), ("[1]", 400), (None, 400), ('{"first": "?", "second": "?"}', 422)):
        assert handler({"body": body}, None)["statusCode"] == status
    too_long = json.dumps({"first": "A" * (12 * 2**20), "second": second})
    assert "8388608 bytes" in handler({"body": too_long}, None)["body"]


@pytest.mark.slow
def test_a_thousand_requests_of_eight_clients_leak_nothing(service, home, photographs):
    uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn: make setup-extras")
    place = socket.socket()
    place.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(service.app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    reader, bad = Recognizer(home / "deploy"), [data for data, _, _ in hostile().values()]
    pairs = [(photographs[k], photographs[3 * k % 8]) for k in range(8)]
    wanted = [json.loads(json.dumps(reader.verify(*map(read_image, pair)))) for pair in pairs]

    def client(seed):
        """Return what was answered wrongly to 63 requests, every fifth of them hostile."""
        rng, wrong = np.random.default_rng(seed), []
        with httpx.Client(base_url=f"http://127.0.0.1:{place.getsockname()[1]}", timeout=60) as asking:
            for _ in range(63):
                k, is_hostile = int(rng.integers(8)), rng.random() < 0.2
                second = bad[int(rng.integers(len(bad)))] if is_hostile else pairs[k][1]
                answer = asking.post("/verify", files={"first": ("a", pairs[k][0]), "second": ("b", second)})
                is_right = answer.status_code == 422 if is_hostile else answer.json() == wanted[k]
                wrong += [] if is_right else [(k, is_hostile, answer.text)]
        return wrong

    def held():
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return len(list(Path("/proc/self/fd").iterdir())), int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    try:
        levels = []
        for turn in range(2):
            with ThreadPoolExecutor(8) as clients:
                assert [each for found in clients.map(client, range(8 * turn, 8 * turn + 8)) for each in found] == []
            levels.append(held())
    finally:
        server.should_exit = True
        thread.join(30)
    assert levels[1][0] <= levels[0][0] and levels[1][1] < levels[0][1] + 64
