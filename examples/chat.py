"""Ask a model through the sidecar with the official client; the address is Ollama's usual one.

python examples/chat.py llama3.2 "Why is the sky blue?"
"""

import sys

import ollama


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    model, question = sys.argv[1:]
    messages = [{"role": "user", "content": question}]
    for part in ollama.Client().chat(model, messages, stream=True):
        print(part.message.content or "", end="", flush=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
