"""Write docs/configuration.md, the options of all YAML files: python docs/gen_configuration.py"""

from pathlib import Path

from depalm.specs import BackboneSpec, DatasetSpec, LLMSpec, MethodFile, SettingsSpec
from depalm.specs.describe import options

PAGE = Path(__file__).with_name("configuration.md")
INTRODUCTION = """# Configuration

Generated from the models in `src/depalm/specs`; `python docs/gen_configuration.py` writes it anew.

Every file is checked before anything runs. An unknown key or name fails with an error that suggests
the closest match, and all errors of a file are told together. A key may stand once only. Names of
readers, loaders, resamplers, metrics, families and converters are those of their registries: what
is added there is valid in YAML at once.
"""
KINDS = {
    "Settings (config/config.yaml)": SettingsSpec,
    "Dataset (config/datasets)": DatasetSpec,
    "Backbone (config/backbones)": BackboneSpec,
    "LLM (config/llms)": LLMSpec,
    "Method (config/methods)": MethodFile,
}


def page() -> str:
    return "\n".join([INTRODUCTION, *(options(spec, title) for title, spec in KINDS.items())])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
