"""No code that comes with a model is run, whatever is typed; the error says what it wanted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_checkpoint import write_llm
from vit import tiny_vit

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import PretrainedConfig, PreTrainedTokenizerFast
class Tok(PreTrainedTokenizerFast): pass
class Config(PretrainedConfig): model_type = "{model_type}"
"""
SPEC = {"family": "llama", "shape": {"layers": 4, "width": 32}}
LLM = f"""
import torch
from depalm.llms import load_llm
load_llm({SPEC}, sys.argv[1], "float32", "cpu")
"""
BACKBONE = """
from depalm.backbone import load_transformers
from transformers import ASTModel
load_transformers(ASTModel, Path(sys.argv[1]))
"""
GGUF = """
from depalm.convert import convert_gguf
Path(sys.argv[1], "model.gguf").write_bytes(b"GGUF")
convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def update(path: Path, **content: object) -> None:
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(before | content))


def load(code: str, folder: Path, tmp_path: Path, as_a_job: bool) -> tuple[int, str]:
    """What a process says that loads `folder`, with many a `y` on its standard input."""
    start = "import sys\nfrom pathlib import Path\n"
    if as_a_job:
        body = "\n".join(f"    {line}" for line in code.splitlines())
        code = f"from depalm.job import job\nwith job({str(tmp_path / 'log')!r}):\n{body}"
    done = subprocess.run(
        [sys.executable, "-c", start + code, str(folder), str(tmp_path)],
        input="y\n" * 20,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with code beside it that leaves a mark if it is run."""
    root = write_llm(tmp_path / "model")
    code = CODE.format(marker=str(tmp_path / "ran"), model_type="evil")
    (root / "tokenization_evil.py").write_text(code)
    return root


@pytest.mark.parametrize("as_a_job", [True, False])
@pytest.mark.parametrize(
    "auto_map",
    [
        {"AutoTokenizer": ["tokenization_evil.Tok", None]},
        {"AutoTokenizer": [None, "tokenization_evil.Tok"]},
        ["tokenization_evil.Tok", None],
    ],
)
@pytest.mark.parametrize("known_class", [True, False])
def test_a_tokenizers_code_is_refused(
    folder: Path, tmp_path: Path, auto_map: object, as_a_job: bool, known_class: bool
) -> None:
    named = {} if known_class else {"tokenizer_class": "Tok"}
    update(folder / "tokenizer_config.json", auto_map=auto_map, **named)
    code, errors = load(LLM, folder, tmp_path, as_a_job)
    assert code != 0
    assert not (tmp_path / "ran").exists()
    last = errors.strip().splitlines()[-1]
    assert "tokenizer_config.json asks to run code that came with the model" in last
    assert "(tokenization_evil.Tok). That is refused" in last
    assert "trust_remote_code" not in last
    assert "[y/N]" not in errors


@pytest.mark.parametrize("code", [LLM, BACKBONE, GGUF])
def test_the_code_of_an_unknown_model_is_refused(folder: Path, tmp_path: Path, code: str) -> None:
    auto_map = {"AutoConfig": "tokenization_evil.Config", "AutoModel": "o/n--modeling_evil.Model"}
    update(folder / "config.json", model_type="evil", auto_map=auto_map)
    status, errors = load(code, folder, tmp_path, as_a_job=True)
    assert status != 0
    assert not (tmp_path / "ran").exists()
    last = errors.strip().splitlines()[-1]
    assert "config.json asks to run code" in last
    assert "tokenization_evil.Config, o/n--modeling_evil.Model" in last
    assert "trust" not in last


def test_a_model_that_the_library_knows_is_loaded_without_its_code(
    folder: Path, tmp_path: Path
) -> None:
    auto_map = {"AutoModelForCausalLM": "tokenization_evil.Model"}
    update(folder / "config.json", auto_map=auto_map)
    status, errors = load(LLM, folder, tmp_path, as_a_job=True)
    assert status == 0, errors
    assert not (tmp_path / "ran").exists()
    assert "tokenization_evil.Model): it is not run" in errors


def test_open_clip_loads_no_half_through_another_library(tmp_path: Path) -> None:
    folder = tiny_vit(tmp_path / "model")
    text = {"hf_model_name": str(tmp_path), "hf_tokenizer_name": str(tmp_path)}
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": text}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    code = (
        "from depalm.vision_backbones import load_open_clip\nload_open_clip({}, Path(sys.argv[1]))"
    )
    status, errors = load(code, folder, tmp_path, as_a_job=True)
    assert status != 0
    assert "text_cfg with hf_model_name" in errors.strip().splitlines()[-1]


def test_a_job_reads_nothing_from_the_user(tmp_path: Path) -> None:
    status, errors = load("print(repr(input()))", tmp_path, tmp_path, as_a_job=True)
    assert status != 0
    assert errors.strip().endswith("EOFError: EOF when reading a line")
