"""How a model is quantized, as data, with a grammar in the name.

``static-wi8-ai8-minmax-overflow-layers`` reads: static ranges from calibration, 8-bit integer
weights and activations, ranges from the smallest and largest value seen, and two options. The
name travels with the variant and its report, and ``--recipe`` takes it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, cast, get_args

from asdic.contract.errors import ConfigError
from asdic.contract.target import ModelFormat

_SCHEME: Final = "static-wi8-ai8"
Range = Literal["minmax", "average"]

OPTIONS: Final = MappingProxyType(
    {
        "overflow": "weights in 7 bits, so that 16-bit sums of processors without VNNI hold",
        "bias": "fast bias correction",
        "layers": "only convolutions and linear layers are INT8; what lies between stays float",
    }
)

_RANGES: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: frozenset({"minmax"}),
        ModelFormat.OPENVINO_IR: frozenset({"minmax", "average"}),
        ModelFormat.ONNX_QDQ: frozenset({"minmax", "average"}),
    }
)

_SUPPORTED: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: frozenset({"layers"}),
        ModelFormat.OPENVINO_IR: frozenset({"overflow", "bias", "layers"}),
        ModelFormat.ONNX_QDQ: frozenset({"layers"}),
    }
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to quantize: how activation ranges are taken, and options from ``OPTIONS``.

    ``minmax`` keeps the extremes of all calibration inputs; ``average`` is the mean over the
    inputs of each one's extremes, which clips rare outliers.
    """

    range: Range = "minmax"
    options: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The recipe in words: scheme, range, options in the order of the table."""
        return "-".join([_SCHEME, self.range, *(one for one in OPTIONS if one in self.options)])


def parse_recipe(name: str, model_format: ModelFormat) -> Recipe:
    """Return the recipe called ``name`` for one model format.

    Raises:
        ConfigError: The name does not follow the grammar, or the format lacks an option.
    """
    scheme, _, rest = name.removeprefix(_SCHEME).partition("-")
    range_, *options = rest.split("-")
    known = range_ in get_args(Range) and set(options) <= OPTIONS.keys()
    if scheme or not name.startswith(_SCHEME) or not known:
        raise ConfigError(
            f"{name!r} is not a recipe; expected {_SCHEME}-<{'|'.join(get_args(Range))}> "
            f"with any of {', '.join(f'-{one}' for one in OPTIONS)}"
        )
    available = _RANGES[model_format] | _SUPPORTED[model_format]
    if extra := sorted({range_, *options} - available):
        raise ConfigError(
            f"recipe {name!r}: {model_format.value} does not know {extra[0]!r}, "
            f"only {', '.join(sorted(available))}"
        )
    return Recipe(range=cast("Range", range_), options=frozenset(options))


def _ladder(model_format: ModelFormat, *rungs: str) -> tuple[Recipe, ...]:
    return tuple(parse_recipe(f"{_SCHEME}-{rung}", model_format) for rung in rungs)


# Each ladder is climbed until the gate passes. Figures: SQNR on U-Nets, AVX2 without VNNI.
#   litert    minmax, as the quantizer's own moving average clips (a classifier: 16.2 dB, with
#             minmax 32.9).
#   openvino  overflow is worth 11 dB where sums saturate; bias correction helped some networks
#             and hurt others (36.9 dB without, 29.2 with), hence not first.
#   onnx      layers first: TensorRT fuses what lies between two convolutions, and asking for
#             rounding there (as ONNX Runtime's default does) only adds noise: 24.5 to 28.7 dB on
#             a network with instance normalization.
LADDERS: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: _ladder(ModelFormat.TFLITE, "minmax", "minmax-layers"),
        ModelFormat.OPENVINO_IR: _ladder(
            ModelFormat.OPENVINO_IR,
            "minmax-overflow",
            "minmax-overflow-bias",
            "average-overflow-layers",
        ),
        ModelFormat.ONNX_QDQ: _ladder(
            ModelFormat.ONNX_QDQ, "minmax-layers", "average-layers", "minmax"
        ),
    }
)
