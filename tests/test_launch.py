"Training in processes of its own, followed from here: two CPU processes, a tiny random model"
import pytest
from ftrl.core import FtrlError

@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A tiny random model and a few environments"
    from ftrl.environments.build import build
    from ftrl.rows import save_rows
    from ftrl.runs.folder import Run
    from ftrl.runs.policies import base
    folder = tmp_path_factory.mktemp("launch")
    save_rows([env.row() for env in build(4, seed=3)], folder/"envs.jsonl")
    return folder, base(Run(folder/"run"), "random")

def settings(**more):
    from ftrl.training.settings import TrainConfig
    options = {"bf16": False, "warmup_steps": 0, "beta": 1e-3, "thinking": False} | more
    return TrainConfig("reinforce++", steps=2, prompts=2, group=2, length=8, lr=1e-4, options=options)

@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

def test_two_processes_train_and_are_followed(home, capfd):
    from safetensors.torch import load_file
    from ftrl.notes import claimed
    from ftrl.training.cluster.launch import learner
    folder, model = home
    learn = learner({"config": "cpu", "processes": 2}, folder/"logs")
    run = learn(folder/"envs.jsonl", model, folder/"policy", settings(), reference=model)
    assert [x["step"] for x in run.metrics] == [1, 2] and (folder/"policy/model.safetensors").is_file()
    about = claimed(folder/"policy")["about"]
    assert (about["config"]["options"]["beta"], about["config"]["algorithm"]) == (1e-3, "reinforce++")
    assert about["reference"]
    assert "2/2" in capfd.readouterr().err  # the bar
    made, before = (load_file(f"{where}/model.safetensors") for where in (folder/"policy", model))
    assert made.keys() == before.keys()  # whole
    assert not list(folder.glob("*.rows.jsonl"))

def test_a_failure_tells_its_last_lines(home):
    from ftrl.training.cluster.launch import Launch
    folder, model = home
    words = ["train", str(folder/"nowhere.jsonl"), "--model", str(model), "--out", str(folder/"broken")]
    with pytest.raises(FtrlError, match=r"train in 2 processes ended with status \d+: ftrl: .*nowhere.jsonl"):
        Launch("cpu", 2).run(words, folder/"broken", 1, folder/"logs/broken.log")
