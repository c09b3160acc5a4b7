"""LLMs from directories as they are published: in shards, with real tokenizers, or damaged."""

import re
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    LlamaTokenizer,
    OPTConfig,
    OPTForCausalLM,
)

from depalm.config.schema import check_schema, load_yaml
from depalm.datasets.manifest import Sample
from depalm.features.base import NoFeatures
from depalm.files import read_json, write_json
from depalm.generation.generate import generate
from depalm.llms.base import LLM, LLMError
from depalm.llms.load import load_llm
from depalm.llms.registry import FAMILIES
from depalm.sources.convert import convert
from depalm.sources.fetch import HUB_URI
from depalm.specs.settings import GenerateSpec
from depalm.training.batches import encode
from depalm.training.schedule import TrainingError
from tests.support.llms import SIZES, SPEC, TEXTS, llama
from tests.support.specs import llm_spec
from tests.support.tiny import METHODS, new_adapter, tiny_llm

CONFIG = Path(__file__).parents[2] / "config" / "llms"


def opt(directory: Path) -> OPTForCausalLM:
    """The files of OPT: a BPE of bytes whose BOS and EOS are both </s>, and tied embeddings."""
    directory.mkdir()
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    bpe.train_from_iterator(TEXTS * 50, vocab_size=320, special_tokens=special, show_progress=False)
    bpe.save_model(str(directory))
    end = {"__type": "AddedToken", "content": "</s>", "special": True}
    settings = {"bos_token": end, "eos_token": end, "unk_token": end, "pad_token": "<pad>"}
    write_json(
        directory / "tokenizer_config.json",
        {**settings, "tokenizer_class": "GPT2Tokenizer", "add_bos_token": True},
    )
    torch.manual_seed(0)
    config = OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, vocab_size=320, init_std=0.3)
    model = OPTForCausalLM(config)
    model.save_pretrained(directory)
    return model


def logits(llm: LLM, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return llm.model(torch.tensor([ids])).logits


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_prompt_begins_with_bos_and_an_answer_ends_with_eos(tmp_path: Path, family: str) -> None:
    build = {"llama": llama, "opt": opt}[family]
    build(tmp_path / "model")
    llm = load_llm(llm_spec({**SPEC, "family": family}), tmp_path / "model", "float32", "cpu")
    assert (llm.start, llm.eos) == {"llama": ([1], 2), "opt": ([2], 2)}[family]
    sample = Sample("1", "photo", TEXTS[1], [TEXTS[0], TEXTS[3]])
    data = encode(llm, [sample], 50)
    [[(prompt, first), (_, second)]] = data.texts
    answers = [first, second]
    assert prompt[:1] == llm.start
    for ids, text in ((prompt[1:], TEXTS[1]), (answers[0][:-1], TEXTS[0])):
        assert not {*llm.start, llm.eos} & set(ids)
        assert llm.tokenizer.decode(ids) == text
    assert answers[1][-1] == llm.eos
    assert llm.tokenizer.decode(answers[1], skip_special_tokens=True) == TEXTS[3]


def test_shards_are_read_and_all_of_them_needed(tmp_path: Path) -> None:
    model = llama(tmp_path / "model", shard="20KB")
    shards = sorted((tmp_path / "model").glob("model-*.safetensors"))
    assert len(shards) > 2
    spec = {**SPEC, "family": "llama"}
    llm = load_llm(llm_spec(spec), tmp_path / "model", "float32", "cpu")
    ids = [1, 17, 40, 200]
    torch.testing.assert_close(logits(llm, ids), model(torch.tensor([ids])).logits)
    assert not any(parameter.requires_grad for parameter in llm.parameters())
    assert load_llm(llm_spec(spec), tmp_path / "model", "bfloat16", "cpu").dtype == torch.bfloat16
    shards[1].unlink()
    with pytest.raises(LLMError, match=rf"lacks \['{shards[1].name}'\], which .*index\.json names"):
        load_llm(llm_spec(spec), tmp_path / "model", "float32", "cpu")


@pytest.mark.parametrize("shards", [1, 2])
def test_opt_is_published_as_pickles_and_read_after_conversion(tmp_path: Path, shards: int) -> None:
    model = opt(tmp_path / "model")
    expected = load_llm(llm_spec({**SPEC, "family": "opt"}), tmp_path / "model", "float32", "cpu")
    directory = tmp_path / "model"
    (directory / "model.safetensors").unlink()
    state = model.state_dict()  # with the tied output embedding twice, as published
    names = list(state)
    if shards == 1:
        torch.save(state, directory / "pytorch_model.bin")
    else:
        where = {n: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, n in enumerate(names)}
        where["lm_head.weight"] = where["model.decoder.embed_tokens.weight"]
        for file in set(where.values()):
            torch.save({n: state[n] for n in names if where[n] == file}, directory / file)
        index = {"metadata": {"total_size": 1}, "weight_map": where}
        write_json(directory / "pytorch_model.bin.index.json", index)
    with pytest.raises(LLMError, match=r"only \['pytorch_model.*convert: pytorch"):
        load_llm(llm_spec({**SPEC, "family": "opt"}), directory, "float32", "cpu")
    write_json(directory / "source.json", {"uri": "file:///x", "sha256": "0", "revision": None})
    convert(directory, tmp_path / "converted", "pytorch")
    assert not list((tmp_path / "converted").glob("*.bin*"))
    assert len(list((tmp_path / "converted").glob("*.safetensors"))) == shards
    llm = load_llm(llm_spec({**SPEC, "family": "opt"}), tmp_path / "converted", "float32", "cpu")
    ids = [2, *llm.tokenize([TEXTS[0]])[0]]
    assert logits(llm, ids).equal(logits(expected, ids))


def test_a_missing_tensor_is_not_left_at_random(tmp_path: Path) -> None:
    llama(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    state = load_file(path)
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(LLMError, match=r"lacks weights .*layers\.1\.mlp\.up_proj"):
        load_llm(llm_spec({**SPEC, "family": "llama"}), tmp_path / "model", "float32", "cpu")


def test_what_is_not_the_stated_model_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    llama(directory)
    with pytest.raises(LLMError, match=r"holds a 'llama' model, .* family 'opt'"):
        load_llm(llm_spec({**SPEC, "family": "opt"}), directory, "float32", "cpu")
    spec = {"family": "llama", "shape": {"layers": 32, "width": 4096}}
    with pytest.raises(LLMError, match=r"has shape .*'layers': 3.*YAML says .*4096"):
        load_llm(llm_spec(spec), directory, "float32", "cpu")
    (directory / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": null}'
    )
    with pytest.raises(LLMError, match="has no eos_token_id"):
        load_llm(llm_spec({**SPEC, "family": "llama"}), directory, "float32", "cpu")
    (directory / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(LLMError, match="cannot be loaded"):
        load_llm(llm_spec({**SPEC, "family": "llama"}), directory, "float32", "cpu")
    (directory / "model.safetensors").unlink()
    with pytest.raises(LLMError, match=r"holds no \.safetensors"):
        load_llm(llm_spec({**SPEC, "family": "llama"}), directory, "float32", "cpu")
    (directory / "config.json").unlink()
    with pytest.raises(LLMError, match=r"no config\.json"):
        load_llm(llm_spec({**SPEC, "family": "llama"}), directory, "float32", "cpu")


def test_llama_tokenizer_is_the_one_that_was_trained(tmp_path: Path) -> None:
    """The slow form of SentencePiece and what transformers makes of it agree."""
    llama(tmp_path / "model")
    path = str(tmp_path / "model" / "tokenizer.model")
    pieces = sentencepiece.SentencePieceProcessor(model_file=path)
    tokenizer = LlamaTokenizer.from_pretrained(tmp_path / "model")
    for text in TEXTS:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == pieces.encode(text)


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_part_is_valid(path: Path) -> None:
    spec = load_yaml(path)
    check_schema(spec, "llm", path.name)
    assert spec["family"] in FAMILIES
    uri = spec["source"]["uri"]
    assert not uri.startswith("hf://") or HUB_URI.fullmatch(uri)
    pickled = uri.endswith(".bin")
    assert (spec.get("convert") == "pytorch") == pickled


@pytest.mark.parametrize(
    ("name", "layers", "width"),
    [("llama", 32, 4096), ("vicuna", 32, 4096), ("opt-125m", 12, 768), ("opt-6.7b", 32, 4096)],
)
def test_shapes(name: str, layers: int, width: int) -> None:
    assert load_yaml(CONFIG / f"{name}.yaml")["shape"] == {"layers": layers, "width": width}


def test_the_answer_prompt_stands_where_a_sample_has_none() -> None:
    llm = tiny_llm("llama")
    plain = [*llm.start, *llm.tokenize(["what?"])[0]]
    assert llm.prompt_ids(["", "what?"]) == [llm.start, plain]
    llm.answer_prompt = "a: "
    assert llm.prompt_ids(["", "what?"]) == [[*llm.start, *llm.tokenize(["a: "])[0]], plain]
    data = encode(llm, [Sample("1", "m", "", ["x"]), Sample("2", "m", "what?", ["y"])], 5)
    assert [texts[0][0] for texts in data.texts] == llm.prompt_ids(["", "what?"])


# what a folder says that would be ignored, or taken for something else


def changed(directory: Path, **settings: object) -> None:
    write_json(directory / "config.json", read_json(directory / "config.json") | settings)


def load(directory: Path) -> LLM:
    return load_llm(llm_spec({**SPEC, "family": "llama"}), directory, "float32", "cpu")


def test_weights_that_the_configuration_does_not_use_are_named(tmp_path: Path) -> None:
    llama(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    state = load_file(path)
    known = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(state | known, path, metadata={"format": "pt"})
    load(tmp_path / "model")
    bias = {f"model.layers.{i}.self_attn.q_proj.bias": torch.ones(32) for i in range(3)}
    save_file(state | bias, path, metadata={"format": "pt"})
    with pytest.raises(LLMError, match=r"does not use: model\.layers\.0.*q_proj\.bias.*attention_"):
        load(tmp_path / "model")


def test_tokens_beyond_the_embedding_are_named(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    llama(directory)
    tokenizer = LlamaTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(directory)
    load(directory)  # padding alone is never read
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    tokenizer.save_pretrained(directory)
    with pytest.raises(LLMError, match=r"1 tokens beyond the 300 rows .*: <\|end\|>"):
        load(directory)


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes"])
def test_quantised_weights_are_refused(tmp_path: Path, method: str) -> None:
    llama(tmp_path / "model")
    changed(tmp_path / "model", quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(LLMError, match=rf"config\.json says .* quantised \({method}\): take"):
        load(tmp_path / "model")


def test_a_lora_adapter_beside_the_weights_is_refused(tmp_path: Path) -> None:
    llama(tmp_path / "model")
    write_json(tmp_path / "model" / "adapter_config.json", {"peft_type": "LORA", "r": 8})
    with pytest.raises(LLMError, match=r"LoRA adapter \(adapter_config\.json\).*merge it"):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"]
)
def test_damaged_files_are_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    llama(tmp_path / "model", shard="20KB")
    path = tmp_path / "model" / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(LLMError, match=rf"{re.escape(name)} is damaged: .*Fetch or convert"):
        load(tmp_path / "model")


@pytest.mark.parametrize("content", ["[]", '"llama"', "{}"])
def test_a_configuration_of_nothing_is_told(tmp_path: Path, content: str) -> None:
    llama(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(content)
    with pytest.raises(LLMError, match="names no model_type"):
        load(tmp_path / "model")


def test_a_model_with_eyes_is_no_language_model(tmp_path: Path) -> None:
    llama(tmp_path / "model")
    changed(tmp_path / "model", model_type="llava", vision_config={}, text_config={})
    with pytest.raises(LLMError, match=r"holds a 'llava' model, which has eyes .* text alone"):
        load(tmp_path / "model")


def test_samples_longer_than_the_positions_are_named_before_anything_is_trained() -> None:
    llm = tiny_llm("opt")
    llm.model.config.max_position_embeddings = 12
    fits, long = Sample("fits", "m", "a" * 8, ["b"]), Sample("long", "m", "a" * 12, ["b"])
    assert len(encode(llm, [fits], 5)) == 1
    with pytest.raises(LLMError, match=r"1 samples are longer than the 12 positions .*: long;"):
        encode(llm, [fits, long], 5)
    adapter = new_adapter(METHODS["blind"])
    with pytest.raises(LLMError, match=r"2 samples are longer .*: fits, long; .* has 19 tokens"):
        generate(llm, adapter, [fits, long], NoFeatures(), GenerateSpec(max_new_tokens=10))


def test_references_of_no_token_are_left_out_and_a_sample_without_another_is_named() -> None:
    llm = tiny_llm("llama")
    [texts] = encode(llm, [Sample("1", "m", "a", ["", "b", " "])], 5).texts
    assert [answer for _, answer in texts] == [[*llm.tokenize(["b"])[0], llm.eos]]
    with pytest.raises(TrainingError, match=r"2 samples have no reference of any token.*: 2, 3"):
        encode(llm, [Sample(str(i), "m", "a", ["b"] if i < 2 else [""]) for i in range(4)], 5)
