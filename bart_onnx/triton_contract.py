"""What a model repository for Triton and the models in it agree on. Names only."""

from __future__ import annotations

#: Texts in, texts out; both BYTES of any number.
INPUT, OUTPUT = "text_input", "text_output"
#: A version's bundle, beside its model.py.
BUNDLE = "bundle"
#: What the decoupled model's name ends with.
STREAM = "_stream"
#: The parameter of config.pbtxt that names the model to ask.
MODEL = "model"
