"""`python -m ollama_wrap`: the same as the command."""

import sys

from ollama_wrap.cli import main

if __name__ == "__main__":
    sys.exit(main())
