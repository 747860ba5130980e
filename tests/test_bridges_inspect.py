"Recorded episodes as an Inspect task, and `inspect eval` on an exported folder."
import os
import subprocess
import sys
from pathlib import Path

import pytest
import test_notebooks

pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed: make test-bridges")


def test_recorded_episodes_get_the_same_reward(recorded, tmp_path):
    from ftrl.bridges.inspect import inspect_task, recorded_replies
    from inspect_ai import eval
    from inspect_ai.model import get_model
    model = get_model("mockllm/model", custom_outputs=recorded_replies(recorded.rows, recorded.episodes))
    log, = eval(inspect_task(recorded.path), model=model, display="none", log_dir=str(tmp_path))
    assert log.status == "success", log.error
    scored = {sample.id: sample.scores["ftrl_reward"].value for sample in log.samples}
    assert scored == {episode.env: episode.reward for episode in recorded.episodes}


def test_inspect_eval_runs_an_exported_folder(recorded, tmp_path):
    from ftrl.bridges.inspect import export_inspect
    from ftrl.rows import load_rows
    export_inspect(load_rows(recorded.path), tmp_path/"task")
    inspect = Path(sys.executable).with_name("inspect")
    # the mock model counts tokens by a file that tiktoken fetches: here, bytes are counted
    (tmp_path/"sitecustomize.py").write_text("""
import types
import tiktoken
def encode(text, **_): return list(text.encode())
def get_encoding(name): return types.SimpleNamespace(encode=encode)
tiktoken.get_encoding = get_encoding
""")
    path = os.pathsep.join([str(tmp_path), str(test_notebooks.ROOT)])
    command = [inspect, "eval", "task.py", "--model", "mockllm/model", "--display", "none"]
    run = subprocess.run(command,
                         cwd=tmp_path/"task", env=os.environ | {"PYTHONPATH": path},
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert list((tmp_path/"task"/"logs").iterdir())


def test_the_notebook():
    test_notebooks.test_notebook("nbs/bridges/05_inspect.ipynb")


def test_a_limit_leaves_every_sample_with_a_score(recorded, tmp_path):
    from ftrl.bridges.inspect import inspect_task, recorded_replies
    from inspect_ai import eval
    from inspect_ai.model import get_model
    model = get_model("mockllm/model", custom_outputs=recorded_replies(recorded.rows, recorded.episodes))
    task = inspect_task(recorded.rows[:4])
    log, = eval(task, model=model, display="none", log_dir=str(tmp_path), message_limit=3)
    assert log.status == "success", log.error
    told = [sample.scores["ftrl_reward"].metadata for sample in log.samples]
    assert all(x["calls"] <= 1 for x in told) and {x["stopped"] for x in told} >= {"turns"}
