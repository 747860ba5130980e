"Building and evaluating on a Ray cluster of which a process is killed: nothing lost, nothing twice."
import subprocess
import sys

import pytest

pytest.importorskip("ray", reason="ray is not installed: pip install ftrl[ray]")

CLUSTER = """
import os, signal, subprocess, sys, threading, time
import ray
from ftrl.evaluation.bench import evaluate
from ftrl.environments.build import Recipe
from ftrl.environments.store import write_envs
from ftrl.files import load_rows, save_rows, write_json_lines

def victims(name):
    said = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    return [int(x.split()[0]) for x in said if "ray::" in x and name in x]

def kill_one(name, killed):
    "Kill the first process that works on this"
    while not killed:
        for pid in victims(name)[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        time.sleep(0.05)

def begin(tries=4):
    "Start the cluster; on a busy machine its node may be late"
    for left in range(tries)[::-1]:
        try: return ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
        except Exception:
            if not left: raise
            ray.shutdown()

if __name__ == "__main__":
    out = sys.argv[1]
    begin()
    recipe, killed = Recipe(("chemistry",), seed=1), []
    threading.Thread(target=kill_one, args=("_chunk", killed), daemon=True).start()
    write_envs(out + "/ray.jsonl", 64, recipe, engine="ray")
    assert killed, "no process was killed"
    write_envs(out + "/local.jsonl", 64, recipe)
    assert open(out + "/ray.jsonl", "rb").read() == open(out + "/local.jsonl", "rb").read()

    rows, killed = load_rows(out + "/local.jsonl"), []
    write_json_lines([{"id": r.id, "turns": ["I do not know."]} for r in rows], out + "/said.jsonl")
    how = dict(data=out + "/local.jsonl", progress=False, trials=12)
    threading.Thread(target=kill_one, args=("play_share", killed), daemon=True).start()
    evaluate("ftrl", "replay:" + out + "/said.jsonl", out + "/spread.jsonl", engine="ray", **how)
    assert killed, "no process was killed"
    evaluate("ftrl", "replay:" + out + "/said.jsonl", out + "/one.jsonl", **how)
    assert open(out + "/spread.jsonl", "rb").read() == open(out + "/one.jsonl", "rb").read()
    print("the same bytes")
"""


def test_a_killed_worker_loses_nothing(tmp_path):
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    run = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=580)
    assert "the same bytes" in run.stdout, run.stderr[-3000:]
