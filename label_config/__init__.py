"""Classes, Label Studio labelling configurations and answers; standard library only."""

from label_config.answers import Answer, answer_result, read_answer
from label_config.brush import decode_rle, encode_rle
from label_config.builder import ParsedConfig, build, read
from label_config.classes import ClassInfo, ClassSchema
from label_config.errors import LabelConfigError
from label_config.layouts import TEMPLATES

__all__ = [
    "TEMPLATES",
    "Answer",
    "ClassInfo",
    "ClassSchema",
    "LabelConfigError",
    "ParsedConfig",
    "answer_result",
    "build",
    "decode_rle",
    "encode_rle",
    "read",
    "read_answer",
]
