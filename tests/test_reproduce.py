"The run notebooks, end to end: unbroken, killed again and again, and called once more."
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from forks import kernelspec

FINAL = ("envs/*.jsonl", "rows/*", "models/*/model.safetensors", "eval/*", "rounds/*", "ablation/*",
         "transfer/*/*", "tries/*", "sides/*", "reference/*/*", "seed1/eval/*",
         "seed1/rows/*", "seed1/models/*/model.safetensors", "table.md", "delta/*", "figures/*")
FTRL = [sys.executable, "-c", "from ftrl.cli import main; main()"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    "Two environments in which a run's kernels have their libraries from the start: their hash seeds differ"
    return [kernelspec(tmp_path_factory.mktemp("kernels"), seed) for seed in ("", "5")]


def start(out, jobs=1, env={}):
    env = os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"} | env
    command = [*FTRL, "reproduce", "--profile", "smoke", "--out", str(out), "--jobs", str(jobs)]
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(out, jobs=1, env={}):
    run = start(out, jobs, env)
    said, errors = run.communicate(timeout=1800)
    assert run.returncode == 0, errors[-3000:]
    return said


def digest(out):
    files = {p.relative_to(out).as_posix(): p for pattern in FINAL for p in out.glob(pattern)
             if p.is_file() and p.stem not in ("learning", "cost", "sharing", "questions")}  # show times
    return {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in sorted(files.items())}


def again(whole):
    "A second call does nothing"
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    assert "Solve-F1" in finish(whole)
    after = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    assert after == before, "a second call did work again"


def other_parameters(whole, tmp_path):
    "A run is not continued with other parameters"
    profile = tmp_path / "other.yaml"
    profile.write_text("model: random\nseed: 1\n")
    command = [*FTRL, "reproduce", "--profile", str(profile), "--out", str(whole)]
    run = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=600)
    assert run.returncode == 2 and "seed" in run.stderr


def killed(out, env):
    """Killed in the middle of two steps, first with its seeds one after another, then side by side;
    what it had started ends with it. The first kernels are plain ones"""
    plan = ((1, "2_collect", 4, {}), (2, "3_train", 2, env))
    for jobs, step, seconds, how in plan:
        run, log = start(out, jobs, how), out / "logs" / f"{step}.log"
        while run.poll() is None and not log.exists(): time.sleep(0.2)
        time.sleep(seconds)
        os.kill(run.pid, signal.SIGKILL)
        run.communicate(timeout=30)


def test_reproduce(quick, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "killed"
    said = finish(whole, env=quick[0])
    assert "Solve-F1" in said and "figures" in said
    again(whole)
    other_parameters(whole, tmp_path)
    killed(out, quick[1])
    drawn = "notebooks/6_figures.ipynb"  # figures follow from the rest, as test_figure shows: once is enough
    shutil.copy(whole / drawn, out / drawn)
    finish(out, jobs=2, env=quick[1])
    assert digest(out) == {name: x for name, x in digest(whole).items() if not name.startswith("figures/")}


def kernels(parent):
    "Processes of notebook kernels that this process has started"
    said = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    found = [line.split(None, 2) for line in said.splitlines()[1:]]
    return [int(pid) for pid, above, words in found if int(above) == parent and "ipykernel_launcher" in words]


@pytest.mark.parametrize("at_work", (False, True), ids=("at its start", "at work"))
def test_a_kernel_that_dies(at_work, tmp_path):
    "One line that says what to do; the step is done by the next call, and nothing else is left behind"
    from ftrl.core import FtrlError
    from ftrl.runs.folder import Run
    from ftrl.runs.reproduce import profile_settings, step
    values = profile_settings("smoke") | {"n_train": 4, "n_test": 4, "n_world": 0}
    run, killed = Run(tmp_path), []

    def kill():
        while not killed:
            if at_work and not (run / "envs").exists():
                time.sleep(.05)
                continue
            for pid in kernels(os.getpid()):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(.05)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(FtrlError) as dead: step(run, "1_build", values)
    said = str(dead.value)
    assert killed and "give the same command again" in said and "\n" not in said and "Error" not in said, said
    assert not (run / "notebooks/1_build.ipynb").exists()
    if not at_work: return
    step(run, "1_build", values)
    assert (run / "notebooks/1_build.ipynb").exists() and (run / "envs/train.jsonl").exists()
    assert [p.name for p in (run / "notebooks").iterdir()] == ["1_build.ipynb"]
