"What holds on a CPU holds on a GPU: packed rows, decoding, LoRA, resuming (FTRL_GPU_TESTS=cpu: here)"
import os
import pytest
import torch

DEVICE = "cpu" if os.environ.get("FTRL_GPU_TESTS") == "cpu" else "cuda"
ABSENT = DEVICE == "cuda" and not torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(ABSENT, reason="there is no GPU here")]
SHAPE = dict(vocab_size=300, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0,
             eos_token_id=1)

def network(family="Llama"):
    import transformers
    torch.manual_seed(0)
    kind, config = (getattr(transformers, f"{family}{part}") for part in ("ForCausalLM", "Config"))
    return kind(config(**SHAPE)).to(DEVICE)

def groups():
    from ftrl.training.sharing.packed import Group
    torch.manual_seed(1)
    def ids(n): return torch.randint(3, 300, (n,), device=DEVICE)
    return [Group(ids(400), [ids(n) for n in (60, 1, 130)]), Group(ids(90), [ids(20), ids(33)])]

def stock(model, some):
    "Log-probabilities with the prompt repeated, as transformers computes them"
    found = []
    for g in some:
        for c in g.completions:
            logits = model(torch.cat([g.prompt, c])[None]).logits[0, len(g.prompt) - 1:-1].float()
            found.append(logits.log_softmax(-1).gather(1, c[:, None])[:, 0])
    return torch.cat(found)

def far(a, b): return ((a - b).norm() / b.norm()).item()

@pytest.mark.parametrize("way", ["blocks", "auto"])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_packed_equals_stock(family, way, monkeypatch):
    from ftrl.training.sharing.packed import pack
    from ftrl.training.sharing.prefix import share
    monkeypatch.setenv("FTRL_ATTENTION", way)
    some, model = groups(), share(network(family))
    expected = stock(model, some)
    ours = model(packed=pack(some))[0]
    assert far(ours, expected) < 1e-5
    weight = torch.randn_like(expected)
    weights = list(model.parameters())
    found, wanted = (torch.autograd.grad((x * weight).sum(), weights) for x in (ours, expected))
    assert max(map(far, found, wanted)) < 1e-3
    with torch.autocast(DEVICE, torch.bfloat16), torch.no_grad():
        low, stock_low = model(packed=pack(some))[0], stock(model, some)
    assert (low - expected).norm() < 1.5 * (stock_low - expected).norm()

@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_decoding_equals_generate(family):
    from ftrl.models.decode import Engine
    from ftrl.training.sharing.generate import generate
    from ftrl.training.sharing.prefix import share
    model = share(network(family)).eval()
    prompts = [g.prompt.tolist() for g in groups()]
    ours, _ = generate(model, prompts, group=2, length=24, eos=[1], temperature=0)
    engine = Engine(model, [1])
    for i, prompt in enumerate(prompts): engine.submit(i, prompt, 24)
    played = {}
    while len(played) < len(prompts): played.update(engine.poll())
    for i, prompt in enumerate(prompts):
        whole = model.generate(torch.tensor([prompt], device=DEVICE), max_new_tokens=24, do_sample=False)
        text = whole[0, len(prompt):].tolist()
        assert ours[2 * i] == ours[2 * i + 1] == text and list(played[i]) == text

def small_run(folder, **how):
    "A run of four steps on a tiny random model"
    from ftrl.environments.build import build
    from ftrl.runs.folder import Run
    from ftrl.runs.policies import base
    from ftrl.training.settings import TrainConfig
    from ftrl.training.train import train
    model = base(Run(folder), "random")
    config = TrainConfig(steps=4, prompts=2, group=2, length=8, options={"save_steps": 2, "warmup_steps": 0})
    rows = [env.row() for env in build(4, seed=3)]
    return train(rows, model, folder/how.pop("name"), config, **how)

def test_lora_and_resuming(tmp_path, monkeypatch):
    from safetensors.torch import load_file
    from ftrl.training.policy import lora
    from ftrl.training.record import Record
    assert len(small_run(tmp_path, name="lora", peft=lora(4)).metrics) == 4
    whole = small_run(tmp_path, name="whole")
    known = Record.on_log
    def broken(self, args, state, *rest, **kwargs):
        if state.global_step == 3: raise KeyboardInterrupt
        return known(self, args, state, *rest, **kwargs)
    with monkeypatch.context() as patched:
        patched.setattr(Record, "on_log", broken)
        with pytest.raises(KeyboardInterrupt): small_run(tmp_path, name="broken")
    again = small_run(tmp_path, name="broken")
    assert [x["step"] for x in again.metrics] == [1, 2, 3, 4]
    a, b = (load_file(f"{run.policy}/model.safetensors") for run in (whole, again))
    assert max((a[k] - b[k]).abs().max().item() for k in a) < (1e-6 if DEVICE == "cpu" else 1e-3)
