"""What YAML may say: one strict model for each kind of part file, and for the settings of a run."""

from depalm.specs.backbone import BackboneSpec
from depalm.specs.base import Names, Spec, faults, nearest
from depalm.specs.dataset import DatasetSpec
from depalm.specs.llm import LLMSpec
from depalm.specs.method import MethodFile, MethodSpec
from depalm.specs.settings import SettingsSpec, TableSpec
from depalm.specs.train import TrainSpec

# by what a file is about
SPECS: dict[str, type[Spec]] = {
    "config": SettingsSpec,
    "dataset": DatasetSpec,
    "backbone": BackboneSpec,
    "llm": LLMSpec,
    "method": MethodFile,
}

__all__ = [
    "SPECS",
    "BackboneSpec",
    "DatasetSpec",
    "LLMSpec",
    "MethodFile",
    "MethodSpec",
    "Names",
    "SettingsSpec",
    "Spec",
    "TableSpec",
    "TrainSpec",
    "faults",
    "nearest",
]
