"""LLMs from directories as they are published: in shards, with real tokenizers, or damaged."""

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
from depalm.files import write_json
from depalm.llms.base import LLM, LLMError
from depalm.llms.load import load_llm
from depalm.llms.registry import FAMILIES
from depalm.sources.convert import convert
from depalm.sources.fetch import HUB_URI
from depalm.training.batches import encode
from tests.support.llms import SIZES, SPEC, TEXTS, llama
from tests.support.specs import llm_spec
from tests.support.tiny import tiny_llm

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
    assert (llm.bos, llm.eos) == {"llama": (1, 2), "opt": (2, 2)}[family]
    sample = Sample("1", "photo", TEXTS[1], [TEXTS[0], TEXTS[3]])
    data = encode(llm, [sample], 50)
    [[(prompt, first), (_, second)]] = data.texts
    answers = [first, second]
    assert prompt[0] == llm.bos
    for ids, text in ((prompt[1:], TEXTS[1]), (answers[0][:-1], TEXTS[0])):
        assert not {llm.bos, llm.eos} & set(ids)
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
        '{"tokenizer_class": "LlamaTokenizer", "bos_token": null, "eos_token": "</s>"}'
    )
    with pytest.raises(LLMError, match="has no bos_token_id"):
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
    plain = [llm.bos, *llm.tokenize(["what?"])[0]]
    assert llm.prompt_ids(["", "what?"]) == [[llm.bos], plain]
    llm.answer_prompt = "a: "
    assert llm.prompt_ids(["", "what?"]) == [[llm.bos, *llm.tokenize(["a: "])[0]], plain]
    data = encode(llm, [Sample("1", "m", "", ["x"]), Sample("2", "m", "what?", ["y"])], 5)
    assert [texts[0][0] for texts in data.texts] == llm.prompt_ids(["", "what?"])
