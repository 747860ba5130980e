"Updates on real layouts: what transformers and peft write, the default model's GGUF, memory of a large pair"
import math
import pytest

pytest.importorskip("torch")
import torch
from safetensors.torch import load_file
from ftrl.weights import delta
from ftrl.weights.delta_speed import bench_delta
from ftrl.models.embedded import embedded_gguf
from ftrl.models.checkpoint import weights
from ftrl.core import FtrlError

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=64)
MOE = dict(num_local_experts=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
           shared_expert_intermediate_size=24)


def tiny(kind, tie=False):
    "A tiny random model of some architecture"
    import transformers as T
    torch.manual_seed(0)
    experts = MOE if "Moe" in kind or kind == "Mixtral" else {}
    config = getattr(T, f"{kind}Config")(**SMALL, **experts, tie_word_embeddings=tie)
    return getattr(T, f"{kind}ForCausalLM")(config).to(torch.bfloat16)


def step(model, size=0.01):
    "The same model after a small random step"
    with torch.no_grad():
        for p in model.parameters(): p.add_(size * torch.randn_like(p))
    return model


def values(folder):
    "All tensors of a checkpoint"
    return {n: t for f in sorted(folder.glob("*.safetensors")) for n, t in load_file(f).items()}


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "Qwen2Moe", "Qwen3Moe", "Mixtral"])
def test_layouts(kind, tmp_path):
    model = tiny(kind)
    model.save_pretrained(tmp_path/"base", max_shard_size="20KB")
    step(model).save_pretrained(tmp_path/"tuned")
    assert (tmp_path/"base"/"model.safetensors.index.json").exists()
    frame = delta.diff(tmp_path/"base", tmp_path/"tuned", rank=4)
    before, after = values(tmp_path/"base"), values(tmp_path/"tuned")
    parts = {"q", "k", "v", "o", "gate", "up", "down", "norm", "embed", "head"}
    if "Moe" in kind or kind == "Mixtral": parts |= {"router"}
    assert set(frame.part) == parts
    assert frame.numel.sum() == sum(p.numel() for p in model.parameters())
    if "router" in parts: assert frame.expert.max() == 3
    for r in frame[frame.name.isin(list(before))].itertuples():
        w, v = before[r.name].double(), after[r.name].double()
        if "experts" in r.name and r.name not in after: continue
        assert math.isclose(r.relative, (v - w).norm() / w.norm(), rel_tol=1e-5)
        assert math.isclose(r.mean_abs, (v - w).abs().mean(), rel_tol=1e-5)
        assert math.isclose(r.cosine, torch.cosine_similarity(w.flatten(), v.flatten(), dim=0), rel_tol=1e-6)
        assert math.isclose(r.changed, (w != v).double().mean(), rel_tol=1e-9)


def test_stacked_experts_equal_single_ones(tmp_path):
    from safetensors.torch import save_file
    model = tiny("Qwen3Moe")
    model.save_pretrained(tmp_path/"loose")
    (tmp_path/"stacked").mkdir()
    tensors = {n: p.detach().contiguous() for n, p in model.named_parameters()}
    save_file(tensors, tmp_path/"stacked"/"model.safetensors")
    frame = delta.diff(tmp_path/"loose", tmp_path/"stacked")
    assert frame.relative.max() == 0 and frame.expert.nunique() == 4


@pytest.mark.parametrize("kind, extra", [("Llama", {}),
                                         ("Qwen2", {"use_rslora": True, "rank_pattern": {"up_proj": 2}})])
def test_adapters_equal_their_merge(kind, extra, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed: no adapters here")
    model = tiny(kind).float()
    model.save_pretrained(tmp_path/"base")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj", "down_proj"],
                             init_lora_weights=False, **extra)
    model = peft.get_peft_model(model, config)
    model.save_pretrained(tmp_path/"adapter")
    model.merge_and_unload().save_pretrained(tmp_path/"merged")
    ours, merged = (delta.diff(tmp_path/"base", tmp_path/n, rank=4) for n in ("adapter", "merged"))
    assert ours.name.tolist() == merged.name.tolist() and (ours.relative > 0).sum() == 6
    for c in ("relative", "mean_abs", "cosine", "changed"):
        assert torch.allclose(*(torch.tensor(f[c]) for f in (ours, merged)), rtol=1e-3)
    assert ours["rank"][ours.relative > 0].max() <= 4.01


def loaded(folder):
    "What transformers loads from a folder"
    import transformers as T
    model = T.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {n: p.detach() for n, p in model.named_parameters()}


def test_the_weights_compared_are_those_that_are_loaded(tmp_path):
    "A single file that is newer than the shards beside it"
    tiny("Llama").save_pretrained(tmp_path/"base")
    tiny("Llama").save_pretrained(tmp_path/"tuned", max_shard_size="20KB")
    whole = values(tmp_path/"base")
    from safetensors.torch import save_file
    other = {n: t + 1 for n, t in whole.items()}
    save_file(other, tmp_path/"tuned"/"model.safetensors", metadata={"format": "pt"})
    frame = delta.diff(tmp_path/"base", tmp_path/"tuned").set_index("name")
    before, after = (loaded(tmp_path/n) for n in ("base", "tuned"))
    for name, w in before.items():
        assert math.isclose(frame.relative[name], (after[name] - w).norm() / w.norm(), rel_tol=1e-4), name


OTHER_KINDS = {"pissa": {"init_lora_weights": "pissa"}, "pissa_niter": {"init_lora_weights": "pissa_niter_2"},
               "olora": {"init_lora_weights": "olora"}, "dora": {"use_dora": True},
               "replicated": {"target_modules": ["up_proj"], "layer_replication": [[0, 2], [1, 2]]}}


@pytest.mark.parametrize("extra", OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_adapters_that_are_not_base_plus_product_are_refused(extra, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed: no adapters here")
    model = tiny("Llama").float()
    model.save_pretrained(tmp_path/"base")
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"]} | extra)
    peft.get_peft_model(model, config).save_pretrained(tmp_path/"adapter")
    with pytest.raises(FtrlError, match="merge it into a checkpoint"):
        delta.diff(tmp_path/"base", tmp_path/"adapter")


@pytest.mark.parametrize("odd", [{"lora_alpha": None}, {"lora_alpha": "8"}, {"alpha_pattern": {"(": 3}},
                                 {"alpha_pattern": [1]}, {"rank_pattern": 3, "lora_alpha": True}])
def test_an_adapter_that_says_nonsense_is_one_line(odd, tmp_path):
    import json
    peft = pytest.importorskip("peft", reason="peft is not installed: no adapters here")
    model = tiny("Llama").float()
    model.save_pretrained(tmp_path/"base")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"])
    peft.get_peft_model(model, config).save_pretrained(tmp_path/"adapter")
    said = tmp_path/"adapter"/"adapter_config.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | odd))
    with pytest.raises(FtrlError, match="expected what peft writes"):
        delta.diff(tmp_path/"base", tmp_path/"adapter")


def test_patterns_and_full_modules_equal_their_merge(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed: no adapters here")
    model = tiny("Llama").float()
    model.save_pretrained(tmp_path/"base")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj", "embed_tokens"],
                             init_lora_weights=False, rank_pattern={"layers.1.mlp.up_proj": 2},
                             alpha_pattern={"up_proj": 32, "layers.0.mlp.up_proj": 1},
                             modules_to_save=["lm_head"])
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad: p.add_(0.01 * torch.randn_like(p))
    model.save_pretrained(tmp_path/"adapter")
    # not the model in memory: the patterns were saved in another order, and the first that fits counts
    fresh = peft.PeftModel.from_pretrained(tiny("Llama").float(), tmp_path/"adapter")
    fresh.merge_and_unload().save_pretrained(tmp_path/"merged")
    frames = [delta.diff(tmp_path/"base", tmp_path/n) for n in ("adapter", "merged")]
    ours, merged = (frame.set_index("name") for frame in frames)
    touched = [n for n in ours.index if ours.relative[n] > 0]
    assert len(touched) == 6 and {"lm_head.weight", "model.embed_tokens.weight"} < set(touched)
    for n in touched: assert math.isclose(ours.relative[n], merged.relative[n], rel_tol=1e-4), n


def test_an_adapter_on_another_base_is_refused(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed: no adapters here")
    import transformers as T
    tiny("Llama").save_pretrained(tmp_path/"base")
    step(tiny("Llama")).save_pretrained(tmp_path/"cold")
    model = T.AutoModelForCausalLM.from_pretrained(tmp_path/"cold")
    config = peft.LoraConfig(target_modules=["up_proj"])
    peft.get_peft_model(model, config).save_pretrained(tmp_path/"adapter")
    with pytest.raises(FtrlError, match="compare it with"): delta.diff(tmp_path/"base", tmp_path/"adapter")
    assert delta.diff(tmp_path/"cold", tmp_path/"adapter").relative.max() == 0


def test_tied_head(tmp_path):
    model = tiny("Llama", tie=True)
    model.save_pretrained(tmp_path/"base")
    from safetensors.torch import save_file
    (tmp_path/"tuned").mkdir()
    state = values(tmp_path/"base")
    head = {"lm_head.weight": state["model.embed_tokens.weight"].clone()}
    save_file(state | head, tmp_path/"tuned"/"model.safetensors")
    frame = delta.diff(tmp_path/"base", tmp_path/"tuned")
    assert "head" in set(frame.part) and frame.relative.max() == 0


def test_gguf_of_the_default_model():
    try: file = embedded_gguf()
    except FtrlError as e: pytest.skip(f"no default model: {e}")
    frame = delta.diff(file, "smollm2")
    assert len(frame) == 272 and frame.relative.max() < 2e-3   # bf16 rounding of dequantized values


def test_a_file_cut_short(tmp_path):
    tiny("Llama").save_pretrained(tmp_path/"base")
    tiny("Llama").save_pretrained(tmp_path/"tuned")
    file = tmp_path/"tuned"/"model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(FtrlError, match="ends after"): delta.diff(tmp_path/"base", tmp_path/"tuned")
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(FtrlError, match="not a safetensors file"): weights(tmp_path/"tuned")


def test_other_models_and_names(tmp_path):
    for kind in ("Llama", "Qwen3"): tiny(kind).save_pretrained(tmp_path/kind)
    with pytest.raises(FtrlError, match="on one side only"): delta.diff(tmp_path/"Llama", tmp_path/"Qwen3")
    with pytest.raises(FtrlError, match="no such checkpoint"):
        delta.diff(tmp_path/"nothing", tmp_path/"Llama")


def test_memory_and_speed():
    report = bench_delta(1, vocabulary=10_000, inner=2048)   # 0.2 GB a checkpoint
    memory = report["cases"][-1]
    assert memory["ours"] < 3 * memory["peer"]
    assert all(c["ours"] > 0 and c["peer"] > 0 for c in report["cases"])


def test_shards_without_their_index_are_refused_as_transformers_refuses_them(tmp_path):
    tiny("Llama").save_pretrained(tmp_path/"base")
    tiny("Llama").save_pretrained(tmp_path/"tuned", max_shard_size="20KB")
    (tmp_path/"tuned"/"model.safetensors.index.json").unlink()
    with pytest.raises(OSError): loaded(tmp_path/"tuned")
    with pytest.raises(FtrlError, match="neither model.safetensors nor"):
        delta.diff(tmp_path/"base", tmp_path/"tuned")
