"""How `make_tiny_base.py` makes a small pretrained chat model out of Python's own text."""
