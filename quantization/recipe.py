"""How a model is quantized, as data, with a grammar in the name.

``static-wi8-ai8-mse-overflow-float4`` reads: static ranges from calibration, 8-bit integer weights
and activations, ranges with the least squared error, and options: weights in 7 bits, and the 4
most sensitive layers in float. The name travels with the variant and its report, and
``--recipe`` takes it back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, cast, get_args

from asdic.contract.errors import ConfigError
from asdic.contract.target import ModelFormat

_SCHEME: Final = "static-wi8-ai8"
Range = Literal["best", "minmax", "average", "percentile", "mse", "mse10", "entropy"]

OPTIONS: Final = MappingProxyType(
    {
        "overflow": "weights in 7 bits, so that 16-bit sums of processors without VNNI hold",
        "smooth": "SmoothQuant: outliers of activations are moved into the weights",
        "mixed": "activations with a zero point, so that skewed ones use all of their 8 bits",
        "bias": "fast bias correction: each layer's mean error, for itself, is taken from its bias",
        "full-bias": "bias correction layer after layer, each with those before it corrected",
        "layers": "only convolutions and linear layers are INT8; what lies between stays float",
    }
)
_FLOAT: Final = "float"

_RANGES: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: frozenset(get_args(Range)) - {"entropy"},
        ModelFormat.OPENVINO_IR: frozenset({"minmax", "average", "percentile", "mse"}),
        ModelFormat.ONNX_QDQ: frozenset(get_args(Range)),
    }
)

_SUPPORTED: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: frozenset({"full-bias", "layers"}),
        ModelFormat.OPENVINO_IR: frozenset(OPTIONS),
        ModelFormat.ONNX_QDQ: frozenset({"bias", "full-bias", "layers"}),
    }
)
_EXCLUDE: Final = (frozenset({"bias", "full-bias"}),)
"""Options of which at most one makes sense."""

_OPTION: Final = re.compile(rf"-({'|'.join(OPTIONS)}|{_FLOAT}(?P<count>[1-9]\d{{0,3}}))(?=-|$)")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to quantize: how activation ranges are taken, and options from ``OPTIONS``.

    ``minmax`` keeps the extremes of all calibration inputs; ``average`` is the mean over the
    inputs of each one's extremes, which clips rare outliers; ``percentile`` gives up a share of
    the values at either end; ``mse`` makes the expected squared error least; ``entropy`` the
    change of the distribution. ``floats`` is how many of the most sensitive layers stay float.
    """

    range: Range = "minmax"
    options: frozenset[str] = frozenset()
    floats: int = 0

    @property
    def name(self) -> str:
        """The recipe in words: scheme, range, options in the order of the table, floats."""
        options = (one for one in OPTIONS if one in self.options)
        floats = [f"{_FLOAT}{self.floats}"] if self.floats else []
        return "-".join([_SCHEME, self.range, *options, *floats])

    @property
    def uncorrected(self) -> Recipe:
        """The same without correction of biases, and with no layer in float."""
        return Recipe(range=self.range, options=self.options - {"bias", "full-bias"})

    def with_floats(self, count: int) -> Recipe:
        """Return the same recipe with the ``count`` most sensitive layers in float."""
        return Recipe(range=self.range, options=self.options, floats=count)


def parse_recipe(name: str, model_format: ModelFormat) -> Recipe:
    """Return the recipe called ``name`` for one model format.

    Raises:
        ConfigError: The name does not follow the grammar, or the format lacks an option.
    """
    range_, _, _ = name.removeprefix(f"{_SCHEME}-").partition("-")
    rest = name.removeprefix(f"{_SCHEME}-{range_}")
    found = list(_OPTION.finditer(rest))
    known = range_ in get_args(Range) and "".join(one[0] for one in found) == rest
    if not name.startswith(f"{_SCHEME}-") or not known:
        raise ConfigError(
            f"{name!r} is not a recipe; expected {_SCHEME}-<{'|'.join(get_args(Range))}> "
            f"with any of {', '.join(f'-{one}' for one in OPTIONS)}, -{_FLOAT}<N>"
        )
    options = frozenset(one[1] for one in found if one["count"] is None)
    available = _RANGES[model_format] | _SUPPORTED[model_format]
    if extra := sorted({range_, *options} - available):
        raise ConfigError(
            f"recipe {name!r}: {model_format.value} does not know {extra[0]!r}, "
            f"only {', '.join(sorted(available))}"
        )
    floats = [int(one["count"]) for one in found if one["count"] is not None]
    if len(floats) > 1 or any(one <= options for one in _EXCLUDE):
        raise ConfigError(f"recipe {name!r}: two of its options exclude each other")
    return Recipe(range=cast("Range", range_), options=options, floats=sum(floats))


def _ladder(model_format: ModelFormat, *rungs: str) -> tuple[Recipe, ...]:
    return tuple(parse_recipe(f"{_SCHEME}-{rung}", model_format) for rung in rungs)


# Each ladder is climbed until the gate passes; then come the most sensitive layers in float. SQNR
# in dB on kws (MLPerf Tiny), a small MobileNetV3 trained on BUSI, vww (MLPerf Tiny), and a
# carotid U-Net with instance normalization, on real inputs that did not calibrate:
#
#   litert     minmax 25.9 25.7 32.0 20.8; best 26.0 25.7 32.8 25.4; best-layers 26.2 26.2 33.0
#              31.4, no slower. (The quantizer's own moving average clips: average 18.3 10.5.)
#   openvino   minmax 20.6 24.2 34.4 20.5; minmax-mixed 27.8 26.2 34.4 21.0; minmax-smooth-mixed
#              30.8 26.4 33.7 34.8; minmax-mixed-layers 27.8 26.7 34.3 33.9. Bias correction: -1.2
#              to +0.9. NNCF's mse takes 49 s where minmax takes 10. Percentiles of NNCF, a mean
#              over the inputs, clip: 13.5 7.2 15.8. 7-bit weights cost 3.8 dB on the first and
#              8.0 on the third, also on a processor without VNNI, where they gained 3.8 on the
#              second; so they are tried next where the kernels are seen to saturate.
#   onnx       minmax 19.0 25.3 - 27.5; best 20.7 26.1 29.1 29.8; best-layers 20.7 24.6 29.4 31.6,
#              which leaves residual additions float. Bias correction layer after layer: +0.2 on
#              the first, +1.5 on a U-Net trained on BUSI, -0.2 on the second.
#
# On 60 of the carotid's own judges LiteRT's three recipes lost 20.6, 21.0 and 42.4 points of
# agreement (25.4 25.9 20.7 dB); mse-layers with the 2 most sensitive layers in float lost 11.6
# (29.9 dB).
#
# Biases corrected layer after layer: -0.2 to +1.7 dB on kws, MobileNetV3 and a U-Net that learnt
# BUSI; far more where shifts add up through many depthwise layers. EfficientNet-Lite0 on images of
# ultrasound: litert best-layers 12.4, best-full-bias-layers 22.3, for some seconds more; onnx best
# 12.5, best-full-bias 20.0; openvino minmax-smooth-mixed 7.8 and, with 7-bit weights, 8.0,
# minmax-overflow-mixed-full-bias-layers 16.2. OpenVINO's minmax-smooth-mixed gains by it, and takes
# about as long: a U-Net that learnt BUSI 39.8 to 42.2, kws 31.6 to 32.9, MobileNetV3 24.3 to 24.3,
# EfficientNet-Lite0 12.6 to 14.4, carotid 33.1 to 33.2.
LADDERS: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: _ladder(
            ModelFormat.TFLITE,
            "best-layers",
            "best-full-bias-layers",
            "mse-full-bias-layers",
            "minmax",
        ),
        ModelFormat.OPENVINO_IR: _ladder(
            ModelFormat.OPENVINO_IR,
            "minmax-smooth-mixed-full-bias",
            "minmax-mixed-layers",
            "minmax-overflow-smooth-mixed",
            "minmax-overflow-mixed-full-bias-layers",
            "mse-mixed-full-bias-layers",
        ),
        ModelFormat.ONNX_QDQ: _ladder(
            ModelFormat.ONNX_QDQ, "best-full-bias", "best-full-bias-layers", "best-layers"
        ),
    }
)
FLOATS: Final = (1, 2, 4, 8, 16)
"""How many of the most sensitive layers stay float in the rungs above a ladder."""
