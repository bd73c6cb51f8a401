"""What the tensors of an ONNX model hold, in float arithmetic and without optimizations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.quantization.backends.backend import Tensors


def onnx_package() -> Any:
    """Return the package ``onnx``, where ONNX Runtime is installed beside it.

    Raises:
        MissingPackageError: One of them is not.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(error.name or "onnxruntime", "quantize") from error
    del onnxruntime
    return onnx


def tensors_of(
    graph: Any, samples: Sequence[Tensors], names: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield tensors of an ONNX model by name, one sample after another.

    What they do not depend on is not computed.

    Raises:
        QuantizationError: ONNX Runtime cannot compute the model.
    """
    onnx = onnx_package()
    import onnxruntime

    inner = onnx.ModelProto()
    inner.CopyFrom(graph)
    inputs = {one.name for one in inner.graph.input}
    wanted = [name for name in names if name not in inputs]
    typed = {one.name: one for one in inner.graph.output}
    del inner.graph.output[:]
    inner.graph.output.extend(
        typed.get(name, onnx.ValueInfoProto(name=name)) for name in wanted or typed
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            inner.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for sample in samples:
            answers = session.run(None, dict(sample))
            found = dict(zip((one.name for one in session.get_outputs()), answers, strict=True))
            yield {name: sample[name] if name in sample else found[name] for name in names}
    except Exception as error:  # its exceptions have no public base but Exception
        raise QuantizationError(f"ONNX Runtime failed: {error}") from error
