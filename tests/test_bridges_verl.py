"verl's own dataset reader and reward loader on what `ftrl export --to verl` writes."
import importlib.util
import json

import pytest

pytest.importorskip("verl", reason="the extra `verl` is not installed: make test-bridges")


@pytest.fixture(scope="module")
def folder(recorded, tmp_path_factory):
    from ftrl.bridges.verl import export
    from ftrl.files import load_rows
    return export(load_rows(recorded.path), tmp_path_factory.mktemp("verl")/"out")


@pytest.fixture(scope="module")
def tokenizer():
    from ftrl.chat import prepare
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    tokens = ["<pad>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    plain = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<|im_end|>")
    return prepare(plain)


def read(folder, tokenizer, key, tmp_path):
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset
    config = OmegaConf.create({"prompt_key": key, "max_prompt_length": 100_000, "cache_dir": str(tmp_path),
                               "filter_overlong_prompts": False, "truncation": "error"})
    return RLHFDataset([str(folder/"rows.parquet")], tokenizer, config)


@pytest.mark.parametrize("key", ["prompt", "messages"])
def test_the_dataset_reader_reads_both_conventions(folder, recorded, tokenizer, key, tmp_path):
    data = read(folder, tokenizer, key, tmp_path)
    assert len(data) == len(recorded.rows)
    for i in (0, 7, 19):
        row = data[i]
        said = "\n".join(m["content"] for m in row["raw_prompt"])
        assert recorded.envs[i].question in said and row["extra_info"]["id"] == recorded.rows[i].id
        if key == "prompt":
            assert all(tool["function"]["name"] in said for tool in recorded.rows[i].toolset)


def test_every_recorded_call_gets_the_same_reward(folder, recorded, tokenizer, tmp_path):
    "A turn for each call, and the answer: as `score` rewards them"
    from ftrl.training.reward import score
    spec = importlib.util.spec_from_file_location("verl_reward", folder/"reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = read(folder, tokenizer, "prompt", tmp_path)
    for i, episode in enumerate(recorded.episodes):
        truth = data[i]["reward_model"]["ground_truth"]
        turns = [json.dumps({"name": name, "arguments": given}) for name, given in episode.calls]
        for text in [*(f"<tool_call>\n{turn}\n</tool_call>" for turn in turns), episode.answer]:
            direct = score(text, recorded.rows[i]).value
            assert module.compute_score("self", text, truth) == pytest.approx(direct)
