"""Write docs/configuration.md, the options of all YAML files, and docs/schemas, their JSON schemas.

python docs/gen_configuration.py
"""

import json
from pathlib import Path

from depalm.config.schema import json_schema
from depalm.specs import SPECS, BackboneSpec, DatasetSpec, LLMSpec, MethodFile, SettingsSpec
from depalm.specs.describe import options

FOLDER = Path(__file__).parent
INTRODUCTION = """# Configuration

Generated from the models in `src/depalm/specs`; `python docs/gen_configuration.py` writes it anew.

Every file is checked before anything runs. An unknown key or name fails with an error that suggests
the closest match, and all errors of a file are told together. A key may stand once only. Names of
readers, loaders, resamplers, metrics, families and converters are those of their registries: what
is added there is valid in YAML at once.

For an editor that completes and checks YAML, `docs/schemas/` holds the JSON schema of each kind of
file; `depalm schema KIND` prints it, with the names that you have registered. In VS Code with the
YAML extension, put this into the settings of the folder:

```json
{
  "yaml.schemas": {
    "docs/schemas/config.json": "config/*.yaml",
    "docs/schemas/dataset.json": "config/datasets/*.yaml",
    "docs/schemas/backbone.json": "config/backbones/*.yaml",
    "docs/schemas/llm.json": "config/llms/*.yaml",
    "docs/schemas/method.json": "config/methods/*.yaml"
  }
}
```
"""
KINDS = {
    "Settings (config/config.yaml)": SettingsSpec,
    "Dataset (config/datasets)": DatasetSpec,
    "Backbone (config/backbones)": BackboneSpec,
    "LLM (config/llms)": LLMSpec,
    "Method (config/methods)": MethodFile,
}


def files() -> dict[str, str]:
    """The content of each generated file, by its path in docs/."""
    page = "\n".join([INTRODUCTION, *(options(spec, title) for title, spec in KINDS.items())])
    schemas = {
        f"schemas/{kind}.json": json.dumps(json_schema(kind), indent=2) + "\n" for kind in SPECS
    }
    return {"configuration.md": page, **schemas}


if __name__ == "__main__":
    for name, content in files().items():
        (FOLDER / name).parent.mkdir(exist_ok=True)
        (FOLDER / name).write_text(content, encoding="utf-8")
