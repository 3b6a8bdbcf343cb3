"""Real models on real pictures with the overlap that was chosen for them: onnxruntime on the whole image is the oracle.

The tile is the library's own choice of 512 px, cut to 256 where the picture would fit into one tile.
"""

from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx import helper

import gigatile as gt
from gigatile.testing.sources import UnitSource
from tests.data import data
from tests.engine.test_real_models import nuclei, reflectance, world

from .reference import whole, worst
from .tiled import tiled


def luma(height=301, width=277):
    """The brightness of a slide's crop, 0 to 1."""
    image = gt.open(data("wsi/instanseg_HE_example.tif"))
    pixels = image.read(gt.Region(200, 300, 200 + height, 300 + width)).astype(np.float32)
    return (pixels.mean(axis=0, keepdims=True) / 255).astype(np.float32)


def colours():
    image = gt.open(data("wsi/instanseg_HE_example.tif"))
    return (image.read(gt.Region(200, 300, 471, 589)) / 255).astype(np.float32)


def small_world():
    """Dynamic World takes 13 us a pixel."""
    return world()[:, :100, :90]


def path_of(name):
    """A model's file."""
    return data(f"models/{name}.onnx")


def free(path, folder):
    """The same layers for any size: fixed sides made free, and the reshapes of a pixel shuffle made the operator."""
    model = onnx.load(path)
    for value in (model.graph.input[0], model.graph.output[0]):
        for axis in (2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}{axis}"
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    if [node.op_type for node in nodes[-3:]] == ["Reshape", "Transpose", "Reshape"]:
        shaped, result = nodes[-4].output[0], model.graph.output[0].name
        shuffle = helper.make_node("DepthToSpace", [shaped], [result], blocksize=3, mode="CRD")
        del model.graph.node[:]
        model.graph.node.extend([*nodes[:-3], shuffle])
        model.opset_import[0].version = max(model.opset_import[0].version, 11)
    onnx.checker.check_model(model)
    onnx.save(model, folder / path.name)
    return folder / path.name


# picture, tile, alignment, radius, least halo that is exact, scale, crop, size multiple
CASES = {
    "unet2d_nuclei_broad_dynamic": (nuclei, 256, 8, 58, 56, 1, 0, 8),
    "cloud_unet_landsatbiomeRGBISWIR7_nchw": (reflectance, 96, 4, 23, 24, 1, 0, 4),
    "dynamicworld_forward_nchw": (small_world, 96, 2, 22, 22, 1, 0, 2),
    "FSRCNN_x2": (luma, 128, 1, 6, 6, 2, 0, 1),
    "super_resolution_10": (luma, None, 1, 5, 5, 3, 0, 1),
    "deepness_dummy_512_to_484": (colours, 160, 1, 14, 14, 1, 14, 1),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """What a case is, and a function that gives the oracle for a halo."""
    make, tile, alignment, radius, least, scale, crop, multiple = CASES[request.param]
    path, pixels, seen = path_of(request.param), make(), {}
    anysize = free(path, tmp_path_factory.mktemp("free"))
    # The one of 224 px is run as it is, and compared with its layers on the whole image.
    path = path if tile is None else anysize

    def expected(halo):
        if halo not in seen:
            seen[halo] = whole(anysize, pixels, halo, multiple, scale=Fraction(scale), crop=crop)
        return seen[halo]

    return path, pixels, tile, alignment, radius, least, expected


def planned(path, pixels, tiling, batch=None):
    model = gt.load_model(path, scale=1.0, batch=batch)
    return gt.plan(gt.Image(UnitSource(pixels, (64, 64))), model, tiling, output="raw", mask="none")


def test_the_radius_is_what_was_measured_by_hand(case):
    path, pixels, tile, alignment, radius, _, _ = case
    plan = planned(path, pixels, gt.Tiling(tile=tile))
    assert f"(radius {radius}, alignment {alignment}): exact" in plan.choice.text
    assert plan.tiling.blend == "trim"
    assert plan.tiling.overlap == 2 * (-(-radius // alignment) * alignment)


@pytest.mark.parametrize("blend", ["trim", "hann"])
def test_tiled_is_whole_to_the_bit(case, blend):
    path, pixels, tile, _, _, _, expected = case
    plan = planned(path, pixels, gt.Tiling(tile=tile, blend=blend))
    assert plan.choice.exact
    assert plan.grid.tiles > 3
    got = tiled(plan)
    assert np.array_equal(got.values, expected(plan.tiling.overlap // 2)), worst(
        got.values, expected(plan.tiling.overlap // 2)
    )
    assert got.seam == 0
    assert blend == "trim" or got.compared > 0


def test_one_unit_less_than_the_least_shows(case):
    path, pixels, tile, alignment, _, least, expected = case
    if least == 14:
        pytest.skip("a valid convolution cuts off exactly its radius: less is refused")
    plan = planned(path, pixels, gt.Tiling(tile, 2 * (least - alignment), 0, "trim"))
    assert not plan.choice.exact
    got, right = tiled(plan).values, expected(least)
    edge = 2 * least * (got.shape[1] // pixels.shape[1])
    inside = (slice(None), slice(edge, -edge), slice(edge, -edge))
    assert not np.array_equal(got[inside], right[inside])


def test_a_model_whose_bits_depend_on_the_batch_is_within_rounding():
    path, pixels = path_of("dynamicworld_forward_nchw"), small_world()[:, :50]
    plan = planned(path, pixels, gt.Tiling(tile=96), batch=2)
    assert plan.batch_changes_bits
    got = tiled(plan).values
    difference = worst(got, whole(path, pixels, plan.tiling.overlap // 2, 2))
    assert difference <= 1e-5
