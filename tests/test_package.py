"""The built package: what a wheel carries works without the checkout."""
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "A folder that holds the package as `pip install .` would lay it down"
    place = tmp_path_factory.mktemp("package")
    copy = place / "source"
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listing.stdout.decode().split("\0"):
        if name.startswith(("ftrl/", "nbs/runs/")) or (name and "/" not in name):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run = subprocess.run([*wheel, "-w", str(place), str(copy)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    target = place / "site"
    with zipfile.ZipFile(next(place.glob("*.whl"))) as archive:
        archive.extractall(target)
    return target


def outside(installed, tmp_path, *words):
    "Run Python with that package, in a folder that is no checkout"
    return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True,
                          env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})


def test_runs_come_along(installed, tmp_path):
    code = """
import ftrl
from ftrl.runs.reproduce import profile_settings, profiles
print(ftrl.__file__)
print(*profiles())
print(profile_settings("tiny")["model"])
"""
    run = outside(installed, tmp_path, "-c", code)
    assert run.returncode == 0, run.stderr
    where, names, model = run.stdout.splitlines()
    assert where.startswith(str(installed))
    assert {"tiny", "record", "paper"} <= set(names.split())
    assert model == "smollm2"


def test_a_command_works(installed, tmp_path):
    program = "from ftrl.cli import main; main()"
    words = ["build", "--out", "envs.jsonl", "-n", "2", "--world", "chemistry"]
    run = outside(installed, tmp_path, "-c", program, *words)
    assert run.returncode == 0, run.stderr
    assert len((tmp_path / "envs.jsonl").read_text().splitlines()) == 2


def test_the_released_adapter_has_a_name(installed, tmp_path):
    code = """
from ftrl.models.adapter import parted
from safetensors.torch import load_file
base, folder = parted("qwen2.5-coder-0.5b+ftrl")
print(base, folder, len(load_file(folder/"adapter_model.safetensors")))
"""
    run = outside(installed, tmp_path, "-c", code)
    assert run.returncode == 0, run.stderr
    base, folder, tensors = run.stdout.split()
    assert base == "qwen2.5-coder-0.5b" and folder == str(installed / "ftrl" / "adapters" / "ftrl")
    assert int(tensors) == 2 * 24 * 7  # two factors of seven matrices in each of 24 layers


def test_marks(installed):
    assert (installed / "ftrl" / "py.typed").exists()
    assert list((installed / "ftrl" / "training" / "launch").glob("*.yaml"))


def test_one_version():
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini")
    version = config["DEFAULT"]["version"]
    import ftrl
    assert ftrl.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
