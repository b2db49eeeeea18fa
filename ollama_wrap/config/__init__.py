"""Settings: the only reader of the environment.

values     how one value is written, and what it becomes
table      a setting as a row: names, default, sentence
groups     the rows, by the part of the program that obeys them
sources    environment, .env, node.yaml, config.yaml, in this order
settle     the model of all values, and every refusal in words
settings   Settings: groups and single settings; `Settings.load`
anew       what follows from settings that were read again
"""

from ollama_wrap.config.anew import Anew, compare
from ollama_wrap.config.settings import Settings
from ollama_wrap.config.sources import besides, passed_files
from ollama_wrap.config.table import Row, rows
from ollama_wrap.config.values import Listen

__all__ = ["Anew", "Listen", "Row", "Settings", "besides", "compare", "passed_files", "rows"]
