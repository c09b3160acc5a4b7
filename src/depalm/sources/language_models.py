"""Language models as published: GGUF, PyTorch's checkpoints, and those that come with code."""

import shutil
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from depalm.files import link, read_json, write_json
from depalm.sources.conversion import ConvertError, only_file, save
from depalm.sources.download import HUB_SUFFIXES, PICKLED_SUFFIXES
from depalm.sources.model_folder import model_files, without_code
from depalm.sources.weight_formats import CheckpointError, read_pytorch


def convert_gguf(download: Path, output: Path) -> None:
    """GGUF language model -> config, tokenizer and float32 model.safetensors, for transformers.

    Quantised weights become the float32 values that they stand for; nothing is rounded here.
    Format: the GGUF specification of the ggml project. Writes into `output`, which exists.
    Raises ConvertError unless `download` holds exactly one .gguf that transformers can read.
    """
    path = only_file(download, "*.gguf")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            download,
            gguf_file=path.name,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            download, gguf_file=path.name, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, KeyError, IndexError, OSError, NotImplementedError) as error:
        raise ConvertError(
            f"{path} is not a GGUF language model that transformers reads: {error}"
        ) from error
    # `model.save_pretrained` refuses a model read from GGUF, though it is no longer quantised
    model.config.architectures = [type(model).__name__]
    del model.config.quantization_config
    model.config.save_pretrained(output)
    model.generation_config.save_pretrained(output)
    tokenizer.save_pretrained(output)
    save(model.state_dict(), output)


def convert_pytorch(download: Path, output: Path) -> None:
    """PyTorch checkpoints (.bin, .pt, .pth) -> safetensors with the same names of tensors; config
    and tokenizer are taken along.

    One checkpoint becomes model.safetensors; the parts of a sharded one, pytorch_model-*.bin with
    an index as transformers writes it, become model-*.safetensors, one at a time. Writes into
    `output`, which exists. Raises ConvertError if something else than tensors and plain values is
    in them: it is not run.
    """
    paths = sorted(path for path in download.iterdir() if path.suffix in PICKLED_SUFFIXES)
    index = download / "pytorch_model.bin.index.json"
    if not paths or (len(paths) > 1 and not index.is_file()):
        raise ConvertError(
            f"{download} must hold one checkpoint {PICKLED_SUFFIXES}, or several with "
            f"{index.name}, but holds {sorted(path.name for path in download.iterdir())}"
        )
    names = {path.name: path.name.replace("pytorch_model", "model") for path in paths}
    names = {old: Path(new).with_suffix(".safetensors").name for old, new in names.items()}
    if len(paths) == 1:
        names = {paths[0].name: "model.safetensors"}
    for path in paths:
        try:
            save(read_pytorch(path), output, names[path.name])
        except CheckpointError as error:
            raise ConvertError(str(error)) from error
    if len(paths) > 1:
        content = read_json(index)
        if strange := set(content["weight_map"].values()) - names.keys():
            raise ConvertError(f"{index} names {sorted(strange)}, which {download} does not hold")
        content["weight_map"] = {k: names[v] for k, v in content["weight_map"].items()}
        write_json(output / "model.safetensors.index.json", content)
    for path in download.iterdir():
        if path.suffix in HUB_SUFFIXES and path.name not in ("source.json", index.name):
            shutil.copyfile(path, output / path.name)


def leave_code_out(download: Path, output: Path) -> None:
    """A model whose publisher adds code of its own, but which transformers has a class for -> the
    same files without what names that code.

    That both compute the same is the publisher's word, and for whoever asks for this to know.
    Writes into `output`, which exists. Raises ConvertError if transformers has no such class.
    """
    config = download / "config.json"
    kind = read_json(config).get("model_type") if config.is_file() else None
    if kind not in CONFIG_MAPPING:
        raise ConvertError(
            f"{download} holds a {kind!r} model, for which transformers has no class"
        )
    for name in model_files(download):
        content = read_json(download / name) if name.endswith(".json") else None
        if (plain := without_code(content)) != content:
            write_json(output / name, plain)
        else:
            link((download / name).resolve(), output / name)
