"""Shards of block inputs: written batch by batch, and read block by block as one."""

import shutil

import numpy as np
import pytest
import zarr

from taqmlx.planning import plan
from taqmlx.planning.stages import CaptureParameters
from taqmlx.store.block_inputs import BATCH, count_bytes, identify_block, list_specs, open_block_inputs
from taqmlx.store.block_recorder import BlockRecorder
from taqmlx.store.errors import UserError
from taqmlx.store.seal import make_seal, read_group_seal, write_group_seal
from taqmlx.store.sealed_job import SealedJob
from taqmlx.store.zarr_arrays import ArraySpec, create_group
from tools.faults.damage import edit

STAGE = {"model": "embedded", "seed": 0, "capture_points": 80, "capture_shards": 2}
INPUTS = {"calibration": "c", "model": {}, "image_shape": [2, 4], "text_shape": [3, 4]}
BLOCKS = 5
# Two batches, the last one short, and one short batch.
POINTS = {"00": list(range(0, 80, 2)), "01": list(range(1, 19, 2))}


def draw_states(points, changes=(), span=range(BLOCKS)):
    """Modulation (B, 4) and states of the rows of `points` around the blocks `span`, all told apart.

    A change is (block, stream, row, value).
    """
    rows = np.concatenate([points, points]) + np.repeat([0, 0.5], len(points))
    states = [
        {"image": np.full((len(rows), 2, 4), 100.0 * block, np.float32) + rows[:, None, None]}
        | (
            {"text": np.full((len(rows), 3, 4), -100.0 * block, np.float32) + rows[:, None, None]}
            if block < BLOCKS
            else {}
        )
        for block in range(BLOCKS + 1)
    ]
    for block, stream, row, value in changes:
        states[block][stream][row, 1, 2] = value
    modulation = np.repeat(rows[:, None], 4, axis=1).astype(np.float32)
    own = states[span.start : span.stop + 1]
    return modulation, ((state["image"], state.get("text")) for state in own)


def record(folder, shard, points=None, changes=(), **others):
    """The part `shard`, recorded and published."""
    points = POINTS[shard] if points is None else points
    parameters = CaptureParameters(**STAGE | {"shard": shard, "points": points} | others).encode()
    job = SealedJob(folder / shard, folder / "scratch" / shard, parameters, INPUTS)
    by_point = {
        "sigmas": np.array(points, np.float32) / 80,
        "steps": np.array(points),
        "prompt_indices": np.array(points) % 3,
    }
    with job.hold():
        recorder = BlockRecorder(job)
        recorder.start(by_point)
        for batch in recorder.batches:
            recorder.store_batch(*draw_states(np.array(points[batch]), changes, recorder.span))
        recorder.publish()
    return job.out


def record_groups(folder, **others):
    """The shards of two groups of blocks."""
    blocks = plan.list_block_names("embedded")
    groups = {"00": blocks[:2], "01": blocks[2:]}
    return [record(folder / group, shard, blocks=own, **others) for group, own in groups.items() for shard in POINTS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return [record(folder, shard) for shard in POINTS]


@pytest.fixture
def parts(finished, tmp_path):
    """Copies to damage."""
    return [shutil.copytree(part, tmp_path / part.name) for part in finished]


def test_rows_are_batches_of_positives_then_negatives_shard_by_shard(finished):
    found = open_block_inputs(finished)
    expected = [
        (point, half)
        for points in POINTS.values()
        for start in range(0, len(points), BATCH)
        for half in (0, 1)
        for point in points[start : start + BATCH]
    ]
    assert list(zip(found.points.tolist(), found.negative.tolist(), strict=True)) == expected
    np.testing.assert_array_equal(found.sigmas, found.points.astype(np.float32) / 80)
    np.testing.assert_array_equal(found.steps, found.points)
    np.testing.assert_array_equal(found.prompt_indices, found.points % 3)
    np.testing.assert_array_equal(found.modulation[:, 0], found.points + found.negative / 2)
    assert [seal["parameters"]["shard"] for seal in found.seals] == ["00", "01"]


def test_a_block_is_read_with_its_targets(finished):
    found = open_block_inputs(finished)
    rows = (found.points + found.negative / 2)[:, None, None]
    for block in range(BLOCKS):
        for streams, index in ((found.read_block(block), block), (found.read_targets(block), block + 1)):
            image, text = streams
            assert image.dtype == np.float16
            np.testing.assert_array_equal(image, np.broadcast_to(100 * index + rows, (98, 2, 4)))
            if index < BLOCKS:
                assert text.dtype == np.float16
                np.testing.assert_array_equal(text, np.broadcast_to(-100 * index + rows, (98, 3, 4)))
    assert found.read_targets(BLOCKS - 1)[1] is None


def test_the_order_of_the_shards_does_not_matter(finished):
    found, turned = open_block_inputs(finished), open_block_inputs(finished[::-1])
    np.testing.assert_array_equal(found.points, turned.points)
    np.testing.assert_array_equal(found.read_block(2)[0], turned.read_block(2)[0])


def test_a_shard_is_a_zarr_group(finished):
    group = zarr.open_group(finished[0], mode="r")
    specs = list_specs(len(POINTS["00"]), 2, BLOCKS + 1, BLOCKS, INPUTS["image_shape"], INPUTS["text_shape"])
    assert {name: (array.shape, array.chunks, str(array.dtype)) for name, array in group.arrays()} == {
        name: (spec.shape, spec.chunks, spec.dtype) for name, spec in specs.items()
    }
    assert count_bytes(specs) == sum(array.nbytes for _, array in group.arrays())
    found = open_block_inputs(finished)
    np.testing.assert_array_equal(group["text"][3], found.read_block(3)[1][:80])


def test_groups_of_blocks_have_the_rows_of_all_blocks(finished, tmp_path):
    every, paths = open_block_inputs(finished), record_groups(tmp_path)
    together = open_block_inputs(paths[::-1])
    for blocks, found in ((range(2), open_block_inputs(paths[:2])), (range(2, 5), open_block_inputs(paths[2:]))):
        for block in blocks:
            for inputs in (found, together):
                for name in ("read_block", "read_targets"):
                    for own, expected in zip(getattr(inputs, name)(block), getattr(every, name)(block), strict=True):
                        assert (own is None) == (expected is None)
                        assert own is None or np.array_equal(own, expected)
        np.testing.assert_array_equal(found.points, every.points)
        np.testing.assert_array_equal(found.modulation, every.modulation)


def test_a_block_is_identified_by_its_rows_and_not_by_its_group(finished, tmp_path):
    paths, parameters = record_groups(tmp_path), CaptureParameters(**STAGE, shard="00", points=[])
    for block, own in (("mm_01", paths[:2]), ("mm_04", paths[2:]), ("mm_04", paths)):
        identities = [identify_block(open_block_inputs(each), parameters, block, {}) for each in (own, finished)]
        assert identities[0] == identities[1]


def test_a_block_of_another_group_is_rejected(tmp_path):
    inputs = open_block_inputs(record_groups(tmp_path)[:2])
    with pytest.raises(UserError, match=r"00/00 has no rows of mm_02; name the shards of its group"):
        identify_block(inputs, CaptureParameters(**STAGE, shard="00", points=[]), "mm_02", {})


def test_groups_of_other_rows_are_rejected(tmp_path):
    paths = [*record_groups(tmp_path / "a")[:2], *record_groups(tmp_path / "b", seed=1)[2:]]
    with pytest.raises(UserError, match=r"b/01/00 and .*a/00/00 have different rows; delete both"):
        open_block_inputs(paths)


def test_shards_of_blocks_that_are_not_consecutive_are_damaged(parts):
    seal = read_group_seal(parts[0])
    other = make_seal(seal["parameters"] | {"blocks": ["mm_00", "mm_02"]}, seal["inputs"], seal["sha256"])
    write_group_seal(parts[0], other)
    with pytest.raises(UserError, match=r"00 is damaged \(ValueError: mm_00, mm_02 are not consecutive"):
        open_block_inputs(parts)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def swap(folder, first, second):
    (folder / first).rename(folder / "kept")
    (folder / second).rename(folder / first)
    (folder / "kept").rename(folder / second)


DAMAGES = {
    "a flipped bit": (lambda part: flip(part / "image/c.2.1.0.0"), r"00/image/c\.2\.1\.0\.0 is damaged"),
    "a missing chunk": (lambda part: (part / "text/c.2.0.0.0").unlink(), r"00/text/c\.2\.0\.0\.0 is missing"),
    "another block's chunk": (
        lambda part: swap(part, "text/c.2.0.0.0", "text/c.3.0.0.0"),
        r"00/text/c\.2\.0\.0\.0 does not match its seal",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_by_its_reader(parts, name):
    damage, words = DAMAGES[name]
    damage(parts[0])
    found = open_block_inputs(parts)
    found.read_block(1)
    found.read_block(4)
    with pytest.raises(UserError, match=words):
        found.read_block(2)
    with pytest.raises(UserError, match=words):
        found.read_targets(1)


@pytest.mark.parametrize("name", ["points/c.0", "sigmas/c.0", "modulation/c.1.0"])
def test_damage_to_the_small_arrays_is_named(parts, name):
    flip(parts[0] / name)
    with pytest.raises(UserError, match=f"00/{name} is damaged"):
        open_block_inputs(parts)


def test_an_unsealed_shard_is_rejected(parts):
    edit(parts[1] / "zarr.json", lambda metadata: metadata.update(attributes={}))
    with pytest.raises(UserError, match="01 has no seal"):
        open_block_inputs(parts)


def test_a_foreign_folder_is_rejected(parts, tmp_path):
    create_group(tmp_path / "other", [ArraySpec("xs", (1,), (1,), "float32")])
    write_group_seal(tmp_path / "other", make_seal({"stage": "gather_calibration"}, {}, {}))
    with pytest.raises(UserError, match=r'other was made with other parameters \(stage: "gather_calibration" there'):
        open_block_inputs([parts[0], tmp_path / "other"])


def test_shards_with_other_parameters_or_inputs_are_rejected(parts, tmp_path):
    other = record(tmp_path / "seeded", "01", seed=1)
    with pytest.raises(UserError, match=r"seeded/01 was made with other parameters \(seed: 1 there, 0"):
        open_block_inputs([parts[0], other])
    seal = read_group_seal(parts[1])
    write_group_seal(parts[1], make_seal(seal["parameters"], INPUTS | {"calibration": "d"}, seal["sha256"]))
    with pytest.raises(UserError, match=r'01 was made with other inputs \(calibration: "d" there'):
        open_block_inputs(parts)


def test_shards_that_share_a_point_are_rejected(parts, tmp_path):
    other = record(tmp_path / "overlap", "01", points=[1, 3, 6])
    with pytest.raises(
        UserError, match=r"overlap/01 and .*/\d\d have calibration point 6; name each shard once, or delete both"
    ):
        open_block_inputs([parts[0], other])


def test_a_missing_shard_is_rejected(parts):
    with pytest.raises(UserError, match="shards 00, 01 are needed and 01 are named"):
        open_block_inputs(parts[1:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((2, "text", 1, np.nan), "mm_02 reads the text value nan at calibration point 3, which is not finite"),
        ((0, "image", 2, -np.inf), "mm_00 reads the image value -inf at calibration point 5, which is not finite"),
        ((5, "image", 11, 7e4), "mm_04 gives the image value 70000 at calibration point 5, which is too large"),
    ],
)
def test_a_value_beyond_float16_is_named(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        record(tmp_path, "01", changes=[change])
    assert not (tmp_path / "01").exists()


def test_damage_between_writing_and_sealing_is_found(tmp_path):
    parameters = CaptureParameters(**STAGE, shard="01", points=[1, 2]).encode()
    recorder = BlockRecorder(SealedJob(tmp_path / "out", tmp_path / "scratch", parameters, INPUTS))
    recorder.start({name: np.zeros(2) for name in ("sigmas", "steps", "prompt_indices")})
    recorder.store_batch(*draw_states(np.array([1, 2])))
    flip(tmp_path / "scratch/group/image/c.5.0.0.0")
    with pytest.raises(UserError, match=r"image/c\.5\.0\.0\.0 is damaged"):
        recorder.publish()
    assert not (tmp_path / "out").exists()
