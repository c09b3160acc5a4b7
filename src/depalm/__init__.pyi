from .predictor import load_adapter as load_adapter

__version__: str
