from .base import Backbone as Backbone
from .files import BackboneError as BackboneError
from .files import weight_files as weight_files
from .load import load_backbone as load_backbone
from .registry import LOADERS as LOADERS
from .vision import TimmViT as TimmViT
from .vision import build_timm as build_timm
from .vision import of_timm as of_timm
