"Exactness against stock TRL, resuming after a kill, the algorithms end to end on tiny models"
import json, os, signal, sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
import forks, pytest, torch
from ftrl.core import FtrlError, dumps
from ftrl.records import Row

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

SHAPE = dict(vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
             num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0, eos_token_id=1,
             bos_token_id=2)

def network(family, seed=0):
    import transformers as T
    torch.manual_seed(seed)
    model = getattr(T, f"{family}ForCausalLM")(getattr(T, f"{family}Config")(**SHAPE, head_dim=8))
    for p in model.parameters(): p.data.add_(torch.randn_like(p) * 0.02)  # random biases and norms too
    return model

def batch(lengths, seed=1, width=12):
    "A padded batch as TRL makes it: [(prompt length, [completion lengths])]"
    g = torch.Generator().manual_seed(seed)
    def draw(n): return torch.randint(3, 300, (n,), generator=g)
    rows = [(p, draw(n)) for P, ns in lengths for p in [draw(P)] for n in ns]
    return padded(rows, g, width)

def padded(rows, g, width=12):
    "Prompts and completions as TRL's trainer holds them"
    left = max(len(p) for p, _ in rows)
    out = {"prompt_ids": torch.zeros(len(rows), left, dtype=torch.long),
           "completion_ids": torch.zeros(len(rows), width, dtype=torch.long)}
    out |= {"prompt_mask": torch.zeros(len(rows), left, dtype=torch.long),
            "completion_mask": torch.zeros(len(rows), width, dtype=torch.long)}
    for i, (p, c) in enumerate(rows):
        out["prompt_ids"][i, left - len(p):], out["prompt_mask"][i, left - len(p):] = p, 1
        out["completion_ids"][i, :len(c)], out["completion_mask"][i, :len(c)] = c, 1
    out["advantages"] = torch.randn(len(rows), generator=g)
    out["num_items_in_batch"] = out["completion_mask"].sum()
    return out

def trainer(model, tmp_path, shared, tokenizer, peft=None, reference=None, **options):
    from trl import GRPOConfig
    from datasets import Dataset
    from ftrl.training.trainer import StepTrainer
    args = GRPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4,
                      max_completion_length=12, report_to="none", use_cpu=True,
                      **{"gradient_checkpointing": False, "bf16": False, **options})
    return StepTrainer(model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=args,
                       shared=shared, reference=reference, processing_class=tokenizer, peft_config=peft,
                       train_dataset=Dataset.from_dict({"prompt": ["a"] * 4}))

@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders
    from transformers import PreTrainedTokenizerFast
    tokens = ["<pad>", "<|im_end|>", "<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocab = {token: i for i, token in enumerate(tokens)}
    raw = Tokenizer(models.BPE(vocab, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<|im_end|>",
                                   bos_token="<s>", padding_side="left")

def loss_and_gradients(model, tmp_path, shared, inputs, tokenizer, **options):
    t = trainer(model, tmp_path, shared, tokenizer, **{k: v for k, v in options.items() if k != "beta"})
    t.beta = options.get("beta", 0.0)  # the reference is given below, not loaded
    t.current_gradient_accumulation_steps = 1
    t.model.train()
    if options.get("gradient_checkpointing"): t.model.gradient_checkpointing_enable()
    if t.beta:
        ids, mask = (torch.cat([inputs[f"prompt_{k}"], inputs[f"completion_{k}"]], 1)
                     for k in ("ids", "mask"))
        with torch.no_grad():
            logps = t._get_per_token_logps_and_entropies(t.model, ids, mask, 12)[0]
        inputs = inputs | {"ref_per_token_logps": logps + 0.1}
    t.model.zero_grad()
    loss = t.compute_loss(t.model, inputs)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in t.model.named_parameters() if p.grad is not None}

RAGGED = [(40, [12, 3, 1, 7]), (17, [5, 5, 12, 2]), (61, [1, 9])]
CASES = {"plain": {}, "kl, entropy bonus": dict(beta=0.05, entropy_coef=0.01),
         "checkpointing": dict(gradient_checkpointing=True),
         "temperature": dict(temperature=0.7), "sequence mean": dict(loss_type="grpo"),
         "cispo": dict(loss_type="cispo", epsilon_high=5.0)}

FAMILY_CASES = [("Llama", c) for c in CASES] + [(f, c) for f in ("Qwen2", "Qwen3") for c in list(CASES)[:2]]

@pytest.mark.parametrize("family, case", FAMILY_CASES)
def test_loss_and_gradients_equal_stock_trl(family, case, tmp_path, tokenizer):
    inputs = batch(RAGGED)
    plain, g1 = loss_and_gradients(network(family), tmp_path, False, inputs, tokenizer, **CASES[case])
    ours, g2 = loss_and_gradients(network(family), tmp_path, True, inputs, tokenizer, **CASES[case])
    assert abs(ours - plain) <= 1e-4 * abs(plain)
    assert g1.keys() == g2.keys()
    for name in g1: assert (g1[name] - g2[name]).norm() <= 1e-4 * g1[name].norm() + 1e-9, name

def moments(seed):
    "A mini-batch as episodes give it: prompts that go on from each other, completions that begin alike"
    g, rows = torch.Generator().manual_seed(seed), []
    def draw(n): return torch.randint(3, 300, (n,), generator=g)
    def upto(n): return int(torch.randint(n, (1,), generator=g))
    stories, call = [draw(90), draw(60)], draw(9)
    stories.append(torch.cat((stories[0][:30], draw(40))))
    for _ in range(4):
        story = stories[upto(3)]
        prompt = torch.cat((story[:1 + upto(len(story))], draw(upto(3))))
        rows += [(prompt, torch.cat((call[:upto(9)], draw(1 + upto(3))))) for _ in range(1 + upto(4))]
    return padded(rows, g)

@pytest.mark.parametrize("seed", range(4))
def test_random_trees_equal_stock_trl(seed, tmp_path, tokenizer):
    family = ("Llama", "Qwen2", "Qwen3")[seed % 3]
    inputs, how = moments(seed), list(CASES.values())[seed % 2]
    plain, g1 = loss_and_gradients(network(family), tmp_path, False, inputs, tokenizer, **how)
    ours, g2 = loss_and_gradients(network(family), tmp_path, True, inputs, tokenizer, **how)
    assert abs(ours - plain) <= 1e-4 * abs(plain)
    for name in g1: assert (g1[name] - g2[name]).norm() <= 1e-4 * g1[name].norm() + 1e-9, name

def test_lora_gradients_equal_stock_trl(tmp_path, tokenizer):
    peft = pytest.importorskip("peft")
    grads = []
    for shared in (False, True):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"],
                                 init_lora_weights=False)
        grads.append(loss_and_gradients(network("Llama"), tmp_path, shared, batch(RAGGED), tokenizer,
                                        peft=config))
    (plain, g1), (ours, g2) = grads
    assert abs(ours - plain) <= 1e-4 * abs(plain) and g1.keys() == g2.keys() and len(g1) == 12
    for name in g1: assert (g1[name] - g2[name]).norm() <= 1e-4 * g1[name].norm() + 1e-9, name

def test_frozen_weights_in_bf16_change_nothing(tmp_path, tokenizer, monkeypatch):
    peft = pytest.importorskip("peft")
    import ftrl.training.trainer as module
    found, low = [], []
    for lower in (module.lower_frozen, lambda model: 0):
        monkeypatch.setattr(module, "lower_frozen", lower)
        model = network("Qwen2")
        for p in model.parameters(): p.data = p.data.bfloat16().float()
        torch.manual_seed(0)
        config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        how = {"peft": config, "bf16": True}
        found.append(loss_and_gradients(model, tmp_path, True, batch(RAGGED), tokenizer, **how))
        low.append({n for n, p in model.named_parameters() if p.dtype == torch.bfloat16})
    assert len(low[0]) == 14 and not low[1]
    (loss, grads), (plain, expected) = found
    assert loss == plain and grads.keys() == expected.keys()
    for name in grads: assert torch.equal(grads[name], expected[name]), name

def test_equal_rewards_are_left_out_without_changing_a_gradient(tmp_path, tokenizer):
    inputs = batch([(40, [12, 3, 1, 7]), (17, [5, 5, 12, 2])])
    inputs["advantages"][:4] = 0
    plain, g1 = loss_and_gradients(network("Llama"), tmp_path, False, inputs, tokenizer)
    ours, g2 = loss_and_gradients(network("Llama"), tmp_path, True, inputs, tokenizer)
    assert abs(ours - plain) <= 1e-4 * abs(plain)
    for name in g1: assert (g1[name] - g2[name]).norm() <= 1e-4 * g1[name].norm() + 1e-9, name

def test_bf16_is_as_near_to_fp32_as_stock_is(tmp_path, tokenizer):
    from ftrl.training.sharing.packed import groups_of, pack
    from ftrl.training.sharing.prefix import share
    inputs = batch([(300, [12] * 4)])
    ids, mask = (torch.cat([inputs[f"prompt_{k}"], inputs[f"completion_{k}"]], 1) for k in ("ids", "mask"))
    model = share(network("Llama"))
    def distance(f):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16): low = f()
        with torch.no_grad(): return (low - f()).norm()
    def stock():
        logits = model(ids, attention_mask=mask).logits[:, -13:-1].float()
        return logits.log_softmax(-1).gather(2, ids[:, -12:, None]).view(-1)
    assert distance(lambda: model(packed=pack(groups_of(ids, mask, 12)))[0]) <= 1.5 * distance(stock)

BY_FP32_UNITS = """
import torch
from test_train import RAGGED, batch, network
from ftrl.formats import _replace_products
from ftrl.training.sharing.packed import groups_of, pack
from ftrl.training.sharing.prefix import share

inputs = batch(RAGGED)
ids, mask = (torch.cat([inputs[f"prompt_{k}"], inputs[f"completion_{k}"]], 1) for k in ("ids", "mask"))

def gradients(family, dtype, packed):
    model = network(family).to(dtype)
    if packed:
        logps = share(model)(packed=pack(groups_of(ids, mask, 12)))[0]
    else:
        logps = model(ids, attention_mask=mask).logits.float().log_softmax(-1)[mask.bool()][:, 7]
    logps.sum().backward()
    return torch.cat([p.grad.float().flatten() for p in model.parameters()])

cases = [(family, packed) for family in ("Llama", "Qwen2", "Qwen3") for packed in (False, True)]
exact, theirs = ([gradients(family, dtype, packed) for family, packed in cases]
                 for dtype in (torch.float32, torch.bfloat16))
_replace_products()
for case, true, their in zip(cases, exact, theirs):
    our = gradients(case[0], torch.bfloat16, case[1])
    print(*(float((low - true).norm() / true.norm()) for low in (their, our)))
"""

def test_gradients_by_fp32_units_are_as_near_to_fp32_as_torchs_bf16():
    here = Path(__file__).parent
    done = forks.run([sys.executable, "-c", BY_FP32_UNITS], cwd=here)  # kernels stay replaced
    assert done.returncode == 0, done.stderr
    apart = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]
    assert len(apart) == 6
    for theirs, ours in apart:
        assert 1e-4 < theirs < 0.1 and ours < 1.2 * theirs

# -- whole runs on a tiny model --------------------------------------------------------------------

@pytest.fixture(scope="session")
def home(tmp_path_factory, tokenizer):
    "A model directory and rows whose reward a random byte model can move: any text is worth more than none"
    from ftrl.chat.template import prepare
    from ftrl.rows import save_rows
    folder = tmp_path_factory.mktemp("home")
    model = network("Llama")
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder/"model")
    prepare(tokenizer).save_pretrained(folder/"model")
    code = 'def find(name):\n    return {"Peru": "Lima"}.get(name, "unknown")'
    function = {"name": "find", "description": "", "parameters": {"type": "object", "properties": {}}}
    tools = dumps([{"type": "function", "function": function}])
    def row(i):
        asked = [{"role": "user", "content": f"Question {i}: capital of Peru?"}]
        return Row(asked, tools, dumps({"find": code}), '{"find": ["Lima"]}', 0.0, "self/single_hop", "train",
                   "Lima" if i % 2 else "a")
    save_rows([row(i) for i in range(6)], folder/"rows.jsonl")
    return folder

JOB = """
import json, os, signal, sys
from ftrl.rows import load_rows
from ftrl.training.train import TrainConfig, train
from ftrl.training.record import Record
home, out, config = sys.argv[1:]
def on_log(self, args, state, control, logs=None, **kwargs):
    if str(state.global_step) == os.environ.get("KILLED_AT"): os.kill(os.getpid(), signal.SIGKILL)
    known(self, args, state, control, logs, **kwargs)
known, Record.on_log = Record.on_log, on_log
print(train(load_rows(home + "/rows.jsonl"), home + "/model", out, TrainConfig(**json.loads(config))))
"""
SMALL = dict(steps=6, prompts=2, group=4, length=6, lr=1e-3,
             options=dict(save_steps=2, bf16=False, warmup_steps=0))

def played(home, out, config, program=JOB, **env):
    "The job, or another program of the same arguments, in a process of its own"
    env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "KILLED_AT": "None"} | env
    return forks.run([sys.executable, "-c", program, home, out, json.dumps(config)], env=env)

def job(home, out, config, killed_at=None):
    "Train; killed or whole"
    done = played(home, out, config, KILLED_AT=str(killed_at))
    assert done.returncode == (-signal.SIGKILL if killed_at else 0), done.stderr[-3000:]

def record(out): return [json.loads(s) for s in (out/"metrics.jsonl").read_text().splitlines()]
def numbers(out): return [{k: v for k, v in x.items() if k != "seconds"} for x in record(out)]
def weights(out):
    from safetensors.torch import load_file
    return load_file(out/"model.safetensors")

@pytest.mark.parametrize("more", [{}, {"generation_batch_size": 16, "save_steps": 1}],
                         ids=["sampled for one step", "sampled for two"])
def test_a_killed_run_resumes_bit_for_bit(more, home, tmp_path):
    whole, broken, small = tmp_path/"whole", tmp_path/"broken", SMALL | {"options": SMALL["options"] | more}
    job(home, whole, small)
    job(home, broken, small, killed_at=4)
    assert not (broken/"model.safetensors").exists() and list(broken.glob("checkpoint-*"))
    job(home, broken, small)
    assert numbers(broken) == numbers(whole)
    a, b = weights(whole), weights(broken)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not list(broken.glob("checkpoint-*"))
    before = (broken/"metrics.jsonl").stat().st_mtime_ns
    job(home, broken, small)  # finished: nothing is done again
    assert (broken/"metrics.jsonl").stat().st_mtime_ns == before

@pytest.mark.parametrize("algorithm", ["grpo", "reinforce++", "rloo"])
def test_every_algorithm_raises_the_reward(algorithm, home, tmp_path):
    from ftrl.rows import load_rows
    from ftrl.training.train import TrainConfig, train
    options = dict(bf16=False, beta=0.001, entropy_coef=0.001, save_steps=100, warmup_steps=0)
    run = train(load_rows(home/"rows.jsonl"), str(home/"model"), tmp_path/"run",
                TrainConfig(algorithm, steps=30, prompts=6, group=8, length=8, lr=1e-2, options=options))
    reward = [x["reward"] for x in run.metrics]
    assert sum(reward[-5:]) / 5 > sum(reward[:5]) / 5 + 0.05, reward
    assert {"step", "loss", "reward", "reward_std", "solve_rate", "length", "kl", "entropy", "tokens",
            "seconds"} <= run.metrics[-1].keys()

def test_the_best_of_rounds_and_mean_is_kept(home, tmp_path):
    from ftrl.files import read_json_lines
    from ftrl.rows import load_rows
    from ftrl.training.rounds import rounds
    from ftrl.training.train import TrainConfig
    rows = load_rows(home/"rows.jsonl")
    run = rounds(rows, str(home/"model"), tmp_path, TrainConfig(**SMALL | {"steps": 2}), n=2, each=2, dev=2,
                 max_turns=2)
    made = {"round1": tmp_path/"round1/policy", "round2": tmp_path/"round2/policy",
            "average": tmp_path/"average"}
    marks = {name: sum(x["metrics"]["solve_f1"] for x in read_json_lines(tmp_path/f"dev/{name}.jsonl"))
             for name in made}
    assert run.policy == str(made[max(marks, key=marks.get)]) and len(run.metrics) == 4
    with pytest.raises(FtrlError, match="dev is 6; expected less than the 6"):
        rounds(rows, str(home/"model"), tmp_path, n=1, dev=6)

def test_a_round_may_train_on_the_rows_of_all(home, tmp_path):
    from ftrl.rows import load_rows
    from ftrl.notes import claimed
    from ftrl.training.rounds import rounds
    from ftrl.training.train import TrainConfig
    for name, aggregate in (("alone", False), ("together", True)):
        rounds(load_rows(home/"rows.jsonl"), str(home/"model"), tmp_path/name,
               TrainConfig(**SMALL | {"steps": 1}), n=2, each=2, aggregate=aggregate, max_turns=2)
    met = [len(load_rows(tmp_path/f"together/round{k}/rows.parquet")) for k in (1, 2)]
    def trained(name): return int(claimed(tmp_path/name/"round2/policy")["about"]["rows"].split()[0])
    assert (trained("alone"), trained("together")) == (met[1], sum(met))

def test_bad_input_is_said_before_training(home, tmp_path):
    from ftrl.rows import load_rows
    from ftrl.training.train import TrainConfig, train
    rows, config = load_rows(home/"rows.jsonl"), TrainConfig(**SMALL)
    for data, model, settings, word in (([], home/"model", config, "expected at least one"),
                                        (rows, tmp_path, config, "tokenizer"),
                                        ([replace(rows[0], unsolved_set="{}")], home/"model", config,
                                         "unsolved"),
                                        (rows, home/"model", replace(config, length=5000), "too long"),
                                        (rows, tmp_path/"typo", config, "no such directory"),
                                        (rows, home/"model", replace(config, options={"vllm_mode": "server"}),
                                         "no effect"),
                                        (rows, home/"model", replace(config, options={"betta": 1}),
                                         "unknown")):
        with pytest.raises(FtrlError, match=word): train(data, str(model), tmp_path/"bad", settings)
        # what failed keeps no place
        assert not (tmp_path/"bad").exists() and not list(tmp_path.glob(".bad*"))
    (tmp_path/"other").mkdir()
    (tmp_path/"other/notes.txt").write_text("mine")
    with pytest.raises(FtrlError, match="was not made by this command"):
        train(rows, str(home/"model"), tmp_path/"other", config)
    assert (tmp_path/"other/notes.txt").read_text() == "mine"

def test_episode_mode_plays_whole_episodes(home, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from ftrl.rows import load_rows
    from ftrl.training.train import TrainConfig, train
    config = TrainConfig(**SMALL | {"steps": 2, "length": 24})
    run = train(load_rows(home/"rows.jsonl"), str(home/"model"), tmp_path/"run", config, mode="episode")
    assert [x["step"] for x in run.metrics] == [1, 2]
    assert all("solve_rate" in x and "calls" in x for x in run.metrics)
    AutoModelForCausalLM.from_pretrained(run.policy), AutoTokenizer.from_pretrained(run.policy)

def test_mini_batches_and_lora(home, tmp_path):
    peft = pytest.importorskip("peft")
    from ftrl.rows import load_rows
    from ftrl.training.train import TrainConfig, train
    options = SMALL["options"] | {"steps_per_generation": 4, "per_device_train_batch_size": 4,
                                  "gradient_accumulation_steps": 2, "beta": 0.01}
    run = train(load_rows(home/"rows.jsonl"), str(home/"model"), tmp_path/"run",
                TrainConfig(**SMALL | {"options": options}),
                peft=peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    assert len(run.metrics) == 6 and weights(tmp_path/"run").keys() == weights(home/"model").keys()  # merged

@pytest.mark.parametrize("name", ["cpu", "gpu", "fsdp", "deepspeed"])
def test_profiles_are_read_by_accelerate(name):
    from accelerate.commands.config.config_args import load_config_from_file
    config = load_config_from_file(str(Path(__file__).parents[1]/f"ftrl/training/launch/{name}.yaml"))
    assert config.num_processes >= 1 and config.compute_environment.value == "LOCAL_MACHINE"

def test_equal_groups_are_sampled_again(home, tmp_path):
    from ftrl.rows import load_rows
    from ftrl.training.train import TrainConfig, train
    options = SMALL["options"] | {"resample": 2}
    once = train(load_rows(home/"rows.jsonl"), str(home/"model"), tmp_path/"once", TrainConfig(**SMALL))
    more = train(load_rows(home/"rows.jsonl"), str(home/"model"), tmp_path/"more",
                 TrainConfig(**SMALL | {"options": options}))
    assert more.metrics[0]["tokens"] > once.metrics[0]["tokens"] or once.metrics[0]["equal_groups"] == 0

def test_a_full_disk_loses_nothing(home, tmp_path):
    "A limit on file sizes fails as a full disk does"
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (200 * 1024, 200 * 1024))\n"
    done = played(home, tmp_path/"run", SMALL, limit + JOB)
    assert done.returncode != 0 and "FtrlError" in done.stderr and "cannot save" in done.stderr, done.stderr
    assert not (tmp_path/"run/model.safetensors").exists()
    job(home, tmp_path/"run", SMALL)
    assert [x["step"] for x in record(tmp_path/"run")] == [1, 2, 3, 4, 5, 6]

def test_a_loss_that_is_no_number_stops_before_the_weights_change(home, tmp_path):
    from ftrl.rows import load_rows
    from ftrl.training.train import TrainConfig, train
    with pytest.raises(FtrlError, match="loss|grad_norm|KL"):
        train(load_rows(home/"rows.jsonl"), str(home/"model"), tmp_path/"run",
              TrainConfig(**SMALL | {"lr": 1e18, "options": SMALL["options"] | {"max_grad_norm": 1e9}}))
    assert not (tmp_path/"run/model.safetensors").exists()

# -- what teaches nothing --------------------------------------------------------------------------

class Scored:
    "Rewards by position: a number, or None where a completion cannot be scored"
    __name__ = "scored"
    def __init__(self, given): self.given = given
    def __call__(self, completions, **_):
        return [self.given[i % len(self.given)] for i in range(len(completions))]

def sampled_steps(model, tmp_path, tokenizer, algorithm, given, cut=False, steps=4, **more):
    "Real steps with these rewards; with `cut` every completion is too long, and masked"
    from datasets import Dataset
    from trl import GRPOConfig
    from ftrl.training.record import Record
    from ftrl.training.trainer import StepTrainer
    said = []
    args = GRPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4,
                      max_completion_length=4, max_steps=steps, report_to="none", use_cpu=True, bf16=False,
                      logging_steps=1, save_strategy="no", disable_tqdm=True, learning_rate=1e-2,
                      logging_nan_inf_filter=False, mask_truncated_completions=cut,
                      gradient_checkpointing=False, loss_type="dapo", **more)
    trainer = StepTrainer(model, reward_funcs=Scored(given), args=args, algorithm=algorithm,
                          processing_class=tokenizer,
                          train_dataset=Dataset.from_dict({"prompt": ["ab", "cd"] * 8}),
                          callbacks=[Record(tmp_path/"metrics.jsonl", say=said.append)])
    before = [p.detach().clone() for p in model.parameters()]
    trainer.train()
    moved = any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    return record(tmp_path), said, moved

@pytest.mark.parametrize("algorithm", ["grpo", "reinforce++", "rloo"])
@pytest.mark.parametrize("case, given, unscored",
                         [("no reward", [None], 1), ("alike", [1 / 3], 0),
                          ("no numbers", [float("inf"), float("-inf"), float("nan")], 1),
                          ("one left", [None] * 7 + [1.0], 7 / 8)])
def test_what_teaches_nothing_is_counted_and_moves_nothing(algorithm, case, given, unscored, tmp_path,
                                                           tokenizer):
    lines, said, moved = sampled_steps(network("Llama"), tmp_path, tokenizer, algorithm, given)
    assert [x["step"] for x in lines] == [1, 2, 3, 4]
    assert all(x["loss"] == 0 and x["grad_norm"] == 0 and x["idle"] == 1 for x in lines)
    assert all(abs(x["unscored"] - unscored) < 1e-6 for x in lines)
    assert not moved
    assert len(said) == 1 and said[0].startswith("step 3: the last 3 samplings taught nothing")
    assert "learning rate" not in said[0]

@pytest.mark.parametrize("algorithm", ["grpo", "reinforce++", "rloo"])
def test_completions_all_cut_and_masked_give_no_gradient(algorithm, tmp_path, tokenizer):
    endless = deepcopy(tokenizer)
    endless.add_tokens([f"<{i}>" for i in range(60)])
    # beyond the model's vocabulary: never sampled
    endless.add_special_tokens({"pad_token": "<none>", "eos_token": "<end>"})
    model = network("Llama")
    model.generation_config.eos_token_id = None
    lines, said, moved = sampled_steps(model, tmp_path, endless, algorithm, [1.0, 0.0, 0.5], cut=True)
    assert all(x["loss"] == 0 and x["idle"] == 1 and x["unscored"] == 1 and x["cut"] == 1
               for x in lines), lines
    assert not moved and "cut and masked" in said[0]

def test_the_reference_is_the_named_policy(home, tmp_path, tokenizer):
    "In a later round the KL is to the policy all began with, not to the round's start"
    from transformers import AutoModelForCausalLM
    later = network("Llama", seed=3)
    later.save_pretrained(tmp_path/"later")
    def loaded(folder): return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    own = reference_of(loaded(tmp_path/"later"), tmp_path, tokenizer)
    first = reference_of(loaded(tmp_path/"later"), tmp_path, tokenizer, reference=home/"model")
    assert own == digest(later) and first == digest(loaded(home/"model")) != own

def test_an_adapter_can_have_another_reference(home, tmp_path, tokenizer):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    first = reference_of(network("Llama", seed=3), tmp_path, tokenizer, reference=home/"model", peft=config)
    assert first == digest(AutoModelForCausalLM.from_pretrained(home/"model", dtype="float32"))

def digest(model): return [round(p.double().norm().item(), 9) for p in model.parameters()]

def reference_of(model, tmp_path, tokenizer, reference=None, peft=None):
    name = model.config._name_or_path
    made = trainer(model, tmp_path, True, tokenizer, peft, beta=0.1, reference=reference)
    assert model.config._name_or_path == name
    return digest(made.ref_model)

# -- kills, company, settings ----------------------------------------------------------------------

KILLED = """
import os, shutil, signal
from ftrl import notes
from ftrl.training import policy
def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
def half_removed(path, **kwargs):
    for p in sorted(path.rglob("*")):
        if p.name == "optimizer.pt": p.unlink()
    die()
where = os.environ["DIES"]
if where == "before it is noted": notes.Claim.finish = die
if where == "before checkpoints go": policy.tidy = lambda out, keep=None: None if keep is not None else die()
remove = shutil.rmtree
def half_or_whole(path, **kwargs): half_removed(path) if ".gone-" in str(path) else remove(path, **kwargs)
if where == "while checkpoints go": shutil.rmtree = half_or_whole
"""

@pytest.mark.parametrize("where", ["before it is noted", "before checkpoints go", "while checkpoints go"])
def test_killed_at_its_end_a_run_is_whole_when_called_again(where, home, tmp_path):
    small = SMALL | {"steps": 2, "options": SMALL["options"] | {"save_steps": 1}}
    job(home, tmp_path/"whole", small)
    done = played(home, tmp_path/"run", small, KILLED + JOB, DIES=where)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    before = (tmp_path/"run/metrics.jsonl").stat().st_mtime_ns
    job(home, tmp_path/"run", small)
    if where != "before it is noted":  # nothing is done again
        assert (tmp_path/"run/metrics.jsonl").stat().st_mtime_ns == before
    assert numbers(tmp_path/"run") == numbers(tmp_path/"whole")
    a, b = weights(tmp_path/"run"), weights(tmp_path/"whole")
    assert all(torch.equal(a[k], b[k]) for k in a)
    made, whole = (sorted(p.name for p in (tmp_path/out).iterdir()) for out in ("run", "whole"))
    assert made == whole and not list((tmp_path/"run").glob("*checkpoint*"))

ROUNDS = """
import json, os, signal, sys
from ftrl.rows import load_rows
from ftrl.training.policy import lora
from ftrl.training.record import Record
from ftrl.training.rounds import rounds
from ftrl.training.settings import TrainConfig
home, out, config = sys.argv[1:]
def on_log(self, args, state, control, logs=None, **kwargs):
    here = f"{self.path.parent.parent.name} {state.global_step}"
    if here == os.environ["KILLED_AT"]: os.kill(os.getpid(), signal.SIGKILL)
    known(self, args, state, control, logs, **kwargs)
known, Record.on_log = Record.on_log, on_log
envs = load_rows(home + "/rows.jsonl")
rounds(envs, home + "/model", out, TrainConfig(**json.loads(config)), n=2, each=3, max_turns=3, peft=lora(2))
"""

def test_a_run_killed_in_its_second_round_goes_on(home, tmp_path):
    "One process collects the rows of a round and trains on them; the next one reads them from a file"
    small, second = SMALL | {"steps": 3, "options": SMALL["options"] | {"save_steps": 1}}, "round2/policy"
    whole, broken = tmp_path/"whole", tmp_path/"broken"
    for out, at in ((whole, "None"), (broken, "round2 2"), (broken, "None")):
        done = played(home, out, small, ROUNDS, KILLED_AT=at)
        assert done.returncode == (0 if at == "None" else -signal.SIGKILL), done.stderr[-2000:]
    assert numbers(broken/second) == numbers(whole/second)
    a, b = weights(broken/second), weights(whole/second)
    assert all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize("part", ["optimizer.pt", "rng_state.pth", "model.safetensors"])
def test_a_checkpoint_that_lacks_a_part_is_not_gone_on_from(part, home, tmp_path):
    "With another optimizer or other random numbers a run would end elsewhere, without a word"
    small = SMALL | {"steps": 3, "options": SMALL["options"] | {"save_steps": 1}}
    job(home, tmp_path/"whole", small)
    job(home, tmp_path/"run", small, killed_at=3)
    last, = tmp_path.glob("run/checkpoint-*")
    (last/part).write_bytes((last/part).read_bytes()[:100] if part == "rng_state.pth" else b"")
    if part == "optimizer.pt": (last/part).unlink()
    job(home, tmp_path/"run", small)
    assert numbers(tmp_path/"run") == numbers(tmp_path/"whole")
    a, b = weights(tmp_path/"run"), weights(tmp_path/"whole")
    assert all(torch.equal(a[k], b[k]) for k in a)

def test_a_run_is_known_by_all_that_decides_it(home, tmp_path):
    "The weights it starts from, the adapter, options that JSON spells otherwise; never its place"
    import shutil
    from ftrl.rows import load_rows
    from ftrl.training.policy import lora
    from ftrl.training.train import TrainConfig, train
    rows, model, out = load_rows(home/"rows.jsonl"), tmp_path/"a/model", tmp_path/"run"
    shutil.copytree(home/"model", model)
    config = TrainConfig(**SMALL | {"steps": 1, "options": SMALL["options"] | {"reward_weights": (1.0,)}})
    first = train(rows, str(model), out, config)
    assert train([*rows], model, str(out), config) == first  # a tuple comes back as it went
    shutil.move(tmp_path/"a", tmp_path/"b")
    # moved, and the same
    assert train(home/"rows.jsonl", tmp_path/"b/model", out, config).metrics == first.metrics
    with pytest.raises(FtrlError, match="peft was null"):
        train(rows, tmp_path/"b/model", out, config, peft=lora(4))
    network("Llama", seed=5).save_pretrained(tmp_path/"b/model")
    with pytest.raises(FtrlError, match="model was"): train(rows, tmp_path/"b/model", out, config)
    assert train(rows, tmp_path/"b/model", out, config, force=True).metrics != first.metrics

def test_two_trainings_of_one_place_do_not_mix(home, tmp_path):
    from ftrl.notes import claim
    with claim(tmp_path/"run"):  # as the first one does while it trains
        second = played(home, tmp_path/"run", SMALL)
    assert second.returncode == 1 and "another process is writing it" in second.stderr, second.stderr[-2000:]
    assert not (tmp_path/"run").exists()

def test_seeds_differ_from_the_first_episode_on_and_the_reference_stays(home, tmp_path):
    from ftrl.notes import claimed
    from ftrl.rows import load_rows
    from ftrl.training.rounds import rounds
    from ftrl.training.train import TrainConfig
    rows = load_rows(home/"rows.jsonl")
    options = SMALL["options"] | {"beta": 0.01}
    for seed in (1, 2):
        config = TrainConfig(**SMALL | {"steps": 1, "options": options | {"seed": seed}})
        rounds(rows, str(home/"model"), tmp_path/str(seed), config, n=2, each=2, max_turns=2)
    def about(part): return claimed(tmp_path/part)["about"]
    assert [about(f"{s}/round{k}/rows.parquet")["seed"] for s in (1, 2) for k in (1, 2)] == [1, 2, 2, 3]
    first, second = about("1/round1/policy"), about("1/round2/policy")
    assert (first["reference"], second["reference"]) == (None, first["model"])
    assert second["model"] != first["model"]

@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "adapter"])
@pytest.mark.parametrize("reference", ["start", "round"])
def test_the_kl_of_a_later_round_is_to_the_policy_before_the_first(reference, adapter, home, tmp_path):
    "At its first step a round is where its own start is, but no longer where all began; no cold start"
    from ftrl.rows import load_rows
    from ftrl.training.policy import lora
    from ftrl.training.rounds import rounds
    from ftrl.training.train import TrainConfig
    options = SMALL["options"] | {"beta": 0.01, "entropy_coef": 0.1}  # moves where nothing is rewarded, too
    config = TrainConfig(**SMALL | {"steps": 2, "lr": 1e-2, "options": options})
    run = rounds(load_rows(home/"rows.jsonl"), str(home/"model"), tmp_path, config, n=2, each=2, max_turns=2,
                 reference=reference, peft=lora(4) if adapter else None)
    first, second = ([x["kl"] for x in run.metrics if x["round"] == k] for k in (1, 2))
    assert first[0] == pytest.approx(0, abs=1e-6) and first[1] > 1e-6
    assert second[0] > 1e-6 if reference == "start" else second[0] == pytest.approx(0, abs=1e-6)
    assert weights(tmp_path/"round2/policy").keys() == weights(home/"model").keys()  # merged

def test_what_is_set_aside_is_never_trained_on(home, tmp_path):
    from ftrl.rows import load_rows
    from ftrl.training.rounds import rounds
    from ftrl.training.train import TrainConfig
    rows = load_rows(home/"rows.jsonl")
    for envs, first in ((rows[:3] + rows[:1], None), (rows, rows[-1:])):
        with pytest.raises(FtrlError, match="set aside are trained on"):
            rounds(envs, str(home/"model"), tmp_path, TrainConfig(**SMALL), n=1, dev=1, first=first)
    assert not list(tmp_path.iterdir())

def test_the_reasoning_switch_reaches_the_prompt(home, tmp_path, tokenizer):
    "collect and train tell the template as evaluate does"
    from transformers import AutoTokenizer
    from ftrl.rows import load_rows
    from ftrl.training.settings import TrainConfig
    from ftrl.training.train import _step_data
    known = AutoTokenizer.from_pretrained(home/"model")
    off = "{%- if enable_thinking is defined and not enable_thinking %}<think></think>{%- endif %}"
    known.chat_template = known.chat_template + off
    rows, model = load_rows(home/"rows.jsonl"), network("Llama")
    def prompt(**options):
        data = _step_data(rows, [0], model, known, TrainConfig(options=options))
        return data["train_dataset"][0]["prompt"]
    spelled = prompt(chat_template_kwargs={"enable_thinking": False})
    assert prompt(thinking=False) == spelled == prompt() + "<think></think>"
    for odd in ({"thinking": "no"}, {"thinking": 0}, {"chat_template_kwargs": {"tools": []}},
                {"thinking": True, "chat_template_kwargs": {"enable_thinking": False}}):
        with pytest.raises(FtrlError, match="expected"): prompt(**odd)

def test_the_policy_has_a_card_and_no_pickle(home, tmp_path):
    from ftrl.rows import load_rows
    from ftrl.training.train import TrainConfig, train
    config = TrainConfig(**SMALL | {"steps": 1})
    train(load_rows(home/"rows.jsonl"), str(home/"model"), tmp_path/"run", config)
    card = (tmp_path/"run/README.md").read_text()
    assert "# GRPO on 6 rows" in card and str(home) in card
    assert "None" not in card and "time machine" not in card
    assert not (tmp_path/"run/training_args.bin").exists()

def test_call_marks_that_are_special_tokens_are_seen_in_episodes(home, tokenizer):
    "A turn of an episode ends with the tokenizer's end or any of the model's, as in play"
    from ftrl.chat.template import prepare
    from ftrl.rows import load_rows
    from ftrl.training.settings import TrainConfig
    from ftrl.training.train import _episode_data
    marked = prepare(deepcopy(tokenizer))
    marked.add_special_tokens({"additional_special_tokens": ["<tool_call>", "</tool_call>", "<|eom|>"]})
    model = network("Llama")
    model.generation_config.eos_token_id = [1, marked.convert_tokens_to_ids("<|eom|>")]
    _episode_data(load_rows(home/"rows.jsonl"), [0], model, marked, TrainConfig())
    call = '<tool_call>\n{"name": "find", "arguments": {"name": "Peru"}}\n</tool_call>'
    for end in ("<|im_end|>", "<|eom|>", ""):
        said = marked.parse_response(marked(call + end, add_special_tokens=False)["input_ids"])
        assert said["tool_calls"][0]["function"] == {"name": "find", "arguments": {"name": "Peru"}}
        assert said["content"] == ""

# -- options: what each changes, in numbers worked out by hand -----------------------------------------

def loss_of(tmp_path, tokenizer, advantage=1.0, ratio=1.0, drift=1.0, lengths=(2, 2, 2, 2), shared=True,
            cap=2.0, **options):
    "A token is `ratio` times as probable as at sampling; the sampler found it `drift` times so probable then"
    t = trainer(network("Llama"), tmp_path, shared, tokenizer, **options)
    t.importance_cap, t.current_gradient_accumulation_steps = cap, 1
    inputs = batch([(5, lengths)])
    ids, mask = (torch.cat([inputs[f"prompt_{k}"], inputs[f"completion_{k}"]], 1) for k in ("ids", "mask"))
    with torch.no_grad(): now = t._get_per_token_logps_and_entropies(t.model, ids, mask, 12)[0]
    old = now - torch.tensor(ratio).log()
    inputs |= {"old_per_token_logps": old, "sampling_per_token_logps": old + torch.tensor(drift).log(),
               "advantages": torch.as_tensor(advantage).expand(4).clone()}
    t.model.train()
    loss = t.compute_loss(t.model, inputs).item()
    return loss, {name: found[-1] for name, found in t._metrics["train"].items()}

BY_HAND = {  # options, and the loss that follows: minus ratio times advantage, cut off
    "clipped": (dict(ratio=1.25), -1.2),
    "clip-higher": (dict(ratio=1.25, epsilon_high=0.28), -1.25),
    "worse than before": (dict(ratio=8.0, advantage=-1.0), 8.0),
    "two-sided clip": (dict(ratio=8.0, advantage=-1.0, delta=4.0), 4.0),
    "token-level loss": (dict(lengths=(1, 1, 1, 5), advantage=[0., 0., 0., 1.]), -5 / 8),
    "mean of sequences": (dict(lengths=(1, 1, 1, 5), advantage=[0., 0., 0., 1.], loss_type="grpo"), -1 / 4),
    "no length in it": (dict(lengths=(1, 1, 1, 5), advantage=[0., 0., 0., 1.], loss_type="dr_grpo"), -5 / 48),
    "the sampler drew it twice as often": (dict(drift=2.0), -0.5),
    "a third as often, weight cut off": (dict(drift=1 / 3), -2.0),
    "another cap": (dict(drift=1 / 3, cap=2.5), -2.5),
    "no weights": (dict(drift=1 / 3, cap=0.0), -1.0),
    "clipped and weighted": (dict(ratio=1.25, drift=2.0), -0.6),
    "sampler far off": (dict(ratio=1.0, drift=9.0, advantage=-1.0, off_policy_mask_threshold=0.5), 0.0),
}

@pytest.mark.parametrize("shared", [True, False], ids=["ours", "stock path"])
@pytest.mark.parametrize("case", BY_HAND)
def test_an_option_changes_the_loss_as_it_says(case, shared, tmp_path, tokenizer):
    options, expected = BY_HAND[case]
    found, _ = loss_of(tmp_path, tokenizer, shared=shared, **options)
    assert found == pytest.approx(expected, abs=1e-5)

def test_the_gap_between_sampler_and_trainer_is_measured(tmp_path, tokenizer):
    _, same = loss_of(tmp_path, tokenizer)
    assert same["sampler_gap"] == pytest.approx(0, abs=1e-6) and same["truncated"] == 0
    _, apart = loss_of(tmp_path, tokenizer, drift=1 / 3)
    assert apart["sampler_gap"] == apart["sampler_gap_max"] == pytest.approx(1.0986, abs=1e-4)
    assert apart["truncated"] == 1

def test_what_vllm_samples_is_weighted_once(tmp_path, tokenizer):
    "By TRL, with the ratios it made of vLLM's log-probabilities; the gap is measured all the same"
    t = trainer(network("Llama"), tmp_path, True, tokenizer)
    t.use_vllm, t.current_gradient_accumulation_steps = True, 1
    inputs = batch([(5, (2, 2, 2, 2))])
    ids, mask = (torch.cat([inputs[f"prompt_{k}"], inputs[f"completion_{k}"]], 1) for k in ("ids", "mask"))
    with torch.no_grad(): old = t._get_per_token_logps_and_entropies(t.model, ids, mask, 12)[0]
    twice = old + torch.tensor(2.0).log()
    twice[0, 0] = float("nan")  # vLLM does not tell
    inputs |= {"old_per_token_logps": old, "sampling_per_token_logps": twice, "advantages": torch.ones(4),
               "importance_sampling_ratio": torch.full_like(old, 0.5)}
    t.model.train()
    assert t.compute_loss(t.model, inputs).item() == pytest.approx(-0.5, abs=1e-6)
    assert t._metrics["train"]["sampler_gap"][-1] == pytest.approx(0.6931, abs=1e-4)

@pytest.mark.parametrize("scale, deviations", [("group", (3 ** -0.5, 0.5)), ("batch", (0.51755, 0.51755)),
                                               ("none", (1, 1))])
def test_the_groups_deviation_divides_or_does_not(scale, deviations, tmp_path, tokenizer):
    "Means of 1/2 and 3/4; deviations of the groups, of all eight, or none"
    given = [1., 1., 0., 0., 1., 1., 1., 0.]
    made = sampler(network("Llama"), tmp_path, tokenizer, given, scale_rewards=scale)
    first, second = deviations
    expected = [0.5 / first, 0.5 / first, -0.5 / first, -0.5 / first, *[0.25 / second] * 3, -0.75 / second]
    assert made["advantages"].tolist() == pytest.approx(expected, rel=1e-3)

def sampler(model, tmp_path, tokenizer, given, **options):
    "One sampling with these rewards, as the trainer would learn from it"
    from datasets import Dataset
    from trl import GRPOConfig
    from ftrl.training.trainer import StepTrainer
    args = GRPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4,
                      max_completion_length=6, report_to="none", use_cpu=True, bf16=False,
                      gradient_checkpointing=False, **options)
    made = StepTrainer(model, reward_funcs=Scored(given), args=args, processing_class=tokenizer,
                       train_dataset=Dataset.from_dict({"prompt": ["ab", "cd"] * 4}))
    made.model.train()
    return made._generate_and_score_completions([{"prompt": p} for p in ["ab"] * 4 + ["cd"] * 4])

def test_narrowed_sampling_is_narrow_and_known_to_the_trainer(tmp_path, tokenizer):
    "top_k, top_p, min_p and the penalty reach our sampler, which tells what it drew from"
    from ftrl.training.sharing.packed import groups_of
    from ftrl.training.sharing.prefix import logprobs
    model = network("Llama")
    drawn = {}
    for name, options in {"all": {}, "top_k": dict(top_k=1), "top_p": dict(top_p=1e-6),
                          "min_p": dict(min_p=1.0),
                          "penalty": dict(repetition_penalty=1e6, top_k=1)}.items():
        torch.manual_seed(1)
        drawn[name] = sampler(model, tmp_path, tokenizer, [1., 0.], **options)
    best = drawn["top_k"]["completion_ids"].tolist()
    assert best == drawn["top_p"]["completion_ids"].tolist() == drawn["min_p"]["completion_ids"].tolist()
    assert len({tuple(row) for row in best[:4]}) == 1 and best != drawn["all"]["completion_ids"].tolist()
    for prompt, said in zip(drawn["penalty"]["prompt_ids"], drawn["penalty"]["completion_ids"].tolist()):
        assert len(set(said)) == len(said) and not set(said) & set(prompt.tolist())
    narrow = drawn["top_k"]
    assert (narrow["sampling_per_token_logps"] == 0).all()  # it could draw nothing else
    ids, mask = (torch.cat([narrow[f"prompt_{k}"], narrow[f"completion_{k}"]], 1) for k in ("ids", "mask"))
    policy, _ = logprobs(model, groups_of(ids, mask, narrow["completion_ids"].shape[1]))
    assert (policy < -1).all()

# -- signs of a collapse, each provoked by a run that really goes that way -------------------------------

class Told:
    "A reward of a completion's tokens that logs what our own reward logs"
    __name__ = "told"
    def __init__(self, value, right=None, broken=None):
        self.value, self.right, self.broken = value, right, broken
    def __call__(self, completions, completion_ids, log_metric, log_extra, **_):
        if self.right: log_extra("right", [self.right(ids) for ids in completion_ids])
        if self.broken: log_metric("broken", sum(map(self.broken, completion_ids)) / len(completion_ids))
        return [float(self.value(ids)) for ids in completion_ids]

A = 3  # a token that a random model writes as often as any other

def wayward(tmp_path, tokenizer, reward, steps=24, lr=3e-2, length=6, model=None, **options):
    "What the watch says of a run with this reward, and the record"
    from datasets import Dataset
    from trl import GRPOConfig
    from ftrl.training.record import Record
    from ftrl.training.trainer import StepTrainer
    said = []
    args = GRPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=32, num_generations=8,
                      max_completion_length=length, max_steps=steps, report_to="none", use_cpu=True,
                      bf16=False, logging_steps=1, save_strategy="no", disable_tqdm=True, learning_rate=lr,
                      lr_scheduler_type="constant", gradient_checkpointing=False, **options)
    model = model or network("Llama")
    model.generation_config.eos_token_id = 1
    StepTrainer(model, reward_funcs=reward, args=args, processing_class=tokenizer,
                train_dataset=Dataset.from_dict({"prompt": ["ab", "cd", "ef", "gh"] * steps}),
                callbacks=[Record(tmp_path/"metrics.jsonl", say=said.append)]).train()
    return said, record(tmp_path)

def after(said, words):
    "The step at which it was said"
    found = [text for text in said if words in text]
    assert len(found) == 1, said
    return int(found[0].split(":")[0].removeprefix("step "))

def test_groups_in_which_all_fail_are_said(tmp_path, tokenizer):
    said, lines = wayward(tmp_path, tokenizer, Told(lambda ids: ids.count(A)), steps=5)
    assert after(said, "all completions fail") >= 4 and min(x["idle"] for x in lines) < 1

def test_one_token_that_earns_everything_ends_in_an_entropy_near_zero(tmp_path, tokenizer):
    "The policy soon writes nothing else, and all groups succeed"
    said, lines = wayward(tmp_path, tokenizer, Told(lambda ids: ids.count(A)), steps=60)
    assert after(said, "the entropy is") > after(said, "taught nothing") and "epsilon_high" in " ".join(said)
    assert lines[0]["entropy"] > 5 and lines[-1]["entropy"] < 0.01 and lines[-1]["succeeding"] == 1

def test_a_length_that_drifts_is_said(tmp_path, tokenizer):
    "A reward for being short, and then one for being long"
    model = network("Llama")
    said, _ = wayward(tmp_path/"a", tokenizer, Told(lambda ids: -len(ids)), 12, length=16, model=model)
    assert after(said, "completions become shorter") >= 8
    said, _ = wayward(tmp_path/"b", tokenizer, Told(len), 30, lr=3e-3, length=16, model=model)
    assert after(said, "completions become longer") >= 8

def test_calls_that_become_unreadable_are_said(tmp_path, tokenizer):
    "A reward for what breaks a call"
    broken = Told(lambda ids: A in ids, broken=lambda ids: A in ids)
    said, lines = wayward(tmp_path, tokenizer, broken, steps=20)
    assert after(said, "calls become unreadable") >= 8 and lines[-1]["broken"] > 0.5

class Turning(Told):
    "Pays for a token at first, then for leaving it out; a call is right all the time"
    def __init__(self, turn):
        super().__init__(self.worth, right=lambda ids: True)
        self.turn = turn
    def worth(self, ids):
        self.turn -= 1
        return ids.count(A) if self.turn > 0 else -ids.count(A)

def test_right_calls_that_lose_probability_are_said(tmp_path, tokenizer):
    said, lines = wayward(tmp_path, tokenizer, Turning(8 * 32), steps=20, entropy_coef=0.02)
    assert after(said, "a token of a right call has lost probability") > 8
    assert max(x["call_logp"] for x in lines) > lines[-1]["call_logp"] + 1

def test_a_run_shorter_than_a_sampling_trains(home, tmp_path):
    "TRL drops a sampling that is not whole: `--profile paper --steps 10` ended at step 0, as done"
    from ftrl.rows import load_rows
    from ftrl.training.train import TrainConfig, train
    config = TrainConfig(**SMALL | {"steps": 2, "options": {"generation_batch_size": 64}})
    run = train(load_rows(home/"rows.jsonl"), str(home/"model"), tmp_path/"run", config)
    assert len(run.metrics) == 2
    before, after = (weights_of(folder) for folder in (home/"model", tmp_path/"run"))
    assert any(not torch.equal(before[name], after[name]) for name in before)

def weights_of(folder):
    from safetensors.torch import load_file
    return load_file(folder/"model.safetensors")

def test_prompts_begin_in_training_as_they_do_in_play(home, tokenizer):
    "A tokenizer that writes its own BOS, as Llama's do, behind a template that writes it, too"
    from copy import deepcopy
    from types import SimpleNamespace
    from tokenizers.processors import TemplateProcessing
    from ftrl.chat.template import render
    from ftrl.rows import load_rows
    from ftrl.training import trainer as T
    from ftrl.training.train import TrainConfig, _step_data
    known, rows = deepcopy(tokenizer), load_rows(home/"rows.jsonl")
    bos = known.bos_token
    known.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, known.bos_token_id)])
    said = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    known.chat_template = "{{ bos_token }}" + said + "{% if tools %}{{ tools|tojson }}{% endif %}"
    played = known(render(rows[0].messages, rows[0].toolset, known), add_special_tokens=False)["input_ids"]
    data = _step_data(rows, [0], network("Llama"), known, TrainConfig())
    prompt = data["train_dataset"][0]["prompt"]
    assert known(prompt)["input_ids"] == played  # as TRL's own generation reads it
    with pytest.MonkeyPatch.context() as m:
        m.setattr(T, "_completions", lambda trainer, ids: (ids, ids))
        ours = T._rollout([prompt], SimpleNamespace(processing_class=known, bos=data["bos"]))
    assert ours["prompt_ids"] == [played] and played.count(known.bos_token_id) == 1

def test_an_adapter_of_the_head_is_refused(home):
    from peft import LoraConfig, get_peft_model
    from ftrl.training.sharing.prefix import share
    adapted = get_peft_model(network("Llama"), LoraConfig(target_modules=["q_proj", "lm_head"]))
    with pytest.raises(FtrlError, match="without lm_head"): share(adapted)
    whole = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    share(get_peft_model(network("Llama"), whole))
