"""What YAML names of sources: the schemes of their URIs, and converters of what was fetched."""

from collections.abc import Callable
from pathlib import Path

from depalm.registry import Registry

# (URI, directory that gets it, its SHA-256 if it is known, folder of kept downloads) -> SHA-256 as
# published, revision. Raises SourceError, DownloadError or OutsideError.
FETCHERS: Registry[Callable[[str, Path, str | None, Path], tuple[str, str | None]]] = Registry(
    {
        "hf": "depalm.sources.fetch:fetch_hub",
        "https": "depalm.sources.fetch:fetch_url",
        "http": "depalm.sources.fetch:fetch_url",
        "pypi": "depalm.sources.fetch:fetch_pypi",
        "file": "depalm.sources.fetch:fetch_file",
    }
)
# those that do not take a publisher's code along, so that a download may ask for it
WITHOUT_CODE = ("without_code",)
# (folder of the download, folder that gets the conversion). Raises ConvertError.
CONVERTERS: Registry[Callable[[Path, Path], None]] = Registry(
    {
        "gguf": "depalm.sources.language_models:convert_gguf",
        "dinov2_onnx": "depalm.sources.dinov2:convert_dinov2_onnx",
        "dinov2_hf": "depalm.sources.dinov2:convert_dinov2_hf",
        "textvqa_parquet": "depalm.sources.textvqa_parquet:convert_textvqa_parquet",
        "pytorch": "depalm.sources.language_models:convert_pytorch",
        "without_code": "depalm.sources.language_models:leave_code_out",
        "whisper_ct2": "depalm.sources.whisper:convert_whisper_ct2",
    }
)
