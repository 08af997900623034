"""The recipes of the standard benchmarks, through the real command, on small files of the same form."""

import csv
import io
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from easy import band, command
from PIL import Image

from octlet.compress.config import PruneConfig, QuantConfig
from octlet.data.source import open_source
from octlet.data.split import SplitRecord, check_leaks, read_split
from octlet.data.stages import check_scans, split_index
from octlet.export import package
from octlet.recipe.settings import read_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
QUICK = {
    "train.model": "resnet18",
    "train.size": 32,
    "train.epochs": 1,
    "train.batch": 8,
    "evaluate.resamples": 100,
}
MEDMNIST = {"0": "CNV", "1": "DME", "2": "DRUSEN", "3": "NORMAL"}  # its labels, in Octlet's words


@dataclass(frozen=True)
class Ran:
    """What a recipe printed, told on the way and left behind."""

    result: dict[str, Any]
    told: str
    split: dict[str, SplitRecord]
    tested: list[dict[str, str]]

    def of(self, name: str) -> set[str]:
        return {path for path, row in self.split.items() if row.split == name}


def run(recipe: str, data: Path, out: Path, settings: dict[str, object]) -> Ran:
    words = [f"--set={key}={value}" for key, value in (QUICK | settings).items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OCTLET_DATA", str(data))
        patch.setattr(package, "simulated_scans", cache(package.simulated_scans))
        code, printed, told = command("run", RECIPES / recipe, "--out", out, "--json", *words)
    assert code == 0, told
    rows = read_split(out / "split" / "split.csv")
    text = (out / "evaluation" / "predictions.csv").read_text()
    return Ran(
        json.loads(printed), told, {row.path: row for row in rows}, [*csv.DictReader(io.StringIO(text))]
    )


# OCTMNIST ---------------------------------------------------------------------------------------------


def small_band(number: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(Image.fromarray(band(number, rng)).resize((28, 28)))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """The six arrays of OCTMNIST, but for their length; see the lines below for what crosses its sets."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for name, count in (("train", 40), ("val", 12), ("test", 16)):
        labels = np.arange(count, dtype=np.uint8) % 4
        made[f"{name}_images"] = np.stack([small_band(label, rng) for label in labels])
        made[f"{name}_labels"] = labels[:, None]
    made["train_images"][4] = made["test_images"][8]  # of the same class
    made["train_images"][5] = made["test_images"][2]  # of another class
    made["train_images"][6] = made["val_images"][6]
    made["train_images"][9] = made["train_images"][10]  # of another class
    made["val_images"][3] = made["test_images"][7]
    made["train_images"][16] = made["train_images"][12]  # a copy inside its set leaks nothing
    return made


@pytest.fixture(scope="module")
def octmnist(arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("octmnist")
    np.savez_compressed(folder / "octmnist.npz", **arrays)
    return run("octmnist.toml", folder / "octmnist.npz", folder / "out", {})


def test_all_test_scans_of_octmnist_are_tested_and_no_other(
    octmnist: Ran, arrays: dict[str, np.ndarray]
) -> None:
    labels = {row["path"]: row["label"] for row in octmnist.tested}
    given = arrays["test_labels"].ravel().tolist()
    assert labels == {f"octmnist.npz#test/{k}": MEDMNIST[str(label)] for k, label in enumerate(given)}
    assert octmnist.result["metrics"]["n"] == 16


def test_the_three_sets_of_octmnist_are_kept_but_for_what_crosses_them(octmnist: Ran) -> None:
    assert octmnist.of("val") == {f"octmnist.npz#val/{k}" for k in range(12) if k != 3}
    assert octmnist.of("train") == {f"octmnist.npz#train/{k}" for k in range(40) if k not in (4, 5, 6, 9, 10)}
    reasons = {path: octmnist.split[path].reason for path in octmnist.of("quarantine")}
    held = "its patient or picture is in the given {} split"
    assert reasons == {
        "octmnist.npz#train/4": held.format("test"),
        "octmnist.npz#val/3": held.format("test"),
        "octmnist.npz#train/6": held.format("val"),
        "octmnist.npz#train/5": "same bytes labelled DME and DRUSEN",
        "octmnist.npz#train/9": "same bytes labelled DME and DRUSEN",
        "octmnist.npz#train/10": "same bytes labelled DME and DRUSEN",
    }


def test_what_is_wrong_with_octmnist_is_told(octmnist: Ran) -> None:
    assert "! Patient unknown: 68 of 68 scans." in octmnist.told
    assert "! In more than one given split, under several patients: 4 pictures." in octmnist.told
    assert "split.csv: train 35, val 11, test 16" in octmnist.told
    assert "! in quarantine 6: 3 same bytes labelled DME and DRUSEN; 2 its patient" in octmnist.told


# Kermany ----------------------------------------------------------------------------------------------

LABELS = tuple(MEDMNIST.values())


def write(root: Path, name: str, pixels: np.ndarray) -> None:
    file = root / f"{name}.jpeg"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, quality=95)


@pytest.fixture(scope="module")
def kermany_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kermany's folders, with the faults that the real ones have or may have, and Kaggle's small val/."""
    root = tmp_path_factory.mktemp("OCT2017")
    rng = np.random.default_rng(1)
    for number, label in enumerate(LABELS):
        for k in range(4):  # the test set: one scan a patient, as many of each class
            write(root, f"test/{label}/{label}-{100 * number + k}-1", band(number, rng))
        for patient in range(8):
            for k in range(1, 3):
                name = f"train/{label}/{label}-{1000 * (number + 1) + patient}-{k}"
                write(root, name, band(number, rng))
    write(root, "train/CNV/CNV-0-2", band(0, rng))  # a patient of the test set
    write(root, "train/DRUSEN/DRUSEN-101-9", band(2, rng))  # another one, ill otherwise in the other eye
    write(root, "val/CNV/CNV-1-2", band(0, rng))  # a third, where Kaggle validates
    write(root, "val/DME/DME-5000-1", band(1, rng))
    copies = {
        "test/NORMAL/NORMAL-302-1": "train/NORMAL/NORMAL-6000-1",  # the bytes of a test scan, another patient
        "test/DME/DME-103-1": "train/CNV/CNV-6001-1",  # and under another class
        "train/CNV/CNV-1003-1": "train/DME/DME-6002-1",  # two classes, far from the test set
    }
    for one, other in copies.items():
        shutil.copyfile(root / f"{one}.jpeg", root / f"{other}.jpeg")
    write(root, "train/NORMAL/NORMAL-6000-2", band(3, rng))
    return root


LEAKS = (
    "train/CNV/CNV-0-2",
    "train/DRUSEN/DRUSEN-101-9",
    "train/NORMAL/NORMAL-6000-1",
    "train/NORMAL/NORMAL-6000-2",
    "val/CNV/CNV-1-2",
)
CONFLICTS = ("train/CNV/CNV-1003-1", "train/CNV/CNV-6001-1", "train/DME/DME-6002-1")


PRUNED = (
    '[{step = "prune", to_macs = 0.5, steps = 1, train = {epochs = 1}}]'  # rounding takes most of a minute
)


@pytest.fixture(scope="module")
def kermany(kermany_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    few = {"split.val": 0.2, "gate.max_loss": 100, "train.weights": '""', "compress": PRUNED}
    return run("kermany.toml", kermany_scans, tmp_path_factory.mktemp("kermany") / "out", few)


def test_all_official_test_scans_of_kermany_are_tested_and_no_other(kermany: Ran) -> None:
    counts = Counter(row["path"].split("/")[0] + "/" + row["label"] for row in kermany.tested)
    assert counts == {f"test/{label}": 4 for label in LABELS}
    assert len({row["path"] for row in kermany.tested}) == 16
    assert kermany.result["compressed"]["metrics"]["n"] == 16
    assert kermany.result["comparison"]["size_ratio"] > 1.5


def test_no_patient_or_picture_of_kermanys_test_set_is_learned_from(
    kermany: Ran, kermany_scans: Path
) -> None:
    def held(name: str) -> tuple[set[str], set[bytes]]:
        paths = kermany.of(name)
        patients = {Path(path).stem.split("-")[1] for path in paths}
        return patients, {(kermany_scans / path).read_bytes() for path in paths}

    sets = [held(name) for name in ("train", "val", "test")]
    for i, (patients, pictures) in enumerate(sets):
        for others, copies in sets[i + 1 :]:
            assert patients.isdisjoint(others)
            assert pictures.isdisjoint(copies)
    labels = {row.label for row in kermany.split.values() if row.split == "val"}
    assert labels == set(LABELS)
    assert kermany.split["val/DME/DME-5000-1.jpeg"].split in ("train", "val")  # drawn anew, as the others


def test_leaking_scans_are_quarantined_and_told(kermany: Ran) -> None:
    assert kermany.of("quarantine") == {f"{path}.jpeg" for path in (*LEAKS, *CONFLICTS)}
    reasons = {kermany.split[f"{path}.jpeg"].reason for path in LEAKS}
    assert reasons == {"its patient or picture is in the given test split"}
    assert "! In more than one given split: 3 patients." in kermany.told
    assert "! The same picture under different labels: 4 scans." in kermany.told
    assert "test 16" in kermany.told
    assert "! in quarantine 8: 5 its patient or picture is in the given test split; 3 same" in kermany.told


def test_kermany_is_made_small_as_make_frontier_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTLET_DATA", "scans")
    monkeypatch.setenv("OCTLET_WEIGHTS", "w.safetensors")
    recipe = read_recipe(RECIPES / "kermany.toml")
    makefile = (RECIPES.parent / "benchmarks" / "others.mk").read_text()
    words = makefile[makefile.index("\nfrontier:") :].split("\n\n")[0].split()
    prune, rounding = recipe.compress
    assert isinstance(prune.config, PruneConfig)
    assert str(prune.config.to_macs) in words[words.index("--to-macs") + 1].split(",")
    assert f"prune.units={prune.config.units}" in words
    assert str(prune.config.steps) == words[words.index("--steps") + 1]
    assert prune.training["lr"] == float(words[words.index("--lr") + 1])
    assert isinstance(rounding.config, QuantConfig)
    assert rounding.config.method == words[words.index("--int8") + 1]
    assert recipe.train.weights == "w.safetensors"
    assert recipe.split.keep_given


def test_mendeleys_folders_without_val_are_read_the_same_way(kermany_scans: Path, tmp_path: Path) -> None:
    root = tmp_path / "CellData" / "OCT"
    for name in ("train", "test"):
        shutil.copytree(kermany_scans / name, root / name)
    (root / "train" / ".DS_Store").write_bytes(b"")
    assert Counter(item.split for item in open_source(root)) == {"train": 70, "test": 16}
    check_scans(root, tmp_path / "check")
    made = split_index(tmp_path / "check" / "index.csv", shares={"val": 0.2}, keep_given=True)
    rows = read_split(made.files[0])
    check_leaks(rows)
    counts = Counter(row.label for row in rows if row.split == "test")
    assert counts == dict.fromkeys(LABELS, 4)
    left_out = {row.path for row in rows if row.split == "quarantine"}
    assert left_out == {f"{path}.jpeg" for path in (*LEAKS[:-1], *CONFLICTS)}
