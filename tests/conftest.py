"The closing line `N passed, N failed, N skipped`, alone, after pytest's own report."
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def data():
    "The benchmark data, or a skip that says where to put it"
    from ftrl.files import data_dir
    if data_dir() is None: pytest.skip("no benchmark data: set FTRL_DATA to a folder that holds it")
    return data_dir()


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    "Twenty environments in a file, and an episode in each with the reward that it gets directly"
    from ftrl.bridges.visit import recordings
    from ftrl.environments.build import build
    from ftrl.rows import save_rows
    envs = list(build(20, ["chemistry", "geography"], seed=5))
    path = tmp_path_factory.mktemp("recorded")/"envs.jsonl"
    save_rows(envs, path)
    rows = [env.row() for env in envs]
    return SimpleNamespace(path=str(path), envs=envs, rows=rows, episodes=recordings(envs))


LONG = "test_reproduce.py", "test_docs.py", "test_ray.py", "test_train.py"


def pytest_collection_modifyitems(items):
    "What takes longest begins first, and the many short notebooks fill the end of both workers"
    def place(item):
        name = item.path.name
        return LONG.index(name) if name in LONG else len(LONG) + (name == "test_notebooks.py")
    items.sort(key=place)


def pytest_terminal_summary(terminalreporter):
    def count(*kinds):
        return sum(len(terminalreporter.stats.get(k, ())) for k in kinds)
    terminalreporter._closing = (f"{count('passed')} passed, {count('failed', 'error')} failed, "
                                 f"{count('skipped')} skipped")


def pytest_unconfigure(config):
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if getattr(reporter, "_closing", None): print(reporter._closing)
