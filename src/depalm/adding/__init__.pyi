from .backbone import backbone_part as backbone_part
from .dataset import add_dataset as add_dataset
from .llm import llm_part as llm_part
from .part import AddError as AddError
from .part import Part as Part
