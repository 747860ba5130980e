"A resource server of NeMo Gym: it seeds sessions, answers calls, and verifies to the recorded rewards."
import importlib.util
import json
import sys

import pytest

pytest.importorskip("nemo_gym", reason="the extra `nemo` is not installed: make test-bridges")


@pytest.fixture(scope="module")
def app(recorded, tmp_path_factory):
    from ftrl.bridges.nemo import export_nemo
    from ftrl.rows import load_rows
    out = export_nemo(load_rows(recorded.path), tmp_path_factory.mktemp("nemo")/"tools")
    spec = importlib.util.spec_from_file_location("ftrl_nemo_app", out/"app.py")
    module = sys.modules["ftrl_nemo_app"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from unittest.mock import MagicMock
    from nemo_gym.server_utils import ServerClient
    config = module.FtrlConfig(host="127.0.0.1", port=0, entrypoint="app.py", name="tools", domain="agent")
    server = module.FtrlServer(config=config, server_client=MagicMock(spec=ServerClient))
    return server.setup_webserver(), [json.loads(line) for line in open(out/"data/example.jsonl")]


def test_recorded_episodes_get_the_same_reward(app, recorded):
    from fastapi.testclient import TestClient
    web, rows = app
    for row, episode in zip(rows, recorded.episodes, strict=True):
        with TestClient(web) as client:  # a cookie is a session
            assert client.post("/seed_session", json=row).status_code == 200
            for name, arguments in episode.calls:
                assert client.post(f"/{name}", content=arguments).status_code == 200
            body = row | {"response": response(episode.answer)}
            answer = client.post("/verify", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["reward"] == pytest.approx(episode.reward)


def response(text):
    "What the agent's model said last, in the form of the Responses API"
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    return {"id": "r", "created_at": 0, "model": "recorded", "object": "response", "output": [message],
            "parallel_tool_calls": False, "tool_choice": "auto", "tools": []}
