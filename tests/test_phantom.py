import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chi2_contingency
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from octlet.core.errors import InputError, UsageError
from octlet.core.labels import LABELS
from octlet.data.phantom import contact_sheet, plan, simulate, write_phantoms
from octlet.data.phantom_anatomy import (
    AXIAL_UM,
    INDEX,
    LAYERS,
    Section,
    cut,
    draw_anatomy,
    wave,
)
from octlet.data.phantom_imaging import ROLL_OFF_UM, detect, ellipse_weight, layer_map, white_border
from octlet.data.phantom_lesion import LESIONS, Ellipse

NAME = re.compile(r"(CNV|DME|DRUSEN|NORMAL)-([1-9]\d{6})-([1-6])")


def tissue(seed: int, *, offset: float = 0.0, shape: tuple[int, int] = (496, 512)):
    rng = np.random.default_rng(seed)
    return cut(draw_anatomy(rng, shape=shape), Section(offset, fovea=0.0, tilt=0.0, depth=0.5), rng)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# Anatomy


def test_boundaries_are_thicknesses_added_up_from_the_base():
    eye = tissue(0)
    edges = eye.boundaries()
    assert edges.shape == (len(LAYERS) + 1, 512)
    np.testing.assert_allclose(np.diff(edges, axis=0) * AXIAL_UM, eye.thickness, atol=1e-2)
    np.testing.assert_array_equal(edges[-1], eye.base)


@pytest.mark.parametrize("seed", range(5))
def test_retina_has_a_pit_in_the_fovea_only(seed):
    def depth(offset: float) -> tuple[float, float]:
        eye = tissue(seed, offset=offset)
        total = eye.thickness.sum(axis=0)
        return float(total[256]), float(total[np.abs(np.abs(eye.x) - 1400) < 100].mean())

    centre, rim = depth(offset=0.0)
    assert 130 < centre < 0.8 * rim
    assert 250 < rim < 480
    beside, beside_rim = depth(offset=1800.0)
    assert beside > 0.93 * beside_rim


def test_wave_has_unit_power():
    x = np.linspace(0, 1e6, 100_000, dtype=np.float32)
    assert np.std(wave(x, 400.0, np.random.default_rng(0))) == pytest.approx(1.0, rel=0.02)


def test_eye_is_drawn_in_kermanys_sizes_and_no_other():
    with pytest.raises(UsageError, match="300"):
        draw_anatomy(np.random.default_rng(0), shape=(300, 300))


# Lesions


def test_drusen_lift_the_pigment_epithelium_off_a_base_that_stays():
    eye = tissue(1)
    before = eye.boundaries()
    lesion = LESIONS["DRUSEN"](eye, np.random.default_rng(1))
    after = eye.boundaries()
    height = eye.thickness[INDEX["sub-RPE"]] / AXIAL_UM
    assert lesion.layers == ("sub-RPE",)
    assert 35 < height.max() * AXIAL_UM < 70
    np.testing.assert_array_equal(after[INDEX["choriocapillaris"]], before[INDEX["choriocapillaris"]])
    np.testing.assert_allclose(before[INDEX["RPE"]] - after[INDEX["RPE"]], height, atol=1e-3)


def test_neovascularisation_lifts_the_retina_by_mass_and_fluid():
    eye = tissue(2)
    before = eye.boundaries()
    lesion = LESIONS["CNV"](eye, np.random.default_rng(2))
    opened = sum(eye.thickness[INDEX[name]] for name in lesion.layers) / AXIAL_UM
    rise = before[INDEX["EZ"]] - eye.boundaries()[INDEX["EZ"]]
    np.testing.assert_allclose(rise, opened, atol=1e-3)
    assert rise.max() * AXIAL_UM > 80
    assert eye.reflectance[INDEX["subretinal fluid"]].max() < 0.2
    assert eye.reflectance[INDEX["subretinal mass"]].max() > 0.3


@pytest.mark.parametrize("seed", range(5))
def test_oedema_thickens_and_its_cysts_stay_between_the_plexiform_layers(seed):
    eye = tissue(seed)
    before = eye.thickness.sum(axis=0)
    cysts = [e for e in LESIONS["DME"](eye, np.random.default_rng(seed)).ellipses if e.reflectance < 0.2]
    edges = eye.boundaries()
    assert len(cysts) >= 6
    assert (eye.thickness.sum(axis=0) - before).max() > 60
    for cyst in cysts:
        column = round(cyst.column)
        assert edges[INDEX["INL"], column] <= cyst.row - cyst.half_height + 0.01
        assert cyst.row + cyst.half_height - 0.01 <= edges[INDEX["ELM"], column]


# Imaging


def test_layer_map_equals_a_search_in_every_column():
    edges = tissue(3, shape=(496, 768)).boundaries()
    expected = [np.searchsorted(column, np.arange(496), side="right") for column in edges.T]
    np.testing.assert_array_equal(layer_map(edges, 496), np.transpose(expected))


def test_ellipse_weight_has_an_ellipses_area_and_is_cut_by_the_frame():
    _, weight = ellipse_weight(Ellipse(100.0, 60.0, 30.0, 20.0, 0.1), (200, 200))
    assert weight.sum() == pytest.approx(np.pi * 30 * 20, rel=0.02)
    (rows, columns), half = ellipse_weight(Ellipse(100.0, 0.0, 30.0, 20.0, 0.1), (200, 200))
    assert rows.start == 0
    assert half.shape == (rows.stop, columns.stop - columns.start)
    assert half.sum() == pytest.approx(np.pi * 30 * 20 / 2, rel=0.06)


@pytest.mark.parametrize("looks", [1.5, 4.0])
def test_speckle_is_gamma_with_contrast_one_over_root_looks_and_rolls_off(looks):
    rng = np.random.default_rng(0)
    quiet = replace(draw_anatomy(rng), looks=looks, floor=0.0)
    grey = detect(np.full((496, 2000), 0.45, np.float32), quiet, rng)
    intensity = (grey / 255.0) ** 4
    depth = np.arange(496) * AXIAL_UM
    expected = 0.45**4 * np.exp(-((depth / ROLL_OFF_UM) ** 2))
    np.testing.assert_allclose(intensity.mean(axis=1), expected, rtol=0.12)
    contrast = (intensity.std(axis=1) / intensity.mean(axis=1)).mean()
    assert contrast == pytest.approx(1 / np.sqrt(looks), rel=0.03)


def test_about_half_of_the_scans_have_a_white_border_and_none_hides_the_tissue():
    rng = np.random.default_rng(0)
    borders = [white_border((496, 512), 180.0, 330.0, rng) for _ in range(400)]
    assert 0.43 < np.mean([border.any() for border in borders]) < 0.57
    assert not any(border[200:300, 256].any() for border in borders)


# Whole scans


@pytest.mark.parametrize("seed", range(12))
def test_classes_differ_by_the_disease_alone(seed):
    scans = {label: simulate(label, np.random.default_rng(seed)) for label in LABELS}
    normal = scans["NORMAL"]
    for label, scan in scans.items():
        assert (scan.label, scan.pixels.dtype, scan.mask.dtype) == (label, np.uint8, np.bool_)
        assert scan.pixels.shape == scan.mask.shape == normal.pixels.shape
        assert scan.mask.any() == (label != "NORMAL")
        assert scan.mask.mean() < 0.1
        for rows in (slice(0, 10), slice(-20, None)):  # border, vitreous and deep choroid
            np.testing.assert_array_equal(scan.pixels[rows], normal.pixels[rows])
    changed = scans["DRUSEN"].pixels != normal.pixels
    assert changed[scans["DRUSEN"].mask].mean() > 0.5 > changed.mean()


def test_scans_of_one_eye_share_its_size_and_number_but_are_not_alike():
    rng = np.random.default_rng(0)
    eye = draw_anatomy(rng, patient="1234567")
    first, second = (simulate("CNV", rng, anatomy=eye) for _ in range(2))
    assert first.patient == second.patient == "1234567"
    assert first.pixels.shape == second.pixels.shape == eye.shape
    assert (first.pixels != second.pixels).mean() > 0.5


def test_what_cannot_be_simulated_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="AMD"):
        simulate("AMD", rng)
    with pytest.raises(UsageError, match="size"):
        simulate("CNV", rng, shape=(496, 512), anatomy=draw_anatomy(rng))


def test_scan_size_does_not_depend_on_the_class():
    sizes: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    for label, eye, number in plan(8000, np.random.default_rng(0)):
        if number == 1:
            sizes[label][eye.shape] += 1
    shapes = sorted(set().union(*sizes.values()))
    assert len(shapes) == 5
    assert chi2_contingency([[sizes[label][shape] for shape in shapes] for label in LABELS]).pvalue > 0.001


# Folders


def test_folder_has_kermanys_layout(tmp_path):
    out = tmp_path / "phantoms"
    walked = []

    def progress(indices: Iterable[int]) -> Iterable[int]:
        for index in indices:
            walked.append(index)
            yield index

    assert write_phantoms(out, n=26, seed=3, masks=True, progress=progress) == 26
    assert walked == list(range(26))
    classes, patients = Counter(), defaultdict(set)
    for file in (out / "train").rglob("*.jpeg"):
        label, patient, _ = NAME.fullmatch(file.stem).groups()
        assert file.parent.name == label
        classes[label] += 1
        patients[patient].add(label)
        with Image.open(file) as image, Image.open(out / "masks" / f"{file.stem}.png") as mask:
            assert (image.format, image.mode, mask.mode, mask.size) == ("JPEG", "L", "L", image.size)
            assert set(np.unique(mask).tolist()) == ({0} if label == "NORMAL" else {0, 255})
    assert classes == {"CNV": 7, "DME": 7, "DRUSEN": 6, "NORMAL": 6}
    assert all(len(labels) == 1 for labels in patients.values())
    assert "simulated" in (out / "README.txt").read_text().lower()
    assert "--n 26 --seed 3" in (out / "README.txt").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["README.txt", "masks", "train"]


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_phantoms(tmp_path / name, n=5, seed=seed)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert not set(first.values()) & set(other.values())
    assert not (tmp_path / "a" / "masks").exists()


def test_folder_is_whole_or_not_there(tmp_path):
    def breaks(indices: Iterable[int]) -> Iterable[int]:
        for index in indices:
            if index == 2:
                raise KeyboardInterrupt
            yield index

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "deep" / "out", n=4, progress=breaks)
    assert list((tmp_path / "deep").iterdir()) == []


def test_output_must_be_new_or_empty(tmp_path):
    empty, full, file = tmp_path / "empty", tmp_path / "full", tmp_path / "file"
    empty.mkdir()
    full.mkdir()
    for path in (full / "kept", file):
        path.write_text("mine")
    for path in (full, file):
        with pytest.raises(InputError) as error:
            write_phantoms(path, n=4)
        assert error.value.remedy
    assert (full / "kept").read_text() == file.read_text() == "mine"
    assert write_phantoms(empty, n=4) == 4
    with pytest.raises(UsageError):
        write_phantoms(tmp_path / "few", n=3)


def test_patients_have_one_to_six_scans_numbered_from_one():
    scans = defaultdict(list)
    for label, eye, number in plan(200, np.random.default_rng(0)):
        scans[label, eye.patient].append(number)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in scans.values())
    assert {len(numbers) for numbers in scans.values()} == {1, 2, 3, 4, 5, 6}
    assert len({patient for _, patient in scans}) == len(scans)


def test_contact_sheet_is_small(tmp_path):
    sheet = contact_sheet(1)
    assert sheet.size == (404, 612)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    assert buffer.tell() < 150_000


# Difficulty


def pixels(file: Path, side: int, *, cropped: bool) -> np.ndarray:
    with Image.open(file) as image:
        white = np.asarray(image) > 250
        rows, columns = (np.flatnonzero(white.mean(axis=axis) < 0.5) for axis in (1, 0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if cropped else None
        small = image.crop(box).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32).ravel() / 255


@pytest.fixture(scope="module")
def four_hundred(tmp_path_factory) -> list[Path]:
    out = tmp_path_factory.mktemp("phantom") / "out"
    write_phantoms(out, n=400, seed=0)
    return sorted((out / "train").rglob("*.jpeg"))


@pytest.mark.parametrize("cropped", [False, True], ids=["plain", "cropped"])
@pytest.mark.parametrize("side", [48, 96])
def test_linear_model_cannot_tell_the_classes(four_hundred, side, cropped):
    """The classes are a matter of shape, not of brightness or border: a linear model stays under 70 %."""
    features = np.stack([pixels(file, side, cropped=cropped) for file in four_hundred])
    labels = np.array([file.parent.name for file in four_hundred])
    patients = np.array([file.stem.split("-")[1] for file in four_hundred])
    train, test = next(GroupShuffleSplit(1, test_size=0.3, random_state=0).split(features, labels, patients))
    # A penalised linear model sees the training scans' span alone, so all components stand for all pixels.
    linear = {
        name: make_pipeline(
            StandardScaler(),
            PCA(count, svd_solver="full"),
            LogisticRegression(C=strength, max_iter=1000),
        )
        for name, count, strength in (("pixels", None, 1e-3), ("40 components", 40, 1e-2))
    }
    for name, model in linear.items():
        accuracy = model.fit(features[train], labels[train]).score(features[test], labels[test])
        print(f"{side} px, {'cropped' if cropped else 'plain'}, {name}: {accuracy:.3f}")  # noqa: T201
        assert accuracy < 0.7, name
