"Building and evaluating on a Ray cluster with processes killed: nothing lost, nothing twice, none left."
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("ray", reason="ray is not installed: pip install ftrl[ray]")

CLUSTER = """
import os, signal, subprocess, sys, threading, time
import ray
from ftrl.evaluation.bench import evaluate
from ftrl.environments.build import Recipe
from ftrl.environments.store import write_envs
from ftrl.files import write_json_lines
from ftrl.rows import load_rows, save_rows

def victims(name):
    said = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True).stdout
    return [int(x.split()[0]) for x in said.splitlines() if "ray::" in x and name in x]

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
    print("the same bytes", flush=True)
    write_envs(out + "/more.jsonl", 10**5, recipe, engine="ray", every=5)  # until it is killed
"""
# Ray's own: they try for a minute to tell the server, which is dead, that the node is
AGENTS = "ray::DashboardAgent", "ray::RuntimeEnvAgent"


def below(pid):
    "A process's descendants, by number: their command"
    said = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    table = [line.split(None, 2) for line in said.splitlines()[1:]]
    found, parents = {}, {pid}
    while parents:
        new = {int(p): words for p, parent, words in table if int(parent) in parents}
        found |= new
        parents = set(new)
    return found


def alive(pid):
    try: return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except OSError: return False


def test_kills_on_a_cluster(tmp_path):
    "A worker that is killed loses nothing; with the driver killed, what it started ends"
    script, errors = tmp_path / "cluster.py", tmp_path / "errors"
    script.write_text(CLUSTER)
    command = [sys.executable, script, tmp_path]
    with open(errors, "w") as log:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        # Ray speaks on the same stream
        assert any("the same bytes" in line for line in run.stdout), errors.read_text()[-3000:]
        while run.poll() is None and not (tmp_path / ".more.jsonl.note").exists(): time.sleep(.1)
        started = {pid: words for pid, words in below(run.pid).items() if words not in AGENTS}
        assert any("_ray_chunk" in words or "ray::" in words for words in started.values()), started
        assert any("sandbox" in words for words in started.values()), started
        os.kill(run.pid, signal.SIGKILL)
        for _ in range(300):
            left = {pid: words for pid, words in started.items() if alive(pid)}
            if not left: break
            time.sleep(.1)
        assert not left
    finally:
        run.kill()
        run.wait()
