"""Code that comes with a model: every library is offered it, none runs it, and nobody is asked."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from depalm.backbones.load import load_backbone
from depalm.files import read_json, write_checked, write_json
from depalm.llms.load import load_llm
from depalm.sources.conversion import ConvertError
from depalm.sources.convert import convert
from depalm.sources.model_folder import ModelFolderError, check_model_folder
from depalm.specs import LLMSpec
from tests.support.encoders import CLIP_SPEC, OPEN_CLIP_SPEC, tiny_clip, tiny_open_clip
from tests.support.gguf_files import VOCABULARY, save_gguf
from tests.support.llms import SPEC, llama
from tests.support.specs import backbone_spec

TOKENIZER = {"AutoTokenizer": ["tokenization_evil.EvilTokenizer", None]}
MODEL = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModelForCausalLM": "evil.EvilModel",
    "AutoModel": "evil.EvilModel",
}
# a job like those of the workflow: (folder, what to do with it) -> the errors
LOAD = """
import json, sys, traceback
from pathlib import Path
from depalm.backbones.load import load_backbone
from depalm.sources.convert import convert
from depalm.specs import BackboneSpec, LLMSpec
from depalm.llms.load import load_llm
errors = {}
for name, (how, argument) in json.loads(sys.argv[1]).items():
    folder = Path(name)
    try:
        if how == "llm":
            spec = LLMSpec.model_validate({"version": 1, "path": "llm", **argument})
            load_llm(spec, folder, "float32", "cpu")
        elif how == "backbone":
            load_backbone(BackboneSpec.model_validate(argument), folder)
        else:
            convert(folder, folder.with_name(folder.name + "-converted"), argument)
        errors[folder.name] = None
    except Exception as error:
        errors[folder.name] = [type(error).__name__, str(error)]
Path(sys.argv[2]).write_text(json.dumps(errors))
"""


def add_code(folder: Path, name: str, marker: Path, **entries: Any) -> None:
    """Entries for one of the JSON files in `folder`, and the code that they name."""
    path = folder / name
    write_json(path, {**(read_json(path) if path.exists() else {}), **entries})
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    for module in ("evil", "tokenization_evil"):
        (folder / f"{module}.py").write_text(code)


@pytest.fixture(scope="module")
def attacks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, list[str]]]:
    """A marker that foreign code would make, and the error that each folder with some met, while
    `y` stood on standard input.
    """
    root = tmp_path_factory.mktemp("attacks")
    marker, spec = root / "marker", {**SPEC, "family": "llama"}
    jobs: dict[str, tuple[str, Any]] = {}

    def folder(name: str, how: str, argument: Any) -> Path:
        jobs[str(root / name)] = (how, argument)
        return root / name

    for name, file, entries in (
        ("tokenizer", "tokenizer_config.json", {"auto_map": TOKENIZER}),
        ("legacy", "tokenizer_config.json", {"auto_map": TOKENIZER["AutoTokenizer"]}),
        ("native", "config.json", {"auto_map": MODEL}),
        ("pipeline", "config.json", {"custom_pipelines": {"x": {"impl": "evil.Pipeline"}}}),
    ):
        llama(folder(name, "llm", spec))
        if name == "tokenizer":  # not one that the library knows
            entries |= {"tokenizer_class": "EvilTokenizer"}
        add_code(root / name, file, marker, **entries)
    llama(folder("unknown", "llm", {**spec, "family": "evil"}))
    add_code(root / "unknown", "config.json", marker, model_type="evil", auto_map=MODEL)
    tiny_clip(folder("clip", "backbone", CLIP_SPEC))
    add_code(root / "clip", "config.json", marker, auto_map=MODEL)

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )
    for name, file in (("gguf", "tokenizer_config.json"), ("gguf2", "config.json")):
        folder(name, "convert", "gguf").mkdir()
        write_json(root / name / "source.json", {})
        save_gguf(model, root / name / "tiny.gguf")
        auto_map = TOKENIZER if name == "gguf" else MODEL
        add_code(root / name, file, marker, auto_map=auto_map, tokenizer_class="EvilTokenizer")
    folder("pytorch", "convert", "pytorch").mkdir()
    write_json(root / "pytorch/source.json", {})
    add_code(root / "pytorch", "config.json", marker, auto_map=MODEL)

    tiny_open_clip(folder("text", "backbone", OPEN_CLIP_SPEC))
    (root / "hub").mkdir()
    add_code(root / "hub", "config.json", marker, model_type="evil", auto_map=MODEL)
    config = read_json(root / "text/open_clip_config.json")
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": str(root / "hub")}
    write_json(root / "text/open_clip_config.json", config)

    subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(jobs), str(root / "errors.json")],
        input="y\n" * 50,
        env={**os.environ, "HF_HOME": str(root / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    return marker, read_json(root / "errors.json")


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        (
            "tokenizer",
            "LLMError",
            "tokenizer_config.json asks to run tokenization_evil.py (class EvilTokenizer)",
        ),
        (
            "legacy",
            "LLMError",
            "tokenizer_config.json asks to run tokenization_evil.py (class EvilTokenizer)",
        ),
        (
            "native",
            "LLMError",
            "config.json asks to run evil.py (class EvilConfig), evil.py (class EvilModel)",
        ),
        ("pipeline", "LLMError", "config.json asks to run evil.py (class Pipeline)"),
        ("unknown", "LLMError", "config.json asks to run evil.py (class EvilConfig)"),
        ("clip", "BackboneError", "config.json asks to run evil.py (class EvilConfig)"),
        ("gguf", "ConvertError", "asks to run tokenization_evil.py (class EvilTokenizer)"),
        ("gguf2", "ConvertError", "config.json asks to run evil.py (class EvilConfig)"),
        ("pytorch", "ConvertError", "config.json asks to run evil.py (class EvilConfig)"),
        ("text", "BackboneError", "open_clip_config.json asks for the model"),
    ],
)
def test_foreign_code_is_refused_and_nobody_is_asked(
    attacks: tuple[Path, Mapping[str, list[str]]], name: str, kind: str, told: str
) -> None:
    marker, errors = attacks
    assert not marker.exists()
    assert errors[name] is not None
    found, message = errors[name]
    assert found == kind
    assert told in message
    assert "refused" in message
    assert "trust" not in message


def test_what_a_model_may_say_of_itself_is_no_code(tmp_path: Path) -> None:
    tiny_clip(tmp_path)
    # a vocabulary has any word
    write_json(tmp_path / "vocab.json", {"auto_map": 1, "custom_pipelines": 2})
    write_json(tmp_path / "tokenizer_config.json", {"auto_map": {}})
    (tmp_path / "special_tokens_map.json").write_text("no JSON")
    (tmp_path / "modeling_x.py").write_text("raise SystemExit")  # nothing names it
    check_model_folder(tmp_path)
    assert load_backbone(backbone_spec(CLIP_SPEC), tmp_path).shape == CLIP_SPEC["shape"]


def test_a_model_that_the_library_has_is_taken_without_its_publishers_code(tmp_path: Path) -> None:
    """As Phi-4-mini is published; the code is there, and not taken along."""
    spec, download, model = {**SPEC, "family": "llama"}, tmp_path / "download", tmp_path / "model"
    llama(download)
    plain = {path.name: path.read_bytes() for path in download.iterdir()}
    add_code(download, "config.json", tmp_path / "marker", auto_map=MODEL)
    nested = {"auto_map": TOKENIZER, "extra": [{"custom_pipelines": "evil.X", "auto_map": 7}]}
    add_code(download, "tokenizer_config.json", tmp_path / "marker", **nested)
    write_checked(download / "source.json", {"uri": "hf://owner/name"})
    convert(download, model, "without_code")
    assert not list(model.glob("*.py"))
    assert read_json(model / "config.json") == json.loads(plain["config.json"])
    said = read_json(model / "tokenizer_config.json")
    assert "auto_map" not in said
    assert said["extra"] == [{"auto_map": 7}]
    assert (model / "model.safetensors").read_bytes() == plain["model.safetensors"]
    llm = load_llm(
        LLMSpec.model_validate({"version": 1, "path": "m", **spec}), model, "float32", "cpu"
    )
    assert llm.width == spec["shape"]["width"]
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"model_type": "evil", "auto_map": MODEL}, "'evil' model, for which transformers has no"),
        ({"attn_implementation": "owner/kernel"}, "the kernel 'owner/kernel'"),
    ],
)
def test_what_the_library_cannot_do_without_foreign_code_is_refused(
    tmp_path: Path, entries: dict[str, Any], told: str
) -> None:
    llama(tmp_path / "download")
    add_code(tmp_path / "download", "config.json", tmp_path / "marker", **entries)
    write_checked(tmp_path / "download/source.json", {"uri": "hf://owner/name"})
    with pytest.raises(ConvertError, match=told):
        convert(tmp_path / "download", tmp_path / "model", "without_code")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "config.json",
            {"text_config": {"auto_map": {"AutoModel": "owner/name--deep.model.X"}}},
            r"run deep/model\.py \(class X\) of owner/name\. ",
        ),
        ("config.json", {"attn_implementation": "owner/kernel"}, "the kernel 'owner/kernel'"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../a"}}, "leaves its folder"),
        ("model.safetensors.index.json", {"weight_map": {"a": "/etc/passwd"}}, "is an absolute"),
        ("pytorch_model.bin.index.json", {"weight_map": {"a": "x\0"}}, "holds a NUL"),
        ("model.safetensors.index.json", ["a"], "has no weight_map"),
    ],
)
def test_what_else_a_model_may_not_ask_for(
    tmp_path: Path, name: str, content: Any, told: str
) -> None:
    write_json(tmp_path / name, content)
    with pytest.raises(ModelFolderError, match=told) as error:
        check_model_folder(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_a_job_and_what_it_starts_read_nothing(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "from depalm.process import job\n"
        f"with job({str(tmp_path / 'log')!r}):\n"
        "    try:\n"
        "        print(input())\n"
        "    except EOFError:\n"
        "        print('nothing')\n"
        "    print(subprocess.run(['cat'], capture_output=True, text=True).stdout)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="y\n", capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["nothing"]


def test_standard_input_may_be_closed_already() -> None:
    code = (
        "import os, sys\n"
        "from depalm.process import close_stdin\n"
        "os.close(0)\n"
        "close_stdin()\n"
        "assert os.read(0, 1) == b''\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
