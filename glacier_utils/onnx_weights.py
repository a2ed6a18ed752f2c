"""The named weights of an ONNX file, read without the packages that run such files.

Of the format (onnx.proto3 of the Open Neural Network Exchange) only the fields that lead to the
initialisers are declared; protobuf skips the others and checks lengths as it goes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from glacier_utils.errors import GlacierError

# Field types of descriptor.proto: int32, int64, string, bytes.
_INT32, _INT64, _STRING, _BYTES = 5, 3, 9, 12
_ONE, _MANY = 1, 3
# message: (field, its number in onnx.proto3, type or message, how many)
_SCHEMA: dict[str, list[tuple[str, int, int | str, int]]] = {
    "Model": [("graph", 7, "Graph", _ONE)],
    "Graph": [("initializer", 5, "Tensor", _MANY)],
    "Tensor": [
        ("dims", 1, _INT64, _MANY),
        ("data_type", 2, _INT32, _ONE),
        ("name", 8, _STRING, _ONE),
        ("raw_data", 9, _BYTES, _ONE),
        ("data_location", 14, _INT32, _ONE),
    ],
}
# Numbers of TensorProto.DataType; raw data are little-endian on every machine.
_DTYPES = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}


def initialisers(path: str | Path) -> dict[str, np.ndarray]:
    """Return the floating-point initialisers of an ONNX file by name, as float32.

    Half precision is widened, which changes no value.

    Raises:
        GlacierError: the file is missing or no ONNX file, holds no weights, holds them in another
            file or another number format, or their sizes and shapes disagree.
    """
    from google.protobuf.message import DecodeError

    path = Path(path)
    if not path.is_file():
        raise GlacierError(f"{path}: no such file of weights")
    model = _message_class()()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, UnicodeDecodeError) as error:
        raise GlacierError(f"{path}: not a readable ONNX file; install or copy it again") from error
    weights = {tensor.name: _array(tensor, path) for tensor in model.graph.initializer}
    if not weights:
        raise GlacierError(f"{path}: an ONNX file without weights; install or copy it again")
    return weights


def _array(tensor: Any, path: Path) -> np.ndarray:
    """Return one initialiser as an array of its own, after checking what the file claims."""
    shape, dtype = tuple(tensor.dims), _DTYPES.get(tensor.data_type)
    if dtype is None or tensor.data_location:
        raise GlacierError(
            f"{path}: tensor {tensor.name!r} is not kept in the file as float16, float32 or float64"
        )
    # A negative size would stand for "whatever is left"; math.prod knows no overflow.
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(tensor.raw_data):
        raise GlacierError(
            f"{path}: tensor {tensor.name!r} of shape {shape} does not fit its "
            f"{len(tensor.raw_data)} bytes; install or copy the file again"
        )
    return np.frombuffer(tensor.raw_data, dtype).reshape(shape).astype(np.float32)


@lru_cache(maxsize=1)
def _message_class() -> Any:
    """Build the class that parses a model, in a pool of its own: onnx may be imported as well."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name="glacier_onnx.proto", package="glacier_onnx", syntax="proto2"
    )
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for label, number, kind, count in fields:
            field = message.field.add(name=label, number=number, label=count)
            if isinstance(kind, str):
                field.type, field.type_name = field.TYPE_MESSAGE, f".glacier_onnx.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("glacier_onnx.Model"))
