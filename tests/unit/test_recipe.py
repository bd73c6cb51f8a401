"""Recipes: the grammar of their names, and the ladders."""

from __future__ import annotations

import pytest

from asdic.contract.errors import ConfigError
from asdic.contract.target import ModelFormat
from asdic.quantization.recipe import LADDERS, Recipe, parse_recipe

ALL_RUNGS = [(one, rung) for one, ladder in LADDERS.items() for rung in ladder]


@pytest.mark.parametrize(("model_format", "recipe"), ALL_RUNGS)
def test_a_name_gives_back_its_recipe(model_format: ModelFormat, recipe: Recipe) -> None:
    assert parse_recipe(recipe.name, model_format) == recipe


@pytest.mark.parametrize("model_format", ModelFormat)
def test_every_format_has_a_ladder_of_different_rungs(model_format: ModelFormat) -> None:
    ladder = LADDERS[model_format]
    assert len(set(ladder)) == len(ladder) >= 2


def test_options_are_named_in_one_order() -> None:
    recipe = parse_recipe("static-wi8-ai8-minmax-layers-overflow", ModelFormat.OPENVINO_IR)
    assert recipe.name == "static-wi8-ai8-minmax-overflow-layers"


@pytest.mark.parametrize(
    "name", ["", "minmax", "static-wi8-ai8", "static-wi4-ai8-minmax", "static-wi8-ai8-minmax-magic"]
)
def test_a_name_outside_the_grammar_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a recipe; expected static-wi8-ai8-"):
        parse_recipe(name, ModelFormat.OPENVINO_IR)


@pytest.mark.parametrize("model_format", ModelFormat)
def test_every_recipe_of_a_format_has_a_name_that_gives_it_back(model_format: ModelFormat) -> None:
    plain = [parse_recipe(f"static-wi8-ai8-{one}", model_format) for one in ("minmax", "mse")]
    for recipe in (*plain, *(one.with_floats(12) for one in LADDERS[model_format])):
        assert parse_recipe(recipe.name, model_format) == recipe


def test_a_recipe_says_how_many_layers_stay_float() -> None:
    recipe = parse_recipe("static-wi8-ai8-best-layers-float4", ModelFormat.TFLITE)
    assert (recipe.floats, recipe.options) == (4, {"layers"})


@pytest.mark.parametrize("rest", ["minmax-float", "minmax-float0", "minmax-float1x", "minmax-"])
def test_a_number_of_layers_outside_the_grammar_is_refused(rest: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a recipe; .* -float<N>"):
        parse_recipe(f"static-wi8-ai8-{rest}", ModelFormat.TFLITE)


@pytest.mark.parametrize("rest", ["minmax-bias-full-bias", "minmax-float1-float2"])
def test_options_that_exclude_each_other_are_refused(rest: str) -> None:
    with pytest.raises(ConfigError, match="two of its options exclude each other"):
        parse_recipe(f"static-wi8-ai8-{rest}", ModelFormat.OPENVINO_IR)


def test_entropy_is_for_symmetric_ranges_alone() -> None:
    parse_recipe("static-wi8-ai8-entropy", ModelFormat.ONNX_QDQ)
    with pytest.raises(ConfigError, match="tflite does not know 'entropy'"):
        parse_recipe("static-wi8-ai8-entropy", ModelFormat.TFLITE)


def test_a_recipe_without_its_corrections_keeps_all_else() -> None:
    recipe = parse_recipe("static-wi8-ai8-mse-full-bias-layers-float4", ModelFormat.TFLITE)
    assert recipe.uncorrected.name == "static-wi8-ai8-mse-layers"


def test_an_option_that_a_format_lacks_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="tflite does not know 'bias', only average, best"):
        parse_recipe("static-wi8-ai8-minmax-bias", ModelFormat.TFLITE)
