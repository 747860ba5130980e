"Models behind a server that holds the connection; imports that stay light; kinds that packages add"
import socket
import subprocess
import sys
import textwrap
import threading

import forks
import pytest

pytest.importorskip("openai", reason="openai is not installed: no endpoints here")
from ftrl.models.llm import MODELS, Request, load_model
from ftrl.models.replay import Replay

HELLO = Request([{"role": "user", "content": "hi"}])


@pytest.fixture
def silent():
    "A server that takes connections and never answers"
    server = socket.create_server(("127.0.0.1", 0))
    kept = []

    def accept():
        while True:
            try: kept.append(server.accept()[0])
            except OSError: return
    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    server.close()
    for c in kept: c.close()


def test_a_program_ends_while_a_server_is_silent(silent):
    code = f"""
        from ftrl.models.llm import Request, load_model
        model = load_model("openai:some", base_url={silent!r}, api_key="none", patience=900)
        for i in range(3): model.submit(i, Request([{{"role": "user", "content": "hi"}}]))
        import time
        time.sleep(2)
        print("end")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = forks.run(command)
    assert (done.stdout, done.returncode) == ("end\n", 0), done.stderr


def test_a_silent_server_fails_the_request(silent):
    model = load_model("openai:some", base_url=silent, api_key="none", patience=0.3, timeout=0.3)
    assert model.chat([HELLO])[0].error


def test_a_byte_of_the_headers_now_and_then(silent):
    "The library waits for each byte anew; the request is left behind"
    model = load_model("openai:some", base_url=silent, api_key="none", patience=0.3, timeout=900)
    model._connected()
    model.timeout = 0.3  # ours, while the library would wait for 900 s
    assert "holds the connection" in model.chat([HELLO])[0].error
    assert model.working == 0


@pytest.mark.parametrize("modules", ("ftrl, ftrl.models.local, ftrl.models.remote", "ftrl.cli"))
def test_importing_is_light(modules):
    code = f"import sys, {modules}; print({{'torch', 'transformers', 'openai'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_kind_of_model_is_one_record(tmp_path):
    (tmp_path/"r.jsonl").write_text('{"id": "1", "turns": ["four"]}\n')
    MODELS.add("recorded", Replay)
    try: assert load_model(f"recorded:{tmp_path}/r.jsonl").chat([Request([], id="1")])[0].text == "four"
    finally: del MODELS.records["recorded"]
