"""GPT, written once for every layout."""

from minimtnlg.model.gpt import GPT, build
from minimtnlg.model.layers import Draw

__all__ = ["GPT", "Draw", "build"]
