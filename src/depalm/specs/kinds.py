"""The specs of all kinds of YAML files."""

from depalm.specs.backbone import BackboneSpec
from depalm.specs.base import Spec
from depalm.specs.dataset import DatasetSpec
from depalm.specs.llm import LLMSpec
from depalm.specs.method import MethodFile
from depalm.specs.settings import SettingsSpec

# by what a file is about
SPECS: dict[str, type[Spec]] = {
    "config": SettingsSpec,
    "dataset": DatasetSpec,
    "backbone": BackboneSpec,
    "llm": LLMSpec,
    "method": MethodFile,
}
